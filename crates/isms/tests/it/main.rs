//! Whole-system tests, by concern: real processes, real sandboxes, real compilers.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod bad_doees;
mod boundaries;
mod data;
mod deploy;
mod egress;
mod example;
mod failures;
mod harness;
mod http_edge;
mod lifecycle;
mod project;
mod scaling;
