//! For the tests of both edges: a scripted Kernel on a real socket, and a raw HTTP client.
//!
//! Both panic on what a test does not expect, and wait at most [`DEADLINE`] for anything. They are
//! compiled under the feature `test-support` only.
#![allow(clippy::unwrap_used)]

mod client;
mod kernel;

use std::time::Duration;

pub use client::{Client, Response};
pub use kernel::{FakeAsk, FakeCall, FakeKernel};

/// Longest wait of a test for one event.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Awaits an event; panics when it does not come within [`DEADLINE`].
pub async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, event).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {DEADLINE:?}"),
    }
}
