//! What waits and was acknowledged, of all projects and of each.
//!
//! Invariant: it holds at most half of what may wait in all, in number and in bytes, so that what is urgent always
//! finds room that can be made; and one project at most a quarter, so that none takes it from the others.

use std::collections::{HashMap, hash_map::Entry};

use isms_protocol::ProjectId;

use crate::config::Config;

/// What may wait, acknowledged or not.
#[derive(Debug)]
pub(super) struct Acknowledged {
    sum: Held,
    by_project: HashMap<ProjectId, Held>,
    max: Held,
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    count: usize,
    bytes: usize,
}

impl Held {
    /// True while it may hold another one, of so many bytes, as one part in so many of a bound.
    fn has_room(self, bytes: usize, max: Held, parts: usize) -> bool {
        self.count < max.count.div_ceil(parts) && self.bytes + bytes <= max.bytes.div_ceil(parts)
    }
}

impl Acknowledged {
    pub(super) fn new(config: &Config) -> Acknowledged {
        Acknowledged {
            sum: Held::default(),
            by_project: HashMap::new(),
            max: Held {
                count: config.queue_total_max,
                bytes: config.queue_bytes_max,
            },
        }
    }

    pub(super) fn has_room(&self, project: ProjectId, bytes: usize) -> bool {
        let of_project = self.by_project.get(&project).copied().unwrap_or_default();
        self.sum.has_room(bytes, self.max, 2) && of_project.has_room(bytes, self.max, 4)
    }

    pub(super) fn add(&mut self, project: ProjectId, bytes: usize) {
        for held in [&mut self.sum, self.by_project.entry(project).or_default()] {
            held.count += 1;
            held.bytes += bytes;
        }
    }

    pub(super) fn remove(&mut self, project: ProjectId, bytes: usize) {
        let Entry::Occupied(mut of_project) = self.by_project.entry(project) else {
            return;
        };
        for held in [&mut self.sum, of_project.get_mut()] {
            held.count -= 1;
            held.bytes -= bytes;
        }
        if of_project.get().count == 0 {
            of_project.remove();
        }
    }
}
