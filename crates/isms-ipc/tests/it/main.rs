//! The endpoint as its users see it: over real sockets, against friends, strangers and stock libzmq.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod attacks;
mod blocking;
mod connection;
mod interop;
mod kernel;
mod link_answers;
mod link_attached;
mod link_calls;
mod link_life;
mod link_resumed;
mod link_streams;
