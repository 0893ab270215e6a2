//! How calls of Doees end, told to who counts them.

use isms_protocol::{ErrorCode, Header, Kind};

use super::{is_invoke, record::Process};
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
}

/// What there is to count of a process that ends, if it is a call of a Doee.
pub(super) fn ended(process: &Process, outcome: Outcome) -> Option<Ended> {
    let header = &process.header;
    is_invoke(header).then_some(Ended {
        doee: header.target_doee,
        project: header.project,
        class: header.class,
        deadline: process.deadline,
        outcome,
    })
}

/// What an answer says without being read; `code` is the Kernel's own.
pub(super) fn outcome(kind: Kind, code: Option<ErrorCode>) -> Outcome {
    match (kind, code) {
        (Kind::Reply, _) => Outcome::Done,
        (_, Some(ErrorCode::Crashed)) => Outcome::Crashed,
        (_, Some(ErrorCode::Unavailable)) => Outcome::Unavailable,
        (_, Some(ErrorCode::Busy)) => Outcome::Refused,
        (_, Some(ErrorCode::Cancelled)) => Outcome::Cancelled,
        (_, Some(ErrorCode::Expired)) => Outcome::Expired,
        (_, Some(ErrorCode::TimedOut)) => Outcome::TimedOut,
        _ => Outcome::Failed,
    }
}
