//! How the processes of this crate end.
//!
//! A channel that broke or lied leaves nobody to report to: the reason goes to stderr, which the Doer
//! keeps, and the process ends at once, without the Doee's destructors.
#![allow(unsafe_code)] // `_exit`

use std::fmt::Display;

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
