//! Resadmin through its requests, on real files; the test plays the other services.

mod deployments;
mod harness;
mod projects;
mod role;
mod tokens;
