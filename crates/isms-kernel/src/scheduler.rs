//! The Scheduler: one queue per (service, Doee version), and which call runs next.
//!
//! Invariants: a queue never has more calls running than its capacity, what a service registered or
//! the Doer published as slots; within a queue the order is class, then the project that has had least for
//! its weight, then virtual deadline, then arrival, except that every so often a call that has waited too
//! long goes first; the queues together are bounded in calls and in bytes, and a full one makes room at the
//! expense of who has most waiting in it, but never by a call that was acknowledged. Those are given at most half
//! of every bound, so that what is urgent always finds room that can be made, and those of one project at most a
//! quarter of what all may have.
//!
//! It knows processes by key only, sends nothing and reads no clock.

mod acknowledged;
mod demand;
mod limited;
mod measured;
mod measures;
#[cfg(test)]
mod model;
mod projects;
mod rate;
mod rates;
mod shares;
#[cfg(test)]
mod tests;
mod tree;

use std::{collections::HashMap, rc::Rc};

use isms_protocol::{
    Class, DoeeVersion, ProjectId, Service,
    kernel::{DoeeRates, ProjectSettings},
    limits,
};

use crate::{
    clock::Moment,
    config::Config,
    planted::{Bug, planted},
    process_controller::ProcessKey,
};

use acknowledged::Acknowledged;
pub(crate) use measures::{Ended, Outcome};
use measures::{Measures, RowIndex};
use projects::{Projects, RateReached, TooManyProjects};
use rates::Rates;
use shares::Shares;
pub(crate) use tree::Ticket;
use tree::{Waiting, WaitingTree};

/// Queues that may exist: every one holds a call, runs one or has slots.
pub(crate) const QUEUES_MAX: usize = 2 * limits::REQUEST_CREDIT_MAX as usize;

/// Of so many dispatches in a row at least all but one follow the order; the one is an aged call's.
/// Without this bound a long queue of old batch calls would shut out every other class.
pub(crate) const AGED_ONE_IN: u32 = 4;

/// Names a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct QueueName {
    pub(crate) service: Service,
    /// `NONE` for what is not dispatched against slots.
    pub(crate) doee: DoeeVersion,
}

/// Finds a queue without hashing; valid while the queue exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueIndex(u32);

/// Every queue that could take the call is full with work that is as urgent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

struct Queue {
    name: QueueName,
    waiting: WaitingTree,
    capacity: u32,
    running: u32,
    /// Dispatches until an aged call may go first again.
    until_aged: u32,
    /// What the Doer was last told of this queue.
    demand_told: u32,
    demand_dirty: bool,
    /// Where its calls are counted, once there were some.
    measured: Option<RowIndex>,
}

/// A place in a queue's capacity, and where projects share what its project was charged for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Occupied {
    class: Class,
    project: ProjectId,
    since: Moment,
    charge: Option<Charge>,
    /// The limit of its project that counts it.
    limit: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Charge {
    expected_us: u64,
    /// What the project weighed when the call began: what is charged is given back at the same rate.
    weight: u32,
}

/// All queues.
pub(crate) struct Scheduler {
    queues: Vec<Option<Queue>>,
    free: Vec<u32>,
    by_name: HashMap<QueueName, QueueIndex>,
    sequence: u64,
    waiting: usize,
    /// Those that may be refused yet.
    refusable_by_class: [usize; 4],
    acknowledged: Acknowledged,
    waiting_bytes: usize,
    demand_dirty: Vec<QueueIndex>,
    projects: Projects,
    rates: Rates,
    /// Queues to look at again, see [`Scheduler::drain_freed`].
    freed: Vec<QueueIndex>,
    measures: Measures,
    queue_len_max: usize,
    queue_total_max: usize,
    queue_bytes_max: usize,
    aging_max_us: u64,
}

impl Scheduler {
    pub(crate) fn new(config: &Config) -> Scheduler {
        Scheduler {
            queues: Vec::new(),
            free: Vec::new(),
            by_name: HashMap::new(),
            sequence: 0,
            waiting: 0,
            refusable_by_class: [0; 4],
            acknowledged: Acknowledged::new(config),
            waiting_bytes: 0,
            demand_dirty: Vec::new(),
            projects: Projects::default(),
            rates: Rates::default(),
            freed: Vec::new(),
            measures: Measures::default(),
            queue_len_max: config.queue_len_max,
            queue_total_max: config.queue_total_max,
            queue_bytes_max: config.queue_bytes_max,
            aging_max_us: config.aging_max_us(),
        }
    }

    /// Finds a queue or opens it; fails when there are too many.
    pub(crate) fn open(&mut self, name: QueueName) -> Result<QueueIndex, Full> {
        if let Some(&index) = self.by_name.get(&name) {
            return Ok(index);
        }
        if self.by_name.len() >= QUEUES_MAX {
            return Err(Full);
        }
        let queue = Queue {
            name,
            waiting: WaitingTree::new(),
            capacity: 0,
            running: 0,
            until_aged: 0,
            demand_told: 0,
            demand_dirty: false,
            measured: None,
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.queues.push(None);
            self.queues.len() as u32 - 1
        });
        self.queues[index as usize] = Some(queue);
        self.by_name.insert(name, QueueIndex(index));
        Ok(QueueIndex(index))
    }

    /// Forgets a queue that holds, runs and may run nothing.
    pub(crate) fn close_idle(&mut self, index: QueueIndex) {
        let Some(queue) = &self.queues[index.0 as usize] else {
            return;
        };
        if queue.waiting.len() == 0 && queue.running == 0 && queue.capacity == 0 && queue.demand_told == 0 {
            self.by_name.remove(&queue.name);
            if let Some(row) = queue.measured {
                self.measures.let_go(row);
            }
            self.queues[index.0 as usize] = None;
            self.free.push(index.0);
        }
    }

    /// Occupies capacity for a call that need not wait, if there is some and nothing waits before it.
    pub(crate) fn start_at_once(
        &mut self,
        index: QueueIndex,
        class: Class,
        project: ProjectId,
        now: Moment,
    ) -> Option<Occupied> {
        let queue = self.queue(index);
        if queue.waiting.len() > 0 || queue.running >= queue.capacity {
            return None;
        }
        let occupied = self.occupy(index, class, project, now)?;
        self.measure_wait(index, class, 0, now);
        Some(occupied)
    }

    /// Lets a call wait. When that needs room, the last waiting calls of lower classes make it:
    /// they are taken out and appended to `evicted`.
    pub(crate) fn wait(
        &mut self,
        index: QueueIndex,
        call: Arrival,
        evicted: &mut Vec<ProcessKey>,
    ) -> Result<Ticket, Full> {
        if call.acknowledged && !self.has_room_for_acknowledged(index, &call) {
            return Err(Full);
        }
        if self.queue(index).waiting.len() >= self.queue_len_max {
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
        self.sequence += 1;
        let due = call
            .deadline
            .unwrap_or_else(|| call.now.after_us(self.aging_max_us));
        let ticket = Ticket {
            class: call.class,
            project: call.project,
            virtual_deadline: due,
            sequence: self.sequence,
        };
        self.queue_mut(index).waiting.insert(Waiting::new(ticket, &call));
        self.waiting += 1;
        match call.acknowledged {
            true => self.acknowledged.add(call.project, call.bytes),
            false => self.refusable_by_class[call.class as usize] += 1,
        }
        self.waiting_bytes += call.bytes;
        self.mark_demand(index);
        Ok(ticket)
    }

    /// Takes the call that runs next and occupies capacity for it.
    pub(crate) fn take(&mut self, index: QueueIndex, now: Moment) -> Option<(ProcessKey, Occupied)> {
        let aging_max_us = self.aging_max_us;
        let queue = self.queues[index.0 as usize].as_mut()?;
        let capacity = queue.capacity + u32::from(planted(Bug::OverCapacity) && queue.capacity > 0);
        if queue.running >= capacity {
            return None;
        }
        let first = queue.waiting.first()?.ticket;
        let oldest = queue.waiting.oldest()?;
        let aged = queue.until_aged == 0 && now.us_since(oldest.since) >= aging_max_us;
        let ticket = if aged { oldest.ticket } else { first };
        let until_aged = if ticket != first {
            AGED_ONE_IN - 1
        } else {
            queue.until_aged.saturating_sub(1)
        };
        let ticket = match planted(Bug::WrongClassOrder) {
            true => queue.waiting.last().map_or(ticket, |last| last.ticket),
            false => ticket,
        };
        let occupied = self.occupy(index, ticket.class, ticket.project, now)?;
        self.queue_mut(index).until_aged = until_aged;
        let waiting = self.take_out(index, &ticket)?;
        self.measure_wait(index, ticket.class, now.us_since(waiting.since), now);
        Some((waiting.process, occupied))
    }

    /// Takes a call out that will not run.
    pub(crate) fn remove(&mut self, index: QueueIndex, ticket: &Ticket) -> Option<ProcessKey> {
        self.take_out(index, ticket).map(|waiting| waiting.process)
    }

    fn take_out(&mut self, index: QueueIndex, ticket: &Ticket) -> Option<Rc<Waiting>> {
        let waiting = self.queue_mut(index).waiting.remove(ticket)?;
        self.waiting -= 1;
        match waiting.acknowledged {
            true => self.acknowledged.remove(ticket.project, waiting.bytes),
            false => self.refusable_by_class[ticket.class as usize] -= 1,
        }
        self.waiting_bytes -= waiting.bytes;
        self.mark_demand(index);
        Some(waiting)
    }

    /// Frees the capacity of a call that has ended.
    pub(crate) fn release(&mut self, index: QueueIndex, occupied: Occupied, now: Moment) {
        let Occupied {
            class,
            project,
            since,
            charge,
            limit,
        } = occupied;
        self.measure_run(index, class, now.us_since(since), now);
        let queue = self.queue_mut(index);
        assert!(queue.running > 0, "only what runs is released");
        queue.running -= 1;
        if let Some(Charge { expected_us, weight }) = charge {
            let shares = queue.waiting.shares_mut(class);
            shares.end(project, weight, expected_us, now.us_since(since));
        }
        if let Some(limit) = limit {
            self.projects.end(project, limit, &mut self.freed);
            if !self.freed.is_empty() {
                self.freed.push(index);
            }
        }
    }

    /// Takes out the queues that may have become able to run a call because another one of the same project has
    /// ended, or its settings have changed: the one whose first call is the most urgent comes last.
    pub(crate) fn drain_freed(&mut self, freed: &mut Vec<QueueIndex>) {
        if self.freed.is_empty() {
            return;
        }
        let mut queues = std::mem::take(&mut self.freed);
        queues.sort_by_key(|&index| std::cmp::Reverse(self.urgency(index)));
        freed.append(&mut queues);
        self.freed = queues;
    }

    /// The order of queues of one project; one in which nothing waits is last.
    fn urgency(&self, index: QueueIndex) -> impl Ord + use<> {
        let queue = self.queues[index.0 as usize].as_ref();
        let first = queue
            .and_then(|queue| queue.waiting.first())
            .map(|first| first.ticket);
        match first {
            Some(first) => (false, first.class, first.virtual_deadline, first.sequence),
            None => (true, Class::Batch, Moment(u64::MAX), u64::MAX),
        }
    }

    /// Occupies capacity that is there, unless as many calls of the project run as may. What projects share has their
    /// weights instead.
    fn occupy(
        &mut self,
        index: QueueIndex,
        class: Class,
        project: ProjectId,
        now: Moment,
    ) -> Option<Occupied> {
        let shared = self.queue(index).is_shared();
        let (weight, limit) = match shared {
            true => (Some(self.projects.weight(project)), None),
            false => (None, self.projects.begin(project, index).ok()?),
        };
        let occupied = self.queue_mut(index).occupy(class, project, weight, now);
        Some(Occupied { limit, ..occupied })
    }

    /// Sets what a project gets. It counts for calls that begin from now on.
    pub(crate) fn set_project(
        &mut self,
        project: ProjectId,
        settings: ProjectSettings,
        now: Moment,
    ) -> Result<(), TooManyProjects> {
        self.projects.set(project, settings, now, &mut self.freed)
    }

    /// Counts a call of a Doee that comes in from outside, and refuses it when the Doee or its project has had too
    /// many. What is refused counts for neither.
    pub(crate) fn accept(
        &mut self,
        project: ProjectId,
        doee: DoeeVersion,
        now: Moment,
    ) -> Result<(), RateReached> {
        let Some(bucket) = self.rates.bucket(doee) else {
            return self.projects.accept(project, now);
        };
        if !bucket.holds_one(now) {
            let per_s = bucket.rate_max();
            return Err(RateReached::OfDoee { per_s });
        }
        self.projects.accept(project, now)?;
        bucket.take(now);
        Ok(())
    }

    /// Sets how many calls of the Doees of a project are accepted.
    pub(crate) fn set_rates(
        &mut self,
        project: ProjectId,
        rates: &DoeeRates,
        now: Moment,
    ) -> Result<(), TooManyProjects> {
        self.rates.set(project, rates, now)
    }

    /// Sets how many calls of a queue may run in all.
    pub(crate) fn set_capacity(&mut self, index: QueueIndex, capacity: u32) {
        self.queue_mut(index).capacity = capacity;
    }

    /// Forgets capacity and running calls of a service whose connection was lost; what waits stays.
    pub(crate) fn service_lost(&mut self, service: Service) {
        if service == Service::Doer {
            self.projects.forget_running();
        }
        for index in self.queues_of(service) {
            let queue = self.queue_mut(index);
            (queue.capacity, queue.running) = (0, 0);
            queue.waiting.all_shares_mut().for_each(Shares::forget_running);
            queue.demand_told = 0;
            if planted(Bug::LosesQueue) {
                while let Some(ticket) = self.queue(index).waiting.first().map(|waiting| waiting.ticket) {
                    self.remove(index, &ticket);
                }
            }
            self.close_idle(index);
        }
    }

    /// The queues of a service, in a fixed order.
    pub(crate) fn queues_of(&self, service: Service) -> Vec<QueueIndex> {
        let of_service = |(index, queue): (usize, &Option<Queue>)| {
            let queue = queue.as_ref().filter(|queue| queue.name.service == service)?;
            debug_assert_eq!(self.by_name.get(&queue.name), Some(&QueueIndex(index as u32)));
            Some(QueueIndex(index as u32))
        };
        self.queues.iter().enumerate().filter_map(of_service).collect()
    }

    /// Calls that run at, and that wait for, a service.
    pub(crate) fn load(&self, service: Service) -> (u32, u32) {
        let queues = self.queues_of(service);
        let each = queues.iter().map(|&index| self.queue(index));
        each.fold((0, 0), |(running, queued), queue| {
            (running + queue.running, queued + queue.waiting.len() as u32)
        })
    }

    /// Calls that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Bytes of the calls that wait.
    #[cfg(test)]
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Queues that exist.
    #[cfg(test)]
    pub(crate) fn queue_count(&self) -> usize {
        self.by_name.len()
    }

    /// True while acknowledged calls hold less than half of the queue and leave others what is theirs.
    fn has_room_for_acknowledged(&self, index: QueueIndex, call: &Arrival) -> bool {
        self.queue(index).waiting.acknowledged() < self.queue_len_max.div_ceil(2)
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

    fn queue(&self, index: QueueIndex) -> &Queue {
        self.queues[index.0 as usize]
            .as_ref()
            .expect("a queue lives while something refers to it")
    }

    fn queue_mut(&mut self, index: QueueIndex) -> &mut Queue {
        self.queues[index.0 as usize]
            .as_mut()
            .expect("a queue lives while something refers to it")
    }
}

impl Queue {
    /// Calls of many projects run here, of which each should get its share. A Doee version is one project's.
    fn is_shared(&self) -> bool {
        self.name.doee.is_none()
    }

    /// How its calls go is kept. What other services do, they can measure themselves.
    fn is_measured(&self) -> bool {
        !self.name.doee.is_none()
    }

    fn occupy(&mut self, class: Class, project: ProjectId, weight: Option<u32>, since: Moment) -> Occupied {
        self.running += 1;
        let charge = weight.map(|weight| Charge {
            expected_us: self.waiting.shares_mut(class).begin(project, weight),
            weight,
        });
        Occupied {
            class,
            project,
            since,
            charge,
            limit: None,
        }
    }
}

/// A call that comes to wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) process: ProcessKey,
    pub(crate) class: Class,
    pub(crate) project: ProjectId,
    pub(crate) deadline: Option<Moment>,
    pub(crate) now: Moment,
    pub(crate) bytes: usize,
    /// It will be acknowledged as soon as it has its place.
    pub(crate) acknowledged: bool,
}
