//! Tests of Control Gate over real sockets: clients on one side, a scripted Kernel on the other.
// Helpers of tests are not inside a test function, where clippy would allow it by itself.
#![allow(clippy::unwrap_used)]

mod access;
mod asynchronous;
mod calls;
mod dead;
mod deploy;
mod harness;
mod images;
mod invoke;
mod logs;
mod platform;
mod projects;
mod tokens;
mod traces;
