//! Calls: which worker gets which, in what order, and what becomes of them.

use std::time::{Duration, Instant};

use isms_protocol::{Class, DoeeVersion, ErrorCode, WireError, limits::CANCEL_GRACE};

use super::{Action, Readiness, SCALE_UP_AFTER, WorkerHandler, prefetch::STALLED_AFTER};
use crate::{
    doer_admin::{Place, TaskId},
    worker::{State, Worker, WorkerId},
};

impl WorkerHandler {
    pub(super) fn accepted(
        &mut self,
        task: TaskId,
        version: DoeeVersion,
        (class, streams): (Class, bool),
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let doee = self.doee(version, actions);
        let environment = doee.limits.map(|limits| limits.environment);
        if let Readiness::Failed { error, .. } = &doee.readiness {
            actions.push(Action::Fail {
                task,
                error: error.clone(),
            });
            return;
        }
        if let Some(environment) = environment {
            self.pools.note_use(environment, now);
        }
        self.admin.accept(task, version, class, streams);
        self.feed(version, now, actions);
        if self.admin.waiting_len(version) > 0 {
            self.scale(version, now, actions);
        }
    }

    pub(super) fn cancelled(&mut self, task: TaskId, now: Instant, actions: &mut Vec<Action>) {
        match self.admin.place_of(task) {
            None => {}
            Some(Place::Waiting) => {
                self.admin.remove(task);
                actions.push(Action::Fail {
                    task,
                    error: cancelled_error(),
                });
            }
            Some(Place::Sent(worker)) => {
                self.admin.cancel(task);
                let first = self
                    .workers
                    .get(&worker)
                    .and_then(|record| record.calls_held.front());
                if first == Some(&task) {
                    self.cancel_first(worker, now, actions);
                } else {
                    actions.push(Action::Recall {
                        worker,
                        tasks: vec![task],
                    });
                }
            }
        }
    }

    /// Asks a worker to give up the call that it runs, and sets the time by which it must have.
    fn cancel_first(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let Some(record) = self.workers.get_mut(&worker) else {
            return;
        };
        if let (State::Busy { kill_at, .. }, Some(task)) = (&mut record.state, record.calls_held.front())
            && kill_at.is_none()
        {
            *kill_at = Some(now + CANCEL_GRACE);
            actions.push(Action::AskCancel { task: *task });
        }
    }

    pub(super) fn abandoned(&mut self, task: TaskId) {
        if self.admin.place_of(task) == Some(Place::Waiting) {
            self.admin.remove(task);
        }
    }

    pub(super) fn answered(
        &mut self,
        worker: WorkerId,
        task: TaskId,
        run_time: Duration,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let Some(record) = self.workers.get_mut(&worker) else {
            return;
        };
        let Some(index) = record.calls_held.iter().position(|held| *held == task) else {
            // The worker was given up on, or is gone, while the call was being answered.
            self.admin.remove(task);
            return;
        };
        record.calls_held.remove(index);
        record.calls += 1;
        self.admin.remove(task);
        let (State::Busy { since, .. }, Some(version)) = (record.state, record.version) else {
            return;
        };
        let last = record.calls_held.is_empty();
        if let Some(doee) = self.doees.get_mut(&version)
            && doee
                .run_time
                .note(run_time.min(now.saturating_duration_since(since)))
        {
            self.publish(version, actions);
        }
        if last {
            self.set_idle(worker, version, now, actions);
            return;
        }
        if index == 0 {
            self.begin_next(worker, now, actions);
        }
        self.feed(version, now, actions);
    }

    /// The next of a worker's calls is the first now.
    fn begin_next(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let Some(record) = self.workers.get_mut(&worker) else {
            return;
        };
        let first = record.calls_held.front().copied();
        record.state = State::Busy {
            since: now,
            kill_at: None,
        };
        if first.is_some_and(|task| self.admin.is_cancelled(task)) {
            self.cancel_first(worker, now, actions);
        }
    }

    /// Makes a worker idle and gives it the next task at once when one waits.
    pub(super) fn set_idle(
        &mut self,
        worker: WorkerId,
        version: DoeeVersion,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let record = self
            .workers
            .get_mut(&worker)
            .expect("the caller has just found the worker");
        record.enter(State::Idle, now);
        let gone = record.gone;
        let doee = self.doees.get_mut(&version).expect("a worker's Doee is known");
        doee.busy.retain(|busy| *busy != worker);
        if !gone {
            doee.idle.push(worker);
        }
        let retired = doee.retired;
        self.feed(version, now, actions);
        if retired {
            self.drain_idle(version, now, actions);
        }
    }

    /// Sends waiting tasks of a version to the workers that have room for them, and notes since when others wait.
    pub(super) fn feed(&mut self, version: DoeeVersion, now: Instant, actions: &mut Vec<Action>) {
        self.send_waiting(version, now, actions);
        let waiting = self.admin.waiting_len(version) > 0;
        if let Some(doee) = self.doees.get_mut(&version) {
            // One that starts will take them.
            let behind_others = waiting && !doee.busy.is_empty();
            doee.waiting_since = behind_others.then(|| doee.waiting_since.unwrap_or(now));
        }
    }

    fn send_waiting(&mut self, version: DoeeVersion, now: Instant, actions: &mut Vec<Action>) {
        while self.admin.waiting_len(version) > 0 {
            let Some((worker, idle)) = self.next_worker(version, now) else {
                return;
            };
            let Some(task) = self.admin.send_next(version, worker, idle) else {
                return;
            };
            let record = self
                .workers
                .get_mut(&worker)
                .expect("a serving worker is in the table");
            record.calls_held.push_back(task);
            if idle {
                record.enter(
                    State::Busy {
                        since: now,
                        kill_at: None,
                    },
                    now,
                );
                let doee = self.doees.get_mut(&version).expect("a worker's Doee is known");
                doee.idle.pop();
                doee.busy.push(worker);
            }
            actions.push(Action::Run { worker, task });
        }
    }

    /// The worker that takes the next call of a version, and whether it is idle.
    fn next_worker(&self, version: DoeeVersion, now: Instant) -> Option<(WorkerId, bool)> {
        let doee = self.doees.get(&version)?;
        let must_hold = self.must_hold(version, doee);
        if let Some(worker) = doee.idle.last()
            && must_hold.is_none()
        {
            return Some((*worker, true));
        }
        let depth = doee.run_time.depth() as usize;
        if depth == 1 {
            return None;
        }
        // What is reserved takes what it is reserved for first.
        let class = if doee.reserves() {
            self.admin.next_class(version)
        } else {
            None
        };
        let room = |worker: &WorkerId| {
            let record = self.workers.get(worker)?;
            let open = record.calls_held.len() < depth
                && !is_stalled(record, now)
                && must_hold.is_none_or(|class| self.lowest_held(*worker) >= Some(class));
            let shared = class.is_some() && self.lowest_held(*worker) > class;
            open.then_some((shared, record.calls_held.len(), *worker))
        };
        let (.., worker) = doee.busy.iter().filter_map(room).min()?;
        Some((worker, false))
    }

    /// Asks a worker that is blocked by its call for all that was sent behind it.
    pub(super) fn recall_behind(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let Some(record) = self.workers.get(&worker) else {
            return;
        };
        if record.calls_held.len() < 2 || !is_stalled(record, now) {
            return;
        }
        let tasks = record.calls_held.iter().skip(1).copied().collect();
        actions.push(Action::Recall { worker, tasks });
        if let Some(doee) = record.version.and_then(|version| self.doees.get_mut(&version)) {
            doee.run_time.note_stalled();
        }
    }

    /// A worker has given back calls that it had not begun.
    pub(super) fn recalled(
        &mut self,
        worker: WorkerId,
        tasks: &[TaskId],
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let Some(record) = self.workers.get_mut(&worker) else {
            return;
        };
        record.calls_held.retain(|held| !tasks.contains(held));
        let Some(version) = record.version else { return };
        // The last one first: each goes to the front of those that wait.
        for task in tasks.iter().rev() {
            self.requeue(*task, actions);
        }
        if let Some(doee) = self.doees.get_mut(&version) {
            doee.waiting_since = now.checked_sub(SCALE_UP_AFTER);
        }
        self.feed(version, now, actions);
        self.scale(version, now, actions);
    }

    /// Puts a task that never began in front of those that wait, or fails it if nobody wants it any more.
    pub(super) fn requeue(&mut self, task: TaskId, actions: &mut Vec<Action>) {
        if self.admin.is_cancelled(task) {
            self.admin.remove(task);
            actions.push(Action::Fail {
                task,
                error: cancelled_error(),
            });
        } else if self.admin.requeue(task) {
            actions.push(Action::Requeue { task });
        }
    }
}

fn is_stalled(record: &Worker, now: Instant) -> bool {
    matches!(record.state, State::Busy { since, .. } if now >= since + STALLED_AFTER)
}

pub(super) fn cancelled_error() -> WireError {
    WireError::new(ErrorCode::Cancelled, "the call was cancelled by its caller")
}
