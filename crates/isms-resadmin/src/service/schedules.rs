//! Expands schedules: of each the next run waits at the Kernel, as a durable call for its planned time.
//!
//! Invariants: a run is recorded before the Kernel hears of it, and its key is made of what was recorded, so whatever
//! ends in between, it is one call. The next run is planned when the time of the one before has come, always ahead, so
//! what was missed is not made up for: the call that waited at the Kernel is the one that runs late.

use isms_protocol::{
    ErrorCode, ProcessId, ProjectId, WireError,
    doer::{Invocation, Trigger},
    encode,
    kernel::{ProcessState, Progress},
};
use serde_bytes::ByteBuf;

use super::Core;
use crate::{
    schedule::{key, planned_text},
    store::{Run, Schedule},
};

/// How far ahead the Kernel is told of a run; it takes 400 days.
const AHEAD_S_MAX: u64 = 300 * 24 * 60 * 60;
/// How long after its time a run that may have been told to the Kernel is told again. Its key is known as long as its
/// result is kept; told later, it might run twice.
const TOLD_AGAIN_S_MAX: u64 = 60;

impl Core {
    /// Brings the runs of all projects up to date; returns when the next one is due, in s since 1970. `is_start`: a
    /// former run of this service may have told the Kernel what it has not recorded.
    pub(super) async fn expand_schedules(&self, is_start: bool) -> Result<Option<u64>, WireError> {
        let (mut next, mut failed) = (None::<u64>, None);
        for project in self.store.projects_with_schedules().await? {
            // Nothing of a project may be told after the Kernel was told to forget it.
            let _turn = self.schedules_turn.lock().await;
            match self.expand(project, is_start).await {
                Ok(Some(due)) => next = Some(next.map_or(due, |next| next.min(due))),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%project, %error, "runs of schedules could not be planned, they are tried again");
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(next), Err)
    }

    async fn expand(&self, project: ProjectId, is_start: bool) -> Result<Option<u64>, WireError> {
        let Some(deployment) = self.store.current(project).await? else {
            return Ok(None);
        };
        let now_s = (self.clock)();
        let mut runs = self.store.runs(project).await?;
        let identity = |schedule: &Schedule| schedule.times.identity(&schedule.doee);
        for gone in &runs {
            if !deployment
                .schedules
                .iter()
                .any(|schedule| identity(schedule) == gone.schedule)
            {
                self.withdraw(project, gone, now_s).await?;
                self.store.forget_run(project, gone.schedule).await?;
            }
        }
        let mut next = None::<u64>;
        for schedule in &deployment.schedules {
            let known = runs.iter().position(|run| run.schedule == identity(schedule));
            let known = known.map(|index| runs.swap_remove(index));
            let planned = self
                .plan(project, schedule, known, deployment.routes.revision, is_start)
                .await?;
            let Some(mut run) = planned else { continue };
            if run.process.is_none() && run.planned_s <= (self.clock)().saturating_add(AHEAD_S_MAX) {
                run.process = Some(self.tell(project, schedule.times.to_string(), &run).await?);
                self.store.set_run(project, &run).await?;
            }
            let due = match run.process {
                Some(_) => run.planned_s,
                None => run.planned_s - AHEAD_S_MAX,
            };
            next = Some(next.map_or(due, |next| next.min(due)));
        }
        Ok(next)
    }

    /// The run that is to wait at the Kernel: the known one, or another one, which is recorded.
    async fn plan(
        &self,
        project: ProjectId,
        schedule: &Schedule,
        known: Option<Run>,
        revision: u64,
        is_start: bool,
    ) -> Result<Option<Run>, WireError> {
        let now_s = (self.clock)();
        let mut again = None;
        let mut last_s = now_s;
        if let Some(run) = known {
            last_s = last_s.max(run.planned_s);
            if run.call != schedule.call {
                again = self
                    .withdraw(project, &run, now_s)
                    .await?
                    .then_some(run.planned_s);
            } else if run.process.is_none() {
                if !is_start || now_s <= run.planned_s.saturating_add(TOLD_AGAIN_S_MAX) {
                    return Ok(Some(run));
                }
                tracing::warn!(%project, planned_s = run.planned_s, "it is not known whether a run was accepted, it is not told again");
            } else if run.planned_s > now_s {
                return Ok(Some(run));
            }
        }
        let planned = match again {
            Some(planned) => Some(planned),
            None => schedule.times.next(last_s).map_err(|error| {
                WireError::new(ErrorCode::Internal, format!("{}: {error}", schedule.times))
            })?,
        };
        let Some(planned_s) = planned else { return Ok(None) };
        let run = Run {
            schedule: schedule.times.identity(&schedule.doee),
            revision,
            planned_s,
            call: schedule.call,
            process: None,
        };
        self.store.set_run(project, &run).await?;
        Ok(Some(run))
    }

    /// Cancels a run that waits for its time; one that has begun goes on. True when it has not run and will not.
    async fn withdraw(&self, project: ProjectId, run: &Run, now_s: u64) -> Result<bool, WireError> {
        let process = match run.process {
            Some(process) => process,
            None if run.planned_s > now_s.saturating_add(AHEAD_S_MAX) => return Ok(true),
            // Told now, it would run at once.
            None if run.planned_s <= now_s => return Ok(false),
            // Whether the Kernel knows it only the Kernel can tell.
            None => self.tell(project, String::new(), run).await?,
        };
        let ends = |state: &ProcessState| state.progress == Progress::Cancelled;
        match self.peers.process(project, process).await {
            Ok(state) if state.progress == Progress::Queued && state.retry_us > 0 => {
                Ok(ends(&self.peers.cancel(project, process).await?))
            }
            Ok(state) => Ok(ends(&state)),
            Err(error) if error.code == ErrorCode::NotFound => Ok(run.planned_s > now_s),
            Err(error) => Err(error),
        }
    }

    async fn tell(&self, project: ProjectId, times: String, run: &Run) -> Result<ProcessId, WireError> {
        let header = |name: &str, value: String| (name.to_owned(), ByteBuf::from(value.into_bytes()));
        let invocation = Invocation {
            trigger: Trigger::Schedule,
            path: "/".to_owned(),
            headers: vec![
                header("isms-planned", planned_text(run.planned_s)),
                header("isms-schedule", times),
            ],
            payload_len: Some(0),
            ..Invocation::default()
        };
        let key = key(project, run.schedule, run.planned_s, run.revision);
        let at_us = run.planned_s.saturating_mul(1_000_000);
        let front = [&key[..], &at_us.to_le_bytes()].concat();
        let call = (run.call.version, run.call.class);
        self.peers
            .invoke_later(project, call, encode(&invocation), front)
            .await
    }
}
