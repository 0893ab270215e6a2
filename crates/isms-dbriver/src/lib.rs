//! DBriver: the databases of the projects.
//!
//! SQLite through sqlx, one file per project and database, each with one writer that commits
//! transactions in groups and a few readers beside it. Invariants: what was answered survives a kill
//! and power loss; a Doee reaches only the databases that Resadmin granted its version; a statement
//! that runs too long, returns too much or fills the disk is stopped and undone; one project's queries
//! never wait for another's database, nor for payloads that it does not send.
//!
//! It does not know projects, Doees or tokens: Resadmin owns them. It does not retry.

mod config;
mod database;
mod decode;
mod error;
mod grants;
mod registry;
mod run;
mod service;
mod sql;
mod uploads;
mod value;

pub use config::Config;
pub use grants::GrantsRequest;
pub use run::{RunError, run};
pub use service::{OpenError, Service, WriteCounts};
