//! Waiting for several descriptors.
#![allow(unsafe_code)] // poll and epoll

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::Duration,
};

use super::check;

/// Events taken from a [`Crowd`] at a time.
const EVENTS_PER_TURN: usize = 64;

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

/// Many descriptors of which few have news: what a look at them costs depends on the news alone.
#[derive(Debug)]
pub(crate) struct Crowd(OwnedFd);

impl Crowd {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: a plain number.
        let epoll = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the call succeeded, so it is open and ours.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(epoll) }))
    }

    /// Adds one, under a number by which [`Self::ready`] names it.
    pub(crate) fn add(&self, member: BorrowedFd<'_>, number: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: number,
        };
        // SAFETY: two open descriptors and an event that is read during the call.
        check(unsafe {
            libc::epoll_ctl(
                self.0.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                member.as_raw_fd(),
                &raw mut event,
            )
        })
        .map(drop)
    }

    /// Removes one. To close it is not enough while a process that was forked meanwhile holds it as well.
    pub(crate) fn remove(&self, member: BorrowedFd<'_>) {
        // SAFETY: two open descriptors; the event is not used.
        unsafe {
            libc::epoll_ctl(
                self.0.as_raw_fd(),
                libc::EPOLL_CTL_DEL,
                member.as_raw_fd(),
                std::ptr::null_mut(),
            )
        };
    }

    /// Numbers of some that can be read, without waiting for any.
    pub(crate) fn ready(&self) -> Vec<u64> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS_PER_TURN];
        // SAFETY: writes as many events as there is room for.
        let count =
            unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), EVENTS_PER_TURN as _, 0) };
        let count = usize::try_from(count).unwrap_or(0);
        events.iter().take(count).map(|event| event.u64).collect()
    }
}

impl AsFd for Crowd {
    /// Readable when one of them is.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write};

    use super::*;
    use crate::linux::descriptor;

    #[test]
    fn a_crowd_tells_who_can_be_read_until_he_is_removed() {
        let crowd = Crowd::new().unwrap();
        let (silent, _silent_writer) = descriptor::pipe().unwrap();
        let (reader, writer) = descriptor::pipe().unwrap();
        crowd.add(silent.as_fd(), 1).unwrap();
        crowd.add(reader.as_fd(), 2).unwrap();
        assert!(crowd.ready().is_empty());
        File::from(writer).write_all(b"x").unwrap();
        assert!(wait_for(crowd.as_fd(), Duration::from_secs(5)).unwrap());
        assert_eq!(crowd.ready(), [2]);
        crowd.remove(reader.as_fd());
        assert!(crowd.ready().is_empty());
    }
}
