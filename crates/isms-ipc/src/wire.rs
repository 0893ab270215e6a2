//! Between messages and ZMTP frames, without an allocation that the message does not keep.

use bytes::Bytes;
use isms_protocol::{DecodeError, Header, Message};

use crate::zmtp::{Frames, put_message};

/// Appends a message to `output` as ZMTP frames.
pub(crate) fn put(output: &mut Vec<u8>, message: &Message) {
    let header = message.header.encode();
    let frames: [&[u8]; 3] = [&header, &message.body, &message.raw];
    let count = match (message.body.is_empty(), message.raw.is_empty()) {
        (true, true) => 1,
        (false, true) => 2,
        (_, false) => 3,
    };
    put_message(output, &frames[..count]);
}

/// Reads a message out of received frames. Body and raw bytes are copied: a message that waits
/// somewhere keeps its own bytes alive, not the buffer of the connection it came by.
pub(crate) fn read(frames: &Frames<'_>) -> Result<Message, DecodeError> {
    Ok(Message {
        header: Header::decode(frames.get(0))?,
        body: Bytes::copy_from_slice(frames.get(1)),
        raw: Bytes::copy_from_slice(frames.get(2)),
    })
}
