//! One Worker as the Doer sees it: one sandbox, one executor, one Doee, never reused for another.

use std::{collections::VecDeque, fmt, time::Instant};

use isms_protocol::{DoeeVersion, gate::Start};
use isms_sandbox::spawner::Environment;

use crate::{doer_admin::TaskId, worker_handler::TrialId};

/// Number of a worker within this Doer; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WorkerId(pub(crate) u64);

impl fmt::Display for WorkerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Where a worker is in its life. `dead` is not a state here: a dead worker is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The spawner has been asked for it.
    Starting,
    /// Locked down, without a Doee: it belongs to the pool.
    Empty,
    /// It has been given a Doee, which is loading and initializing.
    Assigned,
    /// Initialized; it waits for a call.
    Idle,
    /// It has calls, the first of which it runs.
    Busy {
        /// Since when that one is the first; an honest executor begins it within microseconds.
        since: Instant,
        /// When set, the first call was cancelled: the worker is killed at this time.
        kill_at: Option<Instant>,
    },
    /// It has been asked to end, or is being killed, and must be gone by this time.
    Draining { kill_at: Instant },
}

impl State {
    /// The name that `isms ps` shows.
    pub(crate) fn name(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Empty => "empty",
            State::Assigned => "assigned",
            State::Idle => "idle",
            State::Busy { .. } => "busy",
            State::Draining { .. } => "draining",
        }
    }
}

/// One worker.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) state: State,
    /// What it consists of.
    pub(crate) environment: Environment,
    /// The Doee version that it runs or will run.
    pub(crate) version: Option<DoeeVersion>,
    /// Who wants to know whether it starts.
    pub(crate) trials: Vec<TrialId>,
    /// Since when it is in this state.
    pub(crate) since: Instant,
    pub(crate) started: Instant,
    /// The calls that it has been sent and not answered, in order.
    pub(crate) calls_held: VecDeque<TaskId>,
    /// Calls that it has answered.
    pub(crate) calls: u64,
    /// How its first call finds it.
    pub(crate) start: Start,
    /// Its process is gone; what it said last is still being read.
    pub(crate) gone: bool,
}

impl Worker {
    pub(crate) fn new(now: Instant, environment: Environment, version: Option<DoeeVersion>) -> Worker {
        Worker {
            state: State::Starting,
            environment,
            version,
            trials: Vec::new(),
            since: now,
            started: now,
            calls_held: VecDeque::new(),
            calls: 0,
            start: Start::Cold,
            gone: false,
        }
    }

    pub(crate) fn enter(&mut self, state: State, now: Instant) {
        self.state = state;
        self.since = now;
    }

    /// True when it belongs to a pool: it has no Doee.
    pub(crate) fn is_pooled(&self) -> bool {
        self.version.is_none() && !self.gone
    }

    /// True when the worker works or will work on calls of its version. One that is gone before it was initialized
    /// counts until it is known why, so that no other one comes to the same end meanwhile.
    pub(crate) fn serves(&self) -> bool {
        self.version.is_some()
            && match self.state {
                State::Draining { .. } => false,
                State::Idle | State::Busy { .. } => !self.gone,
                State::Starting | State::Empty | State::Assigned => true,
            }
    }
}
