//! Watches what passes the core's edge and checks the invariants.
//!
//! It recognises a process by the span id that its caller gave it, which the Kernel passes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use isms_protocol::{
    Class, DoeeVersion, ErrorCode, Flags, Header, Kind, Message, PrincipalId, ProcessId, ProjectId, Service,
    WireError, doer,
    kernel::{Demand, Operation, Progress, ProjectSettings, Slots, StreamCredit},
};

mod accepted;
mod spans;

use super::Tally;
use crate::clock::Moment;

type Span = [u8; 8];

/// A request that its caller has not seen answered.
#[derive(Debug)]
struct Pending {
    span: Span,
    target: Service,
    doee: DoeeVersion,
    class: Class,
    project: ProjectId,
    parent: Option<Span>,
    must_fail: bool,
    deadline: Option<Moment>,
    since: Moment,
    dispatched: bool,
    is_async: bool,
    is_durable: bool,
    principal: PrincipalId,
    about: Option<(ProcessId, u16)>,
    /// It says that this project was deleted, which had these calls.
    deletes: Option<(ProjectId, BTreeSet<Span>)>,
}

/// An asynchronous call that was acknowledged.
#[derive(Debug)]
struct Accepted {
    pending: Pending,
    at: Moment,
    ended: Option<Progress>,
    /// Its project was deleted, or it was lost with the Kernel.
    forgotten: bool,
    /// The deletion of its project was begun.
    uncertain: bool,
}

/// A dispatched process that its callee is not done with.
#[derive(Debug)]
struct Running {
    span: Span,
    doee: DoeeVersion,
    class: Class,
    project: ProjectId,
    replied: bool,
    /// Whose call it is, and the limit of its project under which it began.
    limit: Option<(ProjectId, u64)>,
}

/// Bytes of one stream, as they passed the edge.
#[derive(Default)]
struct Flow {
    granted: u64,
    passed: u64,
}

pub(super) struct Observer {
    pending: BTreeMap<(Service, u64), Pending>,
    accepted: BTreeMap<ProcessId, Accepted>,
    /// Durable calls whose callers were lost before they heard of anything: they may run.
    unheard: Vec<Pending>,
    /// Of calls whose streams begin or end in the Kernel.
    own_streams: BTreeSet<Span>,
    running: BTreeMap<(Service, u64), Running>,
    slots: BTreeMap<(Service, DoeeVersion), Slots>,
    cancelled: BTreeSet<Span>,
    /// Calls that waited when their project was deleted.
    doomed: BTreeSet<Span>,
    /// Calls that their callers have cancelled.
    unwanted: BTreeSet<Span>,
    flows: BTreeMap<(Span, bool), Flow>,
    parents_done: BTreeSet<Span>,
    /// What the Doer knows to wait, by Doee version.
    demand: BTreeMap<DoeeVersion, u32>,
    /// Calls of Doees of a project that may run at the same time, and the number of that limit.
    limits: BTreeMap<ProjectId, (u32, u64)>,
    limits_set: u64,
    /// Replies of Doees that their callers have got.
    invokes_done: u64,
    /// Asynchronous calls to which Doees have replied, which may have ended otherwise before or since.
    async_replied: BTreeSet<Span>,
    pub(super) aging_us: u64,
    pub(super) tally: Tally,
}

/// How a request that the simulation makes is meant.
pub(super) struct Meant {
    pub(super) class: Class,
    pub(super) project: ProjectId,
    pub(super) parent: Option<Span>,
    pub(super) must_fail: bool,
    pub(super) deadline: Option<Moment>,
    /// Which asynchronous call is asked about.
    pub(super) about: Option<ProcessId>,
    /// By who administers its project.
    pub(super) any_principal: bool,
}

impl Observer {
    pub(super) fn new(aging_us: u64) -> Observer {
        Observer {
            pending: BTreeMap::new(),
            accepted: BTreeMap::new(),
            unheard: Vec::new(),
            own_streams: BTreeSet::new(),
            running: BTreeMap::new(),
            slots: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            doomed: BTreeSet::new(),
            unwanted: BTreeSet::new(),
            flows: BTreeMap::new(),
            parents_done: BTreeSet::new(),
            demand: BTreeMap::new(),
            limits: BTreeMap::new(),
            limits_set: 0,
            invokes_done: 0,
            async_replied: BTreeSet::new(),
            aging_us,
            tally: Tally::default(),
        }
    }

    /// A request reaches the core.
    pub(super) fn asked(&mut self, sender: Service, header: &Header, meant: Meant, now: Moment) {
        let pending = Pending {
            span: header.trace.span.0,
            target: header.target,
            doee: queue_doee(header),
            class: meant.class,
            project: meant.project,
            parent: meant.parent,
            must_fail: meant.must_fail,
            deadline: meant.deadline,
            since: now,
            dispatched: false,
            is_async: header.flags.contains(Flags::ASYNC),
            is_durable: header.flags.contains(Flags::DURABLE),
            principal: header.principal,
            about: meant.about.map(|process| (process, header.operation)),
            deletes: deletes(header).then(|| (header.project, self.calls_of(header.project))),
        };
        if let &Some((project, _)) = &pending.deletes {
            let of_project = |accepted: &&mut Accepted| accepted.pending.project == project;
            let accepted = self.accepted.values_mut().filter(of_project);
            accepted.for_each(|accepted| accepted.uncertain = true);
        }
        if pending.is_async || pending.about.is_some() {
            self.own_streams.insert(pending.span);
        }
        self.pending.insert((sender, header.call), pending);
    }

    pub(super) fn registered(&mut self, service: Service, concurrency: u32) {
        self.slots
            .insert((service, DoeeVersion::NONE), Slots::all(concurrency));
    }

    /// A connection has ended, by whichever side.
    pub(super) fn lost(&mut self, service: Service) {
        let of_caller = self.pending.extract_if(.., |(caller, _), _| *caller == service);
        let unheard = of_caller.filter(|(_, pending)| pending.is_durable && !pending.must_fail);
        self.unheard.extend(unheard.map(|(_, pending)| pending));
        let gone: Vec<Span> = self
            .running
            .iter()
            .filter(|((callee, _), _)| *callee == service)
            .map(|(_, run)| run.span)
            .collect();
        self.parents_done.extend(gone);
        self.running.retain(|(callee, _), _| *callee != service);
        self.slots.retain(|(of, _), _| *of != service);
        if service == Service::Doer {
            self.demand.clear();
        }
    }

    /// Any other message reaches the core.
    pub(super) fn told(&mut self, sender: Service, message: &Message) {
        let header = &message.header;
        match header.kind {
            Kind::Reply | Kind::Error => {
                let streams = header.kind == Kind::Reply && header.flags.contains(Flags::STREAM);
                if let Some(running) = self
                    .running
                    .get_mut(&(sender, header.call))
                    .filter(|run| !run.replied)
                {
                    running.replied = true;
                    if self.own_streams.contains(&running.span) && header.kind == Kind::Reply {
                        self.async_replied.insert(running.span);
                    }
                    if !streams {
                        self.finished(sender, header.call);
                    }
                }
            }
            Kind::StreamEnd
                if header.flags.contains(Flags::TO_CALLER)
                    && self
                        .running
                        .get(&(sender, header.call))
                        .is_some_and(|run| run.replied) =>
            {
                self.finished(sender, header.call);
            }
            Kind::Cancel => {
                let pending = self.pending.get(&(sender, header.call));
                self.unwanted.extend(pending.map(|pending| pending.span));
            }
            Kind::Credit if self.own_streams.contains(&header.trace.span.0) => {
                if let Ok(granted) = message.decode_body::<StreamCredit>() {
                    let of_reply = !header.flags.contains(Flags::TO_CALLER);
                    let flow = self.flows.entry((header.trace.span.0, of_reply)).or_default();
                    flow.granted += u64::from(granted.bytes);
                }
            }
            Kind::Slots if sender == Service::Doer => {
                if let Ok(slots) = message.decode_body::<Slots>() {
                    self.slots.insert((sender, header.target_doee), slots);
                }
            }
            _ => {}
        }
    }

    fn finished(&mut self, callee: Service, call: u64) {
        if let Some(running) = self.running.remove(&(callee, call)) {
            self.parents_done.insert(running.span);
        }
    }

    /// The core sends a message.
    pub(super) fn sent(&mut self, to: Service, message: &Message, now: Moment) {
        let header = &message.header;
        let span = header.trace.span.0;
        match header.kind {
            Kind::Request => self.dispatched(to, header, now),
            Kind::Reply | Kind::Error => self.answered(to, message, now),
            Kind::Event if header.sender == Service::Kernel => self.spans_told(to, message, now),
            Kind::Cancel => {
                self.cancelled.insert(span);
            }
            Kind::Credit if self.own_streams.contains(&span) => {}
            Kind::Credit => {
                let granted: StreamCredit =
                    message.decode_body().expect("the core passes on what it decoded");
                let of_reply = !header.flags.contains(Flags::TO_CALLER);
                self.flows.entry((span, of_reply)).or_default().granted += u64::from(granted.bytes);
            }
            Kind::Demand => {
                let demand: Demand = message.decode_body().expect("the core encodes demand");
                self.demand.insert(header.target_doee, demand.queued);
            }
            Kind::StreamChunk => {
                self.tally.chunks += 1;
                let of_reply = header.flags.contains(Flags::TO_CALLER);
                let flow = self.flows.entry((span, of_reply)).or_default();
                flow.passed += message.raw.len() as u64;
                assert!(
                    flow.passed <= flow.granted,
                    "a stream passed more bytes than were granted"
                );
            }
            _ => {}
        }
    }

    fn dispatched(&mut self, to: Service, header: &Header, now: Moment) {
        self.tally.dispatched += 1;
        let span = header.trace.span.0;
        let accepted = self.accepted.values_mut().map(|accepted| &mut accepted.pending);
        let found = self
            .pending
            .values_mut()
            .chain(accepted)
            .chain(&mut self.unheard)
            .find(|pending| pending.span == span);
        let found = found.expect("what is dispatched was asked and is not answered");
        assert!(
            !found.dispatched || found.is_durable,
            "a process was dispatched twice"
        );
        assert!(
            !self.doomed.contains(&span),
            "a call was dispatched whose project was deleted"
        );
        assert!(!found.must_fail, "a forbidden request was dispatched");
        assert_eq!(
            found.project, header.project,
            "a process runs for another project than it should"
        );
        assert_eq!(
            found.class, header.class,
            "a process runs in another class than it should"
        );
        found.dispatched = true;
        // Another attempt is no parent that is done yet.
        self.parents_done.remove(&span);
        let (since, class) = (found.since, found.class);
        // It passes what its project's limit holds up, and does not count there.
        let awaited = found.parent.is_some() && to == Service::Doer;
        self.tally.waited += u64::from(since < now);
        let doee = queue_doee(header);
        let aged = now.us_since(since) >= self.aging_us;
        let before = |other: &&Pending| {
            !other.dispatched
                && !other.must_fail
                && !other.is_async
                && (other.target, other.doee) == (to, doee)
                && other.class < class
        };
        if let Some(higher) = self.pending.values().find(before)
            && !aged
            && !awaited
        {
            panic!("class order: {class:?} ran before {higher:?}");
        }
        let limit = self
            .limits
            .get(&header.project)
            .filter(|_| !doee.is_none() && !awaited);
        let limit = limit.map(|(_, number)| (header.project, *number));
        self.running.insert(
            (to, header.call),
            Running {
                span,
                doee,
                class,
                project: header.project,
                replied: false,
                limit,
            },
        );
        self.check_room(to, doee, class);
        if let Some((project, _)) = limit {
            self.check_limit(project);
        }
    }

    /// Holds when a call of a class begins: more may run of what began before there was less room.
    fn check_room(&self, to: Service, doee: DoeeVersion, class: Class) {
        let slots = self.slots.get(&(to, doee)).copied().unwrap_or(Slots::all(0));
        let lower = [Class::High, Class::Normal, Class::Batch]
            .into_iter()
            .zip(slots.lower);
        let bounds = [(Class::Realtime, slots.capacity)].into_iter().chain(lower);
        for (bounded, most) in bounds.filter(|(bounded, _)| *bounded <= class) {
            let running = self
                .running
                .iter()
                .filter(|((callee, _), run)| *callee == to && run.doee == doee && run.class >= bounded);
            assert!(
                running.count() <= most as usize,
                "{to} was given more of class {bounded:?} and below than its capacity of {most}"
            );
        }
    }

    /// Holds when a call begins: what ran before its project's limit was lowered may still run.
    fn check_limit(&self, project: ProjectId) {
        let Some(&(max, number)) = self.limits.get(&project) else {
            return;
        };
        let counted = self
            .running
            .values()
            .filter(|run| run.limit == Some((project, number)));
        assert!(
            counted.count() <= max as usize,
            "more than {max} calls of {project} run at the same time"
        );
    }

    /// The Kernel is told what a project gets.
    pub(super) fn settings_told(&mut self, project: ProjectId, settings: &ProjectSettings) {
        let max = settings.concurrency_max;
        if max == 0 {
            self.limits.remove(&project);
        } else if let Some((before, _)) = self.limits.get_mut(&project) {
            *before = max;
        } else {
            self.limits_set += 1;
            self.limits.insert(project, (max, self.limits_set));
        }
    }

    fn answered(&mut self, to: Service, message: &Message, now: Moment) {
        let header = &message.header;
        let pending = self.pending.remove(&(to, header.call));
        let pending = pending.expect("an answer belongs to a request that is not answered yet");
        assert_eq!(
            pending.span, header.trace.span.0,
            "an answer belongs to another request"
        );
        let is_done = header.kind == Kind::Reply && !pending.doee.is_none() && !pending.is_async;
        self.invokes_done += u64::from(is_done);
        match header.kind {
            Kind::Reply => self.tally.replied += 1,
            _ => self.tally.failed += 1,
        }
        assert!(
            !pending.must_fail || header.kind == Kind::Error,
            "a forbidden request was answered"
        );
        // A child is stopped with its parent, and so may be cancelled by nobody.
        let timed_out = pending.parent.is_none()
            && self.cancelled.contains(&pending.span)
            && !self.unwanted.contains(&pending.span);
        assert!(
            !timed_out || header.kind == Kind::Reply || header.sender == Service::Kernel,
            "a caller hears of the cancel by which the Kernel stopped its call"
        );
        if let Some((process, operation)) = pending.about.filter(|_| !pending.must_fail) {
            self.told_of(process, operation, message, now);
        }
        if let Some((project, calls)) = pending.deletes.as_ref().filter(|_| header.kind == Kind::Reply) {
            self.deleted(*project, calls);
        }
        let open_end = message.decode_body::<WireError>();
        let open_end = open_end.is_ok_and(|error| error.code == ErrorCode::Unavailable);
        if pending.is_durable && header.kind == Kind::Error && open_end {
            // The journal has stopped over it: whether it is written is known to the disk alone.
            self.unheard.push(pending);
            return;
        }
        if pending.is_async && header.kind == Kind::Reply {
            self.tally.kept += 1;
            let accepted = Accepted {
                pending,
                at: now,
                ended: None,
                forgotten: false,
                uncertain: false,
            };
            self.accept(header.process, accepted);
        }
    }

    /// Holds after every event.
    pub(super) fn check(&self) {
        for (key, pending) in &self.pending {
            let orphan = pending
                .parent
                .is_some_and(|parent| self.parents_done.contains(&parent));
            let stopped = self.cancelled.contains(&pending.span);
            assert!(!orphan || stopped, "{key:?} outlives its parent: {pending:?}");
        }
    }

    /// Holds after every tick while the Doer is there: it knows where something waits, to a factor of two.
    /// `kept` counts asynchronous calls that wait, which no caller waits for.
    pub(super) fn check_demand(&self, kept: BTreeMap<DoeeVersion, u32>) {
        let mut waiting: BTreeMap<DoeeVersion, u32> = self.demand.keys().map(|&doee| (doee, 0)).collect();
        let queued = self
            .pending
            .values()
            .filter(|pending| !pending.dispatched && !pending.is_async && !pending.doee.is_none());
        queued.for_each(|pending| *waiting.entry(pending.doee).or_default() += 1);
        kept.into_iter()
            .for_each(|(doee, count)| *waiting.entry(doee).or_default() += count);
        for (doee, count) in waiting {
            let told = self.demand.get(&doee).copied().unwrap_or(0);
            let known = if count == 0 {
                told == 0
            } else {
                told > 0 && count < 2 * told
            };
            assert!(known, "{count} calls of {doee} wait, the Doer knows of {told}");
        }
    }

    /// Calls of Doees that may have been counted as done: at least, and at most. What became of an asynchronous call
    /// is known where it was asked.
    pub(super) fn done(&self) -> RangeInclusive<u64> {
        let (mut known, mut possible) = (0, 0);
        for Accepted { pending, ended, .. } in self.accepted.values() {
            let is_done = *ended == Some(Progress::Done);
            let may_be = ended.is_none() && self.async_replied.contains(&pending.span);
            known += u64::from(is_done);
            possible += u64::from(is_done || may_be);
        }
        let unheard = self.unheard.iter();
        let unheard = unheard.filter(|pending| self.async_replied.contains(&pending.span));
        possible += unheard.count() as u64;
        self.invokes_done + known..=self.invokes_done + possible
    }

    /// Processes of which the core must still know.
    pub(super) fn alive(&self) -> usize {
        self.pending.len() + self.running.len()
    }

    /// Holds once every deadline and grace period has passed.
    pub(super) fn check_deadlines(&self, now: Moment) {
        for (key, pending) in &self.pending {
            assert!(
                pending.deadline.is_none(),
                "at {now:?} {key:?} is long past its deadline: {pending:?}"
            );
        }
    }

    /// Holds when everybody has answered everything.
    pub(super) fn check_quiet(&self) {
        assert!(
            self.pending.is_empty(),
            "calls were never answered: {:?}",
            self.pending
        );
        assert!(self.running.is_empty(), "calls never ended: {:?}", self.running);
    }
}

/// It is told that a project was deleted.
fn deletes(header: &Header) -> bool {
    header.target == Service::Kernel && header.operation == Operation::ForgetProject as u16
}

/// The Doee version by which a request is queued.
fn queue_doee(header: &Header) -> DoeeVersion {
    let is_invoke = header.target == Service::Doer && header.operation == doer::Operation::Invoke as u16;
    if is_invoke {
        header.target_doee
    } else {
        DoeeVersion::NONE
    }
}
