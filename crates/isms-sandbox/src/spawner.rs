//! The spawner: the process that starts sandboxes, and all that is needed to talk to it.
//!
//! ```text
//! supervisor ──SEQPACKET── spawner ──SEQPACKET── Doer (one channel per generation)
//!                             └─ clone3 ── worker ×N   (die with the spawner)
//! ```
//! It has no secrets, one thread, and trusts neither the Doer nor a worker. Requests have a fixed layout and
//! name nothing of the host: no path, no argument, no uid. Not here: which worker is needed when (isms-doer).

mod channel;
mod codec;
mod config;
mod containers;
mod environment;
mod error;
mod groups;
mod images;
mod openings;
mod prepare;
mod run;
mod uids;
mod waiting;
mod worker;

pub use codec::{DecodeError, EVENT_LEN_MAX, Event, FromSpawner, REQUEST_LEN, Request, ToSpawner};
pub use config::{SpawnerConfig, UidRange};
pub use environment::{Backend, Environment, HOLES_MAX, Holes, ImageHash};
pub use error::RunError;
pub use run::run;
