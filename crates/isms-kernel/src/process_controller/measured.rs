//! How processes end, told to who counts them.
//!
//! Invariant: a process is counted once: an asynchronous call that was accepted when its record ends, since its
//! result may fail after its head has come; any other one when its caller gets its answer, or is gone.

use isms_protocol::{ErrorCode, Header, Kind};

use super::{
    ProcessKey, is_invoke,
    record::{Process, State},
};
use crate::{
    core::Core,
    scheduler::{Ended, Outcome},
};

impl Core {
    /// Counts a call that is refused before it becomes a process.
    pub(super) fn count_refused(&mut self, header: &Header, outcome: Outcome) {
        let ended = Ended {
            doee: header.target_doee,
            project: header.project,
            class: header.class,
            deadline: None,
            outcome,
        };
        if is_invoke(header) {
            self.scheduler.ended(None, &ended, self.now);
        }
    }

    /// Counts a process that ends.
    pub(super) fn count_ended(&mut self, key: ProcessKey, outcome: Outcome) {
        let Some(process) = self.table.get(key) else {
            return;
        };
        let counter = match outcome {
            Outcome::Done => &mut self.counters.done,
            Outcome::Cancelled => &mut self.counters.cancelled,
            Outcome::Expired | Outcome::TimedOut => &mut self.counters.expired,
            _ => &mut self.counters.failed,
        };
        *counter += 1;
        if let Some(ended) = ended(process, outcome) {
            self.scheduler.ended(Some(process.queue), &ended, self.now);
        }
        self.trace_ended(key, outcome);
    }
}

/// What there is to count of a process that ends, if it is a call of a Doee.
fn ended(process: &Process, outcome: Outcome) -> Option<Ended> {
    let header = &process.header;
    is_invoke(header).then_some(Ended {
        doee: header.target_doee,
        project: header.project,
        class: header.class,
        deadline: process.deadline,
        outcome,
    })
}

/// What an answer of a process says without being read; `code` is the Kernel's own.
pub(super) fn outcome(process: &Process, kind: Kind, code: Option<ErrorCode>) -> Outcome {
    match (kind, code) {
        // It never had a place in a queue in which its deadline could pass: its caller did not send its body in
        // time, or broke off.
        (_, Some(ErrorCode::Expired | ErrorCode::Invalid)) if is_collecting(process) => Outcome::Cancelled,
        (_, Some(ErrorCode::TooLarge)) if is_collecting(process) => Outcome::Refused,
        (_, Some(code)) if kind != Kind::Reply => of_error(code),
        (Kind::Reply, _) => Outcome::Done,
        _ => Outcome::Failed,
    }
}

fn is_collecting(process: &Process) -> bool {
    matches!(process.state, State::Collecting { .. })
}

/// What an error of the Kernel's own in the place of an answer says.
pub(super) fn of_error(code: ErrorCode) -> Outcome {
    match code {
        ErrorCode::Crashed => Outcome::Crashed,
        ErrorCode::Unavailable => Outcome::Unavailable,
        ErrorCode::Busy => Outcome::Refused,
        // With the second its project was deleted.
        ErrorCode::Cancelled | ErrorCode::NotFound => Outcome::Cancelled,
        ErrorCode::Expired => Outcome::Expired,
        ErrorCode::TimedOut => Outcome::TimedOut,
        _ => Outcome::Failed,
    }
}
