//! Workers that a Doee reserves for its more urgent calls: those below a class may not take them all.
//!
//! Invariant: while as many workers hold calls of a class or lower ones as these may have, such calls go only to
//! workers that hold some already. So what is reserved is free, or has urgent calls, whatever else waits.

use isms_protocol::{Class, DoeeVersion, kernel::Slots};

use super::{Doee, DoeeLimits, WorkerHandler};
use crate::worker::{Worker, WorkerId};

/// How many workers are reserved, for calls of class realtime, high and above, normal and above.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reserved(pub(crate) [u32; 3]);

impl Reserved {
    fn is_empty(self) -> bool {
        self == Reserved::default()
    }

    /// How many are reserved for calls that are more urgent than a class.
    fn above(self, class: Class) -> u32 {
        self.0[..class as usize].iter().sum()
    }
}

impl DoeeLimits {
    /// Workers that calls of a class and lower ones may have at the same time; one at least, for what waits must run
    /// some time.
    fn workers_for(&self, class: Class) -> u32 {
        let left = self.workers_most().saturating_sub(self.reserved.above(class));
        left.max(1)
    }
}

impl Doee {
    /// Some workers are kept for urgent calls.
    pub(super) fn reserves(&self) -> bool {
        self.limits.is_some_and(|limits| !limits.reserved.is_empty())
    }

    /// What the Kernel is told: calls that `started` and `starting` workers take, of which those of lower classes
    /// never need more workers than they may have.
    pub(super) fn slots(&self, started: u32, starting: u32) -> Slots {
        let room = |workers: u32| {
            let full = workers.min(started);
            let empty = (workers - full).min(starting);
            full.saturating_mul(self.run_time.depth()).saturating_add(empty)
        };
        let Some(limits) = &self.limits else {
            return Slots::all(room(u32::MAX));
        };
        let capacity = room(u32::MAX).min(limits.calls_max());
        if !self.reserves() {
            return Slots::all(capacity);
        }
        let lower = [Class::High, Class::Normal, Class::Batch].map(|class| {
            let calls_max = limits.calls_max().saturating_sub(limits.reserved.above(class));
            room(limits.workers_for(class)).min(calls_max.max(1))
        });
        Slots { capacity, lower }
    }
}

impl WorkerHandler {
    /// The class that a worker's lowest call must have, or a lower one, so that it may be sent the version's next
    /// call. `None` when any worker may.
    pub(super) fn must_hold(&self, version: DoeeVersion, doee: &Doee) -> Option<Class> {
        let limits = doee.limits.filter(|limits| !limits.reserved.is_empty())?;
        let class = self.admin.next_class(version)?;
        let crowded = |bounded: &Class| {
            let holding = doee
                .busy
                .iter()
                .filter(|worker| self.lowest_held(**worker) >= Some(*bounded));
            holding.count() >= limits.workers_for(*bounded) as usize
        };
        let bounded = Class::ALL[1..=class as usize].iter().rev().copied();
        bounded
            .filter(|bounded| limits.reserved.above(*bounded) > 0)
            .find(crowded)
    }

    /// The class of a worker's least urgent call.
    pub(super) fn lowest_held(&self, worker: WorkerId) -> Option<Class> {
        let held = self
            .workers
            .get(&worker)
            .map(|Worker { calls_held, .. }| calls_held);
        let held = held.into_iter().flatten();
        held.filter_map(|task| self.admin.class_of(*task)).max()
    }
}
