//! What the Kernel was told of projects.
//!
//! Invariant: only projects that have something other than the defaults are kept, and no more of them than a platform
//! has. Who is not kept has the defaults.

use std::collections::HashMap;

use isms_protocol::{ProjectId, kernel::ProjectSettings, limits};

use super::{QueueIndex, limited::Limited, rate::Bucket};
use crate::clock::Moment;

/// The projects that have settings of their own.
#[derive(Default)]
pub(super) struct Projects {
    known: HashMap<ProjectId, Known>,
    /// Limits of what runs at the same time that were ever set.
    limits_set: u64,
}

struct Known {
    settings: ProjectSettings,
    /// What is left of its rate, if that has a limit.
    bucket: Option<Bucket>,
    /// What runs of it, if that has a limit.
    limited: Option<Limited>,
}

/// There were as many calls as there may be in this time.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RateReached {
    /// Of a project.
    #[error("the project may have {rate_max} calls a second and has had them; try again later")]
    OfProject { rate_max: u32 },
    /// Of a Doee.
    #[error("the function may have {per_s} calls a second and has had them; try again later")]
    OfDoee { per_s: u32 },
}

/// As many calls of the project run as may at the same time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LimitReached;

/// More projects have settings than a platform has projects.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the Kernel keeps the settings of {max} projects", max = limits::PROJECTS_MAX)]
pub(crate) struct TooManyProjects;

impl Projects {
    pub(super) fn set(
        &mut self,
        project: ProjectId,
        settings: ProjectSettings,
        now: Moment,
        freed: &mut Vec<QueueIndex>,
    ) -> Result<(), TooManyProjects> {
        // Under the new settings more of what waits may run; whoever looks finds out.
        let before = self.known.get_mut(&project);
        let limited = before.and_then(|known| known.limited.take());
        let limited = limited.map(|mut limited| {
            limited.free(freed);
            limited
        });
        if settings == ProjectSettings::default() {
            self.known.remove(&project);
            return Ok(());
        }
        let limited = (settings.concurrency_max > 0).then(|| {
            limited.unwrap_or_else(|| {
                self.limits_set += 1;
                Limited::new(self.limits_set)
            })
        });
        if let Some(known) = self.known.get_mut(&project) {
            // Who is told the same again, as after a restart of Resadmin, has not earned another second's worth.
            if known.settings.rate_max != settings.rate_max {
                known.bucket = Bucket::new(settings.rate_max, now);
            }
            known.settings = settings;
            known.limited = limited;
            return Ok(());
        }
        if self.known.len() >= limits::PROJECTS_MAX {
            return Err(TooManyProjects);
        }
        let bucket = Bucket::new(settings.rate_max, now);
        let known = Known {
            settings,
            bucket,
            limited,
        };
        self.known.insert(project, known);
        Ok(())
    }

    /// A call of a project that waits in a queue, or would, is about to run: under which of its limits it does, if it
    /// has one. When that is reached, the queue is looked at again as soon as a call of the project has ended.
    pub(super) fn begin(
        &mut self,
        project: ProjectId,
        queue: QueueIndex,
    ) -> Result<Option<u64>, LimitReached> {
        let Some(known) = self.known.get_mut(&project) else {
            return Ok(None);
        };
        let Some(limited) = &mut known.limited else {
            return Ok(None);
        };
        limited.begin(known.settings.concurrency_max, queue).map(Some)
    }

    /// Whether a limit holds up a queue.
    #[cfg(test)]
    pub(super) fn hold_up(&self, queue: QueueIndex) -> bool {
        let mut limits = self.known.values().filter_map(|known| known.limited.as_ref());
        limits.any(|limited| limited.holds_up(queue))
    }

    /// A call of a project has ended that began under this limit; what waits for that comes to `freed`.
    pub(super) fn end(&mut self, project: ProjectId, limit: u64, freed: &mut Vec<QueueIndex>) {
        let known = self.known.get_mut(&project);
        if let Some(limited) = known.and_then(|known| known.limited.as_mut()) {
            limited.end(limit, freed);
        }
    }

    /// Nothing runs any more of what projects limit.
    pub(super) fn forget_running(&mut self) {
        for known in self.known.values_mut() {
            if let Some(limited) = &mut known.limited {
                self.limits_set += 1;
                limited.forget_running(self.limits_set);
            }
        }
    }

    /// Counts a call that comes in from outside.
    pub(super) fn accept(&mut self, project: ProjectId, now: Moment) -> Result<(), RateReached> {
        let known = self.known.get_mut(&project);
        let Some(bucket) = known.and_then(|known| known.bucket.as_mut()) else {
            return Ok(());
        };
        match bucket.take(now) {
            true => Ok(()),
            false => Err(RateReached::OfProject {
                rate_max: bucket.rate_max(),
            }),
        }
    }

    pub(super) fn weight(&self, project: ProjectId) -> u32 {
        match self.known.get(&project) {
            Some(known) => known.settings.weight,
            None => limits::WEIGHT_DEFAULT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weighing(weight: u32) -> ProjectSettings {
        ProjectSettings {
            weight,
            ..ProjectSettings::default()
        }
    }

    #[test]
    fn the_calls_of_a_project_are_counted_and_nobody_elses_and_a_repeated_setting_is_no_gift() {
        let mut projects = Projects::default();
        let (one, two) = (ProjectId::from_bytes([1; 16]), ProjectId::from_bytes([2; 16]));
        let slow = ProjectSettings {
            rate_max: 2,
            ..ProjectSettings::default()
        };
        let reached = Err(RateReached::OfProject { rate_max: 2 });
        projects.set(one, slow, Moment(0), &mut Vec::new()).unwrap();
        let mut ask = |project, us| projects.accept(project, Moment(us));
        assert_eq!([ask(one, 0), ask(one, 0)], [Ok(()), Ok(())]);
        assert_eq!(ask(one, 0), reached);
        assert_eq!(ask(one, 499_999), reached);
        assert!((0..100).all(|_| ask(two, 0) == Ok(())));
        projects.set(one, slow, Moment(499_999), &mut Vec::new()).unwrap();
        assert_eq!(projects.accept(one, Moment(499_999)), reached);
        assert_eq!(projects.accept(one, Moment(500_000)), Ok(()));
        projects
            .set(one, ProjectSettings::default(), Moment(500_000), &mut Vec::new())
            .unwrap();
        assert_eq!(projects.accept(one, Moment(500_000)), Ok(()));
    }

    #[test]
    fn no_more_projects_are_kept_than_a_platform_has_and_defaults_take_no_room() {
        let mut projects = Projects::default();
        let number = |number: usize| ProjectId::from_bytes((number as u128 + 1).to_be_bytes());
        let heavy = weighing(300);
        let set = |projects: &mut Projects, project, settings| {
            projects.set(project, settings, Moment(0), &mut Vec::new())
        };
        for project in 0..limits::PROJECTS_MAX {
            assert_eq!(set(&mut projects, number(project), heavy), Ok(()));
        }
        let last = number(limits::PROJECTS_MAX);
        assert_eq!(set(&mut projects, last, heavy), Err(TooManyProjects));
        assert_eq!(set(&mut projects, last, ProjectSettings::default()), Ok(()));
        assert_eq!(set(&mut projects, number(0), weighing(7)), Ok(()));
        assert_eq!((projects.weight(number(0)), projects.weight(last)), (7, 100));
        assert_eq!(set(&mut projects, number(0), ProjectSettings::default()), Ok(()));
        assert_eq!(set(&mut projects, last, heavy), Ok(()));
        assert_eq!((projects.weight(number(0)), projects.weight(last)), (100, 300));
    }
}
