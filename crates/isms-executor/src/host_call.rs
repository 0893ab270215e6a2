//! One host call: a request of this worker to a service, and its answer.

use bytes::{Bytes, BytesMut};
use isms_doee_sys as sys;
use isms_protocol::{Flags, Header, Kind, Message, WireError};

use crate::limits::SQL_ANSWER_LEN_MAX;
use crate::refusal::Refusal;
use crate::sql::Results;
use crate::stream::{Collector, Outflow, StreamViolation};

/// A host call that the Doee holds.
#[derive(Debug)]
pub(crate) struct HostCall {
    header: Header,
    statement_count: usize,
    outflow: Option<Outflow>,
    answer: Answer,
}

#[derive(Debug)]
enum Answer {
    Waiting,
    Collecting(Collector),
    Done(Results),
    Failed(Refusal),
}

impl HostCall {
    /// A transaction that has been asked for with this header; what did not fit the request follows
    /// as a stream.
    pub(crate) fn transaction(header: Header, statement_count: usize, rest: Option<Bytes>) -> HostCall {
        let outflow = rest.map(|bytes| Outflow::new(BytesMut::from(bytes)));
        HostCall {
            header,
            statement_count,
            outflow,
            answer: Answer::Waiting,
        }
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// True when the answer is complete.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.answer, Answer::Done(_) | Answer::Failed(_))
    }

    /// What the request's stream still has to send.
    pub(crate) fn outflow(&mut self) -> Option<&mut Outflow> {
        self.outflow.as_mut()
    }

    /// The request's stream has been sent, or is given up.
    pub(crate) fn close_outflow(&mut self) {
        self.outflow = None;
    }

    /// Takes the reply.
    pub(crate) fn reply(&mut self, message: Message) {
        if !matches!(self.answer, Answer::Waiting) {
            return;
        }
        if message.header.flags.contains(Flags::STREAM) {
            self.answer = Answer::Collecting(Collector::new(SQL_ANSWER_LEN_MAX));
        } else {
            self.complete(message.raw);
        }
    }

    /// Takes the news that it failed.
    pub(crate) fn fail(&mut self, error: WireError) {
        if !self.has_ended() {
            self.answer = Answer::Failed(error.into());
        }
    }

    /// Takes a chunk of the reply's stream.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Result<(), StreamViolation> {
        match &mut self.answer {
            Answer::Collecting(collector) => collector.push(chunk),
            Answer::Waiting => Err(StreamViolation::OverCredit {
                len: chunk.len(),
                credit: 0,
            }),
            Answer::Done(_) | Answer::Failed(_) => Ok(()),
        }
    }

    /// Takes the end of the reply's stream.
    pub(crate) fn finish(&mut self, aborted: bool) {
        let collector = match std::mem::replace(&mut self.answer, Answer::Waiting) {
            Answer::Collecting(collector) => collector,
            Answer::Waiting => {
                return self.refuse(sys::INTERNAL, "the answer's stream ended before it began");
            }
            ended => {
                self.answer = ended;
                return;
            }
        };
        match collector.finish() {
            _ if aborted => self.refuse(sys::UNAVAILABLE, "the database's answer broke off"),
            None => self.refuse(sys::LIMIT, "the database's answer is too long"),
            Some(bytes) => self.complete(bytes),
        }
    }

    /// Credit to give for the reply's stream now.
    pub(crate) fn refill(&mut self) -> Option<(u32, Header)> {
        let Answer::Collecting(collector) = &mut self.answer else {
            return None;
        };
        let bytes = collector.refill()?;
        Some((
            bytes,
            Header {
                kind: Kind::Credit,
                flags: Flags::NONE,
                ..self.header
            },
        ))
    }

    /// The results of the transaction, or why there are none.
    pub(crate) fn results(&self) -> Result<&Results, Refusal> {
        match &self.answer {
            Answer::Done(results) => Ok(results),
            Answer::Failed(refusal) => Err(refusal.clone()),
            Answer::Waiting | Answer::Collecting(_) => {
                Err(Refusal::invalid("this host call has not ended: wait for it"))
            }
        }
    }

    fn complete(&mut self, bytes: Bytes) {
        self.answer = match Results::decode(bytes, self.statement_count) {
            Ok(results) => Answer::Done(results),
            Err(refusal) => Answer::Failed(refusal),
        };
    }

    fn refuse(&mut self, code: sys::ResultCode, message: &str) {
        self.answer = Answer::Failed(Refusal::new(code, message));
    }
}
