//! The native backend: one sandbox of namespaces, a read-only template root, limits and filters.
//!
//! A start has two sides. The host side ([`Native::start`]) prepares everything that needs memory: paths,
//! filters, limits, descriptors. The other side (`child`) runs between clone and exec and only makes system
//! calls with what was prepared. Between them a socket: the host says "your ids are mapped" and "you are in your
//! cgroup", the child says which step failed, and exec closes it.
//!
//! Must be used from a process with one thread: workers die with the thread that started them.
#![allow(unsafe_code)] // clone, mounts, ids and limits of a process that has no std yet

mod cgroup;
mod child;
mod elf;
mod image;
mod landlock;
mod limits;
mod mounts;
mod network;
mod openings;
mod rlimit;
mod root;
mod sandbox;
mod start;
mod steps;
mod template;

pub(crate) use cgroup::{Cgroups, Controller, Group};
pub(crate) use child::{Checkpoint, Entry, INNER_ID};
pub(crate) use image::{ImageRoots, own_mounts};
pub use limits::{LimitError, Limits, Profile};
pub(crate) use openings::{Opening, Openings};
pub(crate) use rlimit::DESCRIPTORS_MAX;
pub(crate) use sandbox::{Ends, Exit, Progress, SIGNAL_BASE, Sandbox};
pub use start::NativeError;
pub(crate) use start::{Ids, Ingredients, Native, Start, StartError};
pub use template::StageError;
pub(crate) use template::Template;

/// What a sandbox of another backend has in common with a native one: its channels, its clone, its handshake, and the
/// steps between clone and exec.
pub(crate) mod shared {
    pub(crate) use super::{
        child::{
            Failure, HANDSHAKE, Never, await_go_ahead, die_with_spawner, hide_host_name, lay_out_descriptors,
            report_failure, reset_session, set_limits,
        },
        mounts::{NO_DEV, NO_EXEC, NO_SUID, READ_ONLY},
        rlimit::{ResourceLimit, of as resource_limits},
        root::{attach_mount, clone_mount, mount},
        start::{Prepared, clone},
        steps::Step,
    };
}
