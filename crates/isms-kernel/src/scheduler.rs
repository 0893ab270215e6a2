//! The Scheduler: one queue per (service, Doee version), and which call runs next.
//!
//! Invariants: a queue never has more calls running than it has room for, as a service registered or
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
mod places;
mod projects;
mod rate;
mod rates;
mod room;
mod shares;
#[cfg(test)]
mod tests;
mod tree;

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use isms_protocol::{
    Class, DoeeVersion, ProjectId, Service,
    kernel::{DoeeRates, ProjectSettings, Slots},
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
use room::Room;
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
    /// Of those that wait, the calls that others wait for.
    awaited: BTreeMap<(Class, Moment, u64), Ticket>,
    /// Places that are taken for calls that do not wait yet.
    reserved: usize,
    room: Room,
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

impl Occupied {
    /// Since when it is occupied.
    pub(crate) fn since(&self) -> Moment {
        self.since
    }
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
        Ok(self.make(name))
    }

    /// Finds or makes a queue for a call that was acknowledged, however many there are.
    pub(crate) fn open_for_acknowledged(&mut self, name: QueueName) -> QueueIndex {
        let known = self.by_name.get(&name).copied();
        known.unwrap_or_else(|| self.make(name))
    }

    fn make(&mut self, name: QueueName) -> QueueIndex {
        let queue = Queue {
            name,
            waiting: WaitingTree::new(),
            awaited: BTreeMap::new(),
            reserved: 0,
            room: Room::default(),
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
        QueueIndex(index)
    }

    /// Forgets a queue that holds, runs and may run nothing.
    pub(crate) fn close_idle(&mut self, index: QueueIndex) {
        let Some(queue) = &self.queues[index.0 as usize] else {
            return;
        };
        let is_empty = queue.waiting.len() == 0 && queue.reserved == 0;
        if is_empty && queue.room.is_shut() && queue.demand_told == 0 {
            self.by_name.remove(&queue.name);
            if let Some(row) = queue.measured {
                self.measures.let_go(row);
            }
            self.queues[index.0 as usize] = None;
            self.free.push(index.0);
        }
    }

    /// Occupies capacity for a call that need not wait, if there is some and nothing waits before it. Lower ones may
    /// wait for room that is not theirs.
    pub(crate) fn start_at_once(
        &mut self,
        index: QueueIndex,
        class: Class,
        project: ProjectId,
        awaited: bool,
        now: Moment,
    ) -> Option<Occupied> {
        let queue = self.queue(index);
        let passes_all = |first: &Waiting| class < first.ticket.class && !planted(Bug::WaitsBehindLower);
        if !queue.room.admits(class) || !queue.waiting.first().is_none_or(passes_all) {
            return None;
        }
        let occupied = self.occupy(index, class, project, awaited, now)?;
        self.measure_wait(index, class, 0, now);
        Some(occupied)
    }

    /// Takes the call that runs next and occupies capacity for it.
    pub(crate) fn take(&mut self, index: QueueIndex, now: Moment) -> Option<(ProcessKey, Occupied)> {
        let aging_max_us = self.aging_max_us;
        let queue = self.queues[index.0 as usize].as_mut()?;
        let first = queue.waiting.first()?.ticket;
        if !queue.room.admits(first.class) {
            return None;
        }
        let oldest = queue.waiting.oldest()?;
        let aged = queue.until_aged == 0
            && now.us_since(oldest.since) >= aging_max_us
            && queue.room.admits(oldest.ticket.class);
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
        let Ticket { class, project, .. } = ticket;
        let (ticket, occupied) = match self.occupy(index, class, project, ticket.awaited, now) {
            Some(occupied) => {
                self.queue_mut(index).until_aged = until_aged;
                (ticket, occupied)
            }
            // Its project has as many calls running as may, and these may wait for one behind it.
            None => {
                let queue = self.queue(index);
                let (_, &awaited) = queue.awaited.first_key_value()?;
                let may_begin = queue.room.admits(awaited.class);
                let Ticket { class, project, .. } = awaited;
                let occupied = may_begin.then(|| self.occupy(index, class, project, true, now));
                (awaited, occupied.flatten()?)
            }
        };
        let waiting = self.take_out(index, &ticket)?;
        self.measure_wait(index, ticket.class, now.us_since(waiting.since), now);
        Some((waiting.process, occupied))
    }

    /// Takes a call out that will not run.
    pub(crate) fn remove(&mut self, index: QueueIndex, ticket: &Ticket) -> Option<ProcessKey> {
        self.take_out(index, ticket).map(|waiting| waiting.process)
    }

    fn take_out(&mut self, index: QueueIndex, ticket: &Ticket) -> Option<Rc<Waiting>> {
        let queue = self.queue_mut(index);
        let waiting = queue.waiting.remove(ticket)?;
        queue.awaited.remove(&ticket.order());
        self.left(ticket.class, ticket.project, waiting.bytes, waiting.acknowledged);
        self.mark_demand(index);
        Some(waiting)
    }

    /// Occupies capacity, as much as there is or not, for a call that runs at its callee already.
    pub(crate) fn adopt(
        &mut self,
        index: QueueIndex,
        class: Class,
        project: ProjectId,
        now: Moment,
    ) -> Occupied {
        let limit = self.projects.begin(project, index).ok().flatten();
        let occupied = self.queue_mut(index).occupy(class, project, None, now);
        Occupied { limit, ..occupied }
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
        queue.room.end(class);
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
    /// weights instead, and what one of them waits for does not count, since it could wait for ever.
    fn occupy(
        &mut self,
        index: QueueIndex,
        class: Class,
        project: ProjectId,
        awaited: bool,
        now: Moment,
    ) -> Option<Occupied> {
        let shared = self.queue(index).is_shared();
        let (weight, limit) = match shared {
            true => (Some(self.projects.weight(project)), None),
            false if awaited => (None, None),
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

    /// Sets how many calls of a queue may run.
    pub(crate) fn set_capacity(&mut self, index: QueueIndex, slots: Slots) {
        self.queue_mut(index).room.set(slots);
    }

    /// Forgets capacity and running calls of a service whose connection was lost; what waits stays.
    pub(crate) fn service_lost(&mut self, service: Service) {
        if service == Service::Doer {
            self.projects.forget_running();
        }
        for index in self.queues_of(service) {
            let queue = self.queue_mut(index);
            queue.room.forget();
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
            (
                running + queue.room.running(),
                queued + queue.waiting.len() as u32,
            )
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

    /// A queue in which a call waits though there is room for it, and no project's limit holds it up.
    #[cfg(test)]
    pub(crate) fn overlooked(&self) -> Option<QueueName> {
        let queues = self.queues.iter().enumerate();
        let queues = queues.filter_map(|(index, queue)| Some((QueueIndex(index as u32), queue.as_ref()?)));
        let overlooks = |(index, queue): &(QueueIndex, &Queue)| {
            let first = queue.waiting.first();
            first.is_some_and(|first| queue.room.admits(first.ticket.class)) && !self.projects.hold_up(*index)
        };
        queues.into_iter().find(overlooks).map(|(_, queue)| queue.name)
    }

    /// Queues that exist.
    #[cfg(test)]
    pub(crate) fn queue_count(&self) -> usize {
        self.by_name.len()
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
    /// Calls that wait, and those that have a place.
    fn len(&self) -> usize {
        self.waiting.len() + self.reserved
    }

    /// Calls of many projects run here, of which each should get its share. A Doee version is one project's.
    fn is_shared(&self) -> bool {
        self.name.doee.is_none()
    }

    /// How its calls go is kept. What other services do, they can measure themselves.
    fn is_measured(&self) -> bool {
        !self.name.doee.is_none()
    }

    fn occupy(&mut self, class: Class, project: ProjectId, weight: Option<u32>, since: Moment) -> Occupied {
        self.room.begin(class);
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
    /// A call of its project waits for its answer.
    pub(crate) awaited: bool,
}
