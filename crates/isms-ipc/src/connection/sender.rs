//! The sending end of a connection: cheap to clone, callable from anywhere.

use std::sync::Arc;

use isms_protocol::{Message, limits::MESSAGE_LEN_MAX};
use tokio::sync::OwnedSemaphorePermit;

use super::outgoing::Outgoing;
use crate::SendError;

/// The right to queue one chunk.
pub(crate) type Turn = OwnedSemaphorePermit;

/// Sends on a connection.
#[derive(Clone, Debug)]
pub struct Sender {
    outgoing: Arc<Outgoing>,
}

impl Sender {
    pub(super) fn new(outgoing: Arc<Outgoing>) -> Sender {
        Sender { outgoing }
    }

    /// Queues a message; the connection's task writes it at its next turn. Chunks and ends of
    /// streams keep their order among themselves and let all other messages pass.
    ///
    /// Never waits: a peer that leaves more than `CONNECTION_UNSENT_MAX` bytes unread is given up.
    pub fn send(&self, message: &Message) -> Result<(), SendError> {
        check_len(message)?;
        self.outgoing.push(message, None)
    }

    /// Waits for a turn among the streams of the connection. Whoever produces a stream asks for one
    /// per chunk, so that few chunks wait unsent however many streams there are.
    pub(crate) async fn next_turn(&self) -> Result<Turn, SendError> {
        self.outgoing.next_turn().await
    }

    /// Queues a chunk; its turn ends when it is written.
    pub(crate) fn send_in_turn(&self, chunk: &Message, turn: Turn) -> Result<(), SendError> {
        check_len(chunk)?;
        self.outgoing.push(chunk, Some(turn))
    }

    /// Bytes queued that the peer has not taken yet.
    pub fn unsent_len(&self) -> usize {
        self.outgoing.unsent_len()
    }

    /// Ends the connection when what is queued has been written, or its peer does not take it
    /// within a second. The receiver ends at once.
    pub fn close(&self) {
        self.outgoing.close();
    }

    /// True when nothing can be sent any more.
    pub fn is_closed(&self) -> bool {
        self.outgoing.is_closed()
    }
}

fn check_len(message: &Message) -> Result<(), SendError> {
    match message.len() {
        len if len > MESSAGE_LEN_MAX => Err(SendError::TooLarge { len }),
        _ => Ok(()),
    }
}
