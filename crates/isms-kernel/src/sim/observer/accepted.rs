//! Asynchronous calls that were acknowledged: who is told of them, what becomes of them when their project is deleted
//! or the Kernel ends.

use std::collections::{BTreeSet, btree_map::Entry};

use isms_protocol::{
    ErrorCode, Header, Kind, Message, PrincipalId, ProcessId, ProjectId, Service, WireError,
    kernel::{Operation, ProcessState, Progress},
};

use super::{super::world::KEEP_S, Accepted, Observer, Pending, Running, Span};
use crate::clock::Moment;

impl Observer {
    /// Calls of a project's Doees that have not ended.
    pub(super) fn calls_of(&self, project: ProjectId) -> BTreeSet<Span> {
        let accepted = self.accepted.values().map(|accepted| &accepted.pending);
        let all = self.pending.values().chain(accepted);
        let calls = all.filter(|call| call.project == project && !call.doee.is_none());
        calls.map(|call| call.span).collect()
    }

    /// A call was acknowledged: one more, or with an idempotency key the same once more.
    pub(super) fn accept(&mut self, process: ProcessId, accepted: Accepted) {
        match self.accepted.entry(process) {
            Entry::Vacant(place) => {
                place.insert(accepted);
            }
            Entry::Occupied(first) => {
                let whose = |pending: &Pending| (pending.project, pending.principal, pending.doee);
                let (first, again) = (&first.get().pending, &accepted.pending);
                assert!(
                    first.is_durable && again.is_durable && whose(first) == whose(again),
                    "a process was accepted twice: {first:?}, {again:?}"
                );
            }
        }
    }

    /// The Kernel has said that a project's calls are stopped and forgotten.
    pub(super) fn deleted(&mut self, project: ProjectId, calls: &BTreeSet<Span>) {
        let accepted = self.accepted.values_mut().map(|accepted| {
            accepted.forgotten |= calls.contains(&accepted.pending.span);
            accepted.uncertain &= !accepted.forgotten;
            &accepted.pending
        });
        let waiting = self.pending.values().chain(accepted);
        let waiting = waiting.filter(|call| calls.contains(&call.span) && !call.dispatched);
        self.doomed.extend(waiting.map(|call| call.span));
        let of_project = |run: &&Running| run.project == project && calls.contains(&run.span);
        for run in self.running.values().filter(of_project) {
            assert!(
                run.doee.is_none() || self.cancelled.contains(&run.span),
                "a call of a deleted project runs on: {run:?}"
            );
        }
    }

    /// Who may know is told of an asynchronous call: it exists for as long as promised, and ends once.
    pub(super) fn told_of(&mut self, process: ProcessId, operation: u16, message: &Message, now: Moment) {
        let accepted = self.accepted.get_mut(&process).expect("it was asked about");
        if accepted.uncertain {
            return;
        }
        if accepted.forgotten {
            assert_eq!(
                message.header.kind,
                Kind::Error,
                "{process} is told of after its project"
            );
            return;
        }
        if message.header.kind == Kind::Reply && operation != Operation::Result as u16 {
            let state: ProcessState = message.decode_body().expect("the core encodes states");
            assert_eq!(state.process, process, "the state of another process");
            assert!(
                accepted.ended.is_none_or(|ended| ended == state.progress),
                "{process} ended twice: {accepted:?}, {state:?}"
            );
            accepted.ended = state.progress.has_ended().then_some(state.progress);
        } else if message.header.sender == Service::Kernel
            && let Ok(error) = message.decode_body::<WireError>()
            && error.code == ErrorCode::NotFound
        {
            let kept_until = accepted.at.after_us(u64::from(KEEP_S) * 1_000_000);
            let early = accepted.pending.is_durable;
            assert!(
                early || now >= kept_until,
                "{process} was forgotten: {accepted:?}"
            );
        }
    }

    /// The Kernel has ended: what was not durable is gone, and it knows no limits.
    pub(in crate::sim) fn kernel_ended(&mut self) {
        self.limits.clear();
        self.cancelled.clear();
        for accepted in self.accepted.values_mut() {
            accepted.forgotten |= !accepted.pending.is_durable;
            accepted.uncertain &= accepted.pending.is_durable;
        }
    }

    /// A call that the Doer still has is known to the Kernel again.
    pub(in crate::sim) fn adopted(&mut self, header: &Header) {
        let running = Running {
            span: header.trace.span.0,
            doee: header.target_doee,
            class: header.class,
            project: header.project,
            replied: false,
            limit: None,
        };
        self.tally.resumed += 1;
        self.parents_done.remove(&running.span);
        self.running.insert((Service::Doer, header.call), running);
    }

    /// Durable calls that were acknowledged, and how they have ended. Not those of a project that is being deleted.
    pub(in crate::sim) fn durable_calls(&self) -> Vec<(ProcessId, Option<Progress>)> {
        let durable = self.accepted.iter().filter(|(_, accepted)| {
            accepted.pending.is_durable && !accepted.forgotten && !accepted.uncertain
        });
        durable
            .map(|(&process, accepted)| (process, accepted.ended))
            .collect()
    }

    pub(in crate::sim) fn has_ended(&mut self, process: ProcessId, progress: Progress) {
        let accepted = self.accepted.get_mut(&process).expect("it was acknowledged");
        accepted.ended = Some(progress);
        self.tally.survived += 1;
    }

    /// Asynchronous calls that were acknowledged, the last few, and whose they are.
    pub(in crate::sim) fn accepted(&self) -> Vec<(ProcessId, ProjectId, PrincipalId)> {
        let last = self.accepted.iter().rev().take(6);
        let whose = |(&process, accepted): (&ProcessId, &Accepted)| {
            (process, accepted.pending.project, accepted.pending.principal)
        };
        last.map(whose).collect()
    }
}
