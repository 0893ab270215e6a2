//! Tests of CommServer over real sockets: clients on one side, a scripted Kernel on the other.
// Helpers of tests are not inside a test function, where clippy would allow it by itself.
#![allow(clippy::unwrap_used)]

mod asynchronous;
mod auth;
mod bodies;
mod egress;
mod failures;
mod harness;
mod routing;
