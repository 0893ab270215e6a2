//! What the Kernel knows of one process.

use bytes::Bytes;
use isms_protocol::{ErrorCode, Flags, Header, Kind, Service, limits::STREAM_LEN_MAX, limits::STREAM_WINDOW};

use super::{ProcessKey, traced::Traced};
use crate::{
    clock::Moment,
    scheduler::{Occupied, QueueIndex, Ticket},
};

/// A process that has not ended.
pub(crate) struct Process {
    /// The request's header with authority filled in. `call` is the caller's, `sender` the caller.
    pub(crate) header: Header,
    /// False once nobody waits for the answer: it was given, or the caller is gone.
    pub(crate) caller_waits: bool,
    /// False once the call is not in its caller's list: the caller is gone or was given up.
    pub(crate) caller_knows: bool,
    /// True once it was accepted as an asynchronous call: its answer goes into its record.
    pub(crate) kept: bool,
    /// True for an attempt of a call that survives the Kernel.
    pub(crate) durable: bool,
    pub(crate) accepted_at: Moment,
    pub(crate) deadline: Option<Moment>,
    /// When the Kernel looks at it again.
    pub(crate) timer: Option<Moment>,
    pub(crate) depth: u32,
    pub(crate) parent: Option<ProcessKey>,
    pub(crate) children: Vec<ProcessKey>,
    pub(crate) queue: QueueIndex,
    /// Its callee's capacity, while it has some.
    pub(crate) occupied: Option<Occupied>,
    pub(crate) state: State,
    /// Bytes from the caller to the callee.
    pub(crate) request: Stream,
    /// Bytes from the callee to the caller.
    pub(crate) reply: Stream,
    /// What is noted of it if it is traced.
    pub(crate) traced: Option<Box<Traced>>,
}

/// How far a process is.
#[derive(Debug)]
pub(crate) enum State {
    /// The body of an asynchronous call is on its way; it has no place in a queue yet.
    Collecting { body: Bytes, raw: Bytes },
    /// Its record is on its way into the journal; it has a place in its queue.
    Committing,
    /// Waits for the time of its next attempt, with a place in its queue.
    Resting,
    /// An attempt of it may be running, or not: the Doer will say. It has a place in its queue.
    Held,
    /// In its queue; body and raw bytes are kept until it is dispatched.
    Queued {
        ticket: Ticket,
        body: Bytes,
        raw: Bytes,
        request_ended: Option<Flags>,
    },
    /// At the callee. `stop` is set once it was asked to stop, and says with what the Kernel answers in
    /// its place when the grace period ends.
    Running { replied: bool, stop: Option<ErrorCode> },
    /// The callee is done with it; only the request's stream is still open.
    Draining,
}

impl Process {
    /// The callee's service.
    pub(crate) fn callee(&self) -> Service {
        self.header.target
    }

    /// True while the callee works on it.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// True while it waits in its queue, or for the body with which it goes there.
    pub(crate) fn is_queued(&self) -> bool {
        matches!(self.state, State::Collecting { .. } | State::Queued { .. }) || self.has_place()
    }

    /// True while it is not known whether it runs.
    pub(crate) fn is_held(&self) -> bool {
        matches!(self.state, State::Held)
    }

    /// True while it has a place in its queue and does not wait in it.
    pub(crate) fn has_place(&self) -> bool {
        matches!(self.state, State::Committing | State::Resting | State::Held)
    }

    /// The header of a message to the callee about this process.
    pub(crate) fn towards_callee(&self, key: ProcessKey, kind: Kind, flags: Flags) -> Header {
        Header {
            kind,
            flags,
            call: key.call(),
            ..self.header
        }
    }

    /// The header of a message to the caller about this process.
    pub(crate) fn towards_caller(&self, kind: Kind, flags: Flags) -> Header {
        Header {
            flags,
            ..self.header.answer(kind)
        }
    }
}

/// One direction of bytes beside a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    pub(crate) open: bool,
    credit: u32,
    left: u64,
}

/// A peer broke the rules of streams.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overrun(pub(crate) &'static str);

impl Stream {
    pub(crate) fn new(open: bool) -> Stream {
        Stream {
            open,
            credit: 0,
            left: STREAM_LEN_MAX,
        }
    }

    /// Bytes that may be sent now.
    pub(crate) fn credit(&self) -> u32 {
        self.credit
    }

    /// The receiver allows more bytes.
    pub(crate) fn grant(&mut self, bytes: u32) -> Result<(), Overrun> {
        let credit = self
            .credit
            .checked_add(bytes)
            .filter(|&credit| credit <= STREAM_WINDOW);
        self.credit = credit.ok_or(Overrun("granted more stream credit than a window"))?;
        Ok(())
    }

    /// The sender has sent bytes.
    pub(crate) fn spend(&mut self, bytes: usize) -> Result<(), Overrun> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.credit = self
            .credit
            .checked_sub(bytes)
            .ok_or(Overrun("sent beyond its stream credit"))?;
        self.left = self
            .left
            .checked_sub(bytes.into())
            .ok_or(Overrun("sent a stream beyond its length"))?;
        Ok(())
    }
}
