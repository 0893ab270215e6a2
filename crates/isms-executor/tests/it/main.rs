//! Plays the Doer over socket pairs: real executors, real compilers, real Doees in C and C++.
// The helpers of these tests are tests, too; clippy sees that only of functions marked `#[test]`.
#![allow(clippy::unwrap_used)]

mod builder;
mod calls;
mod cpp_sdk;
mod doee_calls;
mod example;
mod host_calls;
mod hostile;
mod http_requests;
mod life;
mod streams;
mod worker;
