//! DBriver through its requests, on real files.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod attempts;
mod damage;
mod durability;
mod harness;
mod inbox;
mod killed;
mod limits;
mod migrations;
mod rights;
mod role;
mod transactions;
