//! Whether calls of single Doees are durable and how often they are tried, as their manifests say, and how long they pause in between.
//!
//! Invariants: what a project's Doees have is replaced as a whole, so versions that no longer serve are forgotten; there
//! are settings of no more projects than a platform has, and of no more Doees than a project has.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
};

use isms_protocol::{
    DoeeVersion, ProcessId, ProjectId,
    kernel::{DoeeRetries, Durability, Retry},
    limits,
};

/// The Doees whose calls are not of the default durability.
#[derive(Default)]
pub(crate) struct Retries {
    by_doee: HashMap<DoeeVersion, Durability>,
    of_project: HashMap<ProjectId, Vec<DoeeVersion>>,
}

/// There are settings of as many projects as a platform may have.
#[derive(Debug, thiserror::Error)]
#[error("there are settings of {max} projects already", max = limits::PROJECTS_MAX)]
pub(crate) struct TooManyProjects;

impl Retries {
    /// Sets what becomes of calls of a project's Doees. The caller has checked the numbers.
    pub(crate) fn set(&mut self, project: ProjectId, retries: &DoeeRetries) -> Result<(), TooManyProjects> {
        let is_known = self.of_project.contains_key(&project);
        if !is_known && !retries.doees.is_empty() && self.of_project.len() >= limits::PROJECTS_MAX {
            return Err(TooManyProjects);
        }
        for doee in self.of_project.remove(&project).unwrap_or_default() {
            self.by_doee.remove(&doee);
        }
        let mut of_project = Vec::with_capacity(retries.doees.len());
        for doee in &retries.doees {
            // One that another project has named as its own stays that one's.
            if let Entry::Vacant(place) = self.by_doee.entry(doee.doee) {
                place.insert(doee.durability);
                of_project.push(doee.doee);
            }
        }
        if !of_project.is_empty() {
            self.of_project.insert(project, of_project);
        }
        Ok(())
    }

    pub(super) fn of(&self, doee: DoeeVersion) -> Durability {
        self.by_doee.get(&doee).copied().unwrap_or_default()
    }
}

/// The pause after so many failed attempts in µs: doubled each time up to its maximum, of which a part that differs from
/// call to call is left away, so that what failed together does not come back together.
pub(super) fn backoff_us(retry: &Retry, failures: u32, process: ProcessId) -> u64 {
    let doublings = failures.saturating_sub(1).min(31);
    let longest_us = 1000 * u64::from(retry.backoff_max_ms);
    let pause_us = ((1000 * u64::from(retry.backoff_ms)) << doublings).min(longest_us);
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one((process, failures));
    pause_us - (pause_us / 2).min(hash % (pause_us / 2 + 1))
}
