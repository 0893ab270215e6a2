//! Questions about asynchronous calls: their state, their result, the wait for their end.
//!
//! A question that waits is charged to its service like any request until it is over, and what is read of results
//! counts among the service's streams; the end of its connection forgets both.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use isms_protocol::{
    ErrorCode, Flags, Header, Kind, Message, Service, WireError,
    kernel::{Operation, ProcessQuestion},
    limits::{CHUNK_LEN_MAX, RESULT_WAIT_MAX, STREAM_WINDOW},
};

use crate::{
    clock::Moment,
    core::Core,
    process_controller::{Record, Whose},
};

/// How long the answer to a cancel waits at most for the journal, in ms.
const END_WAIT_MS: u32 = 5_000;

/// Names a question: who asks, and its call.
pub(crate) type Asker = (Service, u64);

/// Questions that are not over.
#[derive(Default)]
pub(crate) struct Questions {
    waiting: BTreeMap<Asker, Waiting>,
    timers: BTreeSet<(Moment, Asker)>,
    reading: BTreeMap<Asker, Reading>,
}

struct Waiting {
    header: Header,
    question: ProcessQuestion,
    until: Moment,
}

struct Reading {
    header: Header,
    left: Bytes,
    credit: u32,
}

impl Questions {
    /// True while a call's id is in use.
    pub(crate) fn contains(&self, asker: Asker) -> bool {
        self.waiting.contains_key(&asker) || self.reading.contains_key(&asker)
    }

    /// Results that are being read.
    pub(crate) fn reading_len(&self) -> usize {
        self.reading.len()
    }

    pub(crate) fn next_wake(&self) -> Option<Moment> {
        self.timers.first().map(|&(at, _)| at)
    }

    fn take_waiting(&mut self, asker: Asker) -> Option<Waiting> {
        let waiting = self.waiting.remove(&asker)?;
        self.timers.remove(&(waiting.until, asker));
        Some(waiting)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.timers.is_empty() && self.reading.is_empty()
    }
}

impl Core {
    /// Answers a question about an asynchronous call, now or later.
    pub(crate) fn ask_about(&mut self, request: Header, message: &Message, operation: Operation) {
        let Ok(question) = message.decode_body::<ProcessQuestion>() else {
            let error = WireError::new(ErrorCode::Invalid, "the question cannot be decoded");
            return self.send_to(request.sender, Message::error_answer(&request, &error));
        };
        let header = Header {
            process: question.process,
            ..request
        };
        let rights = self.services.rights.of(request.sender, Service::Kernel);
        if question.any_principal && !rights.asserts_any_principal {
            return self.forbidden(&header, "only Control Gate asks on behalf of an administrator");
        }
        let whose = whose(&header, &question);
        let Some(record) = self.results.readable(question.process, whose) else {
            return self.not_found(&header);
        };
        let own = Whose {
            any_principal: false,
            ..whose
        };
        if operation == Operation::Result && self.results.readable(question.process, own).is_none() {
            return self.forbidden(&header, "only who made the call reads its result");
        }
        match operation {
            Operation::Result => match record.outcome() {
                Some((answer, stream)) => self.tell_result(header, answer, stream),
                None => {
                    let error = WireError::new(ErrorCode::Conflict, "the call has not ended yet");
                    self.send_to(header.sender, Message::error_answer(&header, &error));
                }
            },
            Operation::Cancel => {
                let key = record.key;
                self.stop(key, ErrorCode::Cancelled);
                let ending = self.results.get(question.process).is_some_and(Record::is_ending);
                match ending {
                    // Told when that is durable.
                    true => {
                        let question = ProcessQuestion {
                            wait_ms: END_WAIT_MS,
                            ..question
                        };
                        self.wait_for_end(header, question);
                    }
                    false => self.tell_state(&header, &question),
                }
            }
            _ if question.wait_ms > 0 && !record.has_ended() => self.wait_for_end(header, question),
            _ => self.tell_state(&header, &question),
        }
    }

    /// What a question waited for has come.
    pub(crate) fn answer_waiter(&mut self, asker: Asker) {
        if let Some(Waiting { header, question, .. }) = self.questions.take_waiting(asker) {
            self.uncharge(asker.0);
            self.tell_state(&header, &question);
        }
    }

    /// Answers the questions that have waited long enough.
    pub(crate) fn end_waits(&mut self) {
        while let Some(&(_, asker)) = self.questions.timers.first().filter(|(at, _)| *at <= self.now) {
            self.leave_record(asker);
            self.answer_waiter(asker);
        }
    }

    /// Whoever asked no longer wants to know.
    pub(crate) fn cancel_question(&mut self, asker: Asker) {
        self.leave_record(asker);
        if let Some(Waiting { header, .. }) = self.questions.take_waiting(asker) {
            self.uncharge(asker.0);
            let error = WireError::new(ErrorCode::Cancelled, "the question was cancelled");
            self.send_to(asker.0, Message::error_answer(&header, &error));
        }
        if let Some(reading) = self.questions.reading.remove(&asker) {
            self.end_reading(&reading.header, Flags::ABORTED);
        }
    }

    /// A service's connection was lost, and with it its questions.
    pub(crate) fn forget_questions(&mut self, service: Service) {
        let all = (service, 0)..=(service, u64::MAX);
        let waiting = self.questions.waiting.range(all.clone());
        let waiting: Vec<Asker> = waiting.map(|(&asker, _)| asker).collect();
        for asker in waiting {
            self.leave_record(asker);
            self.questions.take_waiting(asker);
        }
        self.questions.reading.retain(|asker, _| asker.0 != service);
    }

    /// Whoever reads a result allows more of it. True when it reads one.
    pub(crate) fn reader_allows(&mut self, asker: Asker, bytes: u32) -> bool {
        let Some(reading) = self.questions.reading.get_mut(&asker) else {
            return false;
        };
        let credit = reading.credit.checked_add(bytes);
        match credit.filter(|&credit| credit <= STREAM_WINDOW) {
            Some(credit) => {
                reading.credit = credit;
                self.read_on(asker);
            }
            None => self.violation(asker.0, "granted more stream credit than a window"),
        }
        true
    }

    fn tell_result(&mut self, header: Header, answer: Message, stream: Bytes) {
        let Header { kind, flags, .. } = answer.header;
        let streams = flags.contains(Flags::STREAM);
        let answer = Message {
            header: Header {
                flags: if streams { Flags::STREAM } else { Flags::NONE },
                ..header.answer(kind)
            },
            ..answer
        };
        self.send_to(header.sender, answer);
        if streams {
            let asker = (header.sender, header.call);
            let reading = Reading {
                header,
                left: stream,
                credit: 0,
            };
            self.questions.reading.insert(asker, reading);
            self.read_on(asker);
        }
    }

    fn read_on(&mut self, asker: Asker) {
        while let Some(reading) = self.questions.reading.get_mut(&asker) {
            if reading.left.is_empty() {
                let header = reading.header;
                self.questions.reading.remove(&asker);
                return self.end_reading(&header, Flags::NONE);
            }
            let len = reading.left.len().min(CHUNK_LEN_MAX).min(reading.credit as usize);
            if len == 0 {
                return;
            }
            reading.credit -= len as u32;
            let raw = reading.left.split_to(len);
            let header = Header {
                flags: Flags::TO_CALLER,
                ..reading.header.answer(Kind::StreamChunk)
            };
            self.send_to(asker.0, Message::bare(header).with_raw(raw));
        }
    }

    fn end_reading(&mut self, header: &Header, aborted: Flags) {
        let end = Header {
            flags: Flags::TO_CALLER.with(aborted),
            ..header.answer(Kind::StreamEnd)
        };
        self.send_to(header.sender, Message::bare(end));
    }

    fn wait_for_end(&mut self, header: Header, question: ProcessQuestion) {
        let wait_us = u64::from(question.wait_ms) * 1000;
        let until = self.now.after_us(wait_us).min(self.now.after(RESULT_WAIT_MAX));
        let asker = (header.sender, header.call);
        if let Some(record) = self.results.get_mut(question.process) {
            record.waiters.push(asker);
        }
        if let Some(registration) = self.services.registration_mut(header.sender) {
            registration.unanswered += 1;
        }
        self.questions.timers.insert((until, asker));
        let waiting = Waiting {
            header,
            question,
            until,
        };
        self.questions.waiting.insert(asker, waiting);
    }

    fn leave_record(&mut self, asker: Asker) {
        if let Some(waiting) = self.questions.waiting.get(&asker)
            && let Some(record) = self.results.get_mut(waiting.question.process)
        {
            record.waiters.retain(|&other| other != asker);
        }
    }

    fn uncharge(&mut self, service: Service) {
        if let Some(registration) = self.services.registration_mut(service) {
            registration.unanswered = registration.unanswered.saturating_sub(1);
        }
    }

    fn tell_state(&mut self, header: &Header, question: &ProcessQuestion) {
        let whose = whose(header, question);
        let Some(record) = self.results.readable(question.process, whose) else {
            return self.not_found(header);
        };
        let state = self.results.state(header.process, record, self.now);
        let answer = Message::with_body(header.answer(Kind::Reply), &state);
        self.send_to(header.sender, answer);
    }

    fn forbidden(&mut self, header: &Header, why: &str) {
        let error = WireError::new(ErrorCode::Forbidden, why);
        self.send_to(header.sender, Message::error_answer(header, &error));
    }

    fn not_found(&mut self, header: &Header) {
        let error = WireError::new(
            ErrorCode::NotFound,
            "there is no such process, or its result is no longer kept; results are also lost with the kernel",
        );
        self.send_to(header.sender, Message::error_answer(header, &error));
    }
}

/// Of whose calls a question is.
fn whose(header: &Header, question: &ProcessQuestion) -> Whose {
    Whose {
        project: header.project,
        principal: header.principal,
        any_principal: question.any_principal,
    }
}
