//! The log on a real disk, with its thread.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod damage;
mod directory;
mod durability;
mod full;
mod harness;
mod thread;
