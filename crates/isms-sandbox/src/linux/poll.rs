//! Waiting for several descriptors.
#![allow(unsafe_code)] // poll

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    time::Duration,
};

use super::check;

/// A descriptor to wait for, and whether it is ready.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct Watch(libc::pollfd);

impl Watch {
    /// Waits until it can be read, has hung up, or, where `writable`, can be written.
    pub(crate) fn new(descriptor: BorrowedFd<'_>, writable: bool) -> Self {
        let events = libc::POLLIN | if writable { libc::POLLOUT } else { 0 };
        Self(libc::pollfd {
            fd: descriptor.as_raw_fd(),
            events,
            revents: 0,
        })
    }

    /// Anything happened.
    pub(crate) fn is_ready(&self) -> bool {
        self.0.revents != 0
    }
}

/// Waits until one is ready or the time is over; a signal counts as neither and ends the wait early.
pub(crate) fn wait(watches: &mut [Watch], timeout: Duration) -> io::Result<()> {
    // Rounded up, or the last fraction of a millisecond would be spent in a loop.
    let timeout = timeout.as_micros().div_ceil(1000).min(i32::MAX as u128) as libc::c_int;
    // SAFETY: Watch is a transparent pollfd; the slice gives pointer and length.
    let result = check(unsafe { libc::poll(watches.as_mut_ptr().cast(), watches.len() as _, timeout) });
    match result {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        Err(_) => {
            watches.iter_mut().for_each(|watch| watch.0.revents = 0);
            Ok(())
        }
        Ok(_) => Ok(()),
    }
}

/// Waits for a single descriptor; false when the time is over first.
pub(crate) fn wait_for(descriptor: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let mut watches = [Watch::new(descriptor, false)];
    wait(&mut watches, timeout)?;
    Ok(watches[0].is_ready())
}
