//! Tests of CommServer over real sockets: clients on one side, a scripted Kernel on the other.

mod auth;
mod bodies;
mod failures;
mod harness;
mod routing;
