//! The IPC module: the Kernel's sockets, clock and loop around the pure core.
//!
//! One task owns the core and every connection. It takes in whatever can be read of all peers, runs
//! the core over it, and hands what results to the connections, each of which writes once; so a hop
//! costs one wake-up, and at depth the wake-ups are shared.
//!
//! Invariants: nothing that a peer does blocks the loop; a peer that does not read is given up; at
//! most `UNREGISTERED_CONNECTIONS_MAX` connections exist that have not registered.

mod journal;
mod peers;

use std::{
    future::poll_fn,
    io,
    os::unix::net::UnixListener as StdListener,
    time::{Duration, Instant, SystemTime},
};

use isms_ipc::{Connection, ConnectionError, Side};
use isms_protocol::{
    ProcessId,
    limits::{DRAIN_TIMEOUT, UNREGISTERED_CONNECTIONS_MAX},
    supervisor::{FromRole, ToRole},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep_until,
};
use tracing::{debug, error, info, warn};

use crate::{Action, Config, ConfigError, Core, Event, Moment, RecoveryError, RightsError, Unix};
use journal::{KeptJournal, keep_journal};
use peers::Peers;

/// How long no connection is accepted after accepting has failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The moment at which a Kernel starts: what it recovers happened before.
const STARTED: Moment = Moment(1 << 42);

/// Both directions of the supervisor's channel; whoever calls [`run`] owns its descriptor.
#[derive(Debug)]
pub struct SupervisorChannel {
    /// What the supervisor says. Its end means that the Kernel should stop.
    pub commands: mpsc::Receiver<ToRole>,
    /// What the supervisor is told. Reports that find it full are dropped.
    pub reports: mpsc::Sender<FromRole>,
}

/// Why the Kernel cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A setting is out of bounds.
    #[error("kernel settings are wrong")]
    Config(#[from] ConfigError),
    /// The rights table of this build is broken.
    #[error("rights table is wrong")]
    Rights(#[from] RightsError),
    /// The inherited socket cannot be used.
    #[error("cannot listen on the inherited socket")]
    Listen(#[source] io::Error),
    /// The journal's directory cannot be used.
    #[error("cannot keep a journal of durable calls")]
    Journal(#[from] isms_journal::DirectoryError),
    /// The journal cannot be read.
    #[error("cannot recover durable calls")]
    Recover(#[from] RecoveryError),
    /// The journal's directory or thread cannot be made.
    #[error("cannot make the journal of durable calls")]
    MakeJournal(#[source] io::Error),
}

/// Serves until told to stop, then until everybody has left or the drain time is over. Belongs on a
/// current-thread runtime.
pub async fn run(
    config: Config,
    listener: StdListener,
    supervisor: SupervisorChannel,
    shutdown: watch::Receiver<bool>,
) -> Result<(), RunError> {
    config.check()?;
    listener.set_nonblocking(true).map_err(RunError::Listen)?;
    let listener = UnixListener::from_std(listener).map_err(RunError::Listen)?;
    let kept = keep_journal(&config)?;
    let mut kernel = Kernel {
        started: Instant::now(),
        peer_uids: config.peer_uids.clone(),
        core: Core::new(config, Box::new(ProcessId::generate), STARTED)?,
        peers: Peers::default(),
        handshakes: JoinSet::new(),
        reports: supervisor.reports,
    };
    kernel.core.handle(STARTED, Event::Calendar { shows: calendar() });
    let (events, writer) = match kept {
        Some(KeptJournal {
            recovery,
            events,
            writer,
        }) => {
            kernel.core.recover(recovery);
            (events, Some(writer))
        }
        // Nothing is ever said.
        None => (mpsc::channel(1).1, None),
    };
    info!("kernel serves");
    kernel
        .serve(listener, supervisor.commands, events, shutdown)
        .await;
    // With the core the journal is closed, and its thread ends when everything is written.
    if let Some(writer) = writer
        && writer.join().is_err()
    {
        warn!("the journal's writer panicked");
    }
    info!("kernel stopped");
    Ok(())
}

type Handshake = Result<(isms_ipc::Sender, isms_ipc::Receiver), ConnectionError>;

struct Kernel {
    started: Instant,
    peer_uids: Vec<u32>,
    core: Core,
    peers: Peers,
    handshakes: JoinSet<Handshake>,
    reports: mpsc::Sender<FromRole>,
}

impl Kernel {
    /// Every branch of the `select!` is cancel-safe: `poll_heard` leaves what it has read in the peers.
    async fn serve(
        mut self,
        listener: UnixListener,
        mut commands: mpsc::Receiver<ToRole>,
        mut journal: mpsc::Receiver<isms_journal::Event>,
        mut shutdown: watch::Receiver<bool>,
    ) {
        let mut accept_from = Instant::now();
        let mut drain_until: Option<Instant> = None;
        loop {
            let wake = self.started + Duration::from_micros(self.core.next_wake().us_since(STARTED));
            let wake = drain_until.map_or(wake, |until| until.min(wake));
            let draining = drain_until.is_some();
            tokio::select! {
                () = poll_fn(|context| self.peers.poll_heard(context)) => {}
                accepted = listener.accept(), if !draining && accept_from <= Instant::now() => match accepted {
                    Ok((stream, _)) => self.accept(stream),
                    Err(error) => {
                        warn!(%error, "could not accept a connection");
                        accept_from = Instant::now() + ACCEPT_PAUSE;
                    }
                },
                Some(event) = journal.recv() => {
                    self.journal(event);
                    while let Ok(event) = journal.try_recv() {
                        self.journal(event);
                    }
                }
                Some(done) = self.handshakes.join_next() => self.connected(done.ok()),
                command = commands.recv(), if !draining => match command {
                    Some(ToRole::Announce { service, incarnation, secret_hash }) => {
                        self.feed(Event::Announce { service, incarnation, secret_hash });
                    }
                    Some(ToRole::Stop) | None => drain_until = Some(Instant::now() + DRAIN_TIMEOUT),
                },
                _ = shutdown.wait_for(|&stop| stop), if !draining => {
                    drain_until = Some(Instant::now() + DRAIN_TIMEOUT);
                }
                () = sleep_until(wake.into()) => {}
            }
            self.turn();
            if drain_until.is_some_and(|until| self.peers.is_empty() || until <= Instant::now()) {
                return;
            }
        }
    }

    /// Takes in what was heard, and does what follows from it.
    fn turn(&mut self) {
        let mut heard = self.peers.take_heard();
        for (peer, heard) in heard.drain(..) {
            match heard {
                Some(message) => self.feed(Event::PeerMessage { peer, message }),
                None => {
                    self.peers.remove(peer);
                    self.feed(Event::PeerLost { peer });
                }
            }
        }
        self.peers.reuse(heard);
        self.feed(Event::Calendar { shows: calendar() });
        self.feed(Event::Tick);
    }

    fn journal(&mut self, event: isms_journal::Event) {
        if let isms_journal::Event::Stopped(why) = &event {
            error!(%why, "the journal has stopped; no durable calls are taken until the platform is restarted");
        }
        self.feed(Event::Journal(event));
    }

    fn feed(&mut self, event: Event) {
        let now = STARTED.after(self.started.elapsed());
        self.core.handle(now, event);
        self.perform();
        // What cannot be sent to is lost, which may cause more to be sent: each time to fewer peers.
        while let Some(peer) = self.peers.take_failed() {
            self.core.handle(now, Event::PeerLost { peer });
            self.perform();
        }
    }

    fn perform(&mut self) {
        let mut dropped = 0;
        for action in self.core.drain_actions() {
            match action {
                Action::Send { peer, message } => dropped += u64::from(!self.peers.send(peer, &message)),
                Action::Close { peer, reason } => {
                    warn!(peer = peer.0, %reason, "closed a connection");
                    self.peers.remove(peer);
                }
                Action::Registered { service, incarnation } => {
                    info!(%service, incarnation = incarnation.0, "a service registered");
                    report(&self.reports, FromRole::Registered { service, incarnation });
                }
                Action::Lost { service, incarnation } => {
                    info!(%service, incarnation = incarnation.0, "a service was lost");
                    report(&self.reports, FromRole::Lost { service, incarnation });
                }
                Action::Heartbeat => report(&self.reports, FromRole::Heartbeat),
            }
        }
        self.core.count_dropped_events(dropped);
    }

    fn accept(&mut self, stream: UnixStream) {
        if self.handshakes.len() + self.core.unregistered_len() >= UNREGISTERED_CONNECTIONS_MAX {
            warn!("refused a connection: too many have not registered yet");
            return;
        }
        if !self.peer_uids.is_empty() {
            let uid = stream.peer_cred().map(|credentials| credentials.uid());
            if !uid.as_ref().is_ok_and(|uid| self.peer_uids.contains(uid)) {
                warn!(?uid, "refused a connection: its user is none of the roles'");
                return;
            }
        }
        self.handshakes.spawn(Connection::establish(stream, Side::Bind));
    }

    fn connected(&mut self, done: Option<Handshake>) {
        match done {
            Some(Ok((sender, receiver))) => {
                let peer = self.peers.add(sender, receiver);
                self.feed(Event::PeerConnected { peer });
            }
            Some(Err(error)) => warn!(%error, "a handshake failed"),
            None => debug!("a handshake was given up"),
        }
    }
}

/// What the calendar's clock shows.
fn calendar() -> Unix {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Unix(since.map_or(0, |since| since.as_micros() as u64))
}

fn report(reports: &mpsc::Sender<FromRole>, what: FromRole) {
    if let Err(error) = reports.try_send(what) {
        warn!(%error, "could not report to the supervisor");
    }
}
