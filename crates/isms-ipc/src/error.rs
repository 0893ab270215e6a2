//! Why a connection could not be made, or ended.

use std::io;

use isms_protocol::{
    DecodeError,
    limits::{CONNECTION_UNSENT_MAX, HANDSHAKE_TIMEOUT, MESSAGE_LEN_MAX},
};

use crate::zmtp::ZmtpError;

/// Why a connection could not be made, or ended otherwise than by its peer's closing it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The handshake took too long.
    #[error("handshake did not end within {} ms", HANDSHAKE_TIMEOUT.as_millis())]
    HandshakeTimeout,
    /// The peer closed the connection before the handshake's end.
    #[error("peer closed the connection in the handshake")]
    HandshakeClosed,
    /// The bytes received are not ZMTP, or break a limit.
    #[error("peer broke the protocol")]
    Zmtp(#[from] ZmtpError),
    /// A message received is not one of ISMS.
    #[error("received message is malformed")]
    Message(#[from] DecodeError),
    /// Reading failed.
    #[error("cannot read from the connection")]
    Read(#[source] io::Error),
    /// Writing failed.
    #[error("cannot write to the connection")]
    Write(#[source] io::Error),
    /// Waiting for the connection failed.
    #[error("cannot wait for the connection")]
    Wait(#[source] io::Error),
    /// The peer does not read what it is sent.
    #[error("peer left more than {CONNECTION_UNSENT_MAX} bytes unread and was given up")]
    PeerTooSlow,
    /// A message to send is over the limit; nothing was sent.
    #[error("message has {len} bytes, allowed are {MESSAGE_LEN_MAX}")]
    TooLarge {
        /// Its length.
        len: usize,
    },
}

/// Why a message was not taken for sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It is over the limit for a message; the connection goes on.
    #[error("message has {len} bytes, allowed are {MESSAGE_LEN_MAX}")]
    TooLarge {
        /// Its length.
        len: usize,
    },
    /// The peer does not read; the connection is given up.
    #[error("peer left more than {CONNECTION_UNSENT_MAX} bytes unread and was given up")]
    Full,
    /// The connection has ended.
    #[error("connection has ended")]
    Closed,
}
