//! The calls that wait in one queue, in two intrusive red-black trees over the same nodes: one in
//! the order in which they run, one by age.
//!
//! Invariant: both trees hold the same nodes. A node is found by its key, never by its address, so
//! nothing here is unsafe but what the adapter macro generates.

#![allow(
    unsafe_code,
    reason = "intrusive_adapter! expands to an unsafe impl of its Adapter trait"
)]

use std::rc::Rc;

use intrusive_collections::{Bound, KeyAdapter, RBTree, RBTreeLink, intrusive_adapter};
use isms_protocol::Class;

use crate::{clock::Moment, process_controller::ProcessKey};

/// Where a waiting call stands; the order of the fields is the order in which calls run. A
/// project's virtual runtime will stand between class and deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket {
    pub(crate) class: Class,
    pub(crate) virtual_deadline: Moment,
    /// Unique, and counts up with each arrival.
    pub(crate) sequence: u64,
}

/// One call that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    order: RBTreeLink,
    age: RBTreeLink,
    pub(crate) ticket: Ticket,
    pub(crate) process: ProcessKey,
    pub(crate) since: Moment,
    pub(crate) bytes: usize,
}

impl Waiting {
    pub(crate) fn new(ticket: Ticket, process: ProcessKey, since: Moment, bytes: usize) -> Waiting {
        Waiting {
            order: RBTreeLink::new(),
            age: RBTreeLink::new(),
            ticket,
            process,
            since,
            bytes,
        }
    }
}

intrusive_adapter!(OrderAdapter = Rc<Waiting>: Waiting { order => RBTreeLink });
intrusive_adapter!(AgeAdapter = Rc<Waiting>: Waiting { age => RBTreeLink });

impl<'a> KeyAdapter<'a> for OrderAdapter {
    type Key = Ticket;
    fn get_key(&self, waiting: &'a Waiting) -> Ticket {
        waiting.ticket
    }
}

impl<'a> KeyAdapter<'a> for AgeAdapter {
    type Key = u64;
    fn get_key(&self, waiting: &'a Waiting) -> u64 {
        waiting.ticket.sequence
    }
}

/// The waiting calls of one queue.
pub(crate) struct WaitingTree {
    by_order: RBTree<OrderAdapter>,
    by_age: RBTree<AgeAdapter>,
    len: usize,
}

impl WaitingTree {
    pub(crate) fn new() -> WaitingTree {
        WaitingTree {
            by_order: RBTree::new(OrderAdapter::new()),
            by_age: RBTree::new(AgeAdapter::new()),
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn insert(&mut self, waiting: Waiting) {
        let waiting = Rc::new(waiting);
        self.by_order.insert(waiting.clone());
        self.by_age.insert(waiting);
        self.len += 1;
    }

    /// Takes a call out, wherever it stands.
    pub(crate) fn remove(&mut self, ticket: &Ticket) -> Option<Rc<Waiting>> {
        let waiting = self.by_order.find_mut(ticket).remove()?;
        let aged = self.by_age.find_mut(&ticket.sequence).remove();
        assert!(aged.is_some(), "a waiting call is in both trees");
        self.len -= 1;
        Some(waiting)
    }

    /// The call that is first in order.
    pub(crate) fn first(&self) -> Option<&Waiting> {
        self.by_order.front().get()
    }

    /// The call that is last in order: of the lowest class, and due last.
    pub(crate) fn last(&self) -> Option<&Waiting> {
        self.by_order.upper_bound(Bound::Unbounded).get()
    }

    /// The call that has waited longest.
    pub(crate) fn oldest(&self) -> Option<&Waiting> {
        self.by_age.front().get()
    }
}
