//! Host calls of the running call: asking, waiting, letting go.

use std::time::Instant;

use bytes::Bytes;
use isms_doee_sys as sys;
use isms_protocol::kernel::StreamCredit;
use isms_protocol::limits::{CHILDREN_MAX, INLINE_LEN_MAX};
use isms_protocol::{
    ErrorCode, Flags, Header, Kind, Message, ProcessId, Service, WireError, commserver, dbriver, encode,
    worker,
};

use super::Session;
use crate::call::Call;
use crate::exit::give_up;
use crate::host_call::{Expected, HostCall};
use crate::http;
use crate::invoke;
use crate::limits::HOST_CALLS_HELD_MAX;
use crate::link::Link;
use crate::refusal::Refusal;
use crate::sql::Transaction;

impl Session {
    /// Asks DBriver for a transaction.
    pub(crate) fn sql_start(&mut self, transaction: &Transaction<'_>) -> Result<sys::Handle, Refusal> {
        self.check_host_calls()?;
        let sequence = self.running()?.next_transaction()?;
        let expected = Expected::Results {
            number: sequence.number,
            statement_count: transaction.statements.len(),
        };
        let operation = dbriver::Operation::Transaction as u16;
        let payload = (encode(&sequence).into(), transaction.encode()?);
        self.running()?.transactions = sequence.number;
        self.start(Service::Dbriver, operation, payload, expected)
    }

    /// Asks CommServer for an HTTP request to a server outside.
    pub(crate) fn http_start(&mut self, request: &http::Request<'_>) -> Result<sys::Handle, Refusal> {
        self.check_host_calls()?;
        let operation = commserver::Operation::Fetch as u16;
        self.start(Service::Commserver, operation, request.encode()?, Expected::Http)
    }

    /// Asks the Doer for a call of another Doee.
    pub(crate) fn invoke_start(&mut self, request: &invoke::Request<'_>) -> Result<sys::Handle, Refusal> {
        self.check_host_calls()?;
        let operation = worker::Operation::Call as u16;
        let is_async = request.is_async();
        self.start(
            Service::Doer,
            operation,
            request.encode()?,
            Expected::Invoke { is_async },
        )
    }

    /// The answer of another Doee, or why there is none. A callee that ran out of time with the running call is that call's
    /// end.
    pub(crate) fn invoke_answer(&mut self, handle: sys::Handle) -> Result<*const sys::InvokeAnswer, Refusal> {
        let answer = self
            .host_call(handle)?
            .invoke_answer()
            .map(invoke::Answer::as_ptr);
        if answer.as_ref().is_err_and(|refusal| refusal.code == sys::TIMEOUT) {
            self.check()?;
        }
        answer
    }

    /// Reads on in the body of a server's answer: 0 at its end.
    pub(crate) fn http_read(&mut self, handle: sys::Handle, buffer: &mut [u8]) -> Result<usize, Refusal> {
        self.host_call(handle)?.http_answer()?;
        self.read(handle, buffer)
    }

    /// Reads on in the body of another Doee's answer: 0 at its end.
    pub(crate) fn invoke_read(&mut self, handle: sys::Handle, buffer: &mut [u8]) -> Result<usize, Refusal> {
        self.host_call(handle)?.invoke_answer()?;
        self.read(handle, buffer)
    }

    fn read(&mut self, handle: sys::Handle, buffer: &mut [u8]) -> Result<usize, Refusal> {
        if buffer.is_empty() {
            return Err(Refusal::invalid("the buffer is empty"));
        }
        self.block(None, |session| {
            let (read, credit) = session.host_call(handle)?.read(buffer)?;
            if let Some(credit) = credit {
                session.link.send(&credit);
            }
            Ok(read)
        })
    }

    /// Fails when the running call may not ask for more.
    fn check_host_calls(&mut self) -> Result<(), Refusal> {
        let call = self.running()?;
        call.check()?;
        if call.host_calls.len() >= HOST_CALLS_HELD_MAX {
            return Err(Refusal::limit(format!(
                "at most {HOST_CALLS_HELD_MAX} host calls are held: release some"
            )));
        }
        if call.host_calls.values().filter(|call| !call.has_ended()).count() >= CHILDREN_MAX as usize {
            return Err(Refusal::limit(format!(
                "at most {CHILDREN_MAX} host calls run at a time: wait for one"
            )));
        }
        Ok(())
    }

    /// Sends a request with its payload, inline or as a stream by its length.
    fn start(
        &mut self,
        target: Service,
        operation: u16,
        (body, payload): (Bytes, Bytes),
        expected: Expected,
    ) -> Result<sys::Handle, Refusal> {
        let mut header = host_call_header(self.running()?, target, operation);
        header.call = self.link.next_call();
        let handle = header.call;
        let inline = payload.len() <= INLINE_LEN_MAX;
        let (flags, raw, rest) = if inline {
            (Flags::NONE, payload, None)
        } else {
            (Flags::STREAM, Bytes::new(), Some(payload))
        };
        let header_sent = Header { flags, ..header };
        self.link.send(&Message {
            header: header_sent,
            body,
            raw,
        });
        self.running()?
            .host_calls
            .insert(handle, HostCall::new(header, expected, rest));
        if !inline {
            self.send_request_stream(handle)?;
        }
        Ok(handle)
    }

    /// Sends a host call's request stream; an early answer ends it.
    fn send_request_stream(&mut self, handle: sys::Handle) -> Result<(), Refusal> {
        let sent = self.block(None, |session| {
            let Session {
                call: Some(call),
                link,
                ..
            } = session
            else {
                return Ok(Some(()));
            };
            let Some(host_call) = call.host_calls.get_mut(&handle) else {
                return Ok(Some(()));
            };
            let header = *host_call.header();
            let ended = host_call.has_ended();
            let Some(outflow) = host_call.outflow() else {
                return Ok(Some(()));
            };
            while let (false, Some(chunk)) = (ended, outflow.next()) {
                link.send(
                    &Message::bare(Header {
                        kind: Kind::StreamChunk,
                        ..header
                    })
                    .with_raw(chunk),
                );
            }
            let complete = outflow.is_empty();
            if complete || ended {
                end_request_stream(link, host_call, !complete);
                return Ok(Some(()));
            }
            Ok(None)
        });
        if sent.is_err() {
            self.release(handle)?;
        }
        sent
    }

    /// Waits until one of the host calls has ended; returns its index.
    pub(crate) fn wait(&mut self, handles: &[sys::Handle], until: Option<Instant>) -> Result<usize, Refusal> {
        self.running()?;
        if handles.is_empty() {
            return Err(Refusal::invalid("there is nothing to wait for"));
        }
        self.block(until, |session| {
            for (index, handle) in handles.iter().enumerate() {
                let host_call = session.host_call(*handle)?;
                if host_call.is_ready() {
                    host_call.see();
                    return Ok(Some(index));
                }
            }
            Ok(None)
        })
    }

    /// A host call that the Doee holds.
    pub(crate) fn host_call(&mut self, handle: sys::Handle) -> Result<&mut HostCall, Refusal> {
        let unknown = || Refusal::invalid(format!("{handle} is no handle of this call"));
        self.running()?.host_calls.get_mut(&handle).ok_or_else(unknown)
    }

    /// Lets go of a host call.
    pub(crate) fn release(&mut self, handle: sys::Handle) -> Result<(), Refusal> {
        self.host_call(handle)?;
        if let Some(mut host_call) = self.running()?.remove_host_call(handle) {
            give_up_host_call(&mut self.link, &mut host_call);
        }
        Ok(())
    }

    /// The answer to a host call, or a piece of it.
    pub(super) fn take_answer(&mut self, message: Message) {
        let header = message.header;
        let host_call = self
            .call
            .as_mut()
            .and_then(|call| call.host_calls.get_mut(&header.call));
        let Some(host_call) = host_call else { return };
        match header.kind {
            Kind::Reply => host_call.reply(message),
            Kind::Error => host_call.fail(message.decode_body().unwrap_or_else(|_| {
                WireError::new(ErrorCode::Internal, "the error of the host call cannot be read")
            })),
            Kind::StreamChunk => {
                if let Err(violation) = host_call.push(message.raw) {
                    give_up(violation);
                }
            }
            _ => host_call.finish(header.flags.contains(Flags::ABORTED)),
        }
        if let Some((bytes, header)) = host_call.refill() {
            self.link
                .send(&Message::with_body(header, &StreamCredit { bytes }));
        }
    }
}

/// The header of a request on behalf of the running call.
fn host_call_header(call: &Call, target: Service, operation: u16) -> Header {
    let remaining = call
        .deadline
        .map(|deadline| deadline.saturating_duration_since(Instant::now()));
    Header {
        operation,
        class: call.header.class,
        attempt: call.header.attempt,
        // Zero would mean no deadline at all.
        remaining_us: remaining.map_or(0, |left| {
            u64::try_from(left.as_micros()).unwrap_or(u64::MAX).max(1)
        }),
        process: ProcessId::NONE,
        parent: call.header.process,
        project: call.header.project,
        calling_doee: call.header.target_doee,
        principal: call.header.principal,
        trace: call.header.trace,
        ..Header::new(Kind::Request, Service::Worker, target)
    }
}

fn end_request_stream(link: &mut Link, host_call: &mut HostCall, aborted: bool) {
    host_call.close_outflow();
    let flags = if aborted { Flags::ABORTED } else { Flags::NONE };
    link.send(&Message::bare(Header {
        kind: Kind::StreamEnd,
        flags,
        ..*host_call.header()
    }));
}

/// Tells the other side that nobody waits for a host call any more, unless it has ended.
pub(super) fn give_up_host_call(link: &mut Link, host_call: &mut HostCall) {
    if host_call.outflow().is_some() {
        end_request_stream(link, host_call, true);
    }
    if !host_call.has_ended() {
        link.send(&Message::bare(Header {
            kind: Kind::Cancel,
            flags: Flags::NONE,
            ..*host_call.header()
        }));
    }
}
