//! Where the scheduler measures calls of Doees: what it knows of each passes here, and nothing is looked up for it.

use isms_protocol::{
    Class, DoeeVersion, Service,
    kernel::{Calls, CallsAfter},
    limits::CALLS_LISTED_MAX,
};

use super::{QueueIndex, QueueName, Scheduler, measures::Ended};
use crate::clock::Moment;

impl Scheduler {
    /// Counts a call of a Doee that has ended, in its queue if it had one.
    pub(crate) fn ended(&mut self, index: Option<QueueIndex>, ended: &Ended, now: Moment) {
        let queue = index.and_then(|index| self.queues[index.0 as usize].as_mut());
        // Who lost its Doer has no queue any more; another may stand in its place.
        let queue = queue.filter(|queue| queue.name.doee == ended.doee);
        let row = queue.map(|queue| self.measures.hold(&mut queue.measured, ended.doee, now));
        self.measures.ended(row, ended, now);
    }

    /// How the calls of Doees went: the part of the list that is asked for.
    pub(crate) fn calls(&self, after: CallsAfter) -> Calls {
        let (mut doees, next) = self.measures.part(after.row, CALLS_LISTED_MAX);
        for listed in &mut doees {
            (listed.queued, listed.running) = match listed.doee {
                DoeeVersion::NONE => self.load_of_the_rest(),
                doee => self.load_of(doee),
            };
        }
        Calls {
            doees,
            next: next.unwrap_or(0),
        }
    }

    pub(super) fn measure_wait(&mut self, index: QueueIndex, class: Class, waited_us: u64, now: Moment) {
        let queue = self.queues[index.0 as usize].as_mut();
        if let Some(queue) = queue.filter(|queue| queue.is_measured()) {
            let row = self.measures.hold(&mut queue.measured, queue.name.doee, now);
            self.measures.began(row, class, waited_us, now);
        }
    }

    pub(super) fn measure_run(&mut self, index: QueueIndex, class: Class, ran_us: u64, now: Moment) {
        if let Some(row) = self.queue(index).measured {
            self.measures.ran(row, class, ran_us, now);
        }
    }

    fn load_of(&self, doee: DoeeVersion) -> (u32, u32) {
        let name = QueueName {
            service: Service::Doer,
            doee,
        };
        let queue = self.by_name.get(&name).map(|&index| self.queue(index));
        queue.map_or((0, 0), |queue| (queue.waiting.len() as u32, queue.room.running()))
    }

    fn load_of_the_rest(&self) -> (u32, u32) {
        let queues = self.queues.iter().flatten();
        let rest = queues.filter(|queue| queue.measured.is_some_and(|row| row.is_the_rest()));
        rest.fold((0, 0), |(queued, running), queue| {
            (
                queued + queue.waiting.len() as u32,
                running + queue.room.running(),
            )
        })
    }
}
