//! How many requests are under way: of one project, and in all. What is over it is refused at once, so
//! that the Kernel's room for CommServer is never taken up by requests that wait.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use isms_protocol::ProjectId;

use super::error::FetchError;

/// Requests under way.
pub(crate) const FETCHES_MAX: usize = 128;
/// Requests of one project under way.
const PROJECT_FETCHES_MAX: usize = 16;

/// Counts the requests under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots {
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_project: HashMap<ProjectId, usize>,
}

/// A request's place, which counts until its last holder is gone.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Slots,
    project: ProjectId,
}

impl Slots {
    /// Takes a place, if one is free.
    pub(crate) fn take(&self, project: ProjectId) -> Result<Arc<Slot>, FetchError> {
        let mut taken = self.taken();
        if taken.all >= FETCHES_MAX {
            return Err(FetchError::Busy(
                "too many requests to servers outside are under way; try again later",
            ));
        }
        let of_project = taken.by_project.entry(project).or_default();
        if *of_project >= PROJECT_FETCHES_MAX {
            return Err(FetchError::Busy(
                "the project has 16 requests to servers outside under way; wait for one",
            ));
        }
        *of_project += 1;
        taken.all += 1;
        Ok(Arc::new(Slot {
            slots: self.clone(),
            project,
        }))
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken();
        taken.all -= 1;
        if let Some(of_project) = taken.by_project.get_mut(&self.project) {
            *of_project -= 1;
            if *of_project == 0 {
                taken.by_project.remove(&self.project);
            }
        }
    }
}

const _: () = assert!(PROJECT_FETCHES_MAX == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_project_cannot_take_the_place_of_others_and_all_have_an_end() {
        let slots = Slots::default();
        let projects: Vec<_> = (0..=FETCHES_MAX / PROJECT_FETCHES_MAX)
            .map(|_| ProjectId::generate())
            .collect();
        let mut held = Vec::new();
        for project in &projects[..FETCHES_MAX / PROJECT_FETCHES_MAX] {
            for _ in 0..PROJECT_FETCHES_MAX {
                held.push(slots.take(*project).expect("a place"));
            }
            assert!(slots.take(*project).is_err(), "the project's own limit");
        }
        let last = projects[projects.len() - 1];
        assert!(slots.take(last).is_err(), "the limit of all");
        held.pop();
        held.push(slots.take(last).expect("the place that became free"));
        drop(held);
        assert_eq!(slots.taken().all, 0);
        assert!(slots.taken().by_project.is_empty());
    }
}
