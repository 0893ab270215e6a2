//! The cgroups of sandboxes, of which the next one is made ahead: to make one takes a good part of a start.

use std::io;

use crate::native::{Cgroups, Group, Limits};

/// Gives each sandbox a group of its own.
#[derive(Debug)]
pub(super) struct Groups {
    cgroups: Cgroups,
    /// Names groups; never used twice.
    made: u64,
    /// For the next sandbox, with its limits: those of the last one.
    spare: Option<(Group, Limits)>,
    usual: Limits,
}

impl Groups {
    pub(super) fn new(cgroups: Cgroups, usual: Limits) -> Self {
        Self {
            cgroups,
            made: 0,
            spare: None,
            usual,
        }
    }

    /// A group with these limits; `None` when there is no controller.
    pub(super) fn take(&mut self, limits: &Limits) -> io::Result<Option<Group>> {
        self.usual = *limits;
        let Some((mut group, limited)) = self.spare.take() else {
            return self.make(limits);
        };
        if limited != *limits
            && let Err(error) = group.limit(limits)
        {
            group.remove();
            return Err(error);
        }
        Ok(Some(group))
    }

    /// Makes the next one ahead. What cannot be made now is tried again, and reported, when it is needed.
    pub(super) fn prepare(&mut self) {
        if self.spare.is_none() {
            let limits = self.usual;
            self.spare = self.make(&limits).ok().flatten().map(|group| (group, limits));
        }
    }

    fn make(&mut self, limits: &Limits) -> io::Result<Option<Group>> {
        self.made += 1;
        self.cgroups.create(self.made, limits)
    }

    /// Removes what is left, once no sandbox is.
    pub(super) fn close(&mut self) {
        if let Some((mut group, _)) = self.spare.take() {
            group.remove();
        }
        self.cgroups.close();
    }
}
