//! A whole message: header, body, raw bytes.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::{DecodeError, Header, Kind, WireError, decode, encode};

/// A message as the processes of ISMS exchange it. On the wire it has one frame when body and raw
/// bytes are empty, two when only the raw bytes are, else three.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Frame 1.
    pub header: Header,
    /// Frame 2: MessagePack, its type given by kind and operation.
    pub body: Bytes,
    /// Frame 3: raw bytes, such as a request's payload or a stream's chunk.
    pub raw: Bytes,
}

impl Message {
    /// A message of a header alone.
    pub fn bare(header: Header) -> Message {
        Message {
            header,
            body: Bytes::new(),
            raw: Bytes::new(),
        }
    }

    /// A message with a body.
    pub fn with_body<T: Serialize>(header: Header, body: &T) -> Message {
        Message {
            header,
            body: encode(body).into(),
            raw: Bytes::new(),
        }
    }

    /// A message with raw bytes added.
    pub fn with_raw(mut self, raw: impl Into<Bytes>) -> Message {
        self.raw = raw.into();
        self
    }

    /// The error answer to the request whose header is given.
    pub fn error_answer(request: &Header, error: &WireError) -> Message {
        Message::with_body(request.answer(Kind::Error), error)
    }

    /// Decodes the body.
    pub fn decode_body<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        decode(&self.body)
    }

    /// Bytes that the message takes on the wire, without ZeroMQ's own framing.
    pub fn len(&self) -> usize {
        crate::HEADER_LEN + self.body.len() + self.raw.len()
    }

    /// Never true: a message has a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The frames to send, one to three.
    pub fn to_frames(&self) -> Vec<Bytes> {
        let mut frames = vec![Bytes::copy_from_slice(&self.header.encode())];
        if !self.body.is_empty() || !self.raw.is_empty() {
            frames.push(self.body.clone());
        }
        if !self.raw.is_empty() {
            frames.push(self.raw.clone());
        }
        frames
    }

    /// Reads a message from received frames; they may be hostile.
    pub fn from_frames(frames: Vec<Bytes>) -> Result<Message, DecodeError> {
        let count = frames.len();
        let mut frames = frames.into_iter();
        let (Some(header), body, raw, None) = (frames.next(), frames.next(), frames.next(), frames.next())
        else {
            return Err(DecodeError::FrameCount { count });
        };
        Ok(Message {
            header: Header::decode(&header)?,
            body: body.unwrap_or_default(),
            raw: raw.unwrap_or_default(),
        })
    }
}
