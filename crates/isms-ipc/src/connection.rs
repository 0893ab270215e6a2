//! One handshaken connection on tokio.
//!
//! Reading is the owner's: [`Receiver::next`] reads all that is there into one buffer and hands out
//! message by message, so an owner that stops asking stops the peer. Writing has one task: senders
//! append under a short lock, the task writes whatever has gathered with one system call.
//!
//! Invariants: a small message waits for at most [`outgoing::BULK_PER_WRITE`] chunks of streams;
//! unsent bytes are bounded; the connection lives as long as its [`Receiver`].
//!
//! Deliberately absent: reconnecting, calls and credit, which are the link's.

mod outgoing;
mod receiver;
mod sender;
mod socket;

use std::{
    future::poll_fn,
    io,
    sync::Arc,
    task::{Context, Poll, ready},
};

use isms_protocol::limits::HANDSHAKE_TIMEOUT;
use tokio::{net::UnixStream, time::timeout};

use crate::{
    ConnectionError,
    zmtp::{Engine, Event, Side},
};
use outgoing::Outgoing;
use socket::{ReadHalf, WriteHalf};

pub use receiver::Receiver;
pub use sender::Sender;

/// Makes connections.
#[derive(Debug)]
pub struct Connection;

impl Connection {
    /// Makes the ZMTP handshake over a connected stream, within `HANDSHAKE_TIMEOUT`. Spawns the
    /// task that writes, which ends with the connection.
    pub async fn establish(stream: UnixStream, side: Side) -> Result<(Sender, Receiver), ConnectionError> {
        let (mut read, mut write) = socket::split(stream).map_err(ConnectionError::Wait)?;
        let mut engine = Engine::new(side);
        timeout(HANDSHAKE_TIMEOUT, shake_hands(&mut engine, &mut read, &mut write))
            .await
            .map_err(|_| ConnectionError::HandshakeTimeout)??;
        let outgoing = Arc::new(Outgoing::default());
        let writer = tokio::spawn(outgoing::write(Arc::clone(&outgoing), write));
        let sender = Sender::new(Arc::clone(&outgoing));
        Ok((sender, Receiver::new(engine, read, outgoing, writer)))
    }
}

async fn shake_hands(
    engine: &mut Engine,
    read: &mut ReadHalf,
    write: &mut WriteHalf,
) -> Result<(), ConnectionError> {
    flush(engine, write).await?;
    loop {
        match engine.next_event() {
            Ok(Some(Event::Ready)) => return Ok(()),
            Ok(_) => {}
            Err(error) => {
                // The peer deserves to know, but not that anybody waits for it.
                if !engine.output().is_empty() {
                    let _ = write.try_write(engine.output());
                }
                return Err(error.into());
            }
        }
        if poll_fn(|context| poll_read(read, engine, context))
            .await
            .map_err(ConnectionError::Read)?
            == 0
        {
            return Err(ConnectionError::HandshakeClosed);
        }
    }
}

async fn flush(engine: &mut Engine, write: &mut WriteHalf) -> Result<(), ConnectionError> {
    let output = engine.output();
    let mut written = 0;
    while written < output.len() {
        let rest = &output[written..];
        written += poll_fn(|context| write.poll_write(context, rest))
            .await
            .map_err(ConnectionError::Write)?;
    }
    output.clear();
    Ok(())
}

/// Reads once into the engine; 0 is the end.
fn poll_read(read: &mut ReadHalf, engine: &mut Engine, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let len = ready!(read.poll_read(context, engine.space()))?;
    engine.received(len);
    Poll::Ready(Ok(len))
}
