//! The spawner's life: sweep, stage, probe, then a loop of one `poll` until the supervisor ends it.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, FileTypeExt},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    channel::{Channel, Inbound},
    codec::{Event, FromSpawner, Request, ToSpawner},
    config::SpawnerConfig,
    environment::Environment,
    uids::Uids,
    worker::{News, Worker},
};
use crate::{
    ablation,
    linux::{
        descriptor,
        poll::{self, Watch},
        process, seqpacket, signal,
    },
    native::{Cgroups, Controller, Entry, Limits, Native, NativeError, Profile, StageError, Template},
    probe::{self, LayerReport},
};

/// How often the supervisor hears from the spawner.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// From a sandbox's clone to its exec.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// Between attempts to remove a group whose last process is just leaving.
const CLEAN_INTERVAL: Duration = Duration::from_millis(5);
/// Requests taken from the Doer before others get their turn.
const REQUESTS_PER_TURN: usize = 16;

/// Why there is no spawner.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The templates' directory.
    #[error("cannot make the directory {path} for the sandboxes' roots")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A template.
    #[error("cannot stage the sandboxes' root")]
    Stage(#[from] StageError),
    /// What all sandboxes share.
    #[error("cannot prepare sandboxes")]
    Native(#[from] NativeError),
    /// A basic call, on which everything rests.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// How the spawner comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stopped,
    /// Nobody else is left to remove the sockets.
    SupervisorDied,
}

struct Spawner {
    config: SpawnerConfig,
    supervisor: OwnedFd,
    termination: OwnedFd,
    native: Native,
    cgroups: Cgroups,
    layers: Vec<LayerReport>,
    sufficient: bool,
    uids: Uids,
    doer: Option<Channel>,
    /// Counts Doers; a worker of an earlier one is only still being reaped.
    generation: u64,
    workers: Vec<Worker>,
    /// Names groups; never used twice.
    groups: u64,
    heartbeat_due: Instant,
}

/// Runs the spawner on the main thread of a process that has no other, until the supervisor stops it or dies. On
/// return nothing is left of it: no sandbox, no group, no template.
pub fn run(config: SpawnerConfig, supervisor: OwnedFd) -> Result<(), RunError> {
    signal::ignore_terminal();
    let termination = signal::termination().map_err(system("wait for signals"))?;
    descriptor::set_nonblocking(supervisor.as_fd(), true).map_err(system("use the supervisor's channel"))?;
    let templates = config.run_directory.join("templates");
    let mut spawner = Spawner::prepare(config, supervisor, termination, &templates)?;
    let ready = spawner.say(FromSpawner::Ready);
    let end = ready.map_or(Ok(End::SupervisorDied), |()| spawner.serve());
    spawner.clean_up(&templates, *end.as_ref().unwrap_or(&End::Stopped));
    end.map(drop).map_err(system("wait for events"))
}

fn system(what: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::System { what, source }
}

impl Spawner {
    fn prepare(
        config: SpawnerConfig,
        supervisor: OwnedFd,
        termination: OwnedFd,
        templates: &Path,
    ) -> Result<Self, RunError> {
        let cgroups = Cgroups::open(&config.data_directory);
        let native = stage(&config, &cgroups, templates)?;
        let privileged = process::effective_uid() == 0;
        let mut uids = Uids::new(config.uids, privileged);
        let required: Vec<&str> = match config.required_layers.as_slice() {
            [] => probe::REQUIRED.to_vec(),
            named => named.iter().map(String::as_str).collect(),
        };
        let layers = match uids.take() {
            Some(ids) if ablation::any() => {
                uids.give_back(ids);
                probe::nothing("layers are left out on purpose", &required)
            }
            Some(ids) => {
                let layers = probe::run(&native, &cgroups, ids, &config.executor, &required);
                uids.give_back(ids);
                layers
            }
            None => probe::nothing("no uid is left for workers; set [uids]", &required),
        };
        let sufficient = probe::is_sufficient(&layers, &required) || ablation::any();
        Ok(Self {
            config,
            supervisor,
            termination,
            native,
            cgroups,
            layers,
            sufficient,
            uids,
            doer: None,
            generation: 0,
            workers: Vec::new(),
            groups: 0,
            heartbeat_due: Instant::now(),
        })
    }

    fn serve(&mut self) -> io::Result<End> {
        loop {
            self.wait()?;
            if let Some(end) = self.hear_supervisor() {
                return Ok(end);
            }
            self.hear_doer();
            self.look_after_workers();
            if Instant::now() >= self.heartbeat_due {
                self.heartbeat_due = Instant::now() + HEARTBEAT_INTERVAL;
                if self.say(FromSpawner::Heartbeat).is_none() {
                    return Ok(End::SupervisorDied);
                }
            }
        }
    }

    /// Waits for the next thing to do.
    fn wait(&self) -> io::Result<()> {
        let mut watches = vec![
            Watch::new(self.supervisor.as_fd(), false),
            Watch::new(self.termination.as_fd(), false),
        ];
        watches.extend(
            self.doer
                .as_ref()
                .map(|doer| Watch::new(doer.socket(), doer.has_unsent())),
        );
        let mut until = self.heartbeat_due;
        for worker in &self.workers {
            if worker.is_gone() {
                until = until.min(Instant::now() + CLEAN_INTERVAL);
                continue;
            }
            watches.push(Watch::new(worker.sandbox.pidfd(), false));
            watches.extend(
                worker
                    .sandbox
                    .handshake()
                    .map(|handshake| Watch::new(handshake, false)),
            );
            if worker.is_starting() {
                until = until.min(worker.started + START_TIMEOUT);
            }
        }
        poll::wait(&mut watches, until.saturating_duration_since(Instant::now()))
    }

    /// Tells the supervisor; `None` when it has died. One that does not read misses heartbeats, no more.
    fn say(&self, word: FromSpawner) -> Option<()> {
        match seqpacket::send(self.supervisor.as_fd(), &word.encode(), &[]) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => None,
            _ => Some(()),
        }
    }

    fn hear_supervisor(&mut self) -> Option<End> {
        let terminated = poll::wait_for(self.termination.as_fd(), Duration::ZERO).unwrap_or(false);
        if terminated {
            return Some(End::Stopped);
        }
        loop {
            let mut buffer = [0; 2];
            let mut received = match seqpacket::receive(self.supervisor.as_fd(), &mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(_) => return Some(End::SupervisorDied),
            };
            match (
                ToSpawner::decode(&buffer[..received.len]),
                received.descriptors.pop(),
            ) {
                (Ok(ToSpawner::Doer), Some(socket)) => self.begin_generation(socket),
                (Ok(ToSpawner::Stop), _) => return Some(End::Stopped),
                // Nothing (its end), or nothing that a supervisor says.
                _ => return Some(End::SupervisorDied),
            }
        }
    }

    fn begin_generation(&mut self, socket: OwnedFd) {
        self.end_generation();
        self.generation += 1;
        self.doer = Channel::new(socket).ok();
        self.tell(
            Event::Layers {
                layers: self.layers.clone(),
                sufficient: self.sufficient,
            },
            Vec::new(),
        );
    }

    fn end_generation(&mut self) {
        self.doer = None;
        self.workers.iter().for_each(Worker::kill);
    }

    /// Tells the Doer; one that cannot be told is over.
    fn tell(&mut self, event: Event, descriptors: Vec<OwnedFd>) {
        if self
            .doer
            .as_mut()
            .is_some_and(|doer| doer.send(&event, descriptors).is_err())
        {
            self.end_generation();
        }
    }

    fn hear_doer(&mut self) {
        for _ in 0..REQUESTS_PER_TURN {
            let Some(doer) = &mut self.doer else { return };
            let inbound = if doer.flush().is_ok() {
                doer.receive()
            } else {
                Inbound::End
            };
            match inbound {
                Inbound::Request(request) => self.handle(request),
                Inbound::Nothing => return,
                Inbound::End => return self.end_generation(),
            }
        }
    }

    fn handle(&mut self, request: Request) {
        match request {
            Request::Spawn {
                worker,
                environment,
                limits,
            } => match self.spawn(worker, environment, &limits) {
                Ok(started) => self.workers.push(started),
                Err(message) => self.tell(Event::Failed { worker, message }, Vec::new()),
            },
            Request::Kill { worker } => {
                if let Some(worker) = self.find(worker) {
                    worker.kill();
                }
            }
            Request::Limit { worker, limits } => {
                let within = limits.check(&self.config.worker_maxima).is_ok();
                match self.find(worker) {
                    Some(worker) if within => worker.limit(&limits),
                    Some(worker) => worker.kill(),
                    None => {}
                }
            }
        }
    }

    fn find(&self, number: u64) -> Option<&Worker> {
        self.workers
            .iter()
            .find(|worker| worker.is_known_as(number, self.generation))
    }

    /// Starts a sandbox, or says why not.
    fn spawn(&mut self, number: u64, environment: Environment, limits: &Limits) -> Result<Worker, String> {
        let profile = environment.profile;
        if environment != Environment::WORKER && environment != Environment::BUILDER {
            return Err("images and openings are not served yet".to_owned());
        }
        if !self.sufficient {
            return Err(
                "this machine does not isolate workers enough; `isms doctor` names the layers".to_owned(),
            );
        }
        if self.find(number).is_some() {
            return Err(format!("worker {number} exists already"));
        }
        if self.workers.len() >= self.config.workers_max as usize {
            return Err(format!(
                "there are {} workers, which is the most",
                self.workers.len()
            ));
        }
        let maxima = match profile {
            Profile::Worker => &self.config.worker_maxima,
            Profile::Builder => &self.config.builder_maxima,
        };
        limits.check(maxima).map_err(|error| error.to_string())?;
        let ids = self
            .uids
            .take()
            .ok_or("all uids of workers are in use; raise the range [uids]")?;
        let started = self.start(number, profile, limits, ids);
        if started.is_err() {
            self.uids.give_back(ids);
        }
        started
    }

    fn start(
        &mut self,
        number: u64,
        profile: Profile,
        limits: &Limits,
        ids: crate::native::Ids,
    ) -> Result<Worker, String> {
        self.groups += 1;
        let created = self.cgroups.create(self.groups, limits);
        let mut group = created.map_err(|error| format!("cannot make the worker's cgroup: {error}"))?;
        match self
            .native
            .start(profile, limits, ids, group.as_ref(), &Entry::Program)
        {
            Ok(sandbox) => Ok(Worker::new(number, self.generation, ids, sandbox, group)),
            Err(error) => {
                if let Some(group) = &mut group {
                    group.remove();
                }
                Err(error.to_string())
            }
        }
    }

    /// Announces workers that run, reaps those that have exited, removes what is left of them.
    fn look_after_workers(&mut self) {
        let mut news = Vec::new();
        for worker in &mut self.workers {
            let of_this_doer = worker.generation == self.generation;
            let mut told = Vec::new();
            told.extend(worker.progress());
            if worker.is_starting() && worker.started.elapsed() >= START_TIMEOUT {
                told.push(worker.time_out());
            }
            // An error would mean that it is not our child; nothing could be done about that.
            told.extend(worker.reap().ok().flatten());
            if of_this_doer {
                news.extend(told);
            }
        }
        for news in news {
            match news {
                News::Spawned(event, ends) => self.tell(event, vec![ends.control, ends.data, ends.output]),
                News::Plain(event) => self.tell(event, Vec::new()),
            }
        }
        let uids = &mut self.uids;
        self.workers.retain_mut(|worker| {
            let nothing_left = worker.is_gone() && worker.clean();
            if nothing_left {
                uids.give_back(worker.ids);
            }
            !nothing_left
        });
    }

    fn clean_up(mut self, templates: &Path, end: End) {
        self.end_generation();
        for mut worker in self.workers.drain(..) {
            // Waits until it is reaped; the group then has no process left.
            let _ = worker.reap_now();
            worker.clean();
        }
        self.cgroups.close();
        let _ = fs::remove_dir_all(templates);
        if end == End::SupervisorDied {
            remove_sockets(&self.config.socket_directory);
        }
    }
}

/// Stages both templates and prepares what all sandboxes share.
fn stage(config: &SpawnerConfig, cgroups: &Cgroups, templates: &Path) -> Result<Native, RunError> {
    let _ = fs::remove_dir_all(templates);
    let made = fs::DirBuilder::new()
        .mode(0o755)
        .recursive(true)
        .create(templates);
    made.map_err(|source| RunError::Directory {
        path: templates.to_owned(),
        source,
    })?;
    let stage = |name, profile, program| {
        Template::stage(&templates.join(name), profile, program, &config.sdk_include)
    };
    Ok(Native::new(
        stage("worker", Profile::Worker, &config.executor)?,
        stage("builder", Profile::Builder, &config.builder)?,
        &config.worker_maxima,
        &config.builder_maxima,
        cgroups.has(Controller::Memory),
    )?)
}

fn remove_sockets(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_socket()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
