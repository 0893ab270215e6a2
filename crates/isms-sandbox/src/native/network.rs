//! Network namespaces for sandboxes, each empty and never used before.
//!
//! To make one takes the kernel as long as all other namespaces together. A privileged process therefore makes the next one
//! ahead, when it has nothing else to do, and lives in it: what it starts then inherits it. It belongs to the initial user
//! namespace, so a sandbox has no power over it whatever capabilities it had in its own.

use std::{cell::Cell, io};

use crate::linux::{check, process};

/// The network namespaces of sandboxes to come.
#[derive(Debug)]
pub(super) struct Networks {
    /// This process lives in one that nothing has used.
    ahead: Cell<bool>,
}

impl Networks {
    pub(super) fn new() -> Self {
        Self {
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

    /// The clone flag with which a sandbox gets a namespace of its own. The one made ahead is given once.
    pub(super) fn take(&self) -> libc::c_int {
        if self.ahead.replace(false) {
            0
        } else {
            libc::CLONE_NEWNET
        }
    }
}
