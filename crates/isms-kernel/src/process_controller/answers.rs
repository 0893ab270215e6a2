//! Answers: how a process ends.

use isms_protocol::{ErrorCode, Flags, Header, Kind, Message, Service, WireError};

use super::{
    ProcessKey, measured,
    record::{Process, State},
};
use crate::{
    core::Core,
    planted::{Bug, planted},
};

impl Core {
    /// A callee answers. What answers nothing that runs there is late, and kept out.
    pub(crate) fn answered(&mut self, callee: Service, message: Message) {
        let key = ProcessKey::from_call(message.header.call);
        let Some(process) = self
            .table
            .get_mut(key)
            .filter(|process| process.callee() == callee)
        else {
            return;
        };
        let State::Running { replied, stop } = &mut process.state else {
            return;
        };
        let code = *stop;
        if std::mem::replace(replied, true) {
            return;
        }
        let kind = message.header.kind;
        let streams = kind == Kind::Reply && message.header.flags.contains(Flags::STREAM);
        process.reply.open = streams;
        // A failed call has no streams any more; their sender learns that from the error.
        process.request.open &= kind == Kind::Reply;
        if planted(Bug::BelievesLate) && !process.caller_knows {
            process.caller_waits = true;
        }
        let flags = if streams { Flags::STREAM } else { Flags::NONE };
        let header = process.towards_caller(kind, flags);
        let stopped = code.filter(|&code| kind == Kind::Error && code != ErrorCode::Cancelled);
        match stopped.filter(|_| !planted(Bug::BlamesCaller)) {
            // The callee says that it was cancelled, as it was told to be; its caller has cancelled nothing.
            Some(code) => self.answer_error(key, code),
            None => self.answer(key, code, Message { header, ..message }),
        }
        self.settle(key);
    }

    /// Refuses a request that has not become a process.
    pub(crate) fn refuse(&mut self, sender: Service, request: &Header, error: &WireError) {
        self.counters.failed += 1;
        let header = Header {
            sender: Service::Kernel,
            target: sender,
            ..request.answer(Kind::Error)
        };
        self.send_to(sender, Message::with_body(header, error));
    }

    /// Ends a process that holds neither a place in a queue nor capacity, with an error of the Kernel's own.
    pub(super) fn give_up(&mut self, key: ProcessKey, code: ErrorCode) {
        self.answer_error(key, code);
        self.discard(key);
    }

    /// Answers with an error in the callee's place, unless the caller has been answered.
    pub(super) fn answer_error(&mut self, key: ProcessKey, code: ErrorCode) {
        let Some(process) = self.table.get(key).filter(|process| process.caller_waits) else {
            return;
        };
        let accepting = !process.kept && self.results.contains(process.header.process);
        let text = explanation(code, process, accepting);
        self.answer_error_saying(key, code, text);
    }

    /// The same, in words of the caller's choice.
    pub(super) fn answer_error_saying(&mut self, key: ProcessKey, code: ErrorCode, text: String) {
        let Some(process) = self.table.get(key).filter(|process| process.caller_waits) else {
            return;
        };
        let error = WireError::new(code, text);
        let header = Header {
            sender: Service::Kernel,
            ..process.towards_caller(Kind::Error, Flags::NONE)
        };
        self.answer(key, Some(code), Message::with_body(header, &error));
    }

    /// Frees what a callee that is done with a process has occupied; ends the process if no stream
    /// is left.
    pub(super) fn settle(&mut self, key: ProcessKey) {
        let Some(process) = self.table.get_mut(key) else {
            return;
        };
        let State::Running { replied: true, .. } = process.state else {
            return;
        };
        if process.reply.open {
            return;
        }
        process.state = State::Draining;
        let drains = process.request.open && process.caller_knows;
        self.orphan_children(key);
        if !planted(Bug::LeaksSlot) {
            self.release(key);
        }
        let unread = self
            .table
            .get(key)
            .is_some_and(|process| process.kept && process.request.open);
        if unread {
            self.end_request_stream(key, Flags::ABORTED);
        } else if !drains {
            self.discard(key);
        }
    }

    /// Removes a process that holds neither a place in a queue nor capacity.
    pub(super) fn discard(&mut self, key: ProcessKey) {
        self.set_timer(key, None);
        self.detach(key);
        if let Some(process) = self.table.get(key).filter(|process| !process.kept) {
            self.drop_record(process.header.process);
        }
        self.orphan_children(key);
        if planted(Bug::KeepsEnded) {
            return;
        }
        if let Some(process) = self.table.remove(key) {
            self.tell_traced(&process);
            if process.durable && process.kept {
                self.attempt_over(&process);
            }
            self.scheduler.close_idle(process.queue);
        }
    }

    /// Makes caller and parent forget a process; whatever its callee still says is kept out.
    pub(super) fn detach(&mut self, key: ProcessKey) {
        let Some(process) = self.table.get_mut(key) else {
            return;
        };
        process.caller_waits = false;
        if let Some(parent) = process
            .parent
            .take()
            .and_then(|parent| self.table.get_mut(parent))
        {
            parent.children.retain(|&child| child != key);
        }
        self.forget_caller(key);
    }

    /// Makes the caller forget a process, and the process its caller.
    pub(super) fn forget_caller(&mut self, key: ProcessKey) {
        let Some(process) = self.table.get_mut(key) else {
            return;
        };
        let caller = process.header.sender;
        if std::mem::replace(&mut process.caller_knows, false)
            && let Some(registration) = self.services.registration_mut(caller)
        {
            registration.calls.remove(&process.header.call);
        }
    }

    pub(super) fn orphan_children(&mut self, key: ProcessKey) {
        let Some(process) = self.table.get_mut(key) else {
            return;
        };
        let children = std::mem::take(&mut process.children);
        for &child in &children {
            if let Some(child) = self.table.get_mut(child) {
                child.parent = None;
            }
        }
        if !planted(Bug::KeepsChildren) {
            self.orphans.extend(children);
        }
    }

    /// Gives the one answer; `code` says why it is an error, where the Kernel knows.
    fn answer(&mut self, key: ProcessKey, code: Option<ErrorCode>, answer: Message) {
        let Some(process) = self.table.get_mut(key) else {
            return;
        };
        if !std::mem::replace(&mut process.caller_waits, false) {
            return;
        }
        let caller = process.header.sender;
        let outcome = measured::outcome(process, answer.header.kind, code);
        let kept = process.kept;
        if !kept || planted(Bug::CountsHeads) {
            self.count_ended(key, outcome);
        }
        if kept {
            return self.keep(key, outcome, answer);
        }
        if let Some(registration) = self.services.registration_mut(caller) {
            registration.unanswered = registration.unanswered.saturating_sub(1);
        }
        self.send_to(caller, answer);
    }
}

/// Why there is no answer; `accepting` an asynchronous call that was not acknowledged.
fn explanation(code: ErrorCode, process: &Process, accepting: bool) -> String {
    let target = process.callee();
    match code {
        ErrorCode::Busy if accepting => {
            "there is no room for more asynchronous calls; try again later".into()
        }
        ErrorCode::Expired if matches!(process.state, State::Collecting { .. }) => {
            "the body did not come before the call's deadline".into()
        }
        ErrorCode::TooLarge => "the body is longer than an asynchronous call may have".into(),
        ErrorCode::Invalid => "the body broke off".into(),
        ErrorCode::Busy => format!("the queue of {target} is full; try again later"),
        ErrorCode::Unavailable => format!("{target} is not there; try again later"),
        ErrorCode::Expired => "the deadline passed before the call ran".into(),
        ErrorCode::TimedOut => "the call ran past its deadline".into(),
        ErrorCode::Crashed => format!("{target} was lost while it ran the call"),
        ErrorCode::Cancelled => "the call was cancelled".into(),
        ErrorCode::NotFound => "the project was deleted".into(),
        _ => code.title().into(),
    }
}
