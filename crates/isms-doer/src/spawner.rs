//! The Doer's channel to the spawner.

use std::{io, os::fd::OwnedFd};

use isms_sandbox::{
    linux::channel::{Channel, Datagram},
    spawner::{DecodeError, Event, Request},
};

/// The channel. Requests are small and few; one that cannot be sent at once means a hung spawner.
#[derive(Debug)]
pub(crate) struct Spawner {
    channel: Channel,
}

/// Why the spawner is not heard any more.
#[derive(Debug, thiserror::Error)]
pub enum SpawnerError {
    /// It has ended, or cut the channel.
    #[error("the spawner has closed the channel")]
    Closed,
    /// It said something that is no event.
    #[error("the spawner cannot be understood")]
    Decode(#[from] DecodeError),
    /// It sent too many or too few descriptors.
    #[error("the spawner sent {sent} descriptors instead of {expected}")]
    Descriptors {
        /// How many came.
        sent: usize,
        /// How many belong to the event.
        expected: usize,
    },
    /// The socket failed.
    #[error("the channel to the spawner failed")]
    Receive(#[from] io::Error),
}

impl Spawner {
    pub(crate) fn new(channel: OwnedFd) -> io::Result<Spawner> {
        Ok(Spawner {
            channel: Channel::new(channel)?,
        })
    }

    pub(crate) fn send(&self, request: &Request) -> io::Result<()> {
        self.channel.send(&request.encode(), &[])
    }

    /// Receives the next event and what came with it. Cancel-safe.
    pub(crate) async fn receive(&self) -> Result<(Event, Vec<OwnedFd>), SpawnerError> {
        let Datagram { bytes, descriptors } = self.channel.receive().await?.ok_or(SpawnerError::Closed)?;
        let event = Event::decode(&bytes)?;
        let (sent, expected) = (descriptors.len(), event.descriptors());
        if sent != expected {
            return Err(SpawnerError::Descriptors { sent, expected });
        }
        Ok((event, descriptors))
    }
}
