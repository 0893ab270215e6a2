//! The wire format, pinned: golden bytes, numbers, round trips and hostile input.
//!
//! A test that fails here says that two releases would no longer understand each other. Append a
//! field or a number and extend the pins; never change one.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic, as tests may")]

mod golden;
mod hostile;
mod numbers;
mod round_trip;
mod samples;
mod wire_error;
