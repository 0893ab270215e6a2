//! The Doer: runs Doees in isolated Workers.
//!
//! - `doer_admin`: tasks in their three queues; `worker_handler`: every decision about workers (both
//!   pure); `worker`: the states of one;
//! - `service`: the loop that feeds events to the decisions and performs what they ask;
//! - `call`: one call from acceptance to answer; `connection`: one worker's channels;
//!   `heard`: what a worker says, judged; `host_call`: what a Doee asks of other services; `binaries`: what a version is;
//!   `durable`: calls that outlive a Kernel; `resume`: what the next one is told of them;
//!   `environment`: what a manifest asks for as the spawner takes it; `builder`: source to shared object; `spawner`,
//!   `logs`, `runs`: the channels beside.
//!
//! Invariants: calls queue in the Kernel, never here; a worker is believed nothing that the Doer has
//! not itself asked for; one that breaks the contract is cut off, and nobody else notices. Not here:
//! how isolation works (isms-sandbox), which call comes first (isms-kernel).

mod binaries;
mod builder;
mod call;
mod callees;
mod config;
mod connection;
mod doer_admin;
mod durable;
mod environment;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod heard;
mod host_call;
mod invoke;
mod logs;
mod resume;
mod runs;
mod service;
mod spawner;
mod status;
mod worker;
mod worker_handler;

pub use config::Config;
pub use error::RunError;
pub use service::run;
pub use spawner::SpawnerError;
