//! Raw Linux calls as safe functions. Together with [`native`](crate::native) the only place of the
//! host with `unsafe` code; it holds mechanism alone, no policy.

#[cfg(feature = "tokio")]
pub mod channel;
pub mod clock;
pub mod descriptor;
pub mod launch;
pub mod lockdown;
pub mod memfd;
pub(crate) mod poll;
pub mod process;
mod schedule;
pub mod seqpacket;
pub mod shared_words;
pub mod signal;

use std::io;

/// Turns the C convention "-1 and errno" into a result.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// As [`check`], for calls that return a long.
pub(crate) fn check_long(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
