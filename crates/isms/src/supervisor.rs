//! The supervisor: starts each role as its own process, restarts what dies, stops all in order.
//!
//! It owns the internal and public listeners, so a restart of a role closes no port; it gives each
//! incarnation a fresh secret and tells the Kernel that secret's hash. It decides nothing about calls.
//! When it is killed, the spawner removes workers, cgroups, mounts and sockets, and every other
//! process dies by its parent-death signal.

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener},
    ops::Range,
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixListener},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use isms_protocol::{
    Incarnation, Secret, Service, TokenHash,
    limits::{DRAIN_TIMEOUT, HEARTBEAT_TIMEOUT},
    supervisor::{Bootstrap, DescriptorKind, FromRole, ToRole},
};
use isms_sandbox::{linux::seqpacket, spawner::ToSpawner};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::{
    data_dir::{DataDir, GATE_ADDRESS_FILE, random_bytes, write_durably},
    settings::Settings,
    users::Users,
};

mod child;
mod configs;
mod restart;

use child::{Report, Running, Unit, What, borrow_all};
use restart::RestartPolicy;

/// Deaths of one process before the platform has been ready once: more, and `up` gives up.
const START_DEATHS_MAX: u32 = 4;
/// Time for all roles to serve after a start.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Time that a live role may be without registration before it is called hung.
const UNREGISTERED_MAX: Duration = Duration::from_secs(6);
/// How often clocks are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// Time beyond the drain that a stopping role has.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// The Kernel's socket as seen from a role's working directory, which keeps it short enough for a socket
/// address wherever the data directory lies.
const KERNEL_SOCKET: &str = "../run/kernel.sock";

/// Where the platform serves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) http: SocketAddr,
    pub(crate) gate: SocketAddr,
}

/// One process and its history.
#[derive(Debug, Default)]
struct Slot {
    running: Option<Running>,
    policy: RestartPolicy,
    restart_at: Option<Instant>,
    /// The Kernel has its registration, or the spawner has said that it is ready.
    serving: bool,
    /// Since when it lives without that.
    waiting_since: Option<Instant>,
    /// When it last said that it lives; Kernel and spawner only.
    heartbeat: Option<Instant>,
}

/// The platform's processes.
pub(crate) struct Supervisor {
    settings: Settings,
    users: Users,
    data: DataDir,
    admin_token: TokenHash,
    kernel: UnixListener,
    http: TcpListener,
    gate: TcpListener,
    slots: HashMap<Unit, Slot>,
    /// Hashes of the running roles' secrets, for each new Kernel.
    secrets: HashMap<Service, (Incarnation, [u8; 32])>,
    incarnations: Range<u32>,
    was_ready: bool,
    reports: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
}

impl Supervisor {
    /// Takes the data directory and opens every listener.
    pub(crate) fn prepare(settings: Settings) -> Result<Supervisor> {
        let users = Users::detect(settings.uid_base);
        let mut data = DataDir::open(&settings.data, &users)?;
        data.record_supervisor()?;
        let http = listen(settings.http, "http", "--http")?;
        let gate = listen(settings.gate, "gate", "--gate")?;
        let kernel = bind_kernel(&data, &users)?;
        let admin_token = data.admin_token_hash()?;
        let incarnations = data.reserve_incarnations()?;
        let units = [Unit::Spawner, Unit::Role(Service::Kernel)];
        let roles = Service::REGISTERED.map(Unit::Role);
        let slots = units
            .into_iter()
            .chain(roles)
            .map(|unit| (unit, Slot::default()))
            .collect();
        Ok(Supervisor {
            settings,
            users,
            data,
            admin_token,
            kernel,
            http,
            gate,
            slots,
            secrets: HashMap::new(),
            incarnations,
            was_ready: false,
            reports: mpsc::channel(256),
        })
    }

    /// Where the platform serves; a port that was 0 is a real one here.
    pub(crate) fn addresses(&self) -> Result<Addresses> {
        Ok(Addresses {
            http: self.http.local_addr()?,
            gate: self.gate.local_addr()?,
        })
    }

    /// Runs the platform until a signal stops it. `ready` is called once, when all roles serve.
    pub(crate) async fn run(mut self, ready: impl FnOnce(Addresses)) -> Result<()> {
        let mut ready = Some(ready);
        let addresses = self.addresses()?;
        // The roles need the spawner's channel and the Kernel's socket; everything else finds its way.
        let order = [Unit::Spawner, Unit::Role(Service::Kernel)];
        for unit in order.into_iter().chain(Service::REGISTERED.map(Unit::Role)) {
            self.start(unit)?;
        }
        let give_up_at = Instant::now() + READY_TIMEOUT;
        let mut watch = tokio::time::interval(WATCH_INTERVAL);
        let mut stop = std::pin::pin!(stop_signal()?);
        let outcome = loop {
            let restart_at = self.slots.values().filter_map(|slot| slot.restart_at).min();
            tokio::select! {
                Some(report) = self.reports.1.recv() => {
                    if let Err(error) = self.reported(report) {
                        break Err(error);
                    }
                }
                _ = watch.tick() => self.watch(),
                () = sleep_until(restart_at), if restart_at.is_some() => {
                    if let Err(error) = self.restart_due() {
                        break Err(error);
                    }
                }
                signal = &mut stop => {
                    tracing::info!(signal, "stopping");
                    break Ok(());
                }
            }
            if ready.is_some() && self.slots.values().all(|slot| slot.serving) {
                self.was_ready = true;
                let path = self.data.path().join(GATE_ADDRESS_FILE);
                write_durably(&path, format!("{}\n", addresses.gate).as_bytes(), 0o600)?;
                ready.take().expect("checked just now")(addresses);
            } else if ready.is_some() && Instant::now() > give_up_at {
                break Err(anyhow::anyhow!(
                    "not ready within {} s: {}",
                    READY_TIMEOUT.as_secs(),
                    self.missing()
                ));
            }
        };
        self.stop_all().await;
        outcome
    }

    fn missing(&self) -> String {
        let missing = self
            .slots
            .iter()
            .filter(|(_, slot)| !slot.serving)
            .map(|(unit, _)| unit.name());
        format!(
            "{} did not start to serve; the log above says why",
            missing.collect::<Vec<_>>().join(", ")
        )
    }

    fn start(&mut self, unit: Unit) -> Result<()> {
        let incarnation = self.next_incarnation()?;
        let directory = match unit {
            Unit::Spawner => self.data.run(),
            Unit::Role(service) => self.data.of(service),
        };
        let running = Running::start(unit, incarnation, &directory, self.reports.0.clone())?;
        match unit {
            Unit::Spawner => {
                running.send(&isms_protocol::encode(&configs::spawner(self)?), &[])?;
                // The Doer's channel went with the spawner before it: it needs a new one.
                if let Some(doer) = self.running(Unit::Role(Service::Doer)) {
                    doer.kill();
                }
            }
            Unit::Role(service) => self.bootstrap(service, incarnation, &running)?,
        }
        let slot = self.slot(unit);
        slot.running = Some(running);
        slot.restart_at = None;
        slot.serving = unit == Unit::Role(Service::Kernel);
        slot.waiting_since = Some(Instant::now());
        slot.heartbeat = Some(Instant::now());
        Ok(())
    }

    /// Gives a new role its secret, settings and descriptors, and introduces it to the Kernel.
    fn bootstrap(&mut self, service: Service, incarnation: Incarnation, running: &Running) -> Result<()> {
        let secret = Secret(random_bytes()?);
        let secret_hash: [u8; 32] = Sha256::digest(secret.0).into();
        let (kinds, descriptors): (Vec<DescriptorKind>, Vec<OwnedFd>) =
            self.descriptors(service)?.into_iter().unzip();
        let bootstrap = Bootstrap {
            service,
            incarnation,
            secret,
            user: self.users.of(service),
            kernel_socket: KERNEL_SOCKET.to_owned(),
            config: configs::role(self, service),
            descriptors: kinds,
        };
        running.send(&isms_protocol::encode(&bootstrap), &borrow_all(&descriptors))?;
        if service == Service::Kernel {
            self.secrets
                .iter()
                .try_for_each(|(service, (incarnation, secret_hash))| {
                    running.tell(&announce(*service, *incarnation, *secret_hash))
                })
        } else {
            self.secrets.insert(service, (incarnation, secret_hash));
            match self.running(Unit::Role(Service::Kernel)) {
                Some(kernel) => kernel.tell(&announce(service, incarnation, secret_hash)),
                None => Ok(()),
            }
        }
    }

    fn descriptors(&self, service: Service) -> Result<Vec<(DescriptorKind, OwnedFd)>> {
        Ok(match service {
            Service::Kernel => vec![(DescriptorKind::KernelListener, self.kernel.try_clone()?.into())],
            Service::Commserver => vec![(DescriptorKind::HttpListener, self.http.try_clone()?.into())],
            Service::Gate => vec![(DescriptorKind::HttpListener, self.gate.try_clone()?.into())],
            Service::Doer => {
                let (doers, spawners) = seqpacket::pair()?;
                if let Some(spawner) = self.running(Unit::Spawner) {
                    // A spawner that cannot be told is about to be restarted, and the Doer with it.
                    let _ = spawner.send(&ToSpawner::Doer.encode(), &borrow_all(&[spawners]));
                }
                vec![(DescriptorKind::Spawner, doers)]
            }
            _ => Vec::new(),
        })
    }

    fn reported(&mut self, report: Report) -> Result<()> {
        let Report {
            unit,
            incarnation,
            what,
        } = report;
        let current = self
            .running(unit)
            .is_some_and(|running| running.incarnation == incarnation);
        if !current {
            return Ok(());
        }
        match what {
            What::Exited(status) => return self.exited(unit, status),
            What::SpawnerLives | What::Said(FromRole::Heartbeat) => {
                self.slot(unit).heartbeat = Some(Instant::now())
            }
            What::SpawnerReady => {
                tracing::info!("spawner is ready");
                // It was silent while it staged and probed, which takes a slow machine longer than a heartbeat may.
                self.slot(unit).heartbeat = Some(Instant::now());
                self.slot(unit).serving = true;
            }
            What::Said(FromRole::Registered { service, incarnation }) => {
                self.set_serving(service, incarnation, true)
            }
            What::Said(FromRole::Lost { service, incarnation }) => {
                self.set_serving(service, incarnation, false)
            }
        }
        Ok(())
    }

    fn set_serving(&mut self, service: Service, incarnation: Incarnation, serving: bool) {
        let slot = self.slot(Unit::Role(service));
        if slot
            .running
            .as_ref()
            .is_some_and(|running| running.incarnation == incarnation)
        {
            slot.serving = serving;
            slot.waiting_since = (!serving).then(Instant::now);
        }
    }

    fn exited(&mut self, unit: Unit, status: Option<std::process::ExitStatus>) -> Result<()> {
        let was_ready = self.was_ready;
        let slot = self.slot(unit);
        let running = slot
            .running
            .take()
            .expect("the report was checked to be of the running process");
        let now = Instant::now();
        let verdict = slot.policy.died(running.started, now);
        slot.serving = false;
        slot.restart_at = Some(now + verdict.pause);
        let status = status.map_or_else(|| "unknown".to_owned(), |status| status.to_string());
        tracing::warn!(%unit, status, pause_ms = verdict.pause.as_millis() as u64, "a process ended, restarting it");
        if verdict.looping {
            tracing::error!(%unit, "it keeps dying, see its log above; trying again in a while");
        }
        if !was_ready && slot.policy.deaths() >= START_DEATHS_MAX {
            bail!("{unit} does not start: it ended {START_DEATHS_MAX} times; its log above says why");
        }
        if unit == Unit::Role(Service::Kernel) {
            for service in Service::REGISTERED {
                self.slot(Unit::Role(service)).serving = false;
                self.slot(Unit::Role(service)).waiting_since = Some(now);
            }
        }
        // What needs no pause starts at once: each moment without it is an error to somebody.
        if verdict.pause.is_zero() {
            self.start(unit)
        } else {
            Ok(())
        }
    }

    fn restart_due(&mut self) -> Result<()> {
        let now = Instant::now();
        let due = |(unit, slot): (&Unit, &Slot)| slot.restart_at.is_some_and(|at| at <= now).then_some(*unit);
        let due: Vec<Unit> = self.slots.iter().filter_map(due).collect();
        due.into_iter().try_for_each(|unit| self.start(unit))
    }

    /// Kills what lives and does not serve: a silent Kernel or spawner, a role that does not register.
    fn watch(&mut self) {
        let now = Instant::now();
        let over = |since: Option<Instant>, limit: Duration| since.is_some_and(|since| now > since + limit);
        for (unit, slot) in &mut self.slots {
            let Some(running) = &slot.running else { continue };
            let beats = matches!(unit, Unit::Spawner | Unit::Role(Service::Kernel));
            let silent = beats && slot.serving && over(slot.heartbeat, HEARTBEAT_TIMEOUT);
            let unregistered = !beats && !slot.serving && over(slot.waiting_since, UNREGISTERED_MAX);
            if silent || unregistered {
                tracing::error!(%unit, pid = running.pid, "a process hangs, killing it");
                slot.waiting_since = None;
                slot.heartbeat = None;
                running.kill();
            }
        }
    }

    /// Stops in order: edges drain first, then who serves them, then the Kernel, the spawner last.
    async fn stop_all(&mut self) {
        let waves: [&[Unit]; 4] = [
            &[Unit::Role(Service::Commserver), Unit::Role(Service::Gate)],
            &[Unit::Role(Service::Doer), Unit::Role(Service::Resadmin)],
            &[Unit::Role(Service::Dbriver)],
            &[Unit::Role(Service::Kernel), Unit::Spawner],
        ];
        for wave in waves {
            for unit in wave {
                if let Some(running) = self.running(*unit) {
                    let _ = match unit {
                        Unit::Spawner => running.send(&ToSpawner::Stop.encode(), &[]),
                        Unit::Role(_) => running.tell(&ToRole::Stop),
                    };
                }
            }
            self.await_exits(wave).await;
        }
    }

    async fn await_exits(&mut self, wave: &[Unit]) {
        let until = tokio::time::Instant::now() + DRAIN_TIMEOUT + STOP_GRACE;
        while wave.iter().any(|unit| self.running(*unit).is_some()) {
            match tokio::time::timeout_at(until, self.reports.1.recv()).await {
                Ok(Some(Report {
                    unit,
                    incarnation,
                    what: What::Exited(_),
                })) => {
                    let slot = self.slot(unit);
                    if slot
                        .running
                        .as_ref()
                        .is_some_and(|running| running.incarnation == incarnation)
                    {
                        slot.running = None;
                    }
                }
                Ok(_) => {}
                Err(_) => {
                    for unit in wave {
                        if let Some(running) = self.slot(*unit).running.take() {
                            tracing::warn!(%unit, "did not stop in time, killing it");
                            running.kill();
                        }
                    }
                }
            }
        }
    }

    fn slot(&mut self, unit: Unit) -> &mut Slot {
        self.slots.get_mut(&unit).expect("every unit has a slot")
    }

    fn running(&self, unit: Unit) -> Option<&Running> {
        self.slots.get(&unit)?.running.as_ref()
    }

    fn next_incarnation(&mut self) -> Result<Incarnation> {
        if self.incarnations.is_empty() {
            self.incarnations = self.data.reserve_incarnations()?;
        }
        Ok(Incarnation(
            self.incarnations.next().expect("a reserved block is not empty"),
        ))
    }
}

fn announce(service: Service, incarnation: Incarnation, secret_hash: [u8; 32]) -> ToRole {
    ToRole::Announce {
        service,
        incarnation,
        secret_hash,
    }
}

fn listen(address: SocketAddr, what: &str, flag: &str) -> Result<TcpListener> {
    TcpListener::bind(address).with_context(|| {
        format!("cannot listen on {address} for {what}; choose another address with {flag} ADDR")
    })
}

/// The Kernel's socket: for the roles' group, in a folder that others cannot pass through.
fn bind_kernel(data: &DataDir, users: &Users) -> Result<UnixListener> {
    let run = data.run();
    let context = || format!("cannot make the kernel's socket in {}", run.display());
    // Bound by a name relative to the folder: the path of a data directory may be longer than an address.
    let before = std::env::current_dir().with_context(context)?;
    std::env::set_current_dir(&run).with_context(context)?;
    let listener = UnixListener::bind("kernel.sock");
    std::env::set_current_dir(before).with_context(context)?;
    let listener = listener.with_context(context)?;
    let path = run.join("kernel.sock");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).with_context(context)?;
    users.give_to_group(&path)?;
    Ok(listener)
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at.into()).await;
    }
}

/// Resolves with the name of the first signal that asks to stop.
fn stop_signal() -> Result<impl Future<Output = &'static str>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        }
    })
}
