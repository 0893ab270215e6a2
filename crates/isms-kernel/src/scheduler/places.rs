//! Places in the queues: who gets one, who has to give his up, and how many there are.
//!
//! A place is taken first and waited in afterwards. For most calls both happen at once; a call that is written into the
//! journal before it may run has its place meanwhile, and so has one that waits for its next attempt. What has a
//! place counts in every bound, whether it waits already or not.

use isms_protocol::{Class, ProjectId};

use super::{
    Arrival, Full, Queue, QueueIndex, Scheduler,
    tree::{Ticket, Waiting},
};
use crate::process_controller::ProcessKey;

impl Scheduler {
    /// Lets a call wait. When that needs room, the last waiting calls of lower classes make it:
    /// they are taken out and appended to `evicted`.
    pub(crate) fn wait(
        &mut self,
        index: QueueIndex,
        call: &Arrival,
        evicted: &mut Vec<ProcessKey>,
    ) -> Result<Ticket, Full> {
        self.reserve(index, call, evicted)?;
        Ok(self.place(index, call))
    }

    /// Takes a place for a call that will wait, with the room that it needs. It is for [`Scheduler::place`] or
    /// [`Scheduler::give_back`].
    pub(crate) fn reserve(
        &mut self,
        index: QueueIndex,
        call: &Arrival,
        evicted: &mut Vec<ProcessKey>,
    ) -> Result<(), Full> {
        if call.acknowledged && !self.has_room_for_acknowledged(index, call) {
            return Err(Full);
        }
        if self.queue(index).len() >= self.queue_len_max {
            let queue = self.queue(index);
            let lower = queue.waiting.last().filter(|last| last.ticket.class > call.class);
            let greedier = || queue.waiting.last_of_greedier(call.class, call.project);
            let victim = lower.or_else(greedier).ok_or(Full)?.ticket;
            evicted.extend(self.remove(index, &victim));
        }
        while self.waiting >= self.queue_total_max || self.waiting_bytes + call.bytes > self.queue_bytes_max {
            let fullest = self.lowest_waiting(call.class).ok_or(Full)?;
            self.evict(fullest, call.class, evicted)?;
        }
        self.reserve_regardless(index, call);
        Ok(())
    }

    /// The same for a call that has been acknowledged already and comes back: nothing may refuse it.
    pub(crate) fn reserve_regardless(&mut self, index: QueueIndex, call: &Arrival) {
        self.queue_mut(index).reserved += 1;
        self.waiting += 1;
        self.waiting_bytes += call.bytes;
        match call.acknowledged {
            true => self.acknowledged.add(call.project, call.bytes),
            false => self.refusable_by_class[call.class as usize] += 1,
        }
    }

    /// Lets a call wait in the place that was taken for it.
    pub(crate) fn place(&mut self, index: QueueIndex, call: &Arrival) -> Ticket {
        self.sequence += 1;
        let due = call
            .deadline
            .unwrap_or_else(|| call.now.after_us(self.aging_max_us));
        let ticket = Ticket {
            class: call.class,
            project: call.project,
            virtual_deadline: due,
            sequence: self.sequence,
            awaited: call.awaited,
        };
        let queue = self.queue_mut(index);
        queue.reserved -= 1;
        if ticket.awaited {
            queue.awaited.insert(ticket.order(), ticket);
        }
        queue.waiting.insert(Waiting::new(ticket, call));
        self.mark_demand(index);
        ticket
    }

    /// Gives up a place that was taken for a call which will not wait.
    pub(crate) fn give_back(&mut self, index: QueueIndex, call: &Arrival) {
        self.queue_mut(index).reserved -= 1;
        self.left(call.class, call.project, call.bytes, call.acknowledged);
    }

    /// A call has left its place.
    pub(super) fn left(&mut self, class: Class, project: ProjectId, bytes: usize, acknowledged: bool) {
        self.waiting -= 1;
        self.waiting_bytes -= bytes;
        match acknowledged {
            true => self.acknowledged.remove(project, bytes),
            false => self.refusable_by_class[class as usize] -= 1,
        }
    }

    /// True while acknowledged calls hold less than half of the queue and leave others what is theirs.
    fn has_room_for_acknowledged(&self, index: QueueIndex, call: &Arrival) -> bool {
        let queue = self.queue(index);
        queue.waiting.acknowledged() + queue.reserved < self.queue_len_max.div_ceil(2)
            && self.acknowledged.has_room(call.project, call.bytes)
    }

    fn evict(&mut self, index: QueueIndex, below: Class, evicted: &mut Vec<ProcessKey>) -> Result<(), Full> {
        let last = self
            .queue(index)
            .waiting
            .last()
            .map(|waiting| waiting.ticket)
            .ok_or(Full)?;
        if last.class <= below {
            return Err(Full);
        }
        evicted.extend(self.remove(index, &last));
        Ok(())
    }

    /// The queue whose call that makes room first is the lowest and newest of all, and of a lower class than `above`.
    /// Looks at every queue, but only while the Kernel is full and holds something lower.
    fn lowest_waiting(&self, above: Class) -> Option<QueueIndex> {
        if self.refusable_by_class[above as usize + 1..]
            .iter()
            .all(|&count| count == 0)
        {
            return None;
        }
        let last = |(index, queue): (usize, &Option<Queue>)| {
            let ticket = queue.as_ref()?.waiting.last()?.ticket;
            Some(((ticket.class, ticket.sequence), QueueIndex(index as u32)))
        };
        let lasts = self.queues.iter().enumerate().filter_map(last);
        lasts.max_by_key(|(rank, _)| *rank).map(|(_, index)| index)
    }
}
