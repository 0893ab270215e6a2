//! The channel to one Doer generation: requests in, events out, both bounded, neither ever waited for.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use super::codec::{Event, REQUEST_LEN, Request};
use crate::linux::{descriptor, seqpacket};

/// Events that a Doer may leave unread beyond what its socket holds.
const UNSENT_MAX: usize = 4096;

/// A Doer's channel.
#[derive(Debug)]
pub(super) struct Channel {
    socket: OwnedFd,
    unsent: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
}

/// What became of an attempt to receive.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inbound {
    Request(Request),
    Nothing,
    /// The Doer has gone, or said something that no Doer says: its generation is over.
    End,
}

impl Channel {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        descriptor::set_nonblocking(socket.as_fd(), true)?;
        Ok(Self {
            socket,
            unsent: VecDeque::new(),
        })
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    pub(super) fn receive(&self) -> Inbound {
        // One byte more than a request, so that a longer datagram is noticed and not cut to fit.
        let mut buffer = [0; REQUEST_LEN + 1];
        match seqpacket::receive(self.socket.as_fd(), &mut buffer) {
            Ok(received) if received.descriptors.is_empty() => {
                Request::decode(&buffer[..received.len]).map_or(Inbound::End, Inbound::Request)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Inbound::Nothing,
            Ok(_) | Err(_) => Inbound::End,
        }
    }

    /// Sends an event, or keeps it for later. Fails when the generation is over.
    pub(super) fn send(&mut self, event: &Event, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        if self.unsent.len() >= UNSENT_MAX {
            return Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                "the Doer does not read",
            ));
        }
        self.unsent.push_back((event.encode(), descriptors));
        self.flush()
    }

    /// Sends what can be sent now.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while let Some((datagram, descriptors)) = self.unsent.front() {
            let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            match seqpacket::send(self.socket.as_fd(), datagram, &descriptors) {
                Ok(()) => drop(self.unsent.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(datagram: &[u8], expected: Inbound) {
        let (ours, theirs) = seqpacket::pair().unwrap();
        seqpacket::send(theirs.as_fd(), datagram, &[]).unwrap();
        assert_eq!(Channel::new(ours).unwrap().receive(), expected);
    }

    #[test]
    fn whatever_is_no_request_ends_the_generation() {
        let request = Request::Kill { worker: 7 };
        check(&request.encode(), Inbound::Request(request));
        check(&request.encode()[..31], Inbound::End);
        check(&[request.encode().as_slice(), &[0]].concat(), Inbound::End);
        check(&[0xff; REQUEST_LEN], Inbound::End);
        check(&[1; 4096], Inbound::End);
    }

    #[test]
    fn a_request_with_a_descriptor_ends_the_generation() {
        let (ours, theirs) = seqpacket::pair().unwrap();
        seqpacket::send(
            theirs.as_fd(),
            &Request::Kill { worker: 7 }.encode(),
            &[theirs.as_fd()],
        )
        .unwrap();
        assert_eq!(Channel::new(ours).unwrap().receive(), Inbound::End);
    }

    #[test]
    fn a_doer_that_does_not_read_is_given_up() {
        let (ours, _theirs) = seqpacket::pair().unwrap();
        let mut channel = Channel::new(ours).unwrap();
        let event = Event::Failed {
            worker: 1,
            message: "x".repeat(1000),
        };
        let sent = (0..2 * UNSENT_MAX)
            .take_while(|_| channel.send(&event, Vec::new()).is_ok())
            .count();
        assert!((UNSENT_MAX..2 * UNSENT_MAX).contains(&sent), "{sent}");
    }
}
