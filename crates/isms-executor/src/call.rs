//! The running call: what triggered it, as the ABI shows it, and how far it is.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use isms_doee_sys as sys;
use isms_protocol::dbriver::Sequence;
use isms_protocol::doer::{Invocation, Trigger};
use isms_protocol::{DecodeError, Flags, Header, Message, decode};
use isms_sandbox::linux::clock;

use crate::body::Body;
use crate::host_call::HostCall;
use crate::refusal::Refusal;
use crate::response::Response;

/// A request as it came, with the time by which it must be answered.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) message: Message,
    pub(crate) deadline: Option<Instant>,
    /// How its stream ended before it began: nothing of a stream comes without credit but its end.
    pub(crate) stream_end: Option<Flags>,
}

impl Received {
    /// Takes note of when a request came.
    pub(crate) fn now(message: Message) -> Received {
        let remaining_us = message.header.remaining_us;
        let deadline = match remaining_us {
            0 => None,
            _ => Instant::now().checked_add(Duration::from_micros(remaining_us)),
        };
        Received {
            message,
            deadline,
            stream_end: None,
        }
    }
}

/// The call that the Doee works on.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) header: Header,
    pub(crate) deadline: Option<Instant>,
    pub(crate) cancelled: bool,
    pub(crate) request: RequestView,
    pub(crate) body: Body,
    pub(crate) response: Response,
    pub(crate) host_calls: BTreeMap<u64, HostCall>,
    /// Transactions that it has begun.
    pub(crate) transactions: u32,
    /// The first of them that the Doee let go of without having seen how it ended.
    pub(crate) never_seen: Option<u32>,
}

impl Call {
    /// Decodes a request to run the Doee.
    pub(crate) fn new(received: Received) -> Result<Call, DecodeError> {
        let Received {
            message,
            deadline,
            stream_end,
        } = received;
        let invocation: Invocation = decode(&message.body)?;
        let streams = message.header.flags.contains(Flags::STREAM);
        let body_len = if streams {
            invocation.payload_len
        } else {
            Some(message.raw.len() as u64)
        };
        let body = if streams {
            let mut body = Body::stream("the sender of the request's body broke off");
            if let Some(flags) = stream_end {
                // Nothing came, so nothing can be too much.
                let _ = body.finish(flags.contains(Flags::ABORTED));
            }
            body
        } else {
            Body::inline(message.raw)
        };
        Ok(Call {
            header: message.header,
            deadline,
            cancelled: false,
            request: RequestView::new(invocation, &message.header, deadline, body_len),
            body,
            response: Response::default(),
            host_calls: BTreeMap::new(),
            transactions: 0,
            never_seen: None,
        })
    }

    /// The place of the call's next transaction. It depends on nothing but what the Doee has asked and been told, so
    /// that another attempt counts alike: neither on what was refused, nor on answers that it has not looked at.
    pub(crate) fn next_transaction(&self) -> Result<Sequence, Refusal> {
        let number = self.transactions.checked_add(1);
        let number = number.ok_or_else(|| Refusal::limit("the call has run too many transactions"))?;
        let unseen = self.host_calls.values().filter_map(HostCall::unseen_transaction);
        let first_unseen = unseen.chain(self.never_seen).min();
        Ok(Sequence {
            number,
            settled: first_unseen.unwrap_or(number) - 1,
        })
    }

    /// Lets go of a host call.
    pub(crate) fn remove_host_call(&mut self, handle: u64) -> Option<HostCall> {
        let host_call = self.host_calls.remove(&handle)?;
        let unseen = self.never_seen.into_iter().chain(host_call.unseen_transaction());
        self.never_seen = unseen.min();
        Some(host_call)
    }

    /// Fails when it is time to stop.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        if self.cancelled {
            return Err(Refusal::cancelled());
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(Refusal::deadline());
        }
        Ok(())
    }
}

/// What the Doee sees of the request: ABI structs that point into what is kept beside them.
#[derive(Debug)]
pub(crate) struct RequestView {
    view: Box<sys::Request>,
    _invocation: Invocation,
    _texts: [String; 2],
    _pairs: [Vec<sys::Pair>; 2],
}

impl RequestView {
    fn new(
        invocation: Invocation,
        header: &Header,
        deadline: Option<Instant>,
        body_len: Option<u64>,
    ) -> RequestView {
        let texts = [header.process.to_string(), traceparent(header)];
        let pair = |name: &str, value: &[u8]| sys::Pair {
            name: text(name),
            value: sys::Text::of(value),
        };
        let parameters: Vec<_> = invocation
            .parameters
            .iter()
            .map(|(name, value)| pair(name, value.as_bytes()))
            .collect();
        let headers: Vec<_> = invocation
            .headers
            .iter()
            .map(|(name, value)| pair(name, value))
            .collect();
        let view = Box::new(sys::Request {
            size: size_of::<sys::Request>(),
            trigger: match invocation.trigger {
                Trigger::Http => sys::TRIGGER_HTTP,
                Trigger::Direct => sys::TRIGGER_DIRECT,
                Trigger::Schedule => sys::TRIGGER_SCHEDULE,
                Trigger::Call => sys::TRIGGER_CALL,
            },
            attempt: header.attempt,
            invocation_id: text(&texts[0]),
            method: text(&invocation.method),
            path: text(&invocation.path),
            route: text(&invocation.route),
            query: text(&invocation.query),
            principal: text(&invocation.principal),
            trace: text(&texts[1]),
            deadline_us: deadline.map_or(0, monotonic_us),
            body_len: body_len.unwrap_or(sys::LEN_UNKNOWN),
            parameters: parameters.as_ptr(),
            parameter_count: parameters.len(),
            headers: headers.as_ptr(),
            header_count: headers.len(),
        });
        RequestView {
            view,
            _invocation: invocation,
            _texts: texts,
            _pairs: [parameters, headers],
        }
    }

    /// The struct to hand to the Doee; good while this call lives.
    pub(crate) fn as_ptr(&self) -> *const sys::Request {
        &raw const *self.view
    }
}

fn text(text: &str) -> sys::Text {
    sys::Text::of(text.as_bytes())
}

fn traceparent(header: &Header) -> String {
    format!("00-{}-{}-01", header.trace.trace, header.trace.span)
}

/// A point in time on CLOCK_MONOTONIC, which `Instant` hides.
fn monotonic_us(at: Instant) -> u64 {
    let left = at.saturating_duration_since(Instant::now());
    u64::try_from(clock::monotonic().saturating_add(left).as_micros()).unwrap_or(u64::MAX)
}
