//! What a spawner fails on before it serves.

use std::{io, path::PathBuf};

use crate::native::NativeError;

/// Why there is no spawner.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The directory of templates or images.
    #[error("cannot make the directory {path} for the sandboxes' roots")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What all sandboxes share.
    #[error("cannot prepare sandboxes")]
    Native(#[from] NativeError),
    /// A basic call, on which everything rests.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}
