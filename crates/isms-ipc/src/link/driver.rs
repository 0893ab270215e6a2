//! The link's task: connects, registers, listens, and starts over when the connection ends.

use std::{error::Error, io, sync::Arc, time::Duration};

use isms_protocol::{
    DecodeError, Header, Kind, Message, Service, WireError,
    kernel::{Register, Registered},
    limits::{HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, REGISTER_TIMEOUT},
};
use tokio::{
    net::UnixStream,
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout},
};

use super::{
    LinkOptions, Shared,
    session::{Session, Violation},
};
use crate::{Connection, ConnectionError, Receiver, Sender, Side};

/// Wait before the first attempt to connect again; each failure doubles it.
const BACKOFF_FIRST: Duration = Duration::from_millis(10);
/// Longest wait between two attempts.
const BACKOFF_MAX: Duration = Duration::from_millis(250);
/// Heartbeat intervals in a row without a message, after which the Kernel is dead.
const SILENT_INTERVALS_MAX: u128 = HEARTBEAT_TIMEOUT.as_millis() / HEARTBEAT_INTERVAL.as_millis();

/// Why the link could not register.
#[derive(Debug, thiserror::Error)]
enum RegisterError {
    #[error("cannot connect to the kernel's socket")]
    Connect(#[source] io::Error),
    #[error("cannot make the handshake")]
    Handshake(#[source] ConnectionError),
    #[error("cannot receive the answer to register")]
    Receive(#[source] ConnectionError),
    #[error("kernel closed the connection instead of answering register")]
    Closed,
    #[error("kernel did not answer register within {} ms", REGISTER_TIMEOUT.as_millis())]
    Timeout,
    #[error("kernel refused to register this incarnation")]
    Refused(#[source] WireError),
    #[error("kernel's answer to register is malformed")]
    Answer(#[source] DecodeError),
    #[error("kernel answered register with another kind of message")]
    Kind,
}

/// Why a registered connection ended.
#[derive(Debug, thiserror::Error)]
enum LostError {
    #[error("kernel closed the connection")]
    Closed,
    #[error("connection failed")]
    Connection(#[source] ConnectionError),
    #[error("kernel broke the protocol")]
    Violation(#[source] Violation),
    #[error("kernel was silent for {} ms", HEARTBEAT_TIMEOUT.as_millis())]
    Silent,
}

impl LostError {
    fn is_violation(&self) -> bool {
        match self {
            LostError::Violation(_) => true,
            LostError::Connection(error) => matches!(
                error,
                ConnectionError::Zmtp(_) | ConnectionError::Message(_) | ConnectionError::PeerTooSlow
            ),
            LostError::Closed | LostError::Silent => false,
        }
    }
}

/// Runs until the link is closed, or nobody holds it.
pub(super) async fn run(shared: Arc<Shared>, options: LinkOptions) {
    let mut backoff = BACKOFF_FIRST;
    while !shared.stop.is_set() {
        let registered = tokio::select! {
            biased;
            () = shared.stop.wait() => break,
            registered = register(&options) => registered,
        };
        match registered {
            Ok((sender, receiver, registered)) => {
                tracing::info!(service = %options.service, generation = registered.generation.0, "registered");
                serve(&shared, options.service, sender, receiver, registered).await;
                backoff = BACKOFF_FIRST;
            }
            Err(error) => {
                report(&options, &error, backoff);
            }
        }
        tokio::select! {
            biased;
            () = shared.stop.wait() => {}
            () = sleep(backoff) => backoff = (backoff * 2).min(BACKOFF_MAX),
        }
    }
    shared.inbox.close();
    shared.stopped.set();
}

/// Only the first failure in a row is worth a person's look.
fn report(options: &LinkOptions, error: &RegisterError, backoff: Duration) {
    let (service, error) = (options.service, chain(error));
    if backoff == BACKOFF_FIRST {
        tracing::warn!(%service, error, "could not register; kept trying");
    } else {
        tracing::debug!(%service, error, "could not register again");
    }
}

async fn register(options: &LinkOptions) -> Result<(Sender, Receiver, Registered), RegisterError> {
    let stream = UnixStream::connect(&options.socket)
        .await
        .map_err(RegisterError::Connect)?;
    let (sender, mut receiver) = Connection::establish(stream, Side::Connect)
        .await
        .map_err(RegisterError::Handshake)?;
    let body = Register {
        service: options.service,
        incarnation: options.incarnation,
        secret: options.secret.clone(),
        concurrency: options.concurrency,
    };
    let header = Header::new(Kind::Register, options.service, Service::Kernel);
    // Should it fail, the answer will not come.
    let _ = sender.send(&Message::with_body(header, &body));
    let answer = timeout(REGISTER_TIMEOUT, receiver.next())
        .await
        .map_err(|_| RegisterError::Timeout)?;
    let answer = answer
        .map_err(RegisterError::Receive)?
        .ok_or(RegisterError::Closed)?;
    match answer.header.kind {
        Kind::Register => Ok((
            sender,
            receiver,
            answer.decode_body().map_err(RegisterError::Answer)?,
        )),
        Kind::Error => Err(RegisterError::Refused(
            answer.decode_body().map_err(RegisterError::Answer)?,
        )),
        _ => Err(RegisterError::Kind),
    }
}

/// Serves one registered connection to its end.
async fn serve(
    shared: &Shared,
    service: Service,
    sender: Sender,
    mut receiver: Receiver,
    registered: Registered,
) {
    let session = Arc::new(Session::new(service, sender, registered.request_credit));
    shared.set_session(Some(Arc::clone(&session)));
    shared.inbox.registered(registered.generation);
    let stopped = tokio::select! {
        biased;
        () = shared.stop.wait() => true,
        error = listen(shared, service, &session, &mut receiver) => {
            tracing::warn!(%service, error = chain(&error), "lost the kernel");
            false
        }
    };
    shared.set_session(None);
    session.lose();
    if stopped {
        // Nothing was lost: this side hangs up, and its inbox ends.
        receiver.shut_down().await;
    } else {
        shared.inbox.lost();
    }
}

async fn listen(
    shared: &Shared,
    service: Service,
    session: &Arc<Session>,
    receiver: &mut Receiver,
) -> LostError {
    let mut ticks = interval_at(Instant::now() + HEARTBEAT_INTERVAL, HEARTBEAT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let heartbeat = Message::bare(Header::new(Kind::Heartbeat, service, Service::Kernel));
    let mut silent_intervals = 0;
    loop {
        tokio::select! {
            biased;
            _ = ticks.tick() => {
                if silent_intervals == SILENT_INTERVALS_MAX {
                    return LostError::Silent;
                }
                silent_intervals += 1;
                // Should it fail, the receiver tells.
                let _ = session.sender().send(&heartbeat);
            }
            received = receiver.next() => {
                silent_intervals = 0;
                if let Err(error) = handle_all(shared, session, receiver, received) {
                    return error;
                }
            }
        }
    }
}

/// How an attached connection ended.
pub(super) struct End {
    pub(super) why: String,
    /// The peer did what no honest peer does.
    pub(super) violation: bool,
}

/// Handles everything that comes until the connection ends.
pub(super) async fn receive_all(shared: &Shared, session: &Arc<Session>, receiver: &mut Receiver) -> End {
    loop {
        let received = receiver.next().await;
        if let Err(error) = handle_all(shared, session, receiver, received) {
            return End {
                why: match &error {
                    LostError::Violation(what) => chain(what),
                    LostError::Connection(what) => chain(what),
                    LostError::Closed | LostError::Silent => chain(&error),
                },
                violation: error.is_violation(),
            };
        }
        // Lets the role take what has come before more is read, so that a flood waits at the peer and not here.
        tokio::task::yield_now().await;
    }
}

/// Handles a message and everything that came with it.
fn handle_all(
    shared: &Shared,
    session: &Arc<Session>,
    receiver: &mut Receiver,
    first: Result<Option<Message>, ConnectionError>,
) -> Result<(), LostError> {
    let mut message = first.map_err(LostError::Connection)?.ok_or(LostError::Closed)?;
    loop {
        if let Some(inbound) = session.handle(message).map_err(LostError::Violation)? {
            shared.inbox.push(inbound);
        }
        match receiver.try_next().map_err(LostError::Connection)? {
            Some(next) => message = next,
            None => return Ok(()),
        }
    }
}

/// An error with its causes, on one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
