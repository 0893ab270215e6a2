//! The control channel to the Doer.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use isms_protocol::worker::{Assignment, CONTROL_LEN_MAX, Control, Report};
use isms_protocol::{decode, encode};
use isms_sandbox::linux::{memfd, seqpacket};

use crate::exit::give_up;

/// What the Doer wants.
pub(crate) enum Order {
    /// Become a worker of this Doee.
    Assign(Assignment, OwnedFd),
    /// Take no more calls.
    Drain,
}

/// The executor's end of the control channel. A channel that breaks ends the process.
pub(crate) struct ControlChannel {
    socket: OwnedFd,
}

impl ControlChannel {
    pub(crate) fn new(socket: OwnedFd) -> ControlChannel {
        ControlChannel { socket }
    }

    /// Tells the Doer.
    pub(crate) fn report(&self, report: &Report) {
        if let Err(error) = seqpacket::send(self.socket.as_fd(), &encode(report), &[]) {
            give_up(format_args!("the control channel cannot be written: {error}"));
        }
    }

    /// Waits for the next order. A binary that is not sealed could change after it was checked.
    pub(crate) fn receive(&self) -> Order {
        let mut buffer = vec![0; CONTROL_LEN_MAX];
        let received = match seqpacket::receive(self.socket.as_fd(), &mut buffer) {
            Ok(received) if received.len > 0 => received,
            Ok(_) => give_up("the Doer closed the control channel"),
            Err(error) => give_up(format_args!("the control channel cannot be read: {error}")),
        };
        let mut descriptors = received.descriptors.into_iter();
        match (
            decode(&buffer[..received.len]),
            descriptors.next(),
            descriptors.next(),
        ) {
            (Ok(Control::Assign(assignment)), Some(binary), None) => match check_sealed(&binary) {
                Ok(()) => Order::Assign(assignment, binary),
                Err(error) => give_up(format_args!("the binary is no sealed memfd: {error}")),
            },
            (Ok(Control::Drain), None, None) => Order::Drain,
            _ => give_up("the control channel brought nonsense"),
        }
    }
}

fn check_sealed(binary: &OwnedFd) -> io::Result<()> {
    memfd::verify_sealed(binary.as_fd()).map(drop)
}

impl AsFd for ControlChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
