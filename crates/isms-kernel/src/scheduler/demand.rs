//! Demand: what the Doer is told about the queues of Doee versions, so that it starts workers.
//!
//! A version is named when something begins to wait for it, when twice as much waits, and when
//! nothing waits any more. What comes and goes within one batch of events is never told.

use isms_protocol::{DoeeVersion, Service, kernel::Demand};

use super::{Queue, QueueIndex, Scheduler};
use crate::{
    clock::Moment,
    planted::{Bug, planted},
};

impl Scheduler {
    /// Appends what the Doer must be told now.
    pub(crate) fn demand(&mut self, now: Moment, told: &mut Vec<(DoeeVersion, Demand)>) {
        while let Some(index) = self.demand_dirty.pop() {
            let Some(queue) = self.queues[index.0 as usize].as_mut() else {
                continue;
            };
            queue.demand_dirty = false;
            if let Some(demand) = queue.news(now) {
                told.push((queue.name.doee, demand));
            }
            self.close_idle(index);
        }
    }

    /// Makes everything that waits for Doees news again, for a Doer that has just registered.
    pub(crate) fn repeat_demand(&mut self) {
        for index in self.queues_of(Service::Doer) {
            if planted(Bug::ForgetsDemand) {
                return;
            }
            self.queue_mut(index).demand_told = 0;
            self.mark_demand(index);
        }
    }

    pub(super) fn mark_demand(&mut self, index: QueueIndex) {
        let queue = self.queue_mut(index);
        if queue.name.service == Service::Doer && !queue.name.doee.is_none() && !queue.demand_dirty {
            queue.demand_dirty = true;
            self.demand_dirty.push(index);
        }
    }
}

impl Queue {
    fn news(&mut self, now: Moment) -> Option<Demand> {
        let queued = self.waiting.len() as u32;
        let news = match self.demand_told {
            0 => queued > 0,
            told => queued == 0 || queued >= told.saturating_mul(2),
        };
        if !news {
            return None;
        }
        self.demand_told = queued;
        let oldest_us = self
            .waiting
            .oldest()
            .map_or(0, |oldest| now.us_since(oldest.since));
        Some(Demand { queued, oldest_us })
    }
}
