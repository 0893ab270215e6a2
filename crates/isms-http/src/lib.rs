//! What CommServer and Control Gate share: a bounded HTTP/1.1 server, problem+json, bearer tokens,
//! and the passage of bodies between HTTP and the Kernel.
//!
//! Invariants: every connection, head, body, wait and cache has a limit ([`HttpLimits`] and the
//! protocol's limits); nothing that a client sends can panic or make memory grow with its length;
//! a client that leaves takes its call with it. Deliberately absent: routing (each edge has its
//! own), TLS of the server (a proxy's job for now), HTTP/2, compression, cookies.

mod auth;
mod body;
mod connection;
mod error;
mod exchange;
mod key;
mod limits;
mod lowered;
mod problem;
mod process;
mod reply;
mod server;
mod tls;
mod trace;

#[cfg(feature = "test-support")]
pub mod test_support;

pub use auth::{Authenticator, bearer, check_right, hash_token};
pub use body::{Body, BodyError};
pub use error::ServeError;
pub use exchange::{Exchange, Upload};
pub use hyper::body::Incoming;
pub use key::{IdempotencyKey, KeyScope};
pub use limits::HttpLimits;
pub use lowered::Lowered;
pub use problem::Problem;
pub use process::{Preferences, Questions, accepted, parse_process, show_state, wait_s};
pub use reply::{is_hop_by_hop, reply_head};
pub use server::serve;
pub use tls::{CaError, tls_client};
pub use trace::TraceIds;
