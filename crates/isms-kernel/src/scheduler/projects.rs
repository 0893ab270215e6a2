//! What the Kernel was told of projects.
//!
//! Invariant: only projects that have something other than the defaults are kept, and no more of them than a platform
//! has. Who is not kept has the defaults.

use std::collections::{HashMap, hash_map::Entry};

use isms_protocol::{ProjectId, kernel::ProjectSettings, limits};

/// The projects that have settings of their own.
#[derive(Default)]
pub(super) struct Projects {
    known: HashMap<ProjectId, ProjectSettings>,
}

/// More projects have settings than a platform has projects.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the Kernel keeps the settings of {max} projects", max = limits::PROJECTS_MAX)]
pub(crate) struct TooManyProjects;

impl Projects {
    pub(super) fn set(
        &mut self,
        project: ProjectId,
        settings: ProjectSettings,
    ) -> Result<(), TooManyProjects> {
        if settings == ProjectSettings::default() {
            self.known.remove(&project);
            return Ok(());
        }
        let full = self.known.len() >= limits::PROJECTS_MAX;
        match self.known.entry(project) {
            Entry::Occupied(mut known) => drop(known.insert(settings)),
            Entry::Vacant(_) if full => return Err(TooManyProjects),
            Entry::Vacant(vacant) => drop(vacant.insert(settings)),
        }
        Ok(())
    }

    pub(super) fn weight(&self, project: ProjectId) -> u32 {
        match self.known.get(&project) {
            Some(settings) => settings.weight,
            None => limits::WEIGHT_DEFAULT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_projects_are_kept_than_a_platform_has_and_defaults_take_no_room() {
        let mut projects = Projects::default();
        let number = |number: usize| ProjectId::from_bytes((number as u128 + 1).to_be_bytes());
        let heavy = ProjectSettings { weight: 300 };
        for project in 0..limits::PROJECTS_MAX {
            assert_eq!(projects.set(number(project), heavy), Ok(()));
        }
        let last = number(limits::PROJECTS_MAX);
        assert_eq!(projects.set(last, heavy), Err(TooManyProjects));
        assert_eq!(projects.set(last, ProjectSettings::default()), Ok(()));
        assert_eq!(projects.set(number(0), ProjectSettings { weight: 7 }), Ok(()));
        assert_eq!((projects.weight(number(0)), projects.weight(last)), (7, 100));
        assert_eq!(projects.set(number(0), ProjectSettings::default()), Ok(()));
        assert_eq!(projects.set(last, heavy), Ok(()));
        assert_eq!((projects.weight(number(0)), projects.weight(last)), (100, 300));
    }
}
