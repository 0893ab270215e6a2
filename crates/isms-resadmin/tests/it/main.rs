//! Resadmin through its requests, on real files; the test plays the other services.

mod callees;
mod deployments;
mod environments;
mod harness;
mod images;
mod projects;
mod role;
mod schedules;
mod settings;
mod tokens;
