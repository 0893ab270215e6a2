//! Where things are: the repository, cargo's target directory, what xtask keeps below it.

use std::{
    env,
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// The root of the repository that xtask was built from.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// Cargo's target directory: `CARGO_TARGET_DIR`, else `target` below the root.
pub(crate) fn target() -> &'static Path {
    static TARGET: OnceLock<PathBuf> = OnceLock::new();
    TARGET.get_or_init(|| match env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => root().join(directory),
        None => root().join("target"),
    })
}

/// Tools that xtask installs without touching the system, such as a Python environment.
pub(crate) fn tools() -> PathBuf {
    target().join("tools")
}
