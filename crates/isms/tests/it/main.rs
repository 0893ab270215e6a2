//! Whole-system tests, by concern: real processes, real sandboxes, real compilers.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod asynchronous;
mod bad_binaries;
mod bad_builds;
mod bad_doees;
mod boundaries;
mod build_network;
mod call_limits;
mod calls;
mod data;
mod deploy;
mod disk_full;
mod durable;
mod effects;
mod egress;
mod example;
mod failures;
mod harness;
mod hostile;
mod http_edge;
mod images;
mod lifecycle;
mod measures;
mod openings;
mod project;
mod scaling;
mod schedules;
mod shares;
mod traces;
