//! The control channel to the Doer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use isms_protocol::worker::{Assignment, CONTROL_LEN_MAX, Control, Report, STATUS_WORDS, StatusPage};
use isms_protocol::{decode, encode};
use isms_sandbox::linux::{memfd, seqpacket, shared_words::SharedWords};

use crate::exit::give_up;

/// The page that this executor shares with the Doer.
pub(crate) type Page = StatusPage<SharedWords>;

/// What the Doer wants.
pub(crate) enum Order {
    /// Become a worker of this Doee.
    Assign(Assignment, OwnedFd, Page),
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
        let mut descriptor = || descriptors.next();
        match (
            decode(&buffer[..received.len]),
            descriptor(),
            descriptor(),
            descriptor(),
        ) {
            (Ok(Control::Assign(assignment)), Some(binary), Some(page), None) => {
                if let Err(error) = memfd::verify_sealed(binary.as_fd()) {
                    give_up(format_args!("the binary is no sealed memfd: {error}"));
                }
                Order::Assign(assignment, binary, map(&page))
            }
            (Ok(Control::Drain), None, None, None) => Order::Drain,
            _ => give_up("the control channel brought nonsense"),
        }
    }
}

fn map(page: &OwnedFd) -> Page {
    match SharedWords::map(page.as_fd(), STATUS_WORDS).map(StatusPage::new) {
        Ok(Some(page)) => page,
        Ok(None) => give_up("the status page is too short"),
        Err(error) => give_up(format_args!("the status page cannot be mapped: {error}")),
    }
}

impl AsFd for ControlChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
