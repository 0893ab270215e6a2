//! A limit of calls that run at the same time, and the queues that wait for one of them to end.
//!
//! Invariant: a queue that had room for a call and was held up by the limit is in the list until it was looked at
//! again, so no call waits for a place that is free.

use super::{QueueIndex, projects::LimitReached};
use crate::planted::{Bug, planted};

/// What runs of one project.
#[derive(Debug)]
pub(super) struct Limited {
    /// Which limit this is. Calls that began under another one, or under none, do not count.
    number: u64,
    running: u32,
    held_up: Vec<QueueIndex>,
}

impl Limited {
    pub(super) fn new(number: u64) -> Limited {
        Limited {
            number,
            running: 0,
            held_up: Vec::new(),
        }
    }

    pub(super) fn begin(&mut self, max: u32, queue: QueueIndex) -> Result<u64, LimitReached> {
        if self.running < max + u32::from(planted(Bug::OverLimit)) {
            self.running += 1;
            return Ok(self.number);
        }
        // No more of them than the project has Doees.
        if !self.held_up.contains(&queue) {
            self.held_up.push(queue);
        }
        Err(LimitReached)
    }

    #[cfg(test)]
    pub(super) fn holds_up(&self, queue: QueueIndex) -> bool {
        self.held_up.contains(&queue)
    }

    pub(super) fn end(&mut self, number: u64, freed: &mut Vec<QueueIndex>) {
        if number == self.number {
            self.running -= 1;
            if planted(Bug::LeavesHeldUp) {
                return;
            }
            self.free(freed);
        }
    }

    pub(super) fn free(&mut self, freed: &mut Vec<QueueIndex>) {
        freed.append(&mut self.held_up);
    }

    pub(super) fn forget_running(&mut self, number: u64) {
        (self.number, self.running) = (number, 0);
    }
}
