//! Descriptors: taking inherited ones, pairs and pipes, flags. All that are made here are close-on-exec.
#![allow(unsafe_code)] // raw descriptors and calls that std does not offer

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    sync::atomic::{AtomicU64, Ordering},
};

use super::check;

/// Inherited descriptors have numbers below this.
pub const INHERITED_MAX: RawFd = 64;

/// Numbers that were taken already, one bit each.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// Takes ownership of the inherited descriptor `number` and makes it close-on-exec. Call it at the start of
/// the process, before anything else opens descriptors. Fails when nothing was inherited under that number
/// or when it was taken before.
pub fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    if !(0..INHERITED_MAX).contains(&number) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "no such number for an inherited descriptor",
        ));
    }
    // SAFETY: F_SETFD on any number is harmless; it fails with EBADF when the number is not open.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    let bit = 1_u64 << number;
    if TAKEN.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "this inherited descriptor was taken before",
        ));
    }
    // SAFETY: the number is open (checked above), was inherited, and nobody else took it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Switches a descriptor between blocking and non-blocking.
pub fn set_nonblocking(descriptor: BorrowedFd<'_>, nonblocking: bool) -> io::Result<()> {
    let fd = descriptor.as_raw_fd();
    // SAFETY: fcntl on a descriptor that is borrowed, hence open.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    let wanted = if nonblocking {
        flags | libc::O_NONBLOCK
    } else {
        flags & !libc::O_NONBLOCK
    };
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, wanted) }).map(drop)
}

/// Makes a pair of connected Unix stream sockets.
pub fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    socket_pair(libc::SOCK_STREAM)
}

/// Makes a pair of connected Unix sockets of a type.
pub(super) fn socket_pair(kind: libc::c_int) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    // SAFETY: `ends` has room for two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0, ends.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so both are open and ours.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Makes a pipe: read end, write end.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    // SAFETY: `ends` has room for two descriptors.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: the call succeeded, so both are open and ours.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Moves a descriptor to a number of at least `lowest`, so that a child can lay others out below it.
pub(crate) fn move_above(descriptor: OwnedFd, lowest: RawFd) -> io::Result<OwnedFd> {
    if descriptor.as_raw_fd() >= lowest {
        return Ok(descriptor);
    }
    // SAFETY: duplicates an open descriptor.
    let moved = check(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest) })?;
    // SAFETY: the call succeeded, so the new number is open and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(moved) })
}
