//! Whole-system tests, by concern: real processes, real sandboxes, real compilers.

mod bad_doees;
mod boundaries;
mod data;
mod deploy;
mod example;
mod failures;
mod harness;
mod http_edge;
mod lifecycle;
mod project;
mod scaling;
