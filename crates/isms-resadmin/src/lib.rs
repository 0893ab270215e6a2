//! Resadmin: projects, the versions of their Doees, sources, binaries, and tokens.
//!
//! Invariants: what was answered is durable; a version of a Doee never changes; a binary is recorded
//! only when it is whole on disk, and belongs to the project that built or uploaded it; tokens are
//! stored as hashes. Whoever asks is checked here again, whatever the edges have checked.
//!
//! It does not build (the Doer does), does not hold projects' data (DBriver does), does not route
//! (CommServer does); a deployment asks them in turn.

mod bundle;
mod config;
mod deploy;
mod elf;
mod files;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod images;
mod manifest;
mod peers;
mod run;
mod schedule;
mod service;
mod store;

pub use config::Config;
pub use images::{Begun, Upload};
pub use peers::{PeerAnswer, PeerRequest};
pub use run::{RunError, run};
pub use service::{Clock, OpenError, Reply, Service};
