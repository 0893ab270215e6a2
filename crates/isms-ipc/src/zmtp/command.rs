//! Commands: READY, ERROR, PING and PONG; any other is ignored once the handshake is over.

use super::{
    ZmtpError,
    frame::{COMMAND, put_frame},
};

/// Context that a PING may carry (RFC 37).
const PING_CONTEXT_LEN_MAX: usize = 16;
/// Answers to PING that may wait to be sent; more are left out, which the RFC allows a busy peer.
const PONG_OUTPUT_LEN_MAX: usize = 4096;

/// A command received.
#[derive(Debug)]
pub(super) enum Command<'a> {
    Ready { socket_type: &'a [u8] },
    Error { reason: &'a [u8] },
    Ping { context: &'a [u8] },
    Ignored,
}

impl<'a> Command<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Command<'a>, ZmtpError> {
        let malformed = ZmtpError::MalformedCommand;
        let (name, rest) = split_short(body).ok_or(malformed)?;
        Ok(match name {
            b"READY" => Command::Ready {
                socket_type: socket_type(rest).ok_or(ZmtpError::MalformedCommand)?,
            },
            b"ERROR" => Command::Error {
                reason: split_short(rest).ok_or(ZmtpError::MalformedCommand)?.0,
            },
            b"PING" => {
                // Two bytes of time to live first: silence is judged by heartbeats, not by it.
                let context = rest.get(2..).ok_or(ZmtpError::MalformedCommand)?;
                if context.len() > PING_CONTEXT_LEN_MAX {
                    return Err(ZmtpError::MalformedCommand);
                }
                Command::Ping { context }
            }
            _ => Command::Ignored,
        })
    }
}

/// Walks the whole metadata, so that a malformed rest is noticed.
fn socket_type(mut metadata: &[u8]) -> Option<&[u8]> {
    let mut found: &[u8] = &[];
    while !metadata.is_empty() {
        let (name, rest) = split_short(metadata)?;
        let (len, rest) = rest.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
        if name.eq_ignore_ascii_case(b"Socket-Type") {
            found = value;
        }
        metadata = rest;
    }
    Some(found)
}

/// Splits off a string with one byte of length before it.
fn split_short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*len))
}

pub(super) fn put_ready(output: &mut Vec<u8>, socket_type: &[u8]) {
    let mut body = Vec::with_capacity(64);
    body.extend_from_slice(b"\x05READY");
    for (name, value) in [(&b"\x0bSocket-Type"[..], socket_type), (b"\x08Identity", b"")] {
        body.extend_from_slice(name);
        body.extend_from_slice(&(value.len() as u32).to_be_bytes());
        body.extend_from_slice(value);
    }
    put_frame(output, COMMAND, &body);
}

pub(super) fn put_error(output: &mut Vec<u8>, reason: &'static [u8]) {
    let mut body = Vec::with_capacity(64);
    body.extend_from_slice(b"\x05ERROR");
    body.push(reason.len() as u8);
    body.extend_from_slice(reason);
    put_frame(output, COMMAND, &body);
}

pub(super) fn put_pong(output: &mut Vec<u8>, context: &[u8]) {
    if output.len() > PONG_OUTPUT_LEN_MAX {
        return;
    }
    let mut body = [0; 5 + PING_CONTEXT_LEN_MAX];
    body[..5].copy_from_slice(b"\x04PONG");
    body[5..5 + context.len()].copy_from_slice(context);
    put_frame(output, COMMAND, &body[..5 + context.len()]);
}
