//! What a process can do to itself: identity, signals, descriptors.
#![allow(unsafe_code)] // prctl, setresuid and the like

use std::{
    io,
    os::fd::{BorrowedFd, RawFd},
};

use super::{check, check_long};

/// Asks for SIGKILL when the parent thread dies. Fails when `parent` is not (any more) the parent. To be
/// called after any change of identity, which clears the request.
pub fn die_with_parent(parent: u32) -> io::Result<()> {
    // SAFETY: prctl with plain numbers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    if std::os::unix::process::parent_id() != parent {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the parent has died"));
    }
    Ok(())
}

/// Becomes `uid` and `gid`, for good, without supplementary groups.
pub fn drop_to(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: an empty list, of which nothing is read; the rest are plain numbers.
    unsafe {
        check(libc::setgroups(0, std::ptr::null()))?;
        check(libc::setresgid(gid, gid, gid))?;
        check(libc::setresuid(uid, uid, uid))?;
    }
    Ok(())
}

/// Effective user id.
pub fn effective_uid() -> u32 {
    // SAFETY: cannot fail.
    unsafe { libc::geteuid() }
}

/// Closes every descriptor from `first` on.
///
/// # Safety
/// Nothing in the process may own one of them any more; meant for the moment before `exec`.
pub unsafe fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: the caller's promise.
    check_long(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Makes every descriptor from `first` on close-on-exec.
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: only sets a flag on descriptors.
    check_long(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) })
        .map(drop)
}

/// Lets others (of the same uid) trace and dump this process, or not.
pub fn set_dumpable(dumpable: bool) -> io::Result<()> {
    // SAFETY: prctl with plain numbers.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(dumpable), 0, 0, 0) }).map(drop)
}

/// Renounces privileges of set-uid files, for good.
pub fn set_no_new_privs() -> io::Result<()> {
    // SAFETY: prctl with plain numbers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).map(drop)
}

/// Kills the process behind a pidfd.
pub fn kill_pidfd(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: plain numbers and a null siginfo.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            libc::SIGKILL,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}
