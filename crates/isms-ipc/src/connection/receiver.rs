//! The receiving end of a connection: the owner of the connection's life.

use std::{
    future::{Future, poll_fn},
    io::ErrorKind,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use isms_protocol::Message;
use tokio::{
    task::JoinHandle,
    time::{Sleep, sleep},
};

use super::{
    outgoing::{CLOSE_TIMEOUT, Outgoing},
    poll_read,
    socket::ReadHalf,
};
use crate::{
    ConnectionError, wire,
    zmtp::{Engine, Event},
};

/// Receives on a connection. Dropping it ends the connection.
#[derive(Debug)]
pub struct Receiver {
    engine: Engine,
    read: ReadHalf,
    outgoing: Arc<Outgoing>,
    writer: JoinHandle<()>,
    /// Why nothing can be written any more, and until when the rest is read nevertheless.
    unwritable: Option<(ConnectionError, Pin<Box<Sleep>>)>,
    ended: bool,
}

impl Receiver {
    pub(super) fn new(
        engine: Engine,
        read: ReadHalf,
        outgoing: Arc<Outgoing>,
        writer: JoinHandle<()>,
    ) -> Receiver {
        Receiver {
            engine,
            read,
            outgoing,
            writer,
            unwritable: None,
            ended: false,
        }
    }

    /// The next message; `None` when the connection was closed, by either side. Cancel-safe.
    /// An error is final.
    pub async fn next(&mut self) -> Result<Option<Message>, ConnectionError> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// The next message among what has been read already; `None` when there is none. Lets an owner
    /// handle everything that came with one read before the answers are written together.
    pub fn try_next(&mut self) -> Result<Option<Message>, ConnectionError> {
        if self.ended {
            return Ok(None);
        }
        let message = self.decode();
        if message.is_err() {
            self.end();
        }
        message
    }

    /// As [`Receiver::next`], for an owner that waits for several connections at once.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Message>, ConnectionError>> {
        loop {
            if let Some(message) = self.try_next().transpose() {
                return Poll::Ready(message.map(Some));
            }
            if self.ended {
                return Poll::Ready(Ok(None));
            }
            match poll_read(&mut self.read, &mut self.engine, context) {
                Poll::Ready(Ok(0)) => self.end(),
                Poll::Ready(Ok(_)) => {}
                // A peer that dies with our bytes unread resets the connection: it has closed it.
                Poll::Ready(Err(error)) if error.kind() == ErrorKind::ConnectionReset => self.end(),
                Poll::Ready(Err(error)) => {
                    self.end();
                    return Poll::Ready(Err(ConnectionError::Read(error)));
                }
                Poll::Pending => return self.poll_writer(context),
            }
        }
    }

    /// Ends the connection and waits until what was queued has been written (or cannot be).
    pub async fn shut_down(mut self) {
        self.end();
        // The task neither panics nor is aborted; a runtime that stops is the only other reason.
        let _ = (&mut self.writer).await;
    }

    fn decode(&mut self) -> Result<Option<Message>, ConnectionError> {
        let message = match self.engine.next_event()? {
            Some(Event::Message(frames)) => Some(wire::read(&frames)?),
            Some(Event::Ready) | None => None,
        };
        if !self.engine.output().is_empty() {
            self.outgoing.push_pongs(self.engine.output());
        }
        Ok(message)
    }

    /// The writer's end is the connection's end, though nothing more can be read. A write that failed
    /// is not yet: it says that the peer has closed, and what it sent before that is still to come.
    fn poll_writer(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Message>, ConnectionError>> {
        let failure = if let Some((_, patience)) = &mut self.unwritable {
            ready!(patience.as_mut().poll(context));
            self.unwritable.take().map(|(error, _)| error)
        } else {
            match ready!(self.outgoing.poll_end(context)) {
                Some(error @ ConnectionError::Write(_)) => {
                    self.unwritable = Some((error, Box::pin(sleep(CLOSE_TIMEOUT))));
                    return self.poll_writer(context);
                }
                failure => failure,
            }
        };
        self.end();
        Poll::Ready(failure.map_or(Ok(None), Err))
    }

    fn end(&mut self) {
        self.ended = true;
        self.outgoing.close();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.end();
    }
}
