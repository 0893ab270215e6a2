//! Stopping: cancels, deadlines, lost callers and callees.
//!
//! A queued process ends at once. A running one is asked to stop and has a grace period to answer;
//! then the Kernel answers in its place, and the process stays in the table, unknown to its caller,
//! until the callee is done with it or gone: it still occupies the callee.

use isms_protocol::{ErrorCode, Flags, Header, Kind, Message, Service, limits::CANCEL_GRACE};

use super::{ProcessKey, measured, record::State};
use crate::{
    core::Core,
    planted::{Bug, planted},
    scheduler::Outcome,
};

impl Core {
    /// A caller no longer wants an answer; it gets one all the same.
    pub(crate) fn cancel(&mut self, caller: Service, call: u64) {
        let Some(key) = self.call_of(caller, call) else {
            self.cancel_question((caller, call));
            return;
        };
        self.stop(key, ErrorCode::Cancelled);
        if planted(Bug::AnswersTwice) {
            self.answer_error(key, ErrorCode::Cancelled);
            if let Some(process) = self.table.get_mut(key) {
                process.caller_waits = true;
            }
        }
    }

    /// Looks at every process whose time has come.
    pub(crate) fn fire_timers(&mut self) {
        while let Some(&(at, key)) = self.timers.first().filter(|(at, _)| *at <= self.now) {
            self.timers.remove(&(at, key));
            self.table.get_mut(key).expect("a timer is its process's").timer = None;
            self.timer_fired(key);
        }
    }

    /// Ends a process as far as the Kernel can: at once if it waits, by request if it runs.
    pub(crate) fn stop(&mut self, key: ProcessKey, code: ErrorCode) {
        let Some(process) = self.table.get_mut(key) else {
            return;
        };
        match &mut process.state {
            State::Collecting { .. } => self.give_up(key, code),
            State::Committing => self.cancel_later(key, code),
            State::Resting | State::Held => self.leave(key, code),
            State::Queued { .. } => {
                self.leave_queue(key);
                self.give_up(key, code);
            }
            State::Draining => self.end_request_stream(key, Flags::ABORTED),
            State::Running { stop: Some(_), .. } => {}
            State::Running { stop, .. } => {
                let until = self.now.after(CANCEL_GRACE);
                *stop = Some(code);
                let (callee, request_open) = (process.callee(), process.request.open);
                let header = process.towards_callee(key, Kind::Cancel, Flags::NONE);
                if request_open {
                    self.end_request_stream(key, Flags::ABORTED);
                }
                self.send_to(callee, Message::bare(header));
                self.set_timer(key, Some(until));
                self.orphan_children(key);
            }
        }
    }

    /// The callee's connection was lost while it ran a process; its capacity is forgotten already.
    pub(super) fn callee_lost(&mut self, key: ProcessKey) {
        let Some(process) = self.table.get(key) else {
            return;
        };
        if process.durable {
            self.attempt_lost(key);
            return self.discard(key);
        }
        let code = match process.callee() {
            Service::Doer => ErrorCode::Crashed,
            _ => ErrorCode::Unavailable,
        };
        self.answer_in_its_place(key, code);
        self.discard(key);
    }

    /// The connection of a process's caller was lost.
    pub(super) fn caller_lost(&mut self, key: ProcessKey) {
        let Some(process) = self.table.get(key) else {
            return;
        };
        if matches!(process.state, State::Committing) {
            // It is in the journal: it runs, whoever asked for it.
            return self.forget_caller(key);
        }
        if process.caller_waits {
            self.count_ended(key, Outcome::Cancelled);
        }
        self.detach(key);
        self.stop(key, ErrorCode::Cancelled);
    }

    /// The live call that a caller means by its call id.
    pub(super) fn call_of(&self, caller: Service, call: u64) -> Option<ProcessKey> {
        self.services.registration(caller)?.calls.get(&call).copied()
    }

    fn timer_fired(&mut self, key: ProcessKey) {
        let process = self.table.get(key).expect("a timer is its process's");
        let past_deadline = process.deadline.is_some_and(|deadline| deadline <= self.now);
        match &process.state {
            State::Collecting { .. } => self.give_up(key, ErrorCode::Expired),
            State::Queued { .. } if past_deadline => {
                self.leave_queue(key);
                self.give_up(key, ErrorCode::Expired);
            }
            State::Resting => self.queue_up(key),
            State::Committing | State::Held => {}
            State::Queued { .. }
                if !process.durable && self.services.registration(process.callee()).is_none() =>
            {
                self.leave_queue(key);
                self.give_up(key, ErrorCode::Unavailable);
            }
            State::Queued { .. } => self.set_timer(key, process.deadline),
            // Nothing is said of it before its callee is done with it, or lost.
            State::Running { stop: Some(_), .. } if process.durable => {}
            &State::Running { stop: Some(code), .. } => {
                self.answer_in_its_place(key, code);
                self.detach(key);
            }
            State::Running { stop: None, .. } | State::Draining => self.stop(key, ErrorCode::TimedOut),
        }
    }

    fn leave_queue(&mut self, key: ProcessKey) {
        let Some(process) = self.table.get(key) else {
            return;
        };
        if let State::Queued { ticket, .. } = process.state {
            self.scheduler.remove(process.queue, &ticket);
        }
    }

    /// Ends the caller's wait without the callee: with an error, or by breaking off the reply's stream.
    fn answer_in_its_place(&mut self, key: ProcessKey, code: ErrorCode) {
        let Some(process) = self.table.get(key) else {
            return;
        };
        if process.caller_waits {
            return self.answer_error(key, code);
        }
        if process.reply.open && process.kept {
            return self.end_record(key, code, measured::of_error(code));
        }
        if process.reply.open && process.caller_knows {
            let flags = Flags::TO_CALLER.with(Flags::ABORTED);
            let header: Header = process.towards_caller(Kind::StreamEnd, flags);
            self.send_to(process.header.sender, Message::bare(header));
        }
    }
}
