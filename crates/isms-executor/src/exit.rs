//! How the processes of this crate end.
//!
//! A channel that broke or lied leaves nobody to report to: the reason goes to stderr, which the Doer
//! keeps, and the process ends at once, without the Doee's destructors.
#![allow(unsafe_code)] // `_exit`, `signal`

use std::fmt::Display;

use isms_protocol::worker::EXIT_ABORTED;

/// Exit code: the host's end of a channel closed, or broke the protocol.
pub const EXIT_CHANNEL: i32 = 3;
/// Exit code: the process could not start, or the Doee could not be; the control channel says why.
pub const EXIT_FAILED: i32 = 4;

/// Ends the process: there is nobody left to answer to.
pub(crate) fn give_up(reason: impl Display) -> ! {
    eprintln!("gave up: {reason}");
    // SAFETY: ends the process. Safe code cannot: `std::process::exit` would run the destructors of a
    // Doee that is in the middle of a call.
    unsafe { libc::_exit(EXIT_CHANNEL) }
}

/// Has a call of `abort` told as what it is. In a pid namespace of its own the executor is the first process, to which
/// the kernel delivers no signal from inside that has no handler; `abort` would fall back on an instruction that traps,
/// and be told as SIGSEGV.
pub(crate) fn tell_aborts() {
    // Anywhere else the signal itself tells.
    if std::process::id() == 1 {
        let handler: extern "C" fn(libc::c_int) = aborted;
        // SAFETY: the handler does nothing but end the process, which is allowed in one. Safe code cannot set any.
        unsafe { libc::signal(libc::SIGABRT, handler as libc::sighandler_t) };
    }
}

extern "C" fn aborted(_signal: libc::c_int) {
    // SAFETY: ends the process; `abort` runs no destructors either.
    unsafe { libc::_exit(EXIT_ABORTED) }
}
