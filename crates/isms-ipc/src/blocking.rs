//! The driver without a runtime, for the Doee Executor: one connection, `poll`, no threads.
//!
//! Invariants: nothing is allocated per message but what the message keeps; a peer that stops
//! reading blocks [`Connection::send`] and nothing else.

use std::{
    io::{ErrorKind, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use isms_protocol::{
    Message,
    limits::{HANDSHAKE_TIMEOUT, MESSAGE_LEN_MAX},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use crate::{
    ConnectionError, wire,
    zmtp::{Engine, Event, Side},
};

/// Room that the output buffer keeps between messages.
const OUTPUT_LEN_KEPT: usize = 64 * 1024;

/// A handshaken connection that carries messages.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    engine: Engine,
    output: Vec<u8>,
    closed: bool,
}

impl Connection {
    /// Makes the ZMTP handshake over a connected stream, within `HANDSHAKE_TIMEOUT`.
    pub fn establish(stream: UnixStream, side: Side) -> Result<Connection, ConnectionError> {
        stream.set_nonblocking(true).map_err(ConnectionError::Wait)?;
        let mut connection = Connection {
            stream,
            engine: Engine::new(side),
            output: Vec::new(),
            closed: false,
        };
        connection.flush()?;
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        loop {
            if let Some(Event::Ready) = connection.engine.next_event()? {
                return Ok(connection);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !connection.wait(PollFlags::IN, Some(left))? {
                return Err(ConnectionError::HandshakeTimeout);
            }
            connection.read()?;
            if connection.closed {
                return Err(ConnectionError::HandshakeClosed);
            }
        }
    }

    /// Sends a message, and whatever is queued; waits while the peer's buffer is full.
    pub fn send(&mut self, message: &Message) -> Result<(), ConnectionError> {
        self.queue(message)?;
        self.flush()
    }

    /// Queues a message for the next [`Connection::flush`] or [`Connection::send`].
    pub fn queue(&mut self, message: &Message) -> Result<(), ConnectionError> {
        if message.len() > MESSAGE_LEN_MAX {
            return Err(ConnectionError::TooLarge { len: message.len() });
        }
        wire::put(&mut self.output, message);
        Ok(())
    }

    /// Writes what is queued, waiting while the peer's buffer is full.
    pub fn flush(&mut self) -> Result<(), ConnectionError> {
        self.output.append(self.engine.output());
        let mut written = 0;
        while written < self.output.len() {
            match (&self.stream).write(&self.output[written..]) {
                Ok(len) => written += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.wait(PollFlags::OUT, None)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(ConnectionError::Write(error)),
            }
        }
        self.output.clear();
        self.output.shrink_to(OUTPUT_LEN_KEPT);
        Ok(())
    }

    /// Receives a message; `None` when the timeout has passed without one, or when the peer has
    /// closed ([`Connection::is_closed`] tells). Without a timeout it waits as long as it takes.
    pub fn receive(&mut self, timeout: Option<Duration>) -> Result<Option<Message>, ConnectionError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            if let Some(Event::Message(frames)) = self.engine.next_event()? {
                return Ok(Some(wire::read(&frames)?));
            }
            if !self.engine.output().is_empty() {
                self.flush()?;
            }
            if self.closed {
                return Ok(None);
            }
            // A caller that has polled by itself wants what is there: that is one system call.
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let expired = left.is_some_and(|left| left.is_zero());
            if !expired {
                self.wait(PollFlags::IN, left)?;
            }
            if !self.read()? && expired {
                return Ok(None);
            }
        }
    }

    /// True when a message may be received without waiting for the socket: look here before a
    /// `poll` of one's own.
    pub fn buffered(&self) -> bool {
        self.engine.buffered()
    }

    /// True when the peer has closed the connection and everything it sent has been read.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Reads once what is there; false when that was nothing.
    fn read(&mut self) -> Result<bool, ConnectionError> {
        match (&self.stream).read(self.engine.space()) {
            Ok(0) => self.closed = true,
            Ok(len) => {
                self.engine.received(len);
                return Ok(true);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            // A peer that dies with our bytes unread resets the connection: it has closed it.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => self.closed = true,
            Err(error) => return Err(ConnectionError::Read(error)),
        }
        Ok(false)
    }

    /// Waits for readiness; false when the timeout has passed. A signal counts as readiness.
    fn wait(&self, flags: PollFlags, timeout: Option<Duration>) -> Result<bool, ConnectionError> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let mut descriptors = [PollFd::new(&self.stream, flags)];
        match poll(&mut descriptors, timeout.as_ref()) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(true),
            Err(error) => Err(ConnectionError::Wait(error.into())),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
