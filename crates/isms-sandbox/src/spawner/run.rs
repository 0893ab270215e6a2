//! The spawner's life: sweep, stage, probe, then a loop of one `poll` until the supervisor ends it.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileTypeExt,
    },
    path::Path,
    rc::Rc,
    time::{Duration, Instant},
};

use super::{
    channel::{Channel, Inbound},
    codec::{Event, FromSpawner, Request, ToSpawner},
    config::SpawnerConfig,
    containers::{self, Containers, Step},
    environment::Backend,
    error::RunError,
    groups::Groups,
    images::{Images, Readiness, StagedImage},
    openings::Allowed,
    prepare,
    uids::Uids,
    waiting::Asked,
    worker::{News, Worker},
};
use crate::{
    ablation,
    apptainer::Container,
    linux::{
        descriptor,
        poll::{self, Crowd, Watch},
        process, seqpacket, signal,
    },
    native::{Cgroups, Entry, Group, Ids, Limits, Native, Openings, Profile, Sandbox, Start},
    probe::{self, LayerReport},
};

/// How often the supervisor hears from the spawner.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Between attempts to remove a group whose last process is just leaving.
const CLEAN_INTERVAL: Duration = Duration::from_millis(5);
/// Requests taken from the Doer before others get their turn.
const REQUESTS_PER_TURN: usize = 16;
/// In place of a Doer's generation: probes, which no Doer asked for.
const PROBES: u64 = 0;

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
    groups: Groups,
    layers: Vec<LayerReport>,
    sufficient: bool,
    uids: Uids,
    doer: Option<Channel>,
    /// Counts Doers; a worker of an earlier one is only still being reaped.
    generation: u64,
    workers: Vec<Worker>,
    /// The pidfds of those that run, by pid: there may be thousands, of which hardly one exits at a time.
    running: Crowd,
    images: Images,
    containers: Containers,
    allowed: Allowed,
    /// What the Doer asked for and waits for its image.
    waiting: Vec<Asked>,
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
        ablation::read();
        let cgroups = Cgroups::open(&config.data_directory);
        let maxima = config.worker_maxima;
        let privileged = process::effective_uid() == 0;
        let (native, images) = prepare::stage(&config, &cgroups, templates, privileged)?;
        // The executor as it was staged for native workers: what everybody may execute.
        let executor = templates.join("worker/isms/doee-executor");
        let mut uids = Uids::new(config.uids, privileged);
        let required_here = config.required_layers.iter().map(String::as_str);
        let required: Vec<&str> = probe::REQUIRED.into_iter().chain(required_here).collect();
        let stage = templates.join("apptainer");
        let containers = Containers::new(&cgroups, stage, executor, &config.worker_maxima, &required);
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
            None => probe::nothing("no uid is left for workers; set [uids] base", &required),
        };
        let of_machine: Vec<&str> = required
            .iter()
            .filter(|name| **name != containers::LAYER)
            .copied()
            .collect();
        let sufficient =
            ablation::any() || probe::is_sufficient(&layers, &of_machine) && containers.is_sufficient();
        let allowed = Allowed::new(&config);
        Ok(Self {
            config,
            supervisor,
            termination,
            native,
            groups: Groups::new(cgroups, maxima),
            layers,
            sufficient,
            uids,
            doer: None,
            generation: 0,
            workers: Vec::new(),
            running: Crowd::new().map_err(system("watch over workers"))?,
            images,
            containers,
            allowed,
            waiting: Vec::new(),
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
            self.look_after_images();
            self.look_after_workers();
            self.prepare_next();
            if Instant::now() >= self.heartbeat_due {
                self.heartbeat_due = Instant::now() + HEARTBEAT_INTERVAL;
                self.images.sweep(Instant::now());
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
            Watch::new(self.running.as_fd(), false),
        ];
        watches.extend(
            self.doer
                .as_ref()
                .map(|doer| Watch::new(doer.socket(), doer.has_unsent())),
        );
        watches.extend(self.images.watches().map(|report| Watch::new(report, false)));
        let mut until = self.heartbeat_due;
        until = until.min(self.images.deadline().unwrap_or(until));
        for worker in self.workers.iter().filter(|worker| !worker.is_running()) {
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
                until = until.min(worker.start_deadline());
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
        self.tell_layers();
    }

    fn tell_layers(&mut self) {
        let mut layers = self.layers.clone();
        layers.push(self.containers.report());
        let sufficient = self.sufficient;
        self.tell(Event::Layers { layers, sufficient }, Vec::new());
    }

    fn end_generation(&mut self) {
        self.doer = None;
        self.waiting.clear();
        // A probe is nobody's; the next Doer will want its result as well.
        let of_doers = self.workers.iter().filter(|worker| worker.generation != PROBES);
        of_doers.for_each(Worker::kill);
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
                worker: number,
                environment,
                limits,
            } => {
                let asked = Asked {
                    number,
                    environment,
                    limits,
                };
                match self.check(&asked) {
                    Ok(()) => self.begin_or_wait(asked),
                    Err(message) => self.refuse(&asked, message),
                }
            }
            Request::Kill { worker } => {
                if let Some(worker) = self.find(worker) {
                    worker.kill();
                } else if let Some(asked) = self.take_waiting(worker) {
                    self.refuse(&asked, "it was given up before its image was staged".to_owned());
                }
            }
            Request::Limit { worker, limits } => {
                let within = limits.check(&self.config.worker_maxima).is_ok();
                match self.find(worker) {
                    Some(worker) if within => worker.limit(&limits),
                    Some(worker) => worker.kill(),
                    None => self.limit_waiting(worker, limits),
                }
            }
        }
    }

    fn find(&self, number: u64) -> Option<&Worker> {
        self.workers
            .iter()
            .find(|worker| worker.is_known_as(number, self.generation))
    }

    fn take_waiting(&mut self, number: u64) -> Option<Asked> {
        let index = self.waiting.iter().position(|asked| asked.number == number)?;
        Some(self.waiting.remove(index))
    }

    fn limit_waiting(&mut self, number: u64, limits: Limits) {
        let Some(asked) = self.take_waiting(number) else {
            return;
        };
        match limits.check(&self.config.worker_maxima) {
            Ok(()) => self.waiting.push(Asked { limits, ..asked }),
            Err(error) => self.refuse(&asked, error.to_string()),
        }
    }

    fn refuse(&mut self, asked: &Asked, message: String) {
        let worker = asked.number;
        self.tell(Event::Failed { worker, message }, Vec::new());
    }

    /// Whether a sandbox may be started, as far as that can be said at once.
    fn check(&self, asked: &Asked) -> Result<(), String> {
        if !self.sufficient {
            return Err(
                "this machine does not isolate workers enough; `isms doctor` names the layers".to_owned(),
            );
        }
        let number = asked.number;
        if self.find(number).is_some() || self.waiting.iter().any(|waiting| waiting.number == number) {
            return Err(format!("worker {number} exists already"));
        }
        let count = self.workers.len() + self.waiting.len();
        if count >= self.config.workers_max as usize {
            return Err(format!("there are {count} workers, which is the most"));
        }
        let maxima = match asked.environment.profile {
            Profile::Worker => &self.config.worker_maxima,
            Profile::Builder => &self.config.builder_maxima,
        };
        asked.limits.check(maxima).map_err(|error| error.to_string())?;
        self.allowed.grant(&asked.environment.holes).map(drop)
    }

    /// Starts a sandbox whose image is staged, or that has none.
    fn begin_or_wait(&mut self, asked: Asked) {
        let image = match asked.image() {
            None => None,
            Some((image, form)) => match self.images.want(image, form, Instant::now()) {
                Readiness::Ready(image) => Some(image),
                Readiness::Staging => return self.waiting.push(asked),
                Readiness::Refused(message) => return self.refuse(&asked, message),
            },
        };
        let step = match asked.environment.backend {
            Backend::Native => Step::Worker,
            Backend::Apptainer => self.containers.next_step(),
        };
        let begun = match step {
            Step::Worker => self.begin(asked, image, self.generation),
            Step::Wait => return self.waiting.push(asked),
            Step::Probe => self
                .begin(asked.without_holes(), image, PROBES)
                .map(|()| self.waiting.push(asked)),
            Step::Refuse(message) => Err(message),
        };
        if let Err(message) = begun {
            self.refuse(&asked, message);
        }
    }

    /// Starts what waited for an image that is staged now, and refuses what waited for one that cannot be.
    fn look_after_images(&mut self) {
        let failures = self.images.reap(Instant::now());
        for asked in std::mem::take(&mut self.waiting) {
            if self.doer.is_none() {
                return;
            }
            match failures.iter().find(|failure| asked.is_failed_by(failure)) {
                Some(failure) => self.refuse(&asked, failure.message.clone()),
                None => self.begin_or_wait(asked),
            }
        }
    }

    /// Starts a sandbox, or says why not.
    fn begin(&mut self, asked: Asked, image: Option<Rc<StagedImage>>, generation: u64) -> Result<(), String> {
        let ids = self
            .uids
            .take()
            .ok_or("all uids of workers are in use; one is free again when a worker has ended")?;
        match self.start(asked, image, ids, generation) {
            Ok(worker) => self.workers.push(worker),
            Err(message) => {
                self.uids.give_back(ids);
                return Err(message);
            }
        }
        Ok(())
    }

    fn start(
        &mut self,
        asked: Asked,
        image: Option<Rc<StagedImage>>,
        ids: Ids,
        generation: u64,
    ) -> Result<Worker, String> {
        let openings = self.allowed.grant(&asked.environment.holes)?;
        let limits = asked.group_limits(&asked.limits);
        let mut group = self
            .groups
            .take(&limits)
            .map_err(|error| format!("cannot make the worker's cgroup: {error}"))?;
        let sandbox = match asked.environment.backend {
            Backend::Native => {
                let started = self.native.start(&Start {
                    profile: asked.environment.profile,
                    limits: &asked.limits,
                    ids,
                    group: group.as_ref(),
                    image: image.as_deref().and_then(StagedImage::root),
                    openings: &openings,
                    entry: &Entry::Program,
                });
                started.map_err(|error| error.to_string())
            }
            Backend::Apptainer => {
                self.start_container(&asked, image.as_deref(), ids, group.as_ref(), &openings)
            }
        };
        match sandbox {
            Ok(sandbox) => Ok(Worker::new(asked, generation, ids, sandbox, group, image)),
            Err(message) => {
                if let Some(group) = &mut group {
                    group.remove();
                }
                Err(message)
            }
        }
    }

    /// Makes ahead what the next sandbox needs, once no start is under way that it would hold up. What cannot be made
    /// now is tried again, and reported, when it is needed.
    fn prepare_next(&mut self) {
        if !self.sufficient || self.workers.iter().any(Worker::is_starting) {
            return;
        }
        let _ = self.native.prepare();
        self.groups.prepare();
    }

    /// Starts the executor in a container, or the probe while there is no proof yet.
    fn start_container(
        &mut self,
        asked: &Asked,
        image: Option<&StagedImage>,
        ids: Ids,
        group: Option<&Group>,
        openings: &Openings,
    ) -> Result<Sandbox, String> {
        let (Some((hash, _)), Some(image), Ids::Distinct(id @ 1..)) = (asked.image(), image, ids) else {
            return Err("a container needs an image, and a uid other than root's".to_owned());
        };
        let container = Container {
            image: &image.file(),
            id,
            limits: &asked.limits,
            openings,
        };
        self.containers.start(container, group, hash)
    }

    /// Takes the result of the probe, which then has to go; nobody waits any more for what it failed on.
    fn hear_probe(&mut self, news: News, ids: Ids) {
        match (news, ids) {
            (News::Spawned(_, ends), Ids::Distinct(id)) => {
                self.containers.judge(ends.control.as_fd(), id);
                self.tell_layers();
            }
            (News::Plain(Event::Failed { message, .. }), _) => {
                let image = self.containers.give_up_probe();
                let (failed, waiting) = std::mem::take(&mut self.waiting)
                    .into_iter()
                    .partition(|asked| asked.is_contained_in(image));
                self.waiting = waiting;
                let failed: Vec<Asked> = failed;
                for asked in failed {
                    self.refuse(&asked, message.clone());
                }
            }
            _ => {}
        }
        let probes = self.workers.iter().filter(|worker| worker.generation == PROBES);
        probes.for_each(Worker::kill);
    }

    /// Announces workers that run, reaps those that have exited, removes what is left of them.
    fn look_after_workers(&mut self) {
        let (mut news, mut of_probe) = (Vec::new(), Vec::new());
        let exited = self.running.ready();
        let has_news =
            |worker: &&mut Worker| !worker.is_running() || exited.contains(&worker.sandbox.pid().into());
        for worker in self.workers.iter_mut().filter(has_news) {
            let told = worker.look(&self.running);
            let of_this_doer = worker.generation == self.generation;
            if worker.generation == PROBES {
                of_probe.extend(told.into_iter().map(|news| (news, worker.ids)));
            } else if of_this_doer {
                news.extend(told);
            }
        }
        for (news, ids) in of_probe {
            self.hear_probe(news, ids);
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
        self.workers.iter().for_each(Worker::kill);
        for mut worker in self.workers.drain(..) {
            // Waits until it is reaped; the group then has no process left.
            let _ = worker.reap_now();
            worker.clean();
        }
        self.groups.close();
        self.images.close();
        let _ = fs::remove_dir_all(templates);
        if end == End::SupervisorDied {
            remove_sockets(&self.config.socket_directory);
        }
    }
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
