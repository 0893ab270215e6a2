//! The state of the worker: the link, the running function, the running call; and what the host
//! functions do with them. Safe code; [`host`](crate::host) translates from and to the ABI.

mod host_calls;

use std::time::Instant;

use isms_doee_sys as sys;
use isms_protocol::doer::InvocationReply;
use isms_protocol::kernel::StreamCredit;
use isms_protocol::limits::{CHUNK_LEN_MAX, INLINE_LEN_MAX};
use isms_protocol::worker::{self, LogLevel};
use isms_protocol::{ErrorCode, Flags, Header, Kind, Message, Service, WireError};

use crate::call::{Call, Received};
use crate::exit::give_up;
use crate::host_call::HostCall;
use crate::link::Link;
use crate::log::LogBudget;
use crate::refusal::Refusal;

/// Everything that the host side of a worker knows.
pub(crate) struct Session {
    pub(crate) link: Link,
    call: Option<Call>,
    log: LogBudget,
    /// Why the last host call was refused.
    pub(crate) last_error: String,
    /// Why the running function is about to fail, in the Doee's words.
    pub(crate) failure: Option<String>,
}

impl Session {
    pub(crate) fn new(link: Link) -> Session {
        Session {
            link,
            call: None,
            log: LogBudget::new(),
            last_error: String::new(),
            failure: None,
        }
    }

    /// Makes ready for a function of the Doee that is no call.
    pub(crate) fn begin_function(&mut self) {
        self.log = LogBudget::new();
        self.last_error.clear();
        self.failure = None;
    }

    /// Makes ready for a call. False when the request makes no sense, and has been answered so.
    pub(crate) fn begin_call(&mut self, received: Received) -> bool {
        let header = received.message.header;
        match Call::new(received) {
            Ok(call) => {
                self.begin_function();
                self.call = Some(call);
                true
            }
            Err(_) => {
                self.link
                    .refuse(&header, ErrorCode::Invalid, "the invocation cannot be read");
                false
            }
        }
    }

    /// Answers the running call, whose `execute` has returned. What it still waited for goes first: once
    /// the answer is out, the call is no more.
    pub(crate) fn end_call(&mut self, code: sys::ResultCode) {
        let Session {
            call: Some(call),
            link,
            ..
        } = self
        else {
            return;
        };
        for mut host_call in std::mem::take(&mut call.host_calls).into_values() {
            host_calls::give_up_host_call(link, &mut host_call);
        }
        let ended = if code == sys::OK {
            self.finish_response()
        } else {
            Err(self.failure_of(code))
        };
        self.log_lost_failure(&ended);
        let Some(mut call) = self.call.take() else { return };
        if let Err(error) = ended {
            if call.response.outflow().is_some() {
                self.link.send_end(&call.header, true);
            } else {
                self.link.send(&Message::error_answer(&call.header, &error));
            }
        }
        self.link.drain(call.header, call.body);
    }

    /// Logs a failure that comes after the answer has begun: it can only be cut off, and would be lost.
    fn log_lost_failure(&mut self, ended: &Result<(), WireError>) {
        let Err(error) = ended else { return };
        let begun = self
            .call
            .as_mut()
            .is_some_and(|call| call.response.outflow().is_some());
        if begun && error.code != ErrorCode::Cancelled {
            self.log(LogLevel::Error, error.message.as_bytes());
        }
    }

    /// Why `execute` failed, for the caller. The Doee's word for cancel and deadline counts only when
    /// they are true.
    fn failure_of(&mut self, code: sys::ResultCode) -> WireError {
        let stop = self.call.as_ref().and_then(|call| call.check().err());
        match stop {
            Some(stop) if stop.code == code => stop_error(&stop),
            _ => {
                let message = self
                    .failure
                    .take()
                    .unwrap_or_else(|| format!("execute failed with code {code}"));
                WireError::new(ErrorCode::DoeeFailed, message)
            }
        }
    }

    /// Sends what is left of the answer.
    fn finish_response(&mut self) -> Result<(), WireError> {
        let failed = |refusal: Refusal| WireError::new(ErrorCode::DoeeFailed, refusal.message);
        let call = self.running().map_err(failed)?;
        call.response.check_end().map_err(failed)?;
        let header = call.header;
        if let Some((reply, body)) = call.response.take_held() {
            let reply = InvocationReply {
                payload_len: Some(body.len() as u64),
                ..reply
            };
            self.link
                .send(&Message::with_body(header.answer(Kind::Reply), &reply).with_raw(body));
            return Ok(());
        }
        self.send_pending().map_err(|refusal| stop_error(&refusal))?;
        self.link.send_end(&header, false);
        Ok(())
    }

    /// The running call.
    pub(crate) fn running(&mut self) -> Result<&mut Call, Refusal> {
        self.call
            .as_mut()
            .ok_or_else(|| Refusal::invalid("only execute may do this"))
    }

    /// Sends log lines; lines over the budget are dropped.
    pub(crate) fn log(&mut self, level: LogLevel, text: &[u8]) {
        let request = self.call.as_ref().map(|call| call.header);
        for line in self.log.lines(level, text) {
            let mut header = Header::new(Kind::Event, Service::Worker, Service::Doer);
            header.operation = worker::Operation::Log as u16;
            if let Some(request) = &request {
                header = Header {
                    process: request.process,
                    attempt: request.attempt,
                    project: request.project,
                    ..header
                };
            }
            self.link.send(&Message::with_body(header, &line));
        }
    }

    /// Whether it is time to stop; takes in what has come meanwhile.
    pub(crate) fn check(&mut self) -> Result<(), Refusal> {
        self.running()?;
        while let Some(message) = self.link.try_receive() {
            self.dispatch(message);
        }
        self.running()?.check()
    }

    /// Reads on in the body: 0 at its end.
    pub(crate) fn body_read(&mut self, buffer: &mut [u8]) -> Result<usize, Refusal> {
        if buffer.is_empty() {
            return Err(Refusal::invalid("the buffer is empty"));
        }
        self.running()?;
        self.block(None, |session| {
            let Session {
                call: Some(call),
                link,
                ..
            } = session
            else {
                return Ok(None);
            };
            let read = call.body.read(buffer)?;
            link.grant(&call.header, &mut call.body);
            Ok(read)
        })
    }

    /// Goes on with the answer.
    pub(crate) fn respond_write(&mut self, mut data: &[u8]) -> Result<(), Refusal> {
        let call = self.running()?;
        call.check()?;
        call.response.check_write(data.len())?;
        if call.response.holds(data.len()) {
            call.response.hold(data);
            return Ok(());
        }
        let header = call.header;
        if let Some(reply) = call.response.start_stream() {
            let answer = Header {
                flags: Flags::STREAM,
                ..header.answer(Kind::Reply)
            };
            self.link.send(&Message::with_body(answer, &reply));
        }
        loop {
            let response = &mut self.running()?.response;
            let taken = response.fill(data);
            data = &data[taken..];
            if data.is_empty() {
                return Ok(());
            }
            self.send_pending()?;
        }
    }

    /// Sends the chunks that wait in the answer's stream, as credit comes.
    fn send_pending(&mut self) -> Result<(), Refusal> {
        self.block(None, |session| {
            let Session {
                call: Some(call),
                link,
                ..
            } = session
            else {
                return Ok(Some(()));
            };
            let Some(outflow) = call.response.outflow() else {
                return Ok(Some(()));
            };
            while let Some(chunk) = outflow.next() {
                link.send_chunk(&call.header, chunk);
            }
            Ok(outflow.is_empty().then_some(()))
        })
    }

    /// Takes in messages until `look` finds what it waits for, the call must stop, or `until` has come.
    fn block<T>(
        &mut self,
        until: Option<Instant>,
        mut look: impl FnMut(&mut Session) -> Result<Option<T>, Refusal>,
    ) -> Result<T, Refusal> {
        loop {
            self.running()?.check()?;
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Err(Refusal::new(sys::TIMEOUT, "nothing has ended within the timeout"));
            }
            let deadline = self.running()?.deadline;
            let wake = [until, deadline].into_iter().flatten().min();
            if let Some(message) = self.link.receive(wake) {
                self.dispatch(message);
            }
        }
    }

    /// Takes in one message. What belongs to something that has ended is late, and ignored.
    pub(crate) fn dispatch(&mut self, message: Message) {
        let header = message.header;
        let to_caller = header.flags.contains(Flags::TO_CALLER);
        match header.kind {
            Kind::Request => self.link.enqueue(message),
            Kind::Cancel => match &mut self.call {
                Some(call) if call.header.call == header.call => call.cancelled = true,
                _ => self.link.cancel_waiting(header.call),
            },
            Kind::Reply | Kind::Error => self.take_answer(message),
            Kind::StreamChunk | Kind::StreamEnd if to_caller => self.take_answer(message),
            Kind::StreamChunk | Kind::StreamEnd => self.take_body(message),
            Kind::Credit => self.take_credit(&message, to_caller),
            Kind::Heartbeat | Kind::Register | Kind::Event | Kind::Slots | Kind::Demand | Kind::Begun => {}
        }
    }

    /// A piece of a request's stream.
    fn take_body(&mut self, message: Message) {
        let Some(call) = self
            .call
            .as_mut()
            .filter(|call| call.header.call == message.header.call)
        else {
            return self.link.take_piece(message);
        };
        let taken = match message.header.kind {
            Kind::StreamChunk => call.body.push(message.raw),
            _ => call.body.finish(message.header.flags.contains(Flags::ABORTED)),
        };
        if let Err(violation) = taken {
            give_up(violation);
        }
    }

    /// Credit for the answer's stream, or for a host call's request stream.
    fn take_credit(&mut self, message: &Message, to_caller: bool) {
        let Ok(StreamCredit { bytes }) = message.decode_body() else {
            return;
        };
        let Some(call) = &mut self.call else { return };
        let outflow = if to_caller {
            call.host_calls
                .get_mut(&message.header.call)
                .and_then(HostCall::outflow)
        } else if call.header.call == message.header.call {
            call.response.outflow()
        } else {
            None
        };
        if let Some(outflow) = outflow {
            outflow.allow(bytes);
        }
    }
}

fn stop_error(refusal: &Refusal) -> WireError {
    let code = match refusal.code {
        sys::CANCELLED => ErrorCode::Cancelled,
        sys::DEADLINE => ErrorCode::TimedOut,
        _ => ErrorCode::DoeeFailed,
    };
    WireError::new(code, refusal.message.clone())
}

/// A stream's chunk always fits a message beside its header.
const _: () = assert!(CHUNK_LEN_MAX <= INLINE_LEN_MAX);
