//! A SEQPACKET socket on a tokio runtime: the channels of roles to supervisor, spawner and executors.
#![allow(unsafe_code)] // registering a descriptor with the runtime

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

use super::{descriptor, seqpacket};

/// Longest datagram on a channel.
pub const DATAGRAM_LEN_MAX: usize = 60 * 1024;

/// One received datagram.
#[derive(Debug)]
pub struct Datagram {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Descriptors that came with it.
    pub descriptors: Vec<OwnedFd>,
}

/// One end of a SEQPACKET pair.
#[derive(Debug)]
pub struct Channel {
    socket: AsyncFd<OwnedFd>,
}

impl Channel {
    /// Takes over an end. Must be called on a runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Channel> {
        descriptor::set_nonblocking(socket.as_fd(), true)?;
        // SAFETY: an OwnedFd gives the same open descriptor each time, until it is dropped with the AsyncFd.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE)? };
        Ok(Channel { socket })
    }

    /// Sends one datagram at once; a peer that does not read makes it fail with `WouldBlock`.
    pub fn send(&self, datagram: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if datagram.len() > DATAGRAM_LEN_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the datagram is longer than 60 KiB",
            ));
        }
        seqpacket::send(self.socket.as_fd(), datagram, descriptors)
    }

    /// Receives the next datagram; `None` when the peer is gone. Cancel-safe.
    pub async fn receive(&self) -> io::Result<Option<Datagram>> {
        self.socket
            .async_io(Interest::READABLE, |socket| receive(socket.as_fd()))
            .await
    }
}

/// Receives one datagram from a socket that need not be on a runtime; `None` when the peer is gone.
pub fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<Datagram>> {
    let mut bytes = vec![0; DATAGRAM_LEN_MAX];
    match seqpacket::receive(socket, &mut bytes) {
        Ok(seqpacket::Received { len: 0, .. }) => Ok(None),
        Ok(seqpacket::Received { len, descriptors }) => {
            bytes.truncate(len);
            Ok(Some(Datagram { bytes, descriptors }))
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_datagram_arrives_whole_with_its_descriptors() {
        let (left, right) = seqpacket::pair().unwrap();
        let (left, right) = (Channel::new(left).unwrap(), Channel::new(right).unwrap());
        let (one, other) = seqpacket::pair().unwrap();
        left.send(b"hello", &[one.as_fd()]).unwrap();
        drop(one);
        let datagram = right.receive().await.unwrap().unwrap();
        assert_eq!(datagram.bytes, b"hello");
        seqpacket::send(datagram.descriptors[0].as_fd(), b"through", &[]).unwrap();
        assert_eq!(receive(other.as_fd()).unwrap().unwrap().bytes, b"through");
    }

    #[tokio::test]
    async fn the_end_of_the_peer_is_none_and_an_overlong_datagram_is_refused() {
        let (left, right) = seqpacket::pair().unwrap();
        let (left, right) = (Channel::new(left).unwrap(), Channel::new(right).unwrap());
        assert!(left.send(&vec![0; DATAGRAM_LEN_MAX + 1], &[]).is_err());
        drop(left);
        assert!(right.receive().await.unwrap().is_none());
    }
}
