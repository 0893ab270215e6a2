//! Network namespaces for sandboxes, each empty and never used before.
//!
//! To make one takes the kernel as long as all other namespaces together. A privileged process therefore makes the next one
//! ahead, when it has nothing else to do, and lives in it: what it starts then inherits it. It belongs to the initial user
//! namespace, so a sandbox has no power over it whatever capabilities it had in its own.

use std::{
    cell::Cell,
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use crate::{
    ablation::{self, Layer},
    linux::{check, process},
};

/// The network namespaces of sandboxes to come.
#[derive(Debug)]
pub(super) struct Networks {
    /// That in which this process began.
    host: Option<OwnedFd>,
    /// This process lives in one that nothing has used.
    ahead: Cell<bool>,
}

impl Networks {
    /// Must be called before any is made.
    pub(super) fn new() -> Self {
        Self {
            host: File::open("/proc/self/ns/net").map(OwnedFd::from).ok(),
            ahead: Cell::new(false),
        }
    }

    /// Makes the next one, unless it is there. Without the privilege each sandbox makes its own.
    pub(super) fn prepare(&self) -> io::Result<()> {
        if self.ahead.get() || process::effective_uid() != 0 {
            return Ok(());
        }
        // SAFETY: plain numbers. Nothing in this process talks over a network.
        check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
        self.ahead.set(true);
        Ok(())
    }

    /// The clone flag for the next sandbox, which gets one of its own, or the host's. The one made ahead is given
    /// once.
    pub(super) fn of(&self, hosts: bool) -> io::Result<libc::c_int> {
        if hosts || ablation::leaves_out(Layer::NetworkNamespace) {
            self.enter_hosts()?;
            return Ok(0);
        }
        Ok(if self.ahead.replace(false) {
            0
        } else {
            libc::CLONE_NEWNET
        })
    }

    fn enter_hosts(&self) -> io::Result<()> {
        if process::effective_uid() != 0 {
            // It has never left.
            return Ok(());
        }
        let host = self.host.as_ref().ok_or(io::ErrorKind::NotFound)?;
        // SAFETY: an open descriptor and a plain number.
        check(unsafe { libc::setns(host.as_raw_fd(), libc::CLONE_NEWNET) })?;
        self.ahead.set(false);
        Ok(())
    }
}
