//! Why the Doer stops.

use std::io;

use crate::spawner::SpawnerError;

/// The Doer cannot go on; the supervisor starts a new one with a new channel to the spawner.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The channel could not be registered with the runtime.
    #[error("cannot use the channel to the spawner")]
    Spawner(#[source] io::Error),
    /// The spawner is gone, and with it every worker.
    #[error("the spawner is gone, and with it all workers")]
    SpawnerLost(#[source] SpawnerError),
}
