//! The calls that wait in one queue, in intrusive red-black trees over the same nodes: one by age, for each class and
//! project one by virtual deadline, and beside it one of those that may be refused yet.
//!
//! Within a class, the project that has had least goes first (`shares`), and of its calls the one that is due first.
//! Invariant: the trees hold the same nodes, but for what was acknowledged, which the last of them lacks. A node is found
//! by its key, never by its address, so nothing here is unsafe but what the adapter macro generates.

#![allow(
    unsafe_code,
    reason = "intrusive_adapter! expands to an unsafe impl of its Adapter trait"
)]

use std::rc::Rc;

use intrusive_collections::{KeyAdapter, RBTree, RBTreeLink, intrusive_adapter};
use isms_protocol::{Class, ProjectId};

use super::{Arrival, shares::Shares};
use crate::{clock::Moment, process_controller::ProcessKey};

/// Where a waiting call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) class: Class,
    pub(crate) project: ProjectId,
    pub(crate) virtual_deadline: Moment,
    /// Unique, and counts up with each arrival.
    pub(crate) sequence: u64,
    /// It is a call that another one waits for: its project's limit of running calls does not count it.
    pub(crate) awaited: bool,
}

impl Ticket {
    /// Its place among the calls of its project.
    pub(super) fn order(&self) -> (Class, Moment, u64) {
        (self.class, self.virtual_deadline, self.sequence)
    }
}

/// One call that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    order: RBTreeLink,
    age: RBTreeLink,
    refusable: RBTreeLink,
    pub(crate) ticket: Ticket,
    pub(crate) process: ProcessKey,
    pub(crate) since: Moment,
    pub(crate) bytes: usize,
    /// It was promised to run: it makes room for nobody.
    pub(crate) acknowledged: bool,
}

impl Waiting {
    pub(crate) fn new(ticket: Ticket, call: &Arrival) -> Waiting {
        Waiting {
            order: RBTreeLink::new(),
            age: RBTreeLink::new(),
            refusable: RBTreeLink::new(),
            ticket,
            process: call.process,
            since: call.now,
            bytes: call.bytes,
            acknowledged: call.acknowledged,
        }
    }
}

intrusive_adapter!(OrderAdapter = Rc<Waiting>: Waiting { order => RBTreeLink });
intrusive_adapter!(AgeAdapter = Rc<Waiting>: Waiting { age => RBTreeLink });
intrusive_adapter!(RefusableAdapter = Rc<Waiting>: Waiting { refusable => RBTreeLink });

impl<'a> KeyAdapter<'a> for OrderAdapter {
    type Key = (Moment, u64);
    fn get_key(&self, waiting: &'a Waiting) -> (Moment, u64) {
        due(&waiting.ticket)
    }
}

impl<'a> KeyAdapter<'a> for RefusableAdapter {
    type Key = (Moment, u64);
    fn get_key(&self, waiting: &'a Waiting) -> (Moment, u64) {
        due(&waiting.ticket)
    }
}

impl<'a> KeyAdapter<'a> for AgeAdapter {
    type Key = u64;
    fn get_key(&self, waiting: &'a Waiting) -> u64 {
        waiting.ticket.sequence
    }
}

/// The order of one project's calls of one class.
fn due(ticket: &Ticket) -> (Moment, u64) {
    (ticket.virtual_deadline, ticket.sequence)
}

/// The calls of one project in one class.
pub(super) struct Lane {
    by_deadline: RBTree<OrderAdapter>,
    refusable: RBTree<RefusableAdapter>,
    len: usize,
}

impl Default for Lane {
    fn default() -> Lane {
        Lane {
            by_deadline: RBTree::new(OrderAdapter::new()),
            refusable: RBTree::new(RefusableAdapter::new()),
            len: 0,
        }
    }
}

impl Lane {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// True when one of the calls could make room for another.
    pub(super) fn has_refusable(&self) -> bool {
        !self.refusable.is_empty()
    }
}

/// The waiting calls of one queue.
pub(crate) struct WaitingTree {
    classes: [Shares; Class::ALL.len()],
    by_age: RBTree<AgeAdapter>,
    len: usize,
    acknowledged: usize,
}

impl WaitingTree {
    pub(crate) fn new() -> WaitingTree {
        WaitingTree {
            classes: Default::default(),
            by_age: RBTree::new(AgeAdapter::new()),
            len: 0,
            acknowledged: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Calls that were acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged
    }

    /// What the projects have had in a class.
    pub(super) fn shares_mut(&mut self, class: Class) -> &mut Shares {
        &mut self.classes[class as usize]
    }

    pub(super) fn all_shares_mut(&mut self) -> impl Iterator<Item = &mut Shares> {
        self.classes.iter_mut()
    }

    pub(crate) fn insert(&mut self, waiting: Waiting) {
        let Ticket { class, project, .. } = waiting.ticket;
        let waiting = Rc::new(waiting);
        self.shares_mut(class).change(project, |lane| {
            lane.by_deadline.insert(waiting.clone());
            if !waiting.acknowledged {
                lane.refusable.insert(waiting.clone());
            }
            lane.len += 1;
        });
        self.acknowledged += usize::from(waiting.acknowledged);
        self.by_age.insert(waiting);
        self.len += 1;
    }

    /// Takes a call out, wherever it stands.
    pub(crate) fn remove(&mut self, ticket: &Ticket) -> Option<Rc<Waiting>> {
        let waiting = self.by_age.find_mut(&ticket.sequence).remove()?;
        self.shares_mut(ticket.class).change(ticket.project, |lane| {
            let ordered = lane.by_deadline.find_mut(&due(ticket)).remove();
            assert!(ordered.is_some(), "a waiting call is in both trees");
            if !waiting.acknowledged {
                lane.refusable.find_mut(&due(ticket)).remove();
            }
            lane.len -= 1;
        });
        self.acknowledged -= usize::from(waiting.acknowledged);
        self.len -= 1;
        Some(waiting)
    }

    /// The call that is first in order.
    pub(crate) fn first(&self) -> Option<&Waiting> {
        let lane = self.classes.iter().find_map(Shares::first)?;
        lane.by_deadline.front().get()
    }

    /// The call that makes room first: of those that may be refused the one of the lowest class, of the project that
    /// has most calls there, due last.
    pub(crate) fn last(&self) -> Option<&Waiting> {
        let (lane, _) = self.classes.iter().rev().find_map(Shares::longest)?;
        lane.refusable.back().get()
    }

    /// The last call that may be refused of a project that has more calls of a class here than another one would have
    /// with one more.
    pub(crate) fn last_of_greedier(&self, class: Class, project: ProjectId) -> Option<&Waiting> {
        let shares = &self.classes[class as usize];
        let own = shares.lane(project).map_or(0, Lane::len);
        let (lane, _) = shares.longest().filter(|(lane, _)| lane.len() > own + 1)?;
        lane.refusable.back().get()
    }

    /// The call that has waited longest.
    pub(crate) fn oldest(&self) -> Option<&Waiting> {
        self.by_age.front().get()
    }
}
