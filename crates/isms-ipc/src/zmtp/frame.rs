//! Frames: one byte of flags, a length of one or eight bytes, the body.

use super::ZmtpError;

/// More frames of the same message follow.
pub(super) const MORE: u8 = 1;
/// The length takes eight bytes.
const LONG: u8 = 2;
/// A command, not a part of a message.
pub(super) const COMMAND: u8 = 4;

/// What stands before a frame's body.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameHead {
    pub(super) flags: u8,
    /// As announced: any number.
    pub(super) body_len: u64,
    pub(super) head_len: usize,
}

impl FrameHead {
    /// Reads a head; `None` when it is not all there yet.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<FrameHead>, ZmtpError> {
        let Some((&flags, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        if flags & !(MORE | LONG | COMMAND) != 0 || flags & (MORE | COMMAND) == MORE | COMMAND {
            return Err(ZmtpError::FrameFlags { flags });
        }
        let body_len = if flags & LONG != 0 {
            rest.first_chunk().map(|len| (u64::from_be_bytes(*len), 9))
        } else {
            rest.first().map(|len| (u64::from(*len), 2))
        };
        Ok(body_len.map(|(body_len, head_len)| FrameHead {
            flags,
            body_len,
            head_len,
        }))
    }

    /// Length of head and body. Exact only for a length that the limits have let through.
    pub(super) fn frame_len(&self) -> usize {
        usize::try_from(self.body_len)
            .unwrap_or(usize::MAX)
            .saturating_add(self.head_len)
    }
}

/// Appends a message of the given frames to `output`.
pub fn put_message(output: &mut Vec<u8>, frames: &[&[u8]]) {
    for (index, frame) in frames.iter().enumerate() {
        let more = if index + 1 < frames.len() { MORE } else { 0 };
        put_frame(output, more, frame);
    }
}

pub(super) fn put_frame(output: &mut Vec<u8>, flags: u8, body: &[u8]) {
    match u8::try_from(body.len()) {
        Ok(len) => output.extend_from_slice(&[flags, len]),
        Err(_) => {
            output.push(flags | LONG);
            output.extend_from_slice(&(body.len() as u64).to_be_bytes());
        }
    }
    output.extend_from_slice(body);
}
