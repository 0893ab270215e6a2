//! One host call: a request of this worker to a service, and its answer.

use bytes::{Bytes, BytesMut};
use isms_doee_sys as sys;
use isms_protocol::kernel::StreamCredit;
use isms_protocol::{Flags, Header, Kind, Message, WireError};

use crate::body::Body;
use crate::http;
use crate::invoke;
use crate::limits::SQL_ANSWER_LEN_MAX;
use crate::refusal::Refusal;
use crate::sql::Results;
use crate::stream::{Collector, Outflow, StreamViolation};

/// A host call that the Doee holds.
#[derive(Debug)]
pub(crate) struct HostCall {
    header: Header,
    expected: Expected,
    outflow: Option<Outflow>,
    answer: Answer,
    /// The Doee knows that it has ended.
    seen: bool,
}

/// What is asked for, and so how its answer is read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expected {
    /// The results of the call's `number`th transaction, of so many statements.
    Results { number: u32, statement_count: usize },
    /// What a server outside says.
    Http,
    /// What another Doee says, or that it will run.
    Invoke { is_async: bool },
}

#[derive(Debug)]
enum Answer {
    Waiting,
    Collecting(Collector),
    Done(Results),
    Http(http::Answer),
    Invoke(invoke::Answer),
    Failed(Refusal),
}

impl HostCall {
    /// What has been asked for with this header; what did not fit the request follows as a stream.
    pub(crate) fn new(header: Header, expected: Expected, rest: Option<Bytes>) -> HostCall {
        let outflow = rest.map(|bytes| Outflow::new(BytesMut::from(bytes)));
        HostCall {
            header,
            expected,
            outflow,
            answer: Answer::Waiting,
            seen: false,
        }
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// True when nothing more comes.
    pub(crate) fn has_ended(&self) -> bool {
        match &self.answer {
            Answer::Waiting | Answer::Collecting(_) => false,
            Answer::Done(_) | Answer::Failed(_) => true,
            Answer::Http(answer) => !answer.body.is_open(),
            Answer::Invoke(answer) => !answer.body.is_open(),
        }
    }

    /// True when the answer can be looked at, although the rest of a body may still come.
    pub(crate) fn is_ready(&self) -> bool {
        !matches!(self.answer, Answer::Waiting | Answer::Collecting(_))
    }

    /// The Doee is told that the answer can be looked at.
    pub(crate) fn see(&mut self) {
        self.seen = true;
    }

    /// The number of a transaction of whose end the Doee knows nothing yet.
    pub(crate) fn unseen_transaction(&self) -> Option<u32> {
        match self.expected {
            Expected::Results { number, .. } if !self.seen => Some(number),
            _ => None,
        }
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
        let streams = message.header.flags.contains(Flags::STREAM);
        if matches!(self.expected, Expected::Http) {
            match http::Answer::decode(message, streams) {
                Ok(answer) => self.answer = Answer::Http(answer),
                Err(_) => self.refuse(sys::INTERNAL, "the server's answer cannot be read"),
            }
        } else if let Expected::Invoke { is_async } = self.expected {
            match invoke::Answer::decode(message, is_async, streams) {
                Ok(answer) => self.answer = Answer::Invoke(answer),
                Err(_) => self.refuse(sys::INTERNAL, "the answer of the called Doee cannot be read"),
            }
        } else if streams {
            self.answer = Answer::Collecting(Collector::new(SQL_ANSWER_LEN_MAX));
        } else {
            self.complete(message.raw);
        }
    }

    /// Takes the news that it failed.
    pub(crate) fn fail(&mut self, error: WireError) {
        if !self.has_ended() {
            self.answer = Answer::Failed(match self.expected {
                Expected::Invoke { .. } => invoke::refusal(error),
                Expected::Results { .. } | Expected::Http => error.into(),
            });
        }
    }

    /// Takes a chunk of the reply's stream.
    pub(crate) fn push(&mut self, chunk: Bytes) -> Result<(), StreamViolation> {
        match &mut self.answer {
            Answer::Collecting(collector) => collector.push(&chunk),
            Answer::Http(answer) => answer.body.push(chunk),
            Answer::Invoke(answer) => answer.body.push(chunk),
            Answer::Waiting => Err(StreamViolation::OverCredit {
                len: chunk.len(),
                credit: 0,
            }),
            Answer::Done(_) | Answer::Failed(_) => Ok(()),
        }
    }

    /// Takes the end of the reply's stream.
    pub(crate) fn finish(&mut self, aborted: bool) {
        if let Some(body) = self.body() {
            // A second end says nothing new.
            let _ = body.finish(aborted);
            return;
        }
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
    pub(crate) fn results(&mut self) -> Result<&Results, Refusal> {
        self.seen |= self.is_ready();
        match &self.answer {
            Answer::Done(results) => Ok(results),
            Answer::Failed(refusal) => Err(refusal.clone()),
            Answer::Waiting | Answer::Collecting(_) => Err(not_ready()),
            Answer::Http(_) | Answer::Invoke(_) => Err(Refusal::invalid("this host call is no transaction")),
        }
    }

    /// The answer of a server outside, or why there is none.
    pub(crate) fn http_answer(&self) -> Result<&http::Answer, Refusal> {
        match &self.answer {
            Answer::Http(answer) => Ok(answer),
            Answer::Failed(refusal) => Err(refusal.clone()),
            Answer::Waiting | Answer::Collecting(_) => Err(not_ready()),
            Answer::Done(_) | Answer::Invoke(_) => Err(Refusal::invalid("this host call is no HTTP request")),
        }
    }

    /// The answer of another Doee, or why there is none.
    pub(crate) fn invoke_answer(&self) -> Result<&invoke::Answer, Refusal> {
        match &self.answer {
            Answer::Invoke(answer) => Ok(answer),
            Answer::Failed(refusal) => Err(refusal.clone()),
            Answer::Waiting | Answer::Collecting(_) => Err(not_ready()),
            Answer::Done(_) | Answer::Http(_) => Err(Refusal::invalid("this host call calls no Doee")),
        }
    }

    /// The body of an answer that is read in pieces.
    fn body(&mut self) -> Option<&mut Body> {
        match &mut self.answer {
            Answer::Http(answer) => Some(&mut answer.body),
            Answer::Invoke(answer) => Some(&mut answer.body),
            Answer::Waiting | Answer::Collecting(_) | Answer::Done(_) | Answer::Failed(_) => None,
        }
    }

    /// Reads on in the body of an answer that was looked at; `None` when nothing has come yet. Only what is read is
    /// granted to the sender again, and nothing before the first look.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<(Option<usize>, Option<Message>), Refusal> {
        let header = Header {
            kind: Kind::Credit,
            flags: Flags::NONE,
            ..self.header
        };
        let body = self.body().ok_or_else(not_ready)?;
        let read = body.read(buffer)?;
        let credit = body
            .refill()
            .map(|bytes| Message::with_body(header, &StreamCredit { bytes }));
        Ok((read, credit))
    }

    fn complete(&mut self, bytes: Bytes) {
        let Expected::Results { statement_count, .. } = self.expected else {
            return self.refuse(sys::INTERNAL, "the answer is of another kind than the question");
        };
        self.answer = match Results::decode(bytes, statement_count) {
            Ok(results) => Answer::Done(results),
            Err(refusal) => Answer::Failed(refusal),
        };
    }

    fn refuse(&mut self, code: sys::ResultCode, message: &str) {
        self.answer = Answer::Failed(Refusal::new(code, message));
    }
}

fn not_ready() -> Refusal {
    Refusal::invalid("this host call has not ended: wait for it")
}
