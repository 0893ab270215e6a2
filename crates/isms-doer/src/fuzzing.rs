//! For fuzz/: what comes out of a worker, judged.

use isms_protocol::Message;

use crate::{heard, worker::WorkerId};

/// Judges a datagram of the control channel.
pub fn report(datagram: &[u8]) {
    let _ = heard::report(WorkerId(1), datagram);
}

/// Judges a message of the data channel, as a request and as none; true when it may pass.
pub fn message(message: &Message, runs: bool) -> bool {
    heard::log_line(message).is_ok() || heard::host_call(&message.header, runs).is_ok()
}
