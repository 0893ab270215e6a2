//! Settings of Resadmin, and the limits that it alone cares about.

use std::{path::PathBuf, time::Duration};

use isms_protocol::{TokenHash, limits::ARTIFACT_LEN_MAX};
use serde::{Deserialize, Serialize};

/// Bytes of a project's archive: what the artifacts may take, and tar's own headers.
pub(crate) const ARCHIVE_LEN_MAX: usize = ARTIFACT_LEN_MAX as usize + 8 * 1024 * 1024;
/// Entries of a project's archive.
pub(crate) const ARCHIVE_ENTRIES_MAX: usize = 4_096;
/// Deployments at the same time, each with its archive in memory.
pub(crate) const ARCHIVES_MAX: usize = 4;
/// Bytes of all migrations of a database.
pub(crate) const MIGRATIONS_LEN_MAX: usize = 2 * 1024 * 1024;
/// Tokens that are neither revoked nor expired; all of them fit one message.
pub(crate) const TOKENS_MAX: usize = 300;
/// Events of a deployment that may wait for its caller.
pub(crate) const EVENTS_WAITING_MAX: usize = 32;
/// Images whose bytes come in at the same time.
pub(crate) const UPLOADS_MAX: usize = 4;
/// Silence after which an upload is given up; what has come is kept.
pub(crate) const UPLOAD_SILENCE_MAX: Duration = Duration::from_secs(30);
/// How often images are looked for that nothing needs.
pub(crate) const IMAGES_SWEPT_EVERY: Duration = Duration::from_secs(600);
/// Time for one worker of an environment to start, its image copied and checked.
pub(crate) const TRY_TIME_MAX: Duration = Duration::from_secs(150);
/// Time for one Doee's build.
pub(crate) const BUILD_TIME_MAX: Duration = Duration::from_secs(300);
/// Time for one database's migrations.
pub(crate) const PREPARE_TIME_MAX: Duration = Duration::from_secs(90);
/// Time for CommServer to take new routes.
pub(crate) const ROUTES_TIME_MAX: Duration = Duration::from_secs(5);
/// Time for the Kernel to take a project's settings.
pub(crate) const SETTINGS_TIME_MAX: Duration = Duration::from_secs(5);
/// Time for the Doer to forget a version, or to hear that it is kept.
pub(crate) const RETIRE_TIME_MAX: Duration = Duration::from_secs(10);
/// Time for DBriver to delete a project's databases.
pub(crate) const DROP_TIME_MAX: Duration = Duration::from_secs(60);

/// What the supervisor tells Resadmin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Resadmin's part of the data directory.
    pub directory: PathBuf,
    /// SHA-256 of the administrator's token.
    pub admin_token_hash: TokenHash,
    /// Names SDK and toolchain: binaries built under another name are built again.
    #[serde(default = "default_toolchain")]
    pub toolchain: String,
    /// Requests at the same time; the rest waits in the Kernel.
    #[serde(default = "default_concurrency")]
    pub concurrency: u32,
    /// Bytes of one image.
    #[serde(default = "default_image_len_max")]
    pub image_len_max: u64,
    /// Bytes of all images, unfinished uploads included.
    #[serde(default = "default_images_len_max")]
    pub images_len_max: u64,
    /// Device nodes that a manifest may ask for.
    #[serde(default)]
    pub device_nodes: Vec<PathBuf>,
    /// Directories that a manifest may ask for.
    #[serde(default)]
    pub directories: Vec<PathBuf>,
    /// Builders may use the host's network where a manifest asks for it.
    #[serde(default)]
    pub build_network: bool,
}

impl Config {
    /// Settings for a directory, with the default for everything else.
    pub fn new(directory: impl Into<PathBuf>, admin_token_hash: TokenHash) -> Config {
        Config {
            directory: directory.into(),
            admin_token_hash,
            toolchain: default_toolchain(),
            concurrency: default_concurrency(),
            image_len_max: default_image_len_max(),
            images_len_max: default_images_len_max(),
            device_nodes: Vec::new(),
            directories: Vec::new(),
            build_network: false,
        }
    }
}

fn default_toolchain() -> String {
    concat!("abi-1 sdk-", env!("CARGO_PKG_VERSION")).to_owned()
}

fn default_concurrency() -> u32 {
    32
}

fn default_image_len_max() -> u64 {
    2 << 30
}

fn default_images_len_max() -> u64 {
    16 << 30
}
