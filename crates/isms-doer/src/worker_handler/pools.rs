//! Where workers come from: empty ones that are kept ready for each environment in use, new ones, and the trial
//! start of an environment.
//!
//! Invariants: a worker serves only Doees of the very environment that it was started in; what fails to start in
//! one environment holds up no other.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use isms_protocol::{DoeeVersion, ErrorCode, WireError, gate::Start};
use isms_sandbox::spawner::Environment;

use super::{Action, WorkerHandler};
use crate::worker::{State, Worker, WorkerId};

/// Environments, beside the common one, that have a worker ready.
const POOLS_MAX: usize = 16;
/// Pause after the spawner has failed to start a sandbox of an environment.
pub(super) const SPAWN_RETRY: Duration = Duration::from_secs(1);
/// Time for a worker from the spawner's request to its first report.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(10);
/// The same where the spawner may have to copy and verify an image first.
pub(super) const IMAGE_START_TIMEOUT: Duration = Duration::from_secs(140);

/// Number of a trial start within this Doer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TrialId(pub(crate) u64);

/// What is known of environments.
#[derive(Debug, Default)]
pub(super) struct Pools {
    /// Those beside the common one that are in use, and when they were used last.
    used: BTreeMap<Environment, Instant>,
    /// Those whose last start has failed, and when the next may be made.
    retry_at: BTreeMap<Environment, Instant>,
    /// Trials that wait for room.
    trials: Vec<(TrialId, Environment)>,
}

impl Pools {
    /// Notes that an environment is in use. Only the latest so many have workers ready.
    pub(super) fn note_use(&mut self, environment: Environment, now: Instant) {
        if environment == Environment::WORKER {
            return;
        }
        self.used.insert(environment, now);
        if self.used.len() > POOLS_MAX
            && let Some((&oldest, _)) = self.used.iter().min_by_key(|(_, at)| **at)
        {
            self.used.remove(&oldest);
        }
    }

    /// Notes that a sandbox could not be started. A pool of such would only fail again.
    pub(super) fn note_failure(&mut self, environment: Environment, now: Instant) {
        self.used.remove(&environment);
        self.retry_at.insert(environment, now + SPAWN_RETRY);
    }

    /// The environments that have workers ready.
    #[cfg(test)]
    pub(super) fn used(&self) -> Vec<Environment> {
        self.used.keys().copied().collect()
    }

    pub(super) fn may_start(&self, environment: &Environment, now: Instant) -> bool {
        self.retry_at.get(environment).is_none_or(|at| now >= *at)
    }

    fn expire(&mut self, now: Instant, ttl: Duration) {
        self.used.retain(|_, at| now < *at + ttl);
        self.retry_at.retain(|_, at| now < *at);
    }
}

/// How long a worker may take to start.
pub(super) fn start_timeout(environment: &Environment) -> Duration {
    match environment.image {
        Some(_) => IMAGE_START_TIMEOUT,
        None => START_TIMEOUT,
    }
}

impl WorkerHandler {
    /// Finds or starts a worker for a version; false when there is no room for one now.
    pub(super) fn acquire(
        &mut self,
        version: DoeeVersion,
        environment: Environment,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> bool {
        if let Some((worker, record)) = self.unassigned(&environment, State::Empty) {
            record.version = Some(version);
            record.start = Start::Pooled;
            record.enter(State::Assigned, now);
            actions.push(Action::Assign { worker, version });
            return true;
        }
        if let Some((worker, record)) = self.unassigned(&environment, State::Starting) {
            record.version = Some(version);
            actions.push(Action::Hurry { worker });
            return true;
        }
        if self.workers.len() >= self.config.workers_max {
            self.evict(Some(version), &environment, now, actions);
            return false;
        }
        if !self.pools.may_start(&environment, now) {
            let error = WireError::new(
                ErrorCode::Unavailable,
                "the sandbox could not be started a moment ago; try again in a second, `isms doctor` says more",
            );
            self.give_up(version, error, now, actions);
            return false;
        }
        self.spawn(environment, Some(version), now, actions);
        true
    }

    /// A worker of an environment that has no Doee yet.
    fn unassigned(&mut self, environment: &Environment, state: State) -> Option<(WorkerId, &mut Worker)> {
        self.workers
            .iter_mut()
            .find(|(_, worker)| {
                worker.is_pooled() && worker.state == state && worker.environment == *environment
            })
            .map(|(id, worker)| (*id, worker))
    }

    fn spawn(
        &mut self,
        environment: Environment,
        version: Option<DoeeVersion>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> WorkerId {
        let worker = WorkerId(self.worker_next);
        self.worker_next += 1;
        self.workers
            .insert(worker, Worker::new(now, environment, version));
        actions.push(Action::Spawn { worker, environment });
        worker
    }

    /// Makes room: an empty worker of another environment has to go, else the one that has idled longest, of another
    /// version.
    fn evict(
        &mut self,
        version: Option<DoeeVersion>,
        environment: &Environment,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let may_go = |worker: &Worker| {
            if worker.gone {
                return false;
            }
            match worker.state {
                State::Empty => worker.environment != *environment,
                State::Idle => worker.version != version,
                _ => false,
            }
        };
        let first = self
            .workers
            .iter()
            .filter(|(_, worker)| may_go(worker))
            .min_by_key(|(_, worker)| (worker.state == State::Idle, worker.since));
        if let Some((&worker, _)) = first {
            self.drain(worker, now, actions);
        }
    }

    /// Starts what the pools lack, and lets go what nobody uses any more.
    pub(super) fn tend_pools(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.pools.expire(now, self.config.idle_ttl);
        for (trial, environment) in std::mem::take(&mut self.pools.trials) {
            self.tried(trial, environment, now, actions);
        }
        self.refill_pools(now, actions);
        let unused = |worker: &Worker| {
            worker.is_pooled()
                && worker.state == State::Empty
                && worker.environment != Environment::WORKER
                && !self.pools.used.contains_key(&worker.environment)
        };
        let unused: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(_, worker)| unused(worker))
            .map(|(id, _)| *id)
            .collect();
        for worker in unused {
            self.drain(worker, now, actions);
        }
    }

    /// Starts the next sandbox for each pool that lacks some and has none that is starting: one after the other, since
    /// each takes a core for a while that the calls which are served meanwhile need more.
    pub(super) fn refill_pools(&mut self, now: Instant, actions: &mut Vec<Action>) {
        while self.workers.len() < self.config.workers_max
            && let Some(environment) = self.short_pool(Some(now))
        {
            self.spawn(environment, None, now, actions);
        }
    }

    /// True when the clock should tick soon for the sake of a pool.
    pub(super) fn is_pool_short(&self) -> bool {
        let room = self.workers.len() < self.config.workers_max;
        !self.pools.trials.is_empty() || room && self.short_pool(None).is_some()
    }

    /// An environment that has fewer empty workers than it should; with the time, one in which the next may start now.
    fn short_pool(&self, now: Option<Instant>) -> Option<Environment> {
        let common = (Environment::WORKER, self.config.pool_size);
        let used = self
            .pools
            .used
            .keys()
            .map(|environment| (*environment, self.config.pool_size.min(1)));
        let mut short = [common].into_iter().chain(used).filter(|(environment, size)| {
            let count = |state: State| {
                let counts = |worker: &&Worker| {
                    worker.is_pooled() && worker.state == state && worker.environment == *environment
                };
                self.workers.values().filter(counts).count()
            };
            let (starting, empty) = (count(State::Starting), count(State::Empty));
            let startable = now.is_none_or(|now| starting == 0 && self.pools.may_start(environment, now));
            startable && starting + empty < *size
        });
        short.next().map(|(environment, _)| environment)
    }

    /// Somebody wants to know whether workers can run in an environment. One that runs proves it; the worker that is
    /// started for it stays in the pool.
    pub(super) fn tried(
        &mut self,
        trial: TrialId,
        environment: Environment,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let of_it = |worker: &&mut Worker| worker.environment == environment && !worker.gone;
        let runs = |worker: &mut Worker| !matches!(worker.state, State::Starting | State::Draining { .. });
        if self.workers.values_mut().filter(of_it).any(runs) {
            self.pools.note_use(environment, now);
            actions.push(Action::Tried {
                trial,
                outcome: Ok(()),
            });
            return;
        }
        let mut of_it = self.workers.values_mut().filter(of_it);
        if let Some(starting) = of_it.find(|worker| worker.state == State::Starting) {
            starting.trials.push(trial);
        } else if self.workers.len() < self.config.workers_max {
            let worker = self.spawn(environment, None, now, actions);
            if let Some(record) = self.workers.get_mut(&worker) {
                record.trials.push(trial);
            }
        } else {
            self.evict(None, &environment, now, actions);
            self.pools.trials.push((trial, environment));
        }
    }

    /// A worker that has no Doee has failed. In an image everything but the executor's own code is somebody else's, so
    /// another one would soon fail as well.
    pub(super) fn pool_failed(&mut self, worker: WorkerId, now: Instant) {
        if let Some(record) = self.workers.get(&worker)
            && record.version.is_none()
        {
            self.pools.note_failure(record.environment, now);
        }
    }

    /// A worker that had no Doee is gone without having been told to go.
    pub(super) fn pool_lost(&mut self, record: &Worker, now: Instant) {
        let told_to = matches!(record.state, State::Draining { .. });
        let had_started = record.state != State::Starting;
        if !(told_to || had_started && record.environment == Environment::WORKER) {
            self.pools.note_failure(record.environment, now);
        }
    }

    /// Nobody waits for a trial any more.
    pub(super) fn trial_dropped(&mut self, trial: TrialId) {
        self.pools.trials.retain(|(waiting, _)| *waiting != trial);
    }

    /// Tells what became of the trials that a worker was started for.
    pub(super) fn end_trials(
        &mut self,
        worker: WorkerId,
        outcome: Result<(), &WireError>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let Some(record) = self.workers.get_mut(&worker) else {
            return;
        };
        let environment = record.environment;
        let trials = std::mem::take(&mut record.trials);
        if !trials.is_empty() && outcome.is_ok() {
            self.pools.note_use(environment, now);
        }
        for trial in trials {
            actions.push(Action::Tried {
                trial,
                outcome: outcome.map_err(WireError::clone),
            });
        }
    }
}
