//! Which numeric user each role runs as.
//!
//! As root every role but the spawner has a uid of its own and all share one group, which may pass
//! through `DIR/run` to the Kernel's socket. As an ordinary user all run as that user.

use std::path::Path;

use anyhow::{Context, Result};
use isms_protocol::Service;

/// First uid of the workers, above the platform's base.
const WORKERS_OFFSET: u32 = 1000;

/// The users of the platform.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Users {
    base: Option<u32>,
}

impl Users {
    /// Own uids when this process is root.
    pub(crate) fn detect(base: u32) -> Users {
        Users {
            base: rustix::process::geteuid().is_root().then_some(base),
        }
    }

    /// One uid for all.
    #[cfg(test)]
    pub(crate) fn shared() -> Users {
        Users { base: None }
    }

    /// The uid and gid of a role; `None` when it keeps those of the supervisor.
    pub(crate) fn of(&self, service: Service) -> Option<(u32, u32)> {
        self.base.map(|base| (base + 1 + u32::from(service as u8), base))
    }

    /// The uids from which services connect to the Kernel.
    pub(crate) fn of_services(&self) -> Vec<u32> {
        match self.base {
            Some(_) => Service::REGISTERED
                .iter()
                .filter_map(|service| self.of(*service))
                .map(|(uid, _)| uid)
                .collect(),
            None => vec![rustix::process::geteuid().as_raw()],
        }
    }

    /// The first of the workers' uids; `None` when they are the supervisor's.
    pub(crate) fn workers_first(&self) -> Option<u32> {
        self.base.map(|base| base + WORKERS_OFFSET)
    }

    /// Gives a file of the supervisor to the roles' group.
    pub(crate) fn give_to_group(&self, path: &Path) -> Result<()> {
        match self.base {
            Some(base) => std::os::unix::fs::chown(path, None, Some(base))
                .with_context(|| format!("cannot give {} to group {base}", path.display())),
            None => Ok(()),
        }
    }
}
