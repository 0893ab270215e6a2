//! Streams beside calls: chunks, ends and credit, passed on and accounted for.
//!
//! The Kernel keeps nothing of a stream but two numbers. A sender that spends more than its receiver
//! granted, and a receiver that grants more than a window, are cut. What belongs to a call or a
//! stream that has ended is late, and dropped.

use isms_protocol::{
    ErrorCode, Flags, Header, Kind, Message, Service, kernel::StreamCredit, limits::CHUNK_LEN_MAX,
};

use super::{
    ProcessKey,
    record::{Overrun, Process, State, Stream},
};
use crate::{
    core::Core,
    planted::{Bug, planted},
};

impl Core {
    /// A piece of a stream.
    pub(crate) fn chunk(&mut self, sender: Service, mut message: Message) {
        let towards_caller = message.header.flags.contains(Flags::TO_CALLER);
        let Some(key) = self.stream_of(sender, &message.header, towards_caller) else {
            return;
        };
        let Some(process) = self.table.get_mut(key) else {
            return;
        };
        let stream = process.stream_mut(towards_caller);
        if !stream.open || message.raw.is_empty() {
            return;
        }
        if message.raw.len() > CHUNK_LEN_MAX {
            return self.violation(sender, "sent a stream chunk that is too long");
        }
        if let Err(Overrun(what)) = stream.spend(message.raw.len()) {
            return self.violation(sender, what);
        }
        let (collecting, kept) = (matches!(process.state, State::Collecting { .. }), process.kept);
        if collecting {
            return self.collect_request(key, &message.raw);
        }
        if kept {
            return self.collect_reply(key, &message.raw);
        }
        message.body.clear();
        self.pass_on(key, towards_caller, message);
    }

    /// A stream is complete, or broken off.
    pub(crate) fn stream_end(&mut self, sender: Service, header: &Header) {
        let towards_caller = header.flags.contains(Flags::TO_CALLER);
        let Some(key) = self.stream_of(sender, header, towards_caller) else {
            return;
        };
        let Some(process) = self.table.get_mut(key) else {
            return;
        };
        let aborted = Flags(header.flags.0 & Flags::ABORTED.0);
        if matches!(process.state, State::Collecting { .. }) {
            return match aborted {
                Flags::NONE => self.collected(key),
                _ => self.give_up(key, ErrorCode::Invalid),
            };
        }
        if let State::Queued { request_ended, .. } = &mut process.state {
            request_ended.get_or_insert(aborted);
            return;
        }
        if !towards_caller {
            return self.end_request_stream(key, aborted);
        }
        if std::mem::replace(&mut process.reply.open, false) {
            if process.kept {
                self.reply_collected(key, aborted != Flags::NONE);
                return self.settle(key);
            }
            self.pass_on(key, true, Message::bare(*header));
            self.settle(key);
        }
    }

    /// A receiver allows more bytes of a stream. Travels against the stream.
    pub(crate) fn credit(&mut self, receiver: Service, message: &Message) {
        let towards_caller = message.header.flags.contains(Flags::TO_CALLER);
        let Ok(StreamCredit { bytes }) = message.decode_body() else {
            return self.violation(receiver, "sent credit that cannot be decoded");
        };
        if !towards_caller && self.reader_allows((receiver, message.header.call), bytes) {
            return;
        }
        let Some(key) = self.stream_of(receiver, &message.header, towards_caller) else {
            return;
        };
        let Some(process) = self.table.get_mut(key) else {
            return;
        };
        let stream = process.stream_mut(!towards_caller);
        if !stream.open || (planted(Bug::SkipsCredit) && towards_caller) {
            return;
        }
        if let Err(Overrun(what)) = stream.grant(bytes) {
            return self.violation(receiver, what);
        }
        if process.kept {
            return self.feed(key);
        }
        self.pass_on(key, towards_caller, message.clone());
    }

    /// Tells the callee that no more of the request's stream comes.
    pub(super) fn end_request_stream(&mut self, key: ProcessKey, aborted: Flags) {
        let Some(process) = self.table.get_mut(key) else {
            return;
        };
        if !std::mem::replace(&mut process.request.open, false) {
            return;
        }
        let drained = matches!(process.state, State::Draining);
        let header = process.towards_callee(key, Kind::StreamEnd, aborted);
        self.send_to(header.target, Message::bare(header));
        if drained {
            self.discard(key);
        }
    }

    /// The process that a stream's message belongs to: found by the callee's call id when it
    /// travels towards the caller, else by the caller's.
    fn stream_of(&self, sender: Service, header: &Header, towards_caller: bool) -> Option<ProcessKey> {
        if !towards_caller {
            return self.call_of(sender, header.call);
        }
        let key = ProcessKey::from_call(header.call);
        let process = self.table.get(key)?;
        let at_sender = process.callee() == sender && !process.is_queued();
        at_sender.then_some(key)
    }

    fn pass_on(&mut self, key: ProcessKey, towards_caller: bool, message: Message) {
        let Some(process) = self.table.get(key) else {
            return;
        };
        let Header { kind, flags, .. } = message.header;
        let (to, header) = match towards_caller {
            true if !process.caller_knows => return,
            true => (process.header.sender, process.towards_caller(kind, flags)),
            false => (process.callee(), process.towards_callee(key, kind, flags)),
        };
        self.send_to(to, Message { header, ..message });
    }
}

impl Process {
    fn stream_mut(&mut self, towards_caller: bool) -> &mut Stream {
        match towards_caller {
            true => &mut self.reply,
            false => &mut self.request,
        }
    }
}
