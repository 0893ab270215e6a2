//! ZeroMQ's wire protocol (ZMTP 3.1) between the processes of ISMS, bounded against hostile peers.
//!
//! - [`zmtp`]: the protocol itself, without I/O.
//! - [`Connection`]: one handshaken connection on tokio.
//! - [`Link`]: a role's lasting link to the Kernel on top of it: registers, reconnects, pairs answers
//!   with calls, streams against credit.
//! - [`blocking`]: a connection without a runtime, for the Doee Executor.
//!
//! Invariants: whatever a peer sends, nothing panics and memory stays within the limits of
//! `isms_protocol::limits`; a peer is the connection it came by, never the identity it claims; a
//! full peer is an error, never a stall; without the feature `tokio` nothing of tokio is built.

#[cfg(feature = "tokio")]
mod connection;
mod error;
#[cfg(feature = "tokio")]
mod link;
mod wire;

pub mod blocking;
pub mod zmtp;

#[cfg(feature = "tokio")]
pub use connection::{Connection, Receiver, Sender};
pub use error::{ConnectionError, SendError};
#[cfg(feature = "tokio")]
pub use link::{
    Answer, Arrival, Inbound, InboundRequest, Inbox, Link, LinkOptions, PendingAnswer, Registration,
    Responder, StreamReceiver, StreamSender,
};
pub use zmtp::Side;
