//! What is noted of a process that is traced, and what becomes of it.
//!
//! Invariants: a process is traced when its parent is, as far as one call may have so many; a call from outside when
//! the sampler takes it as it comes in, or as it ends. Of each attempt that is traced and ends, one span is told.

use isms_protocol::{Flags, Header, ProcessId, SpanId, gate, limits::SPANS_PER_CALL_MAX};

use super::{ProcessKey, is_invoke, record::Process};
use crate::{clock::Moment, core::Core, scheduler::Outcome};

/// What a traced process has beside others.
#[derive(Debug)]
pub(crate) struct Traced {
    /// The call that it all began with; the process itself when nothing came before it.
    root: Root,
    parent_attempt: u32,
    received_at: Moment,
    queued_at: Moment,
    dispatched_at: Option<Moment>,
    /// When it was known how it ended, and how.
    ended: Option<(Moment, Outcome)>,
    /// On the root: processes on its behalf that are traced, and that are not.
    children: u32,
    omitted: u32,
}

/// Where a trace begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    id: ProcessId,
    /// `None` for the process itself.
    key: Option<ProcessKey>,
}

impl Traced {
    /// Of a call from outside, or of an attempt of one.
    pub(super) fn root(process: ProcessId, received_at: Moment) -> Box<Traced> {
        let root = Root {
            id: process,
            key: None,
        };
        Traced::new(root, 0, received_at)
    }

    fn new(root: Root, parent_attempt: u32, received_at: Moment) -> Box<Traced> {
        Box::new(Traced {
            root,
            parent_attempt,
            received_at,
            queued_at: received_at,
            dispatched_at: None,
            ended: None,
            children: 0,
            omitted: 0,
        })
    }

    pub(super) fn note_queued(&mut self, now: Moment) {
        self.queued_at = now;
    }

    pub(super) fn note_dispatched(&mut self, now: Moment) {
        self.dispatched_at = Some(now);
    }
}

impl Core {
    /// Decides whether a process that is about to be made is traced, and says so in its header.
    pub(super) fn trace(&mut self, header: &mut Header, parent: Option<ProcessKey>) -> Option<Box<Traced>> {
        let asked = header.flags.contains(Flags::TRACED);
        header.flags = Flags(header.flags.0 & !Flags::TRACED.0);
        let traced = match parent {
            Some(parent) => self.trace_child(parent),
            None if is_invoke(header) && self.traces.head.takes(header.project, asked, self.now) => {
                Some(Traced::root(header.process, self.now))
            }
            None => None,
        }?;
        header.flags = header.flags.with(Flags::TRACED);
        Some(traced)
    }

    fn trace_child(&mut self, parent: ProcessKey) -> Option<Box<Traced>> {
        let process = self.table.get(parent)?;
        let traced = process.traced.as_ref()?;
        let attempt = process.header.attempt;
        let root = Root {
            id: traced.root.id,
            key: Some(traced.root.key.unwrap_or(parent)),
        };
        // Once the call that it began with has ended, nobody counts any more.
        let of_root = self.table.get_mut(root.key?)?.traced.as_mut()?;
        if of_root.children >= SPANS_PER_CALL_MAX {
            of_root.omitted = of_root.omitted.saturating_add(1);
            return None;
        }
        of_root.children += 1;
        Some(Traced::new(root, attempt, self.now))
    }

    /// Notes how a process has ended. A call that was not traced may be from now on, if it ended badly or was slow.
    pub(super) fn trace_ended(&mut self, key: ProcessKey, outcome: Outcome) {
        let now = self.now;
        let Some(process) = self.table.get_mut(key) else {
            return;
        };
        if let Some(traced) = &mut process.traced {
            traced.ended.get_or_insert((now, outcome));
            return;
        }
        let is_root = process.header.parent.is_none() && is_invoke(&process.header);
        if !is_root || !(is_bad(outcome) || is_slow(process, self.traces.slow_us, now)) {
            return;
        }
        let Header {
            project, process: id, ..
        } = process.header;
        if !self.traces.tail.takes(project, false, now) {
            return;
        }
        let mut traced = Traced::root(id, process.accepted_at);
        traced.dispatched_at = process.occupied.map(|occupied| occupied.since());
        traced.ended = Some((now, outcome));
        process.traced = Some(traced);
        // Attempts that follow are traced as well.
        process.header.flags = process.header.flags.with(Flags::TRACED);
    }

    /// Tells of a process that has left the table, if it was traced.
    pub(super) fn tell_traced(&mut self, process: &Process) {
        let Some(traced) = &process.traced else {
            return;
        };
        let header = &process.header;
        let at_us = self.traces.unix_us(self.calendar, traced.received_at);
        let (replied_at, outcome) = traced.ended.unwrap_or((self.now, Outcome::Cancelled));
        let since = |at: Moment| at.us_since(traced.received_at);
        let client = match header.parent.is_none() {
            true => header.trace.span,
            false => SpanId::default(),
        };
        self.tell_span(gate::Span {
            process: header.process,
            attempt: header.attempt,
            parent: header.parent,
            parent_attempt: traced.parent_attempt,
            root: traced.root.id,
            trace: header.trace.trace,
            client,
            project: header.project,
            target: header.target,
            operation: header.operation,
            doee: header.target_doee,
            class: header.class,
            asynchronous: process.kept,
            durable: process.durable,
            at_us,
            queued_us: since(traced.queued_at),
            dispatched_us: traced.dispatched_at.map(since),
            replied_us: since(replied_at),
            ended_us: since(self.now),
            outcome: told(outcome),
            omitted: traced.omitted,
        });
    }
}

/// Somebody will want to know why. What was refused or cancelled needs no trace.
fn is_bad(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Failed | Outcome::Crashed | Outcome::Unavailable | Outcome::Expired | Outcome::TimedOut => {
            true
        }
        Outcome::Done | Outcome::Refused | Outcome::RateLimited | Outcome::Cancelled => false,
    }
}

/// True when somebody has waited too long for it; what nobody waits for may wait, but not run for so long.
fn is_slow(process: &Process, slow_us: u64, now: Moment) -> bool {
    let since = match process.kept {
        true => process.occupied.map(|occupied| occupied.since()),
        false => Some(process.accepted_at),
    };
    since.is_some_and(|since| now.us_since(since) >= slow_us)
}

fn told(outcome: Outcome) -> gate::Outcome {
    match outcome {
        Outcome::Done => gate::Outcome::Done,
        Outcome::Failed => gate::Outcome::Failed,
        Outcome::Crashed => gate::Outcome::Crashed,
        Outcome::Unavailable => gate::Outcome::Unavailable,
        Outcome::Refused => gate::Outcome::Refused,
        Outcome::RateLimited => gate::Outcome::RateLimited,
        Outcome::Cancelled => gate::Outcome::Cancelled,
        Outcome::Expired => gate::Outcome::Expired,
        Outcome::TimedOut => gate::Outcome::TimedOut,
    }
}
