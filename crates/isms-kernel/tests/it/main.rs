//! The whole Kernel over a real Unix socket.
//!
//! The tests' runtime has a thread of its own, so that a dropped connection also ends while the test
//! waits for the Kernel's thread.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests as well")]

mod asynchronous;
mod attacks;
mod between;
mod calls;
mod deletion;
mod durable;
mod endings;
mod harness;
mod measures;
mod registration;
mod settings;
mod streams;
mod traces;
