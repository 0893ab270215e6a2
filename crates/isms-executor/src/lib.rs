//! What runs inside a sandbox: the Doee Executor, and the builder of Doees.
//!
//! The executor becomes the worker of one Doee: it takes the binary over the control channel, loads it
//! after lockdown, and answers calls on the data channel, one at a time, blocking. The builder turns one
//! Doee's sources into a shared object and exits.
//!
//! Invariants: nothing that either channel brings makes the process panic; what breaks the protocol ends
//! it. A Doee's host calls are answered on the executor's only thread. There is no way to run either
//! program without its lockdown, and no tokio, database, HTTP or command line in them.

mod body;
mod call;
mod control;
mod doee;
mod executor;
mod exit;
mod host;
mod host_call;
mod http;
mod invoke;
mod limits;
mod link;
mod log;
mod params;
mod refusal;
mod response;
mod session;
mod sql;
mod stream;

pub mod builder;

pub use executor::{RunError, run};
pub use exit::{EXIT_CHANNEL, EXIT_FAILED};
