//! The Worker Handler: starts, assigns, supervises and recycles workers.
//!
//! Pure: events in, actions out, the clock passed in. Invariants: a worker runs one Doee version in
//! its life; a call is sent only to an idle worker of its version; every accepted task leaves by
//! exactly one of `Action::Fail` or `Event::Answered`; the capacity published for a version is the
//! number of its workers that will still take calls, so the Kernel never sends more than there are.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use isms_protocol::{DoeeVersion, ErrorCode, WireError, limits::CANCEL_GRACE};

use crate::{
    doer_admin::{DoerAdmin, Queue, TaskId},
    worker::{State, Worker, WorkerId},
};

mod supervision;

/// Time for a worker from the spawner's request to its first report.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a Doee to load and initialize.
const INITIALIZE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time from sending a call to its begin; an honest executor takes microseconds.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for a worker that was asked to end, before it is killed.
const DRAIN_GRACE: Duration = Duration::from_secs(2);
/// First and longest pause after a Doee has failed to start.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// Slots published for a Doee that cannot start, so that its callers learn why at once.
const FAILED_CAPACITY: u32 = 64;
/// Pause after the spawner has failed to start a sandbox.
const SPAWN_RETRY: Duration = Duration::from_secs(1);
/// How long calls must have waited for slots before another worker starts beside those that serve.
const SCALE_UP_AFTER: Duration = Duration::from_millis(5);

/// What one Doee version allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DoeeLimits {
    pub(crate) timeout: Duration,
    pub(crate) workers_min: u32,
    pub(crate) workers_max: u32,
}

/// Numbers that the administrator may change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandlerConfig {
    /// Empty sandboxes kept ready.
    pub(crate) pool_size: usize,
    /// Workers in all.
    pub(crate) workers_max: usize,
    /// How long a worker above its Doee's minimum may idle.
    pub(crate) idle_ttl: Duration,
}

/// What has happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// The Kernel tells how many calls of a version wait for slots.
    Demand { version: DoeeVersion, queued: u32 },
    /// A version's limits and binary are at hand, or cannot be had.
    Loaded {
        version: DoeeVersion,
        outcome: Result<DoeeLimits, WireError>,
    },
    /// The Kernel has dispatched a call.
    Accepted { task: TaskId, version: DoeeVersion },
    /// The caller no longer wants the answer.
    Cancelled { task: TaskId },
    /// The Kernel's connection is lost: nobody can be answered. What has begun may end.
    Abandoned { task: TaskId },
    /// The executor has started and is locked down.
    Empty { worker: WorkerId },
    /// The Doee has been loaded and initialized.
    Initialized { worker: WorkerId },
    /// The sandbox, the load or `initialize` has failed.
    StartFailed { worker: WorkerId, error: WireError },
    /// The worker has begun its call.
    Begun { worker: WorkerId },
    /// The worker has answered its call, well or not; the answer is on its way.
    Answered { worker: WorkerId },
    /// The worker has said what no honest executor says.
    Misbehaved { worker: WorkerId, what: String },
    /// The worker's process is gone.
    Exited { worker: WorkerId, how: String },
    /// The version is no longer deployed.
    Retire { version: DoeeVersion },
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Learn a version's limits and fetch its binary.
    Load { version: DoeeVersion },
    /// Tell the Kernel the capacity of a version.
    Publish { version: DoeeVersion, capacity: u32 },
    /// Ask the spawner for a sandbox.
    Spawn { worker: WorkerId },
    /// Give an empty worker its Doee.
    Assign { worker: WorkerId, version: DoeeVersion },
    /// Send a call to an idle worker.
    Run { worker: WorkerId, task: TaskId },
    /// Ask a worker to give up its call.
    AskCancel { worker: WorkerId },
    /// Ask an idle worker to terminate its Doee and exit.
    Drain { worker: WorkerId },
    /// Kill a worker's sandbox.
    Kill { worker: WorkerId, why: String },
    /// Answer a task with an error; its worker's answer, if one still comes, is dropped.
    Fail { task: TaskId, error: WireError },
}

#[derive(Debug)]
enum Readiness {
    Loading,
    Ready,
    /// It could not start. Its callers get the error until it is tried again.
    Failed {
        error: WireError,
        until: Instant,
    },
}

#[derive(Debug)]
struct Doee {
    readiness: Readiness,
    limits: Option<DoeeLimits>,
    /// Calls that wait in the Kernel for slots, as last heard, and since when there are any.
    queued: u32,
    queued_since: Option<Instant>,
    /// Capacity that the Kernel knows.
    published: u32,
    /// Starts that failed one after the other.
    failures: u32,
    /// Workers without a call; the one used last is taken first, since its caches are warm.
    idle: Vec<WorkerId>,
    retired: bool,
}

/// All workers, and what their Doees need.
#[derive(Debug)]
pub(crate) struct WorkerHandler {
    config: HandlerConfig,
    pub(crate) admin: DoerAdmin,
    workers: BTreeMap<WorkerId, Worker>,
    doees: HashMap<DoeeVersion, Doee>,
    worker_next: u64,
    spawn_retry_at: Option<Instant>,
}

impl WorkerHandler {
    pub(crate) fn new(config: HandlerConfig) -> WorkerHandler {
        WorkerHandler {
            config,
            admin: DoerAdmin::default(),
            workers: BTreeMap::new(),
            doees: HashMap::new(),
            worker_next: 1,
            spawn_retry_at: None,
        }
    }

    /// Takes one event and appends what is to be done about it.
    pub(crate) fn handle(&mut self, now: Instant, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Demand { version, queued } => self.demand(version, queued, now, actions),
            Event::Loaded { version, outcome } => self.loaded(version, outcome, now, actions),
            Event::Accepted { task, version } => self.accepted(task, version, now, actions),
            Event::Cancelled { task } => self.cancelled(task, now, actions),
            Event::Abandoned { task } => self.abandoned(task),
            Event::Empty { worker } => self.empty(worker, now, actions),
            Event::Initialized { worker } => self.initialized(worker, now, actions),
            Event::StartFailed { worker, error } => self.start_failed(worker, error, now, actions),
            Event::Begun { worker } => self.begun(worker, now, actions),
            Event::Answered { worker } => self.answered(worker, now, actions),
            Event::Misbehaved { worker, what } => self.misbehaved(worker, what, now, actions),
            Event::Exited { worker, how } => self.exited(worker, how, now, actions),
            Event::Retire { version } => self.retire(version, now, actions),
            Event::Tick => self.tick(now, actions),
        }
    }

    /// How soon the next [`Event::Tick`] is wanted: soon while calls run or wait, else rarely.
    pub(crate) fn tick_interval(&self) -> Duration {
        if self.doees.values().any(|doee| doee.queued > 0) {
            SCALE_UP_AFTER
        } else if !self.admin.is_empty() || self.pool_is_short() {
            Duration::from_millis(10)
        } else {
            Duration::from_millis(500)
        }
    }

    /// Tells the Kernel all capacities anew, since a Kernel that has just started knows none.
    pub(crate) fn republish(&mut self, actions: &mut Vec<Action>) {
        for (version, doee) in &mut self.doees {
            doee.queued = 0;
            doee.queued_since = None;
            actions.push(Action::Publish {
                version: *version,
                capacity: doee.published,
            });
        }
    }

    /// The workers, oldest first.
    pub(crate) fn workers(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.workers.iter().map(|(id, worker)| (*id, worker))
    }

    /// True when nothing is known of a version, any more or yet.
    pub(crate) fn is_unknown(&self, version: DoeeVersion) -> bool {
        !self.doees.contains_key(&version)
    }

    /// The task that a worker works on.
    pub(crate) fn task_of(&self, worker: WorkerId) -> Option<TaskId> {
        match self.workers.get(&worker)?.state {
            State::Busy { task, .. } => Some(task),
            _ => None,
        }
    }

    fn demand(&mut self, version: DoeeVersion, queued: u32, now: Instant, actions: &mut Vec<Action>) {
        let doee = self.doee(version, actions);
        doee.queued = queued;
        doee.queued_since = (queued > 0).then(|| doee.queued_since.unwrap_or(now));
        self.scale(version, now, actions);
    }

    fn loaded(
        &mut self,
        version: DoeeVersion,
        outcome: Result<DoeeLimits, WireError>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        match outcome {
            Ok(limits) => {
                let doee = self.doee(version, actions);
                doee.limits = Some(limits);
                doee.readiness = Readiness::Ready;
                self.scale(version, now, actions);
            }
            Err(error) => self.give_up(version, error, now, actions),
        }
    }

    fn accepted(&mut self, task: TaskId, version: DoeeVersion, now: Instant, actions: &mut Vec<Action>) {
        if let Readiness::Failed { error, .. } = &self.doee(version, actions).readiness {
            actions.push(Action::Fail {
                task,
                error: error.clone(),
            });
            return;
        }
        self.admin.accept(task, version);
        self.feed(version, now, actions);
        if self.admin.waiting_len(version) > 0 {
            self.scale(version, now, actions);
        }
    }

    fn cancelled(&mut self, task: TaskId, now: Instant, actions: &mut Vec<Action>) {
        if let Some(worker) = self.worker_of(task) {
            let record = self
                .workers
                .get_mut(&worker)
                .expect("the worker was found just now");
            if let State::Busy {
                kill_at: kill_at @ None,
                ..
            } = &mut record.state
            {
                *kill_at = Some(now + CANCEL_GRACE);
                actions.push(Action::AskCancel { worker });
            }
        } else if self.admin.remove(task).is_some() {
            actions.push(Action::Fail {
                task,
                error: cancelled_error(),
            });
        }
    }

    fn abandoned(&mut self, task: TaskId) {
        if self.worker_of(task).is_none() {
            self.admin.remove(task);
        }
    }

    fn empty(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let Some(record) = self.workers.get_mut(&worker) else {
            return;
        };
        if record.state != State::Starting {
            return self.misbehaved(
                worker,
                "it reported twice that it is empty".to_owned(),
                now,
                actions,
            );
        }
        record.enter(State::Empty, now);
        if let Some(version) = record.version {
            record.enter(State::Assigned, now);
            actions.push(Action::Assign { worker, version });
        }
    }

    fn initialized(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let Some(record) = self.workers.get_mut(&worker) else {
            return;
        };
        match (record.state, record.version) {
            (State::Assigned, Some(version)) => {
                let doee = self
                    .doees
                    .get_mut(&version)
                    .expect("an assigned worker's Doee is known");
                doee.failures = 0;
                self.set_idle(worker, version, now, actions);
            }
            // It was told to end meanwhile.
            (State::Draining { .. }, _) => {}
            _ => self.misbehaved(
                worker,
                "it reported an initialize that nobody asked for".to_owned(),
                now,
                actions,
            ),
        }
    }

    fn begun(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let Some(record) = self.workers.get_mut(&worker) else {
            return;
        };
        match &mut record.state {
            State::Busy {
                task,
                begun: begun @ None,
                ..
            } => {
                *begun = Some(now);
                self.admin.begin(*task);
            }
            State::Draining { .. } => {}
            _ => self.misbehaved(
                worker,
                "it began a call that it does not have".to_owned(),
                now,
                actions,
            ),
        }
    }

    fn answered(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let Some(record) = self.workers.get_mut(&worker) else {
            return;
        };
        let (State::Busy { task, .. }, Some(version)) = (record.state, record.version) else {
            return;
        };
        record.calls += 1;
        self.admin.remove(task);
        self.set_idle(worker, version, now, actions);
    }

    /// Makes a worker idle and gives it the next task at once when one waits.
    fn set_idle(&mut self, worker: WorkerId, version: DoeeVersion, now: Instant, actions: &mut Vec<Action>) {
        let record = self
            .workers
            .get_mut(&worker)
            .expect("the caller has just found the worker");
        record.enter(State::Idle, now);
        let doee = self.doees.get_mut(&version).expect("a worker's Doee is known");
        doee.idle.push(worker);
        let retired = doee.retired;
        self.feed(version, now, actions);
        if retired {
            self.drain_idle(version, now, actions);
        }
    }

    /// Sends waiting tasks of a version to its idle workers.
    fn feed(&mut self, version: DoeeVersion, now: Instant, actions: &mut Vec<Action>) {
        let Some(doee) = self.doees.get_mut(&version) else {
            return;
        };
        while let Some(worker) = doee.idle.last().copied() {
            let Some(task) = self.admin.assign_next(version, worker) else {
                return;
            };
            doee.idle.pop();
            let record = self
                .workers
                .get_mut(&worker)
                .expect("an idle worker is in the table");
            record.enter(
                State::Busy {
                    task,
                    sent: now,
                    begun: None,
                    kill_at: None,
                },
                now,
            );
            actions.push(Action::Run { worker, task });
        }
    }

    /// Starts workers for a version as its demand asks, and publishes the capacity that results.
    fn scale(&mut self, version: DoeeVersion, now: Instant, actions: &mut Vec<Action>) {
        let slots = self.slots(version);
        let waiting = self.admin.waiting_len(version) as u32;
        let Some(doee) = self.doees.get_mut(&version) else {
            return;
        };
        if let (Readiness::Ready, Some(limits)) = (&doee.readiness, doee.limits) {
            let backlog = doee.queued.max(waiting);
            let patient = doee
                .queued_since
                .is_some_and(|since| now >= since + SCALE_UP_AFTER);
            let wanted = match (slots, backlog) {
                (_, 0) => 0,
                (0, _) => 1,
                // Doubling at each tick reaches any maximum within a few of them.
                _ if patient => slots.min(backlog),
                _ => 0,
            };
            for _ in 0..wanted.min(limits.workers_max.max(1).saturating_sub(slots)) {
                if !self.acquire(version, now, actions) {
                    break;
                }
            }
        }
        self.publish(version, actions);
    }

    /// Finds or starts a worker for a version; false when there is no room for one now.
    fn acquire(&mut self, version: DoeeVersion, now: Instant, actions: &mut Vec<Action>) -> bool {
        let unassigned = |state: State| {
            move |(_, worker): &(&WorkerId, &mut Worker)| worker.version.is_none() && worker.state == state
        };
        if let Some((&worker, record)) = self.workers.iter_mut().find(unassigned(State::Empty)) {
            record.version = Some(version);
            record.enter(State::Assigned, now);
            actions.push(Action::Assign { worker, version });
            return true;
        }
        if let Some((_, record)) = self.workers.iter_mut().find(unassigned(State::Starting)) {
            record.version = Some(version);
            return true;
        }
        if self.workers.len() >= self.config.workers_max {
            self.evict(version, now, actions);
            return false;
        }
        if self.spawn_retry_at.is_some_and(|at| now < at) {
            let error = WireError::new(
                ErrorCode::Unavailable,
                "the sandbox could not be started a moment ago; try again in a second, `isms doctor` says more",
            );
            self.give_up(version, error, now, actions);
            return false;
        }
        self.spawn(Some(version), now, actions);
        true
    }

    fn spawn(&mut self, version: Option<DoeeVersion>, now: Instant, actions: &mut Vec<Action>) {
        let worker = WorkerId(self.worker_next);
        self.worker_next += 1;
        self.workers.insert(worker, Worker::new(now, version));
        actions.push(Action::Spawn { worker });
    }

    /// Makes room: the worker that has idled longest, of another version, has to go.
    fn evict(&mut self, version: DoeeVersion, now: Instant, actions: &mut Vec<Action>) {
        let longest_idle = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.state == State::Idle && worker.version != Some(version))
            .min_by_key(|(_, worker)| worker.since);
        if let Some((&worker, _)) = longest_idle {
            self.drain(worker, now, actions);
        }
    }

    /// Publishes a version's capacity if the Kernel knows another one.
    fn publish(&mut self, version: DoeeVersion, actions: &mut Vec<Action>) {
        let slots = self.slots(version);
        let Some(doee) = self.doees.get_mut(&version) else {
            return;
        };
        let capacity = match doee.readiness {
            Readiness::Loading => 0,
            Readiness::Ready => slots,
            Readiness::Failed { .. } => FAILED_CAPACITY,
        };
        if doee.published != capacity {
            doee.published = capacity;
            actions.push(Action::Publish { version, capacity });
        }
    }

    fn slots(&self, version: DoeeVersion) -> u32 {
        let count = self
            .workers
            .values()
            .filter(|worker| worker.version == Some(version) && worker.counts_as_slot())
            .count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    fn doee(&mut self, version: DoeeVersion, actions: &mut Vec<Action>) -> &mut Doee {
        self.doees.entry(version).or_insert_with(|| {
            actions.push(Action::Load { version });
            Doee {
                readiness: Readiness::Loading,
                limits: None,
                queued: 0,
                queued_since: None,
                published: 0,
                failures: 0,
                idle: Vec::new(),
                retired: false,
            }
        })
    }

    fn worker_of(&self, task: TaskId) -> Option<WorkerId> {
        match self.admin.queue_of(task)? {
            Queue::Waiting => None,
            Queue::Ready(worker) | Queue::Running(worker) => Some(worker),
        }
    }

    fn pool_is_short(&self) -> bool {
        let unassigned = self.workers.values().filter(|worker| {
            worker.version.is_none() && matches!(worker.state, State::Starting | State::Empty)
        });
        unassigned.count() < self.config.pool_size && self.workers.len() < self.config.workers_max
    }
}

fn cancelled_error() -> WireError {
    WireError::new(ErrorCode::Cancelled, "the call was cancelled by its caller")
}

#[cfg(test)]
mod tests;
