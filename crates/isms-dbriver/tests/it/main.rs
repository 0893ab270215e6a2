//! DBriver through its requests, on real files.

mod durability;
mod harness;
mod limits;
mod migrations;
mod rights;
mod role;
mod transactions;
