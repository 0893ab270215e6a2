//! Tests of Control Gate over real sockets: clients on one side, a scripted Kernel on the other.

mod access;
mod deploy;
mod harness;
mod invoke;
mod logs;
mod platform;
mod tokens;
