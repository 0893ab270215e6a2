//! What goes wrong with workers, and what ends them: failed starts, crashes, time limits, idleness.

use std::time::{Duration, Instant};

use isms_protocol::{DoeeVersion, ErrorCode, WireError, kernel::Slots};

use super::{
    Action, BACKOFF, DRAIN_GRACE, INITIALIZE_TIMEOUT, Readiness, WorkerHandler, calls::cancelled_error,
    pools::start_timeout,
};
use crate::{
    doer_admin::TaskId,
    worker::{State, WorkerId},
};

impl WorkerHandler {
    /// The executor, or the spawner on its behalf, says that the worker cannot serve.
    pub(super) fn start_failed(
        &mut self,
        worker: WorkerId,
        error: WireError,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let Some(record) = self.workers.get(&worker) else {
            return;
        };
        let (state, version, environment) = (record.state, record.version, record.environment);
        self.end_trials(worker, Err(&error), now, actions);
        match state {
            State::Starting => {
                // The spawner made nothing, so nothing will exit.
                self.workers.remove(&worker);
                self.pools.note_failure(environment, now);
            }
            State::Assigned => self.kill(worker, "its Doee failed to start", now, actions),
            _ => {
                return self.misbehaved(
                    worker,
                    "it reported a failed start while serving".to_owned(),
                    now,
                    actions,
                );
            }
        }
        if let Some(version) = version {
            self.give_up_unless_served(version, error, now, actions);
        }
    }

    /// Cuts off a worker that has broken the contract, unless it has to go anyway.
    pub(super) fn misbehaved(
        &mut self,
        worker: WorkerId,
        what: String,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let Some(record) = self.workers.get(&worker) else {
            return;
        };
        let (state, version) = (record.state, record.version);
        if matches!(state, State::Draining { .. }) {
            return;
        }
        let message = format!("the worker was cut off: {what}");
        let error = WireError::new(ErrorCode::Crashed, message.clone());
        self.end_trials(worker, Err(&error), now, actions);
        self.pool_failed(worker, now);
        self.end_call(worker, error.clone(), actions);
        self.kill(worker, &message, now, actions);
        match version {
            // The next worker of this Doee would come no further: its callers must learn why.
            Some(version) if matches!(state, State::Starting | State::Assigned) => {
                self.give_up_unless_served(version, error, now, actions);
            }
            _ => self.publish_of(worker, actions),
        }
    }

    /// The worker's process is gone: it is given no more calls. What becomes of those that it has depends on what it
    /// still had to say.
    pub(super) fn gone(&mut self, worker: WorkerId, actions: &mut Vec<Action>) {
        let Some(record) = self.workers.get_mut(&worker) else {
            return;
        };
        record.gone = true;
        if let Some(doee) = record.version.and_then(|version| self.doees.get_mut(&version)) {
            doee.forget_worker(worker);
        }
        self.publish_of(worker, actions);
    }

    /// All has been heard of a worker that is gone: the calls that it had begun fail and the others run elsewhere,
    /// its start has failed, or it was to go anyway.
    pub(super) fn exited(
        &mut self,
        worker: WorkerId,
        how: String,
        begun: &[TaskId],
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let error = |when: &str| WireError::new(ErrorCode::Crashed, format!("the worker {how} {when}"));
        self.end_trials(worker, Err(&error("while it started")), now, actions);
        let Some(record) = self.workers.remove(&worker) else {
            return;
        };
        // The last one first: each goes to the front of those that wait.
        for task in record.calls_held.iter().rev() {
            let fails = match begun.contains(task) {
                true => Some("while it ran the call"),
                false => self.admin.count_loss(*task).err(),
            };
            match fails {
                None => self.requeue(*task, actions),
                Some(when) if self.admin.remove(*task).is_some() => actions.push(Action::Fail {
                    task: *task,
                    error: error(when),
                }),
                Some(_) => {}
            }
        }
        let Some(version) = record.version else {
            self.pool_lost(&record, now);
            return;
        };
        if let Some(doee) = self.doees.get_mut(&version) {
            doee.forget_worker(worker);
        }
        match record.state {
            State::Starting => self.give_up_unless_served(version, error("while it started"), now, actions),
            State::Assigned => {
                self.give_up_unless_served(
                    version,
                    error("while it loaded and initialized its Doee"),
                    now,
                    actions,
                );
            }
            _ => {
                // What it gave back may find another worker free, of which no event would tell.
                self.feed(version, now, actions);
                self.scale(version, now, actions);
            }
        }
    }

    /// A version is no longer deployed: its workers go as soon as they have nothing to do.
    pub(super) fn retire(&mut self, version: DoeeVersion, now: Instant, actions: &mut Vec<Action>) {
        if let Some(doee) = self.doees.get_mut(&version) {
            doee.retired = true;
            self.drain_idle(version, now, actions);
        }
    }

    pub(super) fn drain_idle(&mut self, version: DoeeVersion, now: Instant, actions: &mut Vec<Action>) {
        let idle = self
            .doees
            .get(&version)
            .map(|doee| doee.idle.clone())
            .unwrap_or_default();
        for worker in idle {
            self.drain(worker, now, actions);
        }
    }

    /// Asks an idle worker to terminate its Doee and exit.
    pub(super) fn drain(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let Some(record) = self.workers.get_mut(&worker) else {
            return;
        };
        record.enter(
            State::Draining {
                kill_at: now + DRAIN_GRACE,
            },
            now,
        );
        let version = record.version;
        actions.push(Action::Drain { worker });
        if let Some(version) = version {
            if let Some(doee) = self.doees.get_mut(&version) {
                doee.forget_worker(worker);
            }
            self.publish(version, actions);
        }
    }

    /// Looks at every clock: time limits, graces, the pool, idle workers, demand that lasts.
    pub(super) fn tick(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let workers: Vec<WorkerId> = self.workers.keys().copied().collect();
        for worker in workers {
            self.check_clock(worker, now, actions);
        }
        let versions: Vec<DoeeVersion> = self.doees.keys().copied().collect();
        for version in versions {
            self.check_doee(version, now, actions);
        }
        self.tend_pools(now, actions);
    }

    fn check_clock(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let Some(record) = self.workers.get(&worker).filter(|record| !record.gone) else {
            return;
        };
        let limits = record
            .version
            .and_then(|version| self.doees.get(&version))
            .and_then(|doee| doee.limits);
        let over = |since: Instant, limit: Duration| now >= since + limit;
        match record.state {
            State::Starting if over(record.since, start_timeout(&record.environment)) => {
                self.start_timed_out(worker, "the worker did not start in time", now, actions);
            }
            State::Assigned if over(record.since, INITIALIZE_TIMEOUT) => {
                self.start_timed_out(
                    worker,
                    "the Doee did not load and initialize in time",
                    now,
                    actions,
                );
            }
            State::Busy {
                kill_at: Some(at), ..
            } if now >= at => {
                self.end_call(worker, cancelled_error(), actions);
                self.kill(worker, "it did not give up its cancelled call", now, actions);
            }
            State::Busy { since, .. } => {
                let timeout = limits.map_or(Duration::ZERO, |limits| limits.timeout);
                if over(since, timeout) {
                    let message = format!(
                        "the function ran longer than its timeout_ms = {}",
                        timeout.as_millis()
                    );
                    self.end_call(worker, WireError::new(ErrorCode::TimedOut, message), actions);
                    self.kill(worker, "its call ran longer than its time limit", now, actions);
                } else {
                    self.recall_behind(worker, now, actions);
                }
            }
            State::Draining { kill_at } if now >= kill_at => {
                self.kill(worker, "it did not end when asked", now, actions);
            }
            State::Idle => self.check_idle(worker, now, actions),
            _ => return,
        }
        self.publish_of(worker, actions);
    }

    fn check_idle(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let Some(record) = self.workers.get(&worker) else {
            return;
        };
        let Some((version, doee)) = record
            .version
            .and_then(|version| Some((version, self.doees.get(&version)?)))
        else {
            return;
        };
        let idle_too_long = now >= record.since + self.config.idle_ttl && self.serving(version) > doee.kept();
        if doee.retired || idle_too_long {
            self.drain(worker, now, actions);
        }
    }

    fn check_doee(&mut self, version: DoeeVersion, now: Instant, actions: &mut Vec<Action>) {
        let serving = self.serving(version);
        let waiting = self.admin.waiting_len(version);
        let Some(doee) = self.doees.get_mut(&version) else {
            return;
        };
        match &doee.readiness {
            Readiness::Failed { until, .. } if now >= *until => {
                if doee.queued == 0 && serving == 0 && doee.kept() == 0 {
                    self.forget(version, actions);
                } else if doee.limits.is_some() {
                    doee.readiness = Readiness::Ready;
                    self.scale(version, now, actions);
                } else {
                    doee.readiness = Readiness::Loading;
                    actions.push(Action::Load { version });
                    self.publish(version, actions);
                }
            }
            Readiness::Ready if doee.queued > 0 || waiting > 0 || serving < doee.kept() => {
                self.scale(version, now, actions);
            }
            Readiness::Ready if doee.retired && serving == 0 => self.forget(version, actions),
            _ => {}
        }
    }

    fn forget(&mut self, version: DoeeVersion, actions: &mut Vec<Action>) {
        let known = self.doees.remove(&version);
        if known.is_some_and(|doee| doee.published != Slots::all(0)) {
            actions.push(Action::Publish {
                version,
                slots: Slots::all(0),
            });
        }
    }

    fn start_timed_out(&mut self, worker: WorkerId, what: &str, now: Instant, actions: &mut Vec<Action>) {
        let version = self.workers.get(&worker).and_then(|record| record.version);
        let error = WireError::new(ErrorCode::TimedOut, what);
        self.end_trials(worker, Err(&error), now, actions);
        self.pool_failed(worker, now);
        self.kill(worker, what, now, actions);
        if let Some(version) = version {
            self.give_up_unless_served(version, error, now, actions);
        }
    }

    /// Fails the call that a worker runs, if it runs one. What waits behind it stays until the worker is gone.
    fn end_call(&mut self, worker: WorkerId, error: WireError, actions: &mut Vec<Action>) {
        let record = self.workers.get_mut(&worker);
        if let Some(task) = record.and_then(|record| record.calls_held.pop_front())
            && self.admin.remove(task).is_some()
        {
            actions.push(Action::Fail { task, error });
        }
    }

    fn kill(&mut self, worker: WorkerId, why: &str, now: Instant, actions: &mut Vec<Action>) {
        let Some(record) = self.workers.get_mut(&worker) else {
            return;
        };
        record.enter(
            State::Draining {
                kill_at: now + DRAIN_GRACE,
            },
            now,
        );
        if let Some(doee) = record.version.and_then(|version| self.doees.get_mut(&version)) {
            doee.forget_worker(worker);
        }
        actions.push(Action::Kill {
            worker,
            why: why.to_owned(),
        });
    }

    fn publish_of(&mut self, worker: WorkerId, actions: &mut Vec<Action>) {
        if let Some(version) = self.workers.get(&worker).and_then(|record| record.version) {
            self.publish(version, actions);
        }
    }

    /// A start has failed. Where other workers of the version serve, they go on; else its callers
    /// must learn why.
    fn give_up_unless_served(
        &mut self,
        version: DoeeVersion,
        error: WireError,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        if self.serving(version) == 0 {
            self.give_up(version, error, now, actions);
        } else {
            self.publish(version, actions);
        }
    }

    /// A version cannot run for now: its tasks fail with the error, and so will those that arrive
    /// until the pause, longer after each failure, is over.
    pub(super) fn give_up(
        &mut self,
        version: DoeeVersion,
        error: WireError,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        for task in self.admin.remove_waiting(version) {
            actions.push(Action::Fail {
                task,
                error: error.clone(),
            });
        }
        let Some(doee) = self.doees.get_mut(&version) else {
            return;
        };
        let (first, longest) = BACKOFF;
        let pause = first.saturating_mul(1 << doee.failures.min(10)).min(longest);
        doee.failures += 1;
        doee.readiness = Readiness::Failed {
            error,
            until: now + pause,
        };
        self.publish(version, actions);
    }
}
