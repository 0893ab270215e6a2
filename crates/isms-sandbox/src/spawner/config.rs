//! What the supervisor tells a new spawner.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::native::Limits;

/// Settings of the spawner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnerConfig {
    /// Data directory of the platform; the cgroups' parent is named after it, so that the next start finds
    /// what this one could not remove.
    pub data_directory: PathBuf,
    /// Directory of the run, on a file system that may execute; the templates are staged in `templates` below.
    pub run_directory: PathBuf,
    /// Directory whose sockets are removed when the supervisor has died.
    pub socket_directory: PathBuf,
    /// The binary `doee-executor`.
    pub executor: PathBuf,
    /// The binary `doee-builder`.
    pub builder: PathBuf,
    /// Directory with the SDK's headers; `/sdk/include` in a builder.
    pub sdk_include: PathBuf,
    /// Host uids (and gids) for workers; used as root only.
    pub uids: UidRange,
    /// Workers and builders at a time.
    pub workers_max: u32,
    /// The most that a worker may be given.
    pub worker_maxima: Limits,
    /// The most that a builder may be given.
    pub builder_maxima: Limits,
    /// Directory of the images, each a SIF file named by its hash in hexadecimal digits.
    pub images: PathBuf,
    /// Bytes that an image may have.
    pub image_len_max: u64,
    /// Device nodes that workers may be given; a request names one by its index.
    pub device_nodes: Vec<PathBuf>,
    /// Directories that workers may be given to read; a request names one by its index.
    pub directories: Vec<PathBuf>,
    /// Builders may be given the host's network.
    pub builder_network: bool,
    /// Layers without which no worker starts, beside [`probe::REQUIRED`](crate::probe::REQUIRED).
    pub required_layers: Vec<String>,
}

/// A range of host uids, of which each worker has one to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UidRange {
    /// The first.
    pub first: u32,
    /// How many.
    pub count: u32,
}
