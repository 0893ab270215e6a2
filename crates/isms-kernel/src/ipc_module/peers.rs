//! The connections of all peers.

use std::task::{Context, Poll};

use isms_ipc::{Receiver, SendError, Sender};
use isms_protocol::{Kind, Message};
use tracing::{error, warn};

use crate::PeerId;

/// Messages taken from one peer before the others have their turn.
const HEARD_PER_PEER_MAX: usize = 256;

/// Unsent bytes of a peer above which it gets no more events: they may be dropped, answers may not.
const EVENT_UNSENT_MAX: usize = 1024 * 1024;

/// A message of a peer; `None` when its connection has ended.
pub(super) type Heard = (PeerId, Option<Message>);

struct Peer {
    id: PeerId,
    sender: Sender,
    receiver: Receiver,
    ended: bool,
}

/// All connections that have shaken hands.
#[derive(Default)]
pub(super) struct Peers {
    peers: Vec<Peer>,
    last_id: u64,
    heard: Vec<Heard>,
    failed: Vec<PeerId>,
}

impl Peers {
    pub(super) fn add(&mut self, sender: Sender, receiver: Receiver) -> PeerId {
        self.last_id += 1;
        let id = PeerId(self.last_id);
        self.peers.push(Peer {
            id,
            sender,
            receiver,
            ended: false,
        });
        id
    }

    pub(super) fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Ends a connection, after what is queued for it has been written.
    pub(super) fn remove(&mut self, id: PeerId) {
        self.peers.retain(|peer| peer.id != id);
    }

    /// Reads whatever is there; ready when that is something. Keeps it until [`Peers::take_heard`].
    pub(super) fn poll_heard(&mut self, context: &mut Context<'_>) -> Poll<()> {
        for peer in &mut self.peers {
            peer.poll_heard(context, &mut self.heard);
        }
        match self.heard.is_empty() {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }

    /// Takes out what was read; [`Peers::reuse`] brings the buffer back.
    pub(super) fn take_heard(&mut self) -> Vec<Heard> {
        std::mem::take(&mut self.heard)
    }

    pub(super) fn reuse(&mut self, heard: Vec<Heard>) {
        self.heard = heard;
    }

    /// Sends to a peer. False for an event that was dropped because the peer has too much to read.
    pub(super) fn send(&mut self, id: PeerId, message: &Message) -> bool {
        let Some(peer) = self.peers.iter().find(|peer| peer.id == id) else {
            return true;
        };
        if message.header.kind == Kind::Event && peer.sender.unsent_len() > EVENT_UNSENT_MAX {
            return false;
        }
        match peer.sender.send(message) {
            Ok(()) => {}
            Err(error @ SendError::TooLarge { .. }) => {
                error!(peer = id.0, %error, "could not pass on a message")
            }
            Err(error) => {
                warn!(peer = id.0, %error, "gave up a connection");
                self.remove(id);
                self.failed.push(id);
            }
        }
        true
    }

    /// A peer that could not be sent to and is gone.
    pub(super) fn take_failed(&mut self) -> Option<PeerId> {
        self.failed.pop()
    }
}

impl Peer {
    fn poll_heard(&mut self, context: &mut Context<'_>, heard: &mut Vec<Heard>) {
        if self.ended {
            return;
        }
        for _ in 0..HEARD_PER_PEER_MAX {
            match self.receiver.poll_next(context) {
                Poll::Pending => return,
                Poll::Ready(Ok(Some(message))) => heard.push((self.id, Some(message))),
                Poll::Ready(end) => {
                    if let Err(error) = end {
                        warn!(peer = self.id.0, %error, "lost a connection");
                    }
                    self.ended = true;
                    heard.push((self.id, None));
                    return;
                }
            }
        }
        // There may be more, of which no wake-up tells.
        context.waker().wake_by_ref();
    }
}
