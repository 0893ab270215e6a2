//! The Kernel: schedules and routes messages between services.
//!
//! A pure [`Core`] (events in, actions out) inside a single-threaded loop that owns the sockets.
//! It routes on the fixed header and never decodes a payload.

mod action;
mod clock;
mod config;
mod core;
mod durability;
mod interface;
mod ipc_module;
mod planted;
mod process_controller;
mod questions;
mod scheduler;
mod services_controller;
#[cfg(test)]
mod sim;
mod traces;

pub use action::{Action, CloseReason, Event, PeerId, RegisterRefusal};
pub use clock::{Moment, Unix};
pub use config::{Config, ConfigError, JOURNAL_MB_DEFAULT, JOURNAL_MB_MAX, JOURNAL_MB_MIN, RECONNECT_GRACE};
pub use core::{Core, IdSource};
pub use durability::{Recovery, RecoveryError};
pub use ipc_module::{RunError, SupervisorChannel, run};
pub use services_controller::rights::RightsError;
