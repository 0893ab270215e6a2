//! Why received bytes are not acceptable ZMTP.

use isms_protocol::limits::{MESSAGE_FRAMES_MAX, MESSAGE_LEN_MAX};

use super::{COMMAND_LEN_MAX, Side};

/// Text of the peer's that an error repeats.
const PEER_TEXT_LEN_MAX: usize = 64;

/// Why received bytes are not acceptable ZMTP; the connection is of no use after it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZmtpError {
    /// The first bytes are not ZMTP's signature.
    #[error("peer does not speak ZMTP")]
    NotZmtp,
    /// A version before 3.
    #[error("peer speaks ZMTP {major}, needed is 3 or newer")]
    Version {
        /// Its major version.
        major: u8,
    },
    /// Another mechanism than NULL.
    #[error("peer asks for another security mechanism than NULL")]
    Mechanism,
    /// Another socket than this side talks to.
    #[error("peer is a {peer:?} socket, expected {expected}")]
    SocketType {
        /// What it says it is.
        peer: String,
        /// What it must be.
        expected: &'static str,
    },
    /// The peer sent ERROR.
    #[error("peer refused the connection: {reason:?}")]
    Peer {
        /// Why, in its own words, cut.
        reason: String,
    },
    /// A command other than READY in the handshake.
    #[error("peer sent another command than READY in the handshake")]
    NotReady,
    /// READY once more.
    #[error("peer sent READY twice")]
    SecondReady,
    /// A message in the handshake.
    #[error("peer sent a message before READY")]
    MessageBeforeReady,
    /// A frame with undefined flags.
    #[error("frame has undefined flags {flags:#04x}")]
    FrameFlags {
        /// The byte of flags.
        flags: u8,
    },
    /// A command that announces too many bytes.
    #[error("command announces {len} bytes, allowed are {COMMAND_LEN_MAX}")]
    CommandTooLong {
        /// Bytes that it announces.
        len: u64,
    },
    /// A command whose inside is cut short.
    #[error("command is malformed")]
    MalformedCommand,
    /// More frames than a message may have.
    #[error("message has more than {MESSAGE_FRAMES_MAX} frames")]
    TooManyFrames,
    /// A message whose frames announce too many bytes.
    #[error("message announces {len} bytes, allowed are {MESSAGE_LEN_MAX}")]
    MessageTooLong {
        /// Bytes announced, with those of its frames before.
        len: u64,
    },
    /// Commands between the frames of a message fill the buffer.
    #[error("too many commands between the frames of a message")]
    TooManyCommands,
    /// An error has been reported before.
    #[error("connection has failed before")]
    Failed,
}

impl ZmtpError {
    pub(super) fn socket_type(peer: &[u8], side: Side) -> ZmtpError {
        let expected = match side {
            Side::Bind => "DEALER",
            Side::Connect => "ROUTER",
        };
        ZmtpError::SocketType {
            peer: peer_text(peer),
            expected,
        }
    }

    pub(super) fn peer(reason: &[u8]) -> ZmtpError {
        ZmtpError::Peer {
            reason: peer_text(reason),
        }
    }
}

fn peer_text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(PEER_TEXT_LEN_MAX)]).into_owned()
}
