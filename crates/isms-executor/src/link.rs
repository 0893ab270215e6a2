//! The data channel to the Doer, and what waits on it while a call runs.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use isms_ipc::blocking::Connection;
use isms_ipc::{ConnectionError, Side};
use isms_protocol::kernel::StreamCredit;
use isms_protocol::{ErrorCode, Flags, Header, Kind, Message, WireError};

use crate::body::Body;
use crate::call::Received;
use crate::exit::give_up;
use crate::limits::{DRAINING_MAX, WAITING_CALLS_MAX};

/// The data channel. A channel that breaks ends the process.
pub(crate) struct Link {
    connection: Connection,
    waiting: VecDeque<Received>,
    draining: Vec<(Header, Body)>,
    next_call: u64,
}

impl Link {
    /// Shakes hands over an inherited stream.
    pub(crate) fn establish(data: OwnedFd) -> Result<Link, ConnectionError> {
        let connection = Connection::establish(UnixStream::from(data), Side::Connect)?;
        Ok(Link {
            connection,
            waiting: VecDeque::new(),
            draining: Vec::new(),
            next_call: 1,
        })
    }

    /// True when a message has been read already and the descriptor need not become readable for it.
    pub(crate) fn is_buffered(&self) -> bool {
        self.connection.buffered()
    }

    /// Sends a message, waiting for room.
    pub(crate) fn send(&mut self, message: &Message) {
        if let Err(error) = self.connection.send(message) {
            give_up(format_args!("the data channel cannot be written: {error}"));
        }
    }

    /// Receives the next message; `None` when `until` comes first.
    pub(crate) fn receive(&mut self, until: Option<Instant>) -> Option<Message> {
        self.receive_within(until.map(|until| until.saturating_duration_since(Instant::now())))
    }

    /// Receives the next message if it is here.
    pub(crate) fn try_receive(&mut self) -> Option<Message> {
        self.receive_within(Some(Duration::ZERO))
    }

    fn receive_within(&mut self, timeout: Option<Duration>) -> Option<Message> {
        match self.connection.receive(timeout) {
            Ok(None) if self.connection.is_closed() => give_up("the Doer closed the data channel"),
            Ok(message) => message,
            Err(error) => give_up(format_args!("the data channel cannot be read: {error}")),
        }
    }

    /// A number for a host call that no other one has.
    pub(crate) fn next_call(&mut self) -> u64 {
        self.next_call += 1;
        self.next_call
    }

    /// The call that has waited longest.
    pub(crate) fn next_waiting(&mut self) -> Option<Received> {
        self.waiting.pop_front()
    }

    /// Keeps reading, and forgetting, a request's stream that the ended call has not read to its end.
    pub(crate) fn drain(&mut self, header: Header, mut body: Body) {
        if !body.is_open() {
            return;
        }
        if self.draining.len() == DRAINING_MAX {
            give_up("too many request streams are open");
        }
        body.discard();
        self.grant(&header, &mut body);
        self.draining.push((header, body));
    }

    /// Gives the sender of a request's stream the credit that it may have now.
    pub(crate) fn grant(&mut self, header: &Header, body: &mut Body) {
        if let Some(bytes) = body.refill() {
            let answer = Header {
                flags: Flags::TO_CALLER,
                ..header.answer(Kind::Credit)
            };
            self.send(&Message::with_body(answer, &StreamCredit { bytes }));
        }
    }

    /// Answers a request that will not run with an error, and throws its stream away.
    pub(crate) fn refuse(&mut self, request: &Header, code: ErrorCode, message: &str) {
        self.send(&Message::error_answer(request, &WireError::new(code, message)));
        if request.flags.contains(Flags::STREAM) {
            self.drain(*request, Body::stream(""));
        }
    }

    /// Sends a chunk of a reply's stream.
    pub(crate) fn send_chunk(&mut self, request: &Header, chunk: Bytes) {
        let header = Header {
            flags: Flags::TO_CALLER,
            ..request.answer(Kind::StreamChunk)
        };
        self.send(&Message::bare(header).with_raw(chunk));
    }

    /// Ends a reply's stream.
    pub(crate) fn send_end(&mut self, request: &Header, aborted: bool) {
        let flags = if aborted {
            Flags::TO_CALLER.with(Flags::ABORTED)
        } else {
            Flags::TO_CALLER
        };
        self.send(&Message::bare(Header {
            flags,
            ..request.answer(Kind::StreamEnd)
        }));
    }

    /// Takes a request that must wait for its turn.
    pub(crate) fn enqueue(&mut self, message: Message) {
        if self.waiting.len() == WAITING_CALLS_MAX {
            give_up(format_args!("more than {WAITING_CALLS_MAX} calls wait"));
        }
        self.waiting.push_back(Received::now(message));
    }

    /// Takes the cancel of a call that waits; an unknown one is late and of no interest.
    pub(crate) fn cancel_waiting(&mut self, call: u64) {
        let Some(index) = self
            .waiting
            .iter()
            .position(|received| received.message.header.call == call)
        else {
            return;
        };
        if let Some(received) = self.waiting.remove(index) {
            self.refuse(
                &received.message.header,
                ErrorCode::Cancelled,
                "cancelled before it ran",
            );
        }
    }

    /// Takes a piece of a stream whose call is not the running one.
    pub(crate) fn take_piece(&mut self, message: Message) {
        let call = message.header.call;
        let mut waiting = self.waiting.iter_mut();
        if let Some(received) = waiting.find(|received| received.message.header.call == call) {
            if message.header.kind == Kind::StreamEnd {
                received.stream_end = Some(message.header.flags);
            }
            return;
        }
        let Some(index) = self.draining.iter().position(|(header, _)| header.call == call) else {
            return;
        };
        let (header, mut body) = self.draining.swap_remove(index);
        if message.header.kind == Kind::StreamEnd {
            return;
        }
        if let Err(violation) = body.push(message.raw) {
            give_up(violation);
        }
        body.discard();
        self.grant(&header, &mut body);
        self.draining.push((header, body));
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}
