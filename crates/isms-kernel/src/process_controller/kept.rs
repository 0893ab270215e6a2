//! Asynchronous calls: accepted in the Kernel's own name, and their results.
//!
//! A record holds everything that a call needs beside its place in the table: whose it is, the bytes of its
//! request's stream, and its result. So a journal has one place to write from and to read into.
//!
//! Invariants: a call is acknowledged only when it has its place and all of its bytes are here; it ends exactly
//! once.

use bytes::Bytes;
use isms_protocol::{
    ErrorCode, Flags, Header, Kind, Message, ProcessId, Service, WireError,
    kernel::{Progress, StreamCredit},
    limits::{ASYNC_BODY_LEN_MAX, CHUNK_LEN_MAX, STREAM_WINDOW},
};

use super::{
    ProcessKey,
    durable::Durable,
    measured,
    record::{Overrun, State},
    results::{Ended, Record},
};
use crate::{
    core::Core,
    planted::{Bug, planted},
    scheduler::Outcome,
};

impl Core {
    /// Makes the record of an asynchronous call that is about to be accepted, for which there is room.
    pub(super) fn open_record(
        &mut self,
        key: ProcessKey,
        header: &Header,
        waiting: usize,
        durable: Option<Box<Durable>>,
    ) {
        let record = Record::new(key, header, self.now, durable);
        self.results.open(header.process, Record { waiting, ..record });
    }

    /// Forgets the record of a call that was not accepted.
    pub(super) fn drop_record(&mut self, id: ProcessId) {
        self.results.forget(id);
    }

    /// Answers the caller with the process's id. From here on the process is the Kernel's own.
    pub(super) fn accept(&mut self, key: ProcessKey) {
        let process = self.table.get_mut(key).expect("a process that was just made");
        let caller = process.header.sender;
        process.kept = true;
        // It may be gone already when a durable call is acknowledged.
        if !std::mem::replace(&mut process.caller_knows, planted(Bug::DiesWithCaller)) {
            return;
        }
        let header = Header {
            sender: Service::Kernel,
            ..process.towards_caller(Kind::Reply, Flags::NONE)
        };
        if let Some(registration) = self.services.registration_mut(caller) {
            registration.unanswered = registration.unanswered.saturating_sub(1);
            registration.calls.remove(&header.call);
        }
        self.send_to(caller, Message::bare(header));
    }

    /// Lets the caller of an asynchronous call send as much of its body as one window.
    pub(super) fn begin_collecting(&mut self, key: ProcessKey) {
        self.grant(key, STREAM_WINDOW, false);
    }

    /// Takes in a piece of an asynchronous call's body.
    pub(super) fn collect_request(&mut self, key: ProcessKey, bytes: &[u8]) {
        let Some(process) = self.table.get(key) else {
            return;
        };
        let Some(record) = self.results.get(process.header.process) else {
            return;
        };
        if record.request.len() + bytes.len() > ASYNC_BODY_LEN_MAX {
            return self.give_up(key, ErrorCode::TooLarge);
        }
        let project = process.header.project;
        if self.results.charge(project, bytes.len()).is_err() {
            return self.give_up(key, ErrorCode::Busy);
        }
        let record = self.results.get_mut(process.header.process);
        record.expect("was there").request.extend_from_slice(bytes);
        self.grant(key, bytes.len() as u32, false);
    }

    /// Sends of an asynchronous call's body what its callee has allowed.
    pub(super) fn feed(&mut self, key: ProcessKey) {
        while let Some(process) = self.table.get_mut(key).filter(|process| process.request.open) {
            let Header {
                process: id, project, ..
            } = process.header;
            let Some(record) = self.results.get_mut(id) else {
                return;
            };
            let left = record.request.len() - record.sent;
            if left == 0 {
                // Another attempt would need it again.
                if record.durable.is_none() {
                    let freed = std::mem::take(&mut record.request).len();
                    record.sent = 0;
                    self.results.free(project, freed);
                }
                return self.end_request_stream(key, Flags::NONE);
            }
            let len = left.min(CHUNK_LEN_MAX).min(process.request.credit() as usize);
            if len == 0 {
                return;
            }
            process.request.spend(len).expect("no more than its credit");
            let raw = Bytes::copy_from_slice(&record.request[record.sent..record.sent + len]);
            record.sent += len;
            let header = process.towards_callee(key, Kind::StreamChunk, Flags::NONE);
            self.send_to(header.target, Message::bare(header).with_raw(raw));
        }
    }

    /// An asynchronous call was answered: by its callee or in its place.
    pub(super) fn keep(&mut self, key: ProcessKey, outcome: Outcome, answer: Message) {
        let process = self.table.get(key).expect("what is answered is in the table");
        let id = process.header.process;
        let (streams, is_durable) = (answer.header.flags.contains(Flags::STREAM), process.durable);
        if is_durable && answer.header.kind == Kind::Error {
            return self.judge(key, outcome, answer);
        }
        if !self.results.contains(id) {
            return;
        }
        if self.results.charge(process.header.project, answer.len()).is_err() {
            self.end_record(key, ErrorCode::LimitReached, Outcome::Failed);
            if streams {
                self.stop(key, ErrorCode::LimitReached);
            }
            return;
        }
        let Some(record) = self.results.get_mut(id) else {
            return;
        };
        record.answer = Some(answer);
        match streams {
            true => self.grant(key, STREAM_WINDOW, true),
            false if is_durable => self.finish_with_answer(id),
            false => self.ended(key, outcome),
        }
    }

    /// Takes in a piece of an asynchronous call's result.
    pub(super) fn collect_reply(&mut self, key: ProcessKey, bytes: &[u8]) {
        let Some(process) = self.table.get(key) else {
            return;
        };
        let id = process.header.process;
        let Some(record) = self.results.get(id).filter(|record| !record.has_ended()) else {
            return;
        };
        let too_large = record.stream.len() + bytes.len() > ASYNC_BODY_LEN_MAX;
        if too_large || self.results.charge(process.header.project, bytes.len()).is_err() {
            let code = match too_large {
                true => ErrorCode::TooLarge,
                false => ErrorCode::LimitReached,
            };
            self.end_record(key, code, Outcome::Failed);
            return self.stop(key, code);
        }
        let record = self.results.get_mut(id).expect("was there");
        record.stream.extend_from_slice(bytes);
        self.grant(key, bytes.len() as u32, true);
    }

    /// The stream of an asynchronous call's result is complete, or broke off.
    pub(super) fn reply_collected(&mut self, key: ProcessKey, aborted: bool) {
        let Some(process) = self.table.get(key) else {
            return;
        };
        match (aborted, &process.state) {
            (false, _) if process.durable => self.finish_with_answer(process.header.process),
            (false, _) => self.ended(key, Outcome::Done),
            (true, &State::Running { stop: Some(code), .. }) => {
                self.end_record(key, code, measured::of_error(code));
            }
            // The Doer is there and says so: what broke off is the Doee.
            (true, _) => self.end_record(key, ErrorCode::Crashed, Outcome::Failed),
        }
    }

    /// Ends an asynchronous call with an error in the place of whatever there was of a result.
    pub(super) fn end_record(&mut self, key: ProcessKey, code: ErrorCode, outcome: Outcome) {
        let Some(process) = self.table.get(key) else {
            return;
        };
        let id = process.header.process;
        if process.durable {
            return self.judge_here(key, code, outcome);
        }
        self.drop_result(id);
        let Some(record) = self.results.open_mut(id) else {
            return;
        };
        let answer = own_error(id, code);
        // The reason is short, and every call must end with one: it may exceed the bytes by so much.
        let (project, added) = (record.project, answer.len());
        record.answer = Some(answer);
        self.results.add(project, added);
        self.ended(key, outcome);
    }

    /// Ends a record, and counts its call by how that ended.
    fn ended(&mut self, key: ProcessKey, outcome: Outcome) {
        let Some(id) = self.id_of(key) else {
            return;
        };
        let Some(record) = self.results.open_mut(id) else {
            return;
        };
        record.whole = std::mem::take(&mut record.stream).into_boxed_slice().into();
        let freed = std::mem::take(&mut record.request).len() + std::mem::take(&mut record.waiting);
        record.sent = 0;
        let project = record.project;
        self.results.free(project, freed);
        self.end_is_told(id, Ended::new(self.now, progress(outcome)));
        if !planted(Bug::CountsHeads) {
            self.count_ended(key, outcome);
        }
    }

    /// From here on everybody who may know learns that a call has ended.
    pub(super) fn end_is_told(&mut self, id: ProcessId, mut ended: Ended) {
        // A result is kept for whoever waits for it, also while there was no Kernel; a dead letter long enough anyway.
        if ended.progress != Progress::Dead {
            ended.told_at = self.now;
        }
        let Some(record) = self.results.open_mut(id) else {
            return;
        };
        record.ended = Some(ended);
        let (project, waiters) = (record.project, std::mem::take(&mut record.waiters));
        self.results.note_end(project, id, ended);
        for waiter in waiters {
            self.answer_waiter(waiter);
        }
    }

    fn id_of(&self, key: ProcessKey) -> Option<ProcessId> {
        self.table.get(key).map(|process| process.header.process)
    }

    /// Allows the sender of a stream that ends here more bytes of it.
    pub(super) fn grant(&mut self, key: ProcessKey, bytes: u32, of_reply: bool) {
        let Some(process) = self.table.get_mut(key) else {
            return;
        };
        let stream = match of_reply {
            true => &mut process.reply,
            false => &mut process.request,
        };
        if let Err(Overrun(what)) = stream.grant(bytes) {
            unreachable!("the Kernel {what}");
        }
        let header = match of_reply {
            true => process.towards_callee(key, Kind::Credit, Flags::NONE),
            false => process.towards_caller(Kind::Credit, Flags::TO_CALLER),
        };
        self.send_to(header.target, Message::with_body(header, &StreamCredit { bytes }));
    }
}

/// How an asynchronous call that ended so is told of.
pub(super) fn progress(outcome: Outcome) -> Progress {
    match outcome {
        Outcome::Done => Progress::Done,
        Outcome::Cancelled => Progress::Cancelled,
        Outcome::Expired | Outcome::TimedOut => Progress::Expired,
        _ => Progress::Failed,
    }
}

/// An error of the Kernel's own in the place of a call's result.
pub(super) fn own_error(id: ProcessId, code: ErrorCode) -> Message {
    let header = Header {
        process: id,
        ..Header::new(Kind::Error, Service::Kernel, Service::Kernel)
    };
    Message::with_body(header, &WireError::new(code, explanation(code)))
}

fn explanation(code: ErrorCode) -> String {
    match code {
        ErrorCode::TooLarge => format!(
            "the result is longer than {ASYNC_BODY_LEN_MAX} bytes, the most that is kept of an asynchronous call"
        ),
        ErrorCode::LimitReached => "there was no room left to keep the result".into(),
        ErrorCode::Crashed => "the body of the result broke off".into(),
        ErrorCode::Cancelled => "the call was cancelled".into(),
        ErrorCode::TimedOut => "the call ran past its deadline".into(),
        _ => code.title().into(),
    }
}
