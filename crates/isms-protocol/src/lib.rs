//! Messages between the processes of ISMS: header, bodies, ids, limits and errors.
//!
//! A message is up to three ZeroMQ frames: a fixed little-endian [`Header`], a body in MessagePack
//! (array form, fields are only ever appended) and raw bytes. The Kernel routes on the header and
//! never decodes a body, so each receiving service owns one module of bodies here.
//!
//! Invariants: decoding never panics, whatever the bytes; nothing here does I/O or reads a clock;
//! a change of the wire format breaks a golden-bytes test.

mod body;
mod class;
mod error;
mod header;
mod host_port;
mod id;
mod message;
mod service;

pub mod commserver;
pub mod dbriver;
pub mod doer;
pub mod gate;
pub mod kernel;
pub mod limits;
pub mod resadmin;
pub mod supervisor;
pub mod worker;

pub use body::{decode, encode};
pub use class::Class;
pub use error::{DecodeError, ErrorCode, WireError};
pub use header::{Flags, HEADER_LEN, Header, Kind, VERSION};
pub use host_port::{Host, HostPort, HostPortError};
pub use id::{
    ContentHash, DoeeVersion, HashError, PrincipalId, ProcessId, ProjectId, SpanId, TokenHash, TraceContext,
    TraceId,
};
pub use message::Message;
pub use service::{Generation, Incarnation, Secret, Service};
