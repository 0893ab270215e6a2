//! What goes into the core and what comes out of it.

use isms_protocol::{Incarnation, Message, Service};

use crate::clock::Unix;

/// One connection to the Kernel; never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u64);

/// What the core is told.
#[derive(Debug)]
pub enum Event {
    /// A connection was accepted and has shaken hands.
    PeerConnected {
        /// The connection.
        peer: PeerId,
    },
    /// A message arrived.
    PeerMessage {
        /// From where.
        peer: PeerId,
        /// What.
        message: Message,
    },
    /// A connection has ended.
    PeerLost {
        /// The connection.
        peer: PeerId,
    },
    /// The supervisor has started a role, which may now register.
    Announce {
        /// Role.
        service: Service,
        /// Its run.
        incarnation: Incarnation,
        /// SHA-256 of its secret.
        secret_hash: [u8; 32],
    },
    /// What the calendar's clock shows. Told at the start, and again so that jumps are noticed.
    Calendar {
        /// Its time.
        shows: Unix,
    },
    /// The journal has made something durable, wants something, or has stopped.
    Journal(isms_journal::Event),
    /// A batch of events is complete, or [`crate::Core::next_wake`] has come.
    Tick,
}

/// What the core wants done, in this order.
#[derive(Debug)]
pub enum Action {
    /// Send a message.
    Send {
        /// To where.
        peer: PeerId,
        /// What.
        message: Message,
    },
    /// End a connection; the core has forgotten it already.
    Close {
        /// The connection.
        peer: PeerId,
        /// Why.
        reason: CloseReason,
    },
    /// Tell the supervisor that a service has registered.
    Registered {
        /// Which.
        service: Service,
        /// Its run.
        incarnation: Incarnation,
    },
    /// Tell the supervisor that a service's connection has ended.
    Lost {
        /// Which.
        service: Service,
        /// Its run.
        incarnation: Incarnation,
    },
    /// Tell the supervisor that the Kernel lives.
    Heartbeat,
}

/// Why the Kernel ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// No `register` in time.
    #[error("did not register in time")]
    NotRegistered,
    /// `register` was refused.
    #[error("registration refused: {0}")]
    Refused(RegisterRefusal),
    /// No sign of life.
    #[error("silent for too long")]
    Silent,
    /// A newer incarnation has registered.
    #[error("superseded by a newer incarnation")]
    Superseded,
    /// It broke a rule of the protocol.
    #[error("broke the protocol: {0}")]
    Violation(&'static str),
}

/// Why a registration is refused. The peer is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterRefusal {
    /// Another kind of message came first.
    #[error("the first message is not `register`")]
    NotRegister,
    /// The body makes no sense.
    #[error("the body cannot be decoded")]
    Undecodable,
    /// The supervisor has not announced this incarnation, or has announced a newer one.
    #[error("this incarnation is not announced")]
    NotAnnounced,
    /// The secret is not the incarnation's.
    #[error("wrong secret")]
    WrongSecret,
    /// This incarnation is registered already.
    #[error("this incarnation is already connected")]
    SecondConnection,
}
