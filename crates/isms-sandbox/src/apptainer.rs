//! The Apptainer backend: the same executor in a SIF image, supervised as closely as a native sandbox.
//!
//! ```text
//! spawner ── clone3 ── init (pid, mount, net, ipc, uts, cgroup namespaces; the worker's cgroup; no code but ours)
//!                        └─ apptainer exec … ── executor (own uid, no capabilities, seccomp, in the image)
//! ```
//! Killing the init kills the runtime, its helpers and the container, whatever they do. The runtime gets a fixed command
//! line, a configuration of ours and a private `/run` in which everything that it may use lies under a fixed name:
//! nothing of a request becomes text but numbers, and nothing of the machine's own configuration counts. Before the
//! first worker, a probe in its place must find blocked what has to be; and what the kernel says of each started executor
//! is checked before its Doer hears of it ([`verify`]).
//!
//! An image is as hostile as the Doee in it: its libraries, loader and environment scripts run with the executor,
//! confined like it.
#![allow(unsafe_code)] // the init: mounts, fork and exec in a process that has no std yet

mod command;
mod init;
mod last_words;
mod probe;
mod runtime;
mod start;
mod verify;

pub(crate) use last_words::{LEN_MAX as LAST_WORDS_LEN_MAX, explain};
pub(crate) use runtime::Runtime;
pub(crate) use start::{Apptainer, Container, allowance};
pub(crate) use verify::verify;
