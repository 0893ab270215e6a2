//! The latest traced calls of every project, in bounded memory.
//!
//! What is kept, found and forgotten together is a *call*: a call from outside, all its attempts, and everything that
//! ran on its behalf. When all is full, the project that has most loses its oldest call, so one project's flood
//! pushes out its own only. The Kernel tells of spans, the Doer of runs, in any order: a run whose span has not come
//! waits for it a while.

use std::{
    collections::{BTreeSet, HashMap, VecDeque, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
};

use isms_protocol::{
    DoeeVersion, ProcessId, ProjectId, TraceId,
    gate::{Run, Span, Spans},
};

use crate::config::TraceLimits;

/// What a span takes: itself, in a list that has just grown, and its place in the index.
const SPAN_COST: usize = 2 * size_of::<Span>() + 128;
/// What a run takes.
const RUN_COST: usize = 2 * size_of::<Run>();
/// What a call takes besides both.
const CALL_COST: usize = 512;
/// Spans of one call, and its runs; what goes beyond is counted.
const CALL_SPANS_MAX: usize = 1024;
/// Runs that wait for their spans.
const EARLY_MAX: usize = 4096;
/// Calls that are shown of one trace.
pub(crate) const TRACE_CALLS_MAX: usize = 32;

/// The latest traced calls.
pub(crate) struct TraceStore {
    limits: TraceLimits,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By the process of the call from outside.
    calls: HashMap<ProcessId, TracedCall>,
    /// The call that each process belongs to.
    call_of: HashMap<ProcessId, ProcessId>,
    of_trace: BTreeSet<(TraceId, ProcessId)>,
    projects: HashMap<ProjectId, Held>,
    early: HashMap<(ProcessId, u32), Run>,
    early_order: VecDeque<(ProcessId, u32)>,
    len: usize,
    evicted: u64,
    dropped: u64,
    /// Spans that the Kernel could not tell of: of the one that is there, and of those before.
    untold: u64,
    untold_before: u64,
}

/// What one project has.
#[derive(Default)]
struct Held {
    /// Its calls, as they came.
    order: VecDeque<ProcessId>,
    len: usize,
}

/// One call from outside, and what ran on its behalf.
#[derive(Clone, Debug)]
pub(crate) struct TracedCall {
    pub(crate) process: ProcessId,
    pub(crate) project: ProjectId,
    pub(crate) trace: TraceId,
    pub(crate) spans: Vec<Span>,
    pub(crate) runs: Vec<Run>,
    /// Spans that there was no room for.
    pub(crate) omitted: u32,
}

/// A call in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Its last attempt.
    pub(crate) last: Span,
    pub(crate) run: Option<Run>,
    /// When its first one came in.
    pub(crate) at_us: u64,
    pub(crate) took_us: u64,
    /// The number of that one.
    pub(crate) attempts: u32,
    pub(crate) spans: usize,
}

/// How much the store holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TraceUsage {
    pub(crate) len: usize,
    /// Calls that were forgotten to make room.
    pub(crate) evicted: u64,
    /// Spans that were lost on the way, and spans and runs that there was no room for.
    pub(crate) dropped: u64,
}

/// Which calls are listed.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) project: Option<ProjectId>,
    /// Those of these versions.
    pub(crate) doees: Option<Vec<DoeeVersion>>,
    /// The slowest first, else the newest.
    pub(crate) slow: bool,
    pub(crate) count: usize,
}

impl TraceStore {
    /// Makes an empty store.
    pub(crate) fn new(limits: TraceLimits) -> TraceStore {
        TraceStore {
            limits,
            inner: Mutex::default(),
        }
    }

    /// Takes spans in.
    pub(crate) fn spans(&self, spans: Spans) {
        let mut inner = self.inner();
        inner.note_untold(spans.dropped);
        for span in spans.spans {
            inner.span(span);
            inner.evict(self.limits.len_max);
        }
    }

    /// Takes runs in.
    pub(crate) fn runs(&self, runs: Vec<Run>) {
        let mut inner = self.inner();
        for run in runs {
            inner.run(run);
        }
        inner.evict(self.limits.len_max);
    }

    /// The call that a process belongs to.
    pub(crate) fn of_process(&self, process: ProcessId) -> Option<TracedCall> {
        let inner = self.inner();
        let call = inner.call_of.get(&process)?;
        inner.calls.get(call).cloned()
    }

    /// The calls of a trace that whoever asks may see, at most [`TRACE_CALLS_MAX`].
    pub(crate) fn of_trace(&self, trace: TraceId, sees: impl Fn(ProjectId) -> bool) -> Vec<TracedCall> {
        let inner = self.inner();
        let all = (trace, ProcessId::NONE)..=(trace, ProcessId::from_bytes([0xff; 16]));
        let calls = inner.of_trace.range(all);
        calls
            .filter_map(|(_, process)| inner.calls.get(process))
            .filter(|call| sees(call.project))
            .take(TRACE_CALLS_MAX)
            .cloned()
            .collect()
    }

    /// Some of the calls whose ends are known.
    pub(crate) fn list(&self, listed: &Listed) -> Vec<Summary> {
        let inner = self.inner();
        let of_doee = |call: &TracedCall| match &listed.doees {
            Some(doees) => call.last().is_some_and(|last| doees.contains(&last.doee)),
            None => true,
        };
        let mut found: Vec<(u64, &TracedCall)> = inner
            .of_project(listed.project)
            .filter(|call| of_doee(call))
            .filter_map(|call| {
                let (at_us, took_us) = call.times()?;
                Some((if listed.slow { took_us } else { at_us }, call))
            })
            .collect();
        found.sort_by_key(|&(key, call)| std::cmp::Reverse((key, call.process)));
        found.truncate(listed.count);
        found.into_iter().filter_map(|(_, call)| call.summary()).collect()
    }

    /// The versions of Doees that were called.
    pub(crate) fn doees(&self, project: Option<ProjectId>) -> Vec<DoeeVersion> {
        let inner = self.inner();
        let of_calls = inner.of_project(project).filter_map(TracedCall::last);
        let versions: BTreeSet<DoeeVersion> = of_calls.map(|last| last.doee).collect();
        versions.into_iter().collect()
    }

    /// Forgets the calls of a project.
    pub(crate) fn forget(&self, project: ProjectId) {
        let mut inner = self.inner();
        while inner.forget_oldest(project) {}
        inner.projects.remove(&project);
    }

    pub(crate) fn usage(&self) -> TraceUsage {
        let inner = self.inner();
        TraceUsage {
            len: inner.len,
            evicted: inner.evicted,
            dropped: inner.dropped + inner.untold + inner.untold_before,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing in it panics between two changes that belong together.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn of_project(&self, project: Option<ProjectId>) -> impl Iterator<Item = &TracedCall> {
        let calls = self.calls.values();
        calls.filter(move |call| project.is_none_or(|project| call.project == project))
    }

    /// A Kernel counts from its start, so fewer than before are of another one.
    fn note_untold(&mut self, untold: u64) {
        if untold < self.untold {
            self.untold_before += self.untold;
        }
        self.untold = untold;
    }

    fn span(&mut self, span: Span) {
        let (root, project) = (span.root, span.project);
        let (call, added) = match self.calls.entry(root) {
            Entry::Occupied(known) => (known.into_mut(), 0),
            Entry::Vacant(free) => {
                self.of_trace.insert((span.trace, root));
                self.projects.entry(project).or_default().order.push_back(root);
                let call = TracedCall {
                    process: root,
                    project,
                    trace: span.trace,
                    spans: Vec::new(),
                    runs: Vec::new(),
                    omitted: 0,
                };
                (free.insert(call), CALL_COST)
            }
        };
        if call.spans.len() >= CALL_SPANS_MAX || call.project != project {
            call.omitted = call.omitted.saturating_add(1);
            self.dropped += 1;
            return;
        }
        let names = (span.process, span.attempt);
        call.spans.push(span);
        self.call_of.insert(names.0, root);
        self.grow(project, added + SPAN_COST);
        if let Some(run) = self.early.remove(&names) {
            self.run(run);
        }
    }

    fn run(&mut self, run: Run) {
        let names = (run.process, run.attempt);
        let known = self.call_of.get(&run.process).copied();
        let Some(call) = known.and_then(|call| self.calls.get_mut(&call)) else {
            if self.early.insert(names, run).is_none() {
                self.early_order.push_back(names);
            }
            // Some of those in the order have found their spans since.
            if self.early_order.len() > EARLY_MAX
                && let Some(oldest) = self.early_order.pop_front()
                && self.early.remove(&oldest).is_some()
            {
                self.dropped += 1;
            }
            return;
        };
        if call.runs.len() >= CALL_SPANS_MAX || call.project != run.project {
            self.dropped += 1;
            return;
        }
        call.runs.push(run);
        let project = call.project;
        self.grow(project, RUN_COST);
    }

    fn grow(&mut self, project: ProjectId, len: usize) {
        self.len += len;
        self.projects.entry(project).or_default().len += len;
    }

    fn evict(&mut self, len_max: usize) {
        while self.len > len_max {
            let largest = self.projects.iter().max_by_key(|(_, held)| held.len);
            let Some((&project, _)) = largest else { return };
            if !self.forget_oldest(project) {
                return;
            }
            self.evicted += 1;
        }
    }

    /// Forgets the oldest call of a project; false when it has none.
    fn forget_oldest(&mut self, project: ProjectId) -> bool {
        let Some(held) = self.projects.get_mut(&project) else {
            return false;
        };
        let oldest = held.order.pop_front();
        let Some(call) = oldest.and_then(|oldest| self.calls.remove(&oldest)) else {
            return false;
        };
        let len = call.len();
        held.len -= len;
        if held.order.is_empty() {
            self.projects.remove(&project);
        }
        self.len -= len;
        self.of_trace.remove(&(call.trace, call.process));
        for span in &call.spans {
            self.call_of.remove(&span.process);
        }
        true
    }
}

impl TracedCall {
    fn len(&self) -> usize {
        CALL_COST + self.spans.len() * SPAN_COST + self.runs.len() * RUN_COST
    }

    /// Its attempts, if any has ended.
    fn attempts(&self) -> impl Iterator<Item = &Span> {
        self.spans.iter().filter(|span| span.parent.is_none())
    }

    /// The attempt that ended last.
    pub(crate) fn last(&self) -> Option<&Span> {
        self.attempts().max_by_key(|span| span.at_us)
    }

    /// When it came in, and how long it took; `None` while no attempt of it has ended.
    fn times(&self) -> Option<(u64, u64)> {
        let first = self.attempts().map(|span| span.at_us).min()?;
        let last = self.last()?;
        Some((
            first,
            last.at_us.saturating_add(last.ended_us).saturating_sub(first),
        ))
    }

    /// How an attempt of a process was run, as far as that is known.
    pub(crate) fn run_of(&self, span: &Span) -> Option<&Run> {
        let mut runs = self.runs.iter();
        runs.find(|run| run.process == span.process && run.attempt == span.attempt)
    }

    fn summary(&self) -> Option<Summary> {
        let last = self.last()?;
        let (at_us, took_us) = self.times()?;
        Some(Summary {
            run: self.run_of(last).cloned(),
            last: last.clone(),
            at_us,
            took_us,
            attempts: self.attempts().map(|span| span.attempt).max().unwrap_or(0),
            spans: self.spans.len(),
        })
    }
}

#[cfg(test)]
mod tests;
