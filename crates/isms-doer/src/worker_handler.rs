//! The Worker Handler: starts, assigns, supervises and recycles workers.
//!
//! Pure: events in, actions out, the clock passed in. Invariants: a worker runs one Doee version in
//! its life; a call runs again only when its worker has given it back or is gone without having begun it;
//! every accepted task leaves by exactly one of `Action::Fail` or `Event::Answered`; the capacity published
//! for a version is the number of calls that its workers will take, so the Kernel never sends more.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use isms_protocol::{Class, DoeeVersion, WireError, gate::Start, kernel::Slots};
use isms_sandbox::spawner::Environment;

use crate::{
    doer_admin::{DoerAdmin, TaskId},
    worker::{State, Worker, WorkerId},
};

mod calls;
mod pools;
mod prefetch;
mod reserved;
mod supervision;

use pools::Pools;
pub(crate) use pools::TrialId;
pub(crate) use prefetch::CALLS_MAX as WORKER_CALLS_MAX;
use prefetch::RunTime;
pub(crate) use reserved::Reserved;

/// Time for a Doee to load and initialize.
const INITIALIZE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a worker that was asked to end, before it is killed.
const DRAIN_GRACE: Duration = Duration::from_secs(2);
/// First and longest pause after a Doee has failed to start.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// Slots published for a Doee that cannot start, so that its callers learn why at once.
const FAILED_CAPACITY: u32 = 64;
/// How long calls must have waited for slots before another worker starts beside those that serve.
const SCALE_UP_AFTER: Duration = Duration::from_millis(5);

/// How often the clock ticks while calls run.
pub(crate) const BUSY_TICK: Duration = Duration::from_millis(10);

/// What one Doee version allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DoeeLimits {
    pub(crate) timeout: Duration,
    pub(crate) workers_min: u32,
    pub(crate) workers_max: u32,
    /// Calls at the same time; 0 for as many as its workers run.
    pub(crate) concurrency: u32,
    pub(crate) reserved: Reserved,
    /// What its workers consist of.
    pub(crate) environment: Environment,
}

impl DoeeLimits {
    /// Calls that it takes in all, however many its workers could run or be sent ahead.
    fn calls_max(&self) -> u32 {
        match self.concurrency {
            0 => u32::MAX,
            concurrency => concurrency,
        }
    }

    /// Workers of it; each runs one call at a time, so more than it has calls would idle.
    fn workers_most(&self) -> u32 {
        self.workers_max.max(1).min(self.calls_max())
    }
}

/// Numbers that the administrator may change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandlerConfig {
    /// Empty sandboxes of the common environment kept ready; of others that are in use one each, unless this is 0.
    pub(crate) pool_size: usize,
    /// Workers in all.
    pub(crate) workers_max: usize,
    /// How long a worker above its Doee's minimum may idle, and an empty one of an environment that is not used.
    pub(crate) idle_ttl: Duration,
    /// Calls that a worker has at most, the running one included.
    pub(crate) worker_calls_max: u32,
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
    Accepted {
        task: TaskId,
        version: DoeeVersion,
        class: Class,
        /// Its request goes on as a stream.
        streams: bool,
    },
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
    /// The worker has answered a call, well or not, after so long, as it says; the answer is on its way.
    Answered {
        worker: WorkerId,
        task: TaskId,
        run_time: Duration,
    },
    /// Calls that the worker had not begun were taken back from it.
    Recalled { worker: WorkerId, tasks: Vec<TaskId> },
    /// The worker has said what no honest executor says.
    Misbehaved { worker: WorkerId, what: String },
    /// The worker's process is gone; [`Event::Exited`] follows once its last words have been read.
    Gone { worker: WorkerId },
    /// All has been heard of a worker whose process is gone. These of its calls it had begun.
    Exited {
        worker: WorkerId,
        how: String,
        begun: Vec<TaskId>,
    },
    /// Somebody wants to know whether workers can run in an environment.
    Try {
        trial: TrialId,
        environment: Environment,
    },
    /// Nobody waits for a trial any more.
    TrialDropped { trial: TrialId },
    /// The version is deployed and keeps workers, called or not.
    Keep { version: DoeeVersion },
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
    /// Tell the Kernel how many calls of a version are taken.
    Publish { version: DoeeVersion, slots: Slots },
    /// Ask the spawner for a sandbox.
    Spawn {
        worker: WorkerId,
        environment: Environment,
    },
    /// Let a sandbox start as fast as others run: calls wait for it from now on.
    Hurry { worker: WorkerId },
    /// Give an empty worker its Doee.
    Assign { worker: WorkerId, version: DoeeVersion },
    /// Send a call to a worker.
    Run { worker: WorkerId, task: TaskId },
    /// Take calls back from a worker, those that it has not begun.
    Recall { worker: WorkerId, tasks: Vec<TaskId> },
    /// A call that was sent is not any more; it will be sent again.
    Requeue { task: TaskId },
    /// Ask the worker that runs a call to give it up.
    AskCancel { task: TaskId },
    /// Ask an idle worker to terminate its Doee and exit.
    Drain { worker: WorkerId },
    /// Kill a worker's sandbox.
    Kill { worker: WorkerId, why: String },
    /// Tell whether a worker could be started in the environment that was tried.
    Tried {
        trial: TrialId,
        outcome: Result<(), WireError>,
    },
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
    /// What the Kernel knows.
    published: Slots,
    /// Starts that failed one after the other.
    failures: u32,
    /// Workers without a call; the one used last is taken first, since its caches are warm.
    idle: Vec<WorkerId>,
    /// Workers with calls.
    busy: Vec<WorkerId>,
    run_time: RunTime,
    /// Since when accepted calls wait behind those that workers run; those that were recalled, as if for long.
    waiting_since: Option<Instant>,
    retired: bool,
}

impl Doee {
    /// Workers that it has whether they are called or not.
    fn kept(&self) -> u32 {
        let kept = self.limits.map_or(0, |limits| limits.workers_min);
        if self.retired { 0 } else { kept }
    }

    /// The worker takes no more calls.
    fn forget_worker(&mut self, worker: WorkerId) {
        self.idle.retain(|idle| *idle != worker);
        self.busy.retain(|busy| *busy != worker);
    }
}

/// All workers, and what their Doees need.
#[derive(Debug)]
pub(crate) struct WorkerHandler {
    config: HandlerConfig,
    pub(crate) admin: DoerAdmin,
    workers: BTreeMap<WorkerId, Worker>,
    doees: HashMap<DoeeVersion, Doee>,
    worker_next: u64,
    pools: Pools,
}

impl WorkerHandler {
    pub(crate) fn new(config: HandlerConfig) -> WorkerHandler {
        WorkerHandler {
            config,
            admin: DoerAdmin::default(),
            workers: BTreeMap::new(),
            doees: HashMap::new(),
            worker_next: 1,
            pools: Pools::default(),
        }
    }

    /// Takes one event and appends what is to be done about it.
    pub(crate) fn handle(&mut self, now: Instant, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Demand { version, queued } => self.demand(version, queued, now, actions),
            Event::Loaded { version, outcome } => self.loaded(version, outcome, now, actions),
            Event::Accepted {
                task,
                version,
                class,
                streams,
            } => self.accepted(task, version, (class, streams), now, actions),
            Event::Cancelled { task } => self.cancelled(task, now, actions),
            Event::Abandoned { task } => self.abandoned(task),
            Event::Empty { worker } => self.empty(worker, now, actions),
            Event::Initialized { worker } => self.initialized(worker, now, actions),
            Event::StartFailed { worker, error } => self.start_failed(worker, error, now, actions),
            Event::Answered {
                worker,
                task,
                run_time,
            } => self.answered(worker, task, run_time, now, actions),
            Event::Recalled { worker, tasks } => self.recalled(worker, &tasks, now, actions),
            Event::Misbehaved { worker, what } => self.misbehaved(worker, what, now, actions),
            Event::Gone { worker } => self.gone(worker, actions),
            Event::Exited { worker, how, begun } => self.exited(worker, how, &begun, now, actions),
            Event::Try { trial, environment } => self.tried(trial, environment, now, actions),
            Event::TrialDropped { trial } => self.trial_dropped(trial),
            Event::Keep { version } => {
                // Once it is loaded it is known how many.
                self.doee(version, actions);
            }
            Event::Retire { version } => self.retire(version, now, actions),
            Event::Tick => self.tick(now, actions),
        }
    }

    /// How soon the next [`Event::Tick`] is wanted: soon while calls run or wait, else rarely.
    pub(crate) fn tick_interval(&self) -> Duration {
        if self.doees.values().any(|doee| doee.queued > 0) {
            SCALE_UP_AFTER
        } else if !self.admin.is_empty() || self.is_pool_short() {
            BUSY_TICK
        } else {
            Duration::from_millis(500)
        }
    }

    /// Forgets what waits in the Kernel: another one has come, which tells anew.
    pub(crate) fn forget_demand(&mut self) {
        for doee in self.doees.values_mut() {
            doee.queued = 0;
            doee.queued_since = None;
        }
    }

    /// Tells the Kernel all capacities anew, since a Kernel that has just started knows none.
    pub(crate) fn republish(&self, actions: &mut Vec<Action>) {
        for (version, doee) in &self.doees {
            actions.push(Action::Publish {
                version: *version,
                slots: doee.published,
            });
        }
    }

    /// The workers, oldest first.
    pub(crate) fn workers(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.workers.iter().map(|(id, worker)| (*id, worker))
    }

    /// True until all has been heard of a worker.
    pub(crate) fn knows(&self, worker: WorkerId) -> bool {
        self.workers.contains_key(&worker)
    }

    /// True when nobody waits for a worker: it belongs to a pool.
    pub(crate) fn is_pooled(&self, worker: WorkerId) -> bool {
        self.workers.get(&worker).is_some_and(Worker::is_pooled)
    }

    /// What a worker is for a call that it has just been given.
    pub(crate) fn start_of(&self, worker: WorkerId, task: TaskId) -> Start {
        let is_first = |worker: &&Worker| worker.calls == 0 && worker.calls_held.front() == Some(&task);
        let first = self.workers.get(&worker).filter(is_first);
        first.map_or(Start::Warm, |worker| worker.start)
    }

    /// True when nothing is known of a version, any more or yet.
    pub(crate) fn is_unknown(&self, version: DoeeVersion) -> bool {
        !self.doees.contains_key(&version)
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

    fn empty(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let Some(record) = self.workers.get_mut(&worker).filter(|record| !record.gone) else {
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
        self.end_trials(worker, Ok(()), now, actions);
        self.refill_pools(now, actions);
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
                if doee.queued == 0 && self.admin.waiting_len(version) == 0 {
                    // Nobody waits for it.
                    record.start = Start::Warm;
                }
                self.set_idle(worker, version, now, actions);
                self.publish(version, actions);
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

    /// Starts workers for a version as its demand and its minimum ask, and publishes the capacity that results.
    fn scale(&mut self, version: DoeeVersion, now: Instant, actions: &mut Vec<Action>) {
        let serving = self.serving(version);
        let waiting = self.admin.waiting_len(version) as u32;
        let Some(doee) = self.doees.get_mut(&version) else {
            return;
        };
        if let (Readiness::Ready, Some(limits)) = (&doee.readiness, doee.limits) {
            let backlog = doee.queued.max(waiting);
            let since = [doee.waiting_since, doee.queued_since];
            let patient = since
                .into_iter()
                .flatten()
                .any(|since| now >= since + SCALE_UP_AFTER);
            let wanted = match (serving, backlog) {
                (_, 0) => 0,
                (0, _) => 1,
                // Doubling at each tick reaches any maximum within a few of them.
                _ if patient => serving.min(backlog),
                _ => 0,
            };
            let missing = doee.kept().saturating_sub(serving);
            // Nobody waits for these: no other worker goes for them, and no call fails when they cannot be had.
            let has_room = self.workers.len() + missing as usize <= self.config.workers_max;
            let keeps = has_room && self.pools.may_start(&limits.environment, now);
            let wanted = if keeps { wanted.max(missing) } else { wanted };
            for _ in 0..wanted.min(limits.workers_most().saturating_sub(serving)) {
                if !self.acquire(version, limits.environment, now, actions) {
                    break;
                }
            }
        }
        self.publish(version, actions);
    }

    /// Publishes how many calls a version takes if the Kernel knows something else.
    fn publish(&mut self, version: DoeeVersion, actions: &mut Vec<Action>) {
        let serving = self.serving(version);
        let Some(doee) = self.doees.get_mut(&version) else {
            return;
        };
        let slots = match doee.readiness {
            Readiness::Loading => Slots::all(0),
            Readiness::Ready => {
                let started = (doee.idle.len() + doee.busy.len()) as u32;
                doee.slots(started, serving.saturating_sub(started))
            }
            Readiness::Failed { .. } => Slots::all(FAILED_CAPACITY),
        };
        if doee.published != slots {
            doee.published = slots;
            actions.push(Action::Publish { version, slots });
        }
    }

    /// Workers that serve a version, or will.
    fn serving(&self, version: DoeeVersion) -> u32 {
        let serving = self
            .workers
            .values()
            .filter(|worker| worker.version == Some(version) && worker.serves());
        u32::try_from(serving.count()).unwrap_or(u32::MAX)
    }

    fn doee(&mut self, version: DoeeVersion, actions: &mut Vec<Action>) -> &mut Doee {
        let calls_max = self.config.worker_calls_max;
        self.doees.entry(version).or_insert_with(|| {
            actions.push(Action::Load { version });
            Doee {
                readiness: Readiness::Loading,
                limits: None,
                queued: 0,
                queued_since: None,
                published: Slots::all(0),
                failures: 0,
                idle: Vec::new(),
                busy: Vec::new(),
                run_time: RunTime::new(calls_max),
                waiting_since: None,
                retired: false,
            }
        })
    }
}

#[cfg(test)]
mod tests;
