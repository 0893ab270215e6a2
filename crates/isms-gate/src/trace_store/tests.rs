//! Bounds, fairness and finding; spans and runs in any order.

use isms_protocol::{
    Class, Service, SpanId,
    gate::{Outcome, Start},
};

use super::*;

fn project(number: u8) -> ProjectId {
    ProjectId::from_bytes([number; 16])
}

fn process(number: u64) -> ProcessId {
    ProcessId::from_bytes(u128::from(number).to_be_bytes())
}

fn span(project_number: u8, number: u64) -> Span {
    Span {
        process: process(number),
        attempt: 1,
        parent: ProcessId::NONE,
        parent_attempt: 0,
        root: process(number),
        trace: TraceId([number as u8; 16]),
        client: SpanId::default(),
        project: project(project_number),
        target: Service::Doer,
        operation: 1,
        doee: DoeeVersion::from_bytes([project_number; 16]),
        class: Class::Normal,
        asynchronous: false,
        durable: false,
        at_us: 1000 * number,
        queued_us: 0,
        dispatched_us: Some(1),
        replied_us: 5,
        ended_us: number,
        outcome: Outcome::Done,
        omitted: 0,
    }
}

fn child(of: &Span, number: u64) -> Span {
    Span {
        process: process(number),
        parent: of.process,
        parent_attempt: 1,
        target: Service::Dbriver,
        ..of.clone()
    }
}

fn run(of: &Span, start: Start) -> Run {
    Run {
        process: of.process,
        attempt: of.attempt,
        trace: of.trace,
        project: of.project,
        doee: of.doee,
        begun_at_us: of.at_us + 2,
        ran_us: 2,
        start,
    }
}

/// A store with room for so many calls of one span.
fn store(calls: usize) -> TraceStore {
    let len_max = calls * (CALL_COST + SPAN_COST);
    TraceStore::new(TraceLimits { len_max })
}

fn take(store: &TraceStore, spans: Vec<Span>) {
    store.spans(Spans { spans, dropped: 0 });
}

fn listed(store: &TraceStore, project: Option<ProjectId>) -> Vec<ProcessId> {
    let all = Listed {
        project,
        doees: None,
        slow: false,
        count: 1000,
    };
    store
        .list(&all)
        .into_iter()
        .map(|summary| summary.last.process)
        .collect()
}

#[test]
fn a_call_is_found_by_itself_by_what_it_asked_for_and_by_its_trace() {
    let store = store(10);
    let root = span(1, 7);
    let asked = child(&root, 8);
    // What is asked for ends before the call does.
    take(&store, vec![asked.clone(), root.clone()]);
    for id in [7, 8] {
        let call = store.of_process(process(id)).expect("it is kept");
        assert_eq!(
            (call.process, call.spans),
            (process(7), vec![asked.clone(), root.clone()])
        );
    }
    assert!(store.of_process(process(9)).is_none());
    let by_trace = |sees: fn(ProjectId) -> bool| store.of_trace(root.trace, sees).len();
    assert_eq!(by_trace(|_| true), 1);
    assert_eq!(by_trace(|id| id == project(1)), 1);
    assert_eq!(by_trace(|id| id == project(2)), 0, "it is not theirs");
    assert!(store.of_trace(TraceId([9; 16]), |_| true).is_empty());
}

#[test]
fn two_projects_may_name_one_trace_and_each_sees_its_own() {
    let store = store(10);
    let trace = TraceId([5; 16]);
    let of = |project, number| Span {
        trace,
        ..span(project, number)
    };
    take(&store, vec![of(1, 1), of(2, 2), of(1, 3)]);
    let seen = store.of_trace(trace, |id| id == project(1));
    assert_eq!(
        seen.iter().map(|call| call.process).collect::<Vec<_>>(),
        [process(1), process(3)]
    );
    assert_eq!(store.of_trace(trace, |_| true).len(), 3);
}

#[test]
fn a_run_finds_its_span_whichever_comes_first() {
    let store = store(10);
    let (early, late) = (span(1, 1), span(1, 2));
    store.runs(vec![run(&early, Start::Cold)]);
    take(&store, vec![early.clone(), late.clone()]);
    store.runs(vec![run(&late, Start::Warm)]);
    for (span, start) in [(early, Start::Cold), (late, Start::Warm)] {
        let call = store.of_process(span.process).expect("it is kept");
        assert_eq!(call.run_of(&span).map(|run| run.start), Some(start));
    }
    let inner = store.inner();
    assert!(inner.early.is_empty());
}

#[test]
fn runs_whose_spans_never_come_are_bounded_and_counted() {
    let store = store(10);
    let count = EARLY_MAX as u64 + 10;
    store.runs(
        (1..=count)
            .map(|number| run(&span(1, number), Start::Warm))
            .collect(),
    );
    assert_eq!(store.inner().early.len(), EARLY_MAX);
    assert_eq!(store.usage().dropped, 10);
}

#[test]
fn a_full_store_forgets_the_oldest_calls_with_all_that_points_to_them() {
    let store = store(3);
    for number in 1..=5 {
        take(&store, vec![span(1, number)]);
    }
    assert_eq!(listed(&store, None), [5, 4, 3].map(process));
    assert!(store.of_process(process(1)).is_none());
    assert!(store.of_trace(TraceId([2; 16]), |_| true).is_empty());
    assert_eq!(
        store.usage(),
        TraceUsage {
            len: 3 * (CALL_COST + SPAN_COST),
            evicted: 2,
            dropped: 0
        }
    );
    let inner = store.inner();
    assert_eq!((inner.call_of.len(), inner.of_trace.len()), (3, 3));
}

#[test]
fn the_flood_of_one_project_leaves_the_calls_of_others() {
    let store = store(8);
    take(&store, vec![span(1, 1), span(1, 2), span(2, 3)]);
    take(&store, (100..1100).map(|number| span(9, number)).collect());
    assert_eq!(listed(&store, Some(project(1))), [2, 1].map(process));
    assert_eq!(listed(&store, Some(project(2))), [process(3)]);
    assert_eq!(listed(&store, Some(project(9))).len(), 5);
}

#[test]
fn one_call_has_a_bounded_number_of_spans() {
    let store = TraceStore::new(TraceLimits::default());
    let root = span(1, 1);
    let count = CALL_SPANS_MAX as u64 + 7;
    take(
        &store,
        (0..count).map(|number| child(&root, 10 + number)).collect(),
    );
    let call = store.of_process(process(10)).expect("it is kept");
    assert_eq!((call.spans.len(), call.omitted), (CALL_SPANS_MAX, 7));
    assert_eq!(store.usage().dropped, 7);
}

#[test]
fn a_call_is_listed_once_it_has_ended_with_its_last_attempt() {
    let store = store(20);
    let first = Span {
        outcome: Outcome::Failed,
        durable: true,
        ..span(1, 10)
    };
    let second = Span {
        attempt: 2,
        at_us: first.at_us + 50,
        ended_us: 20,
        outcome: Outcome::Done,
        ..first.clone()
    };
    let unended = child(&span(1, 30), 31);
    take(&store, vec![first.clone(), second.clone(), unended]);
    let all = Listed {
        project: None,
        doees: None,
        slow: false,
        count: 10,
    };
    let found = store.list(&all);
    assert_eq!(found.len(), 1);
    assert_eq!(
        (&found[0].last, found[0].attempts, found[0].spans),
        (&second, 2, 2)
    );
    assert_eq!((found[0].at_us, found[0].took_us), (first.at_us, 70));
}

#[test]
fn lists_are_of_a_doee_slow_ones_first_and_no_longer_than_asked_for() {
    let store = store(20);
    let slow = Span {
        ended_us: 9_000,
        ..span(1, 1)
    };
    take(&store, vec![slow, span(1, 2), span(2, 3)]);
    let list = |doees: Option<u8>, slow, count| {
        let listed = Listed {
            project: None,
            doees: doees.map(|number| vec![DoeeVersion::from_bytes([number; 16])]),
            slow,
            count,
        };
        let found = store.list(&listed);
        found
            .into_iter()
            .map(|summary| summary.last.process)
            .collect::<Vec<_>>()
    };
    assert_eq!(list(None, false, 10), [3, 2, 1].map(process));
    assert_eq!(list(None, true, 2), [1, 3].map(process));
    assert_eq!(list(Some(1), false, 10), [2, 1].map(process));
    assert_eq!(list(Some(7), false, 10), [0_u64; 0].map(process));
    assert_eq!(store.doees(Some(project(1))), [DoeeVersion::from_bytes([1; 16])]);
}

#[test]
fn a_deleted_projects_calls_are_forgotten() {
    let store = store(20);
    take(&store, vec![span(1, 1), span(2, 2), span(1, 3)]);
    store.forget(project(1));
    assert_eq!(listed(&store, None), [process(2)]);
    assert_eq!(store.usage().len, CALL_COST + SPAN_COST);
}

#[test]
fn what_was_lost_on_the_way_is_summed_over_kernels() {
    let store = store(20);
    for dropped in [3, 5, 2] {
        let spans = Vec::new();
        store.spans(Spans { spans, dropped });
    }
    assert_eq!(store.usage().dropped, 7);
}

#[test]
fn whatever_comes_the_books_are_right() {
    // A small generator of numbers: the same run every time.
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut below = move |bound: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % bound
    };
    let store = store(12);
    for _ in 0..20_000 {
        let root = span(below(4) as u8, below(40));
        let told = match below(4) {
            0 => child(&root, 100 + below(400)),
            _ => root.clone(),
        };
        match below(20) {
            0..=9 => take(&store, vec![told]),
            10..=18 => store.runs(vec![run(&told, Start::Warm)]),
            _ => store.forget(root.project),
        }
        let inner = store.inner();
        assert!(inner.len <= store.limits.len_max);
        let sum: usize = inner.calls.values().map(TracedCall::len).sum();
        let of_projects: usize = inner.projects.values().map(|held| held.len).sum();
        assert_eq!((sum, of_projects), (inner.len, inner.len));
        let ordered: usize = inner.projects.values().map(|held| held.order.len()).sum();
        assert_eq!(
            (ordered, inner.of_trace.len()),
            (inner.calls.len(), inner.calls.len())
        );
        assert!(inner.call_of.values().all(|call| inner.calls.contains_key(call)));
        assert!(inner.early.len() <= inner.early_order.len());
    }
}
