//! Traces as JSON: spans with the times of both who told of them.

use isms_protocol::{
    DoeeVersion, ProcessId, Service, SpanId, commserver, dbriver, doer,
    gate::{Run, Span},
    resadmin,
};
use serde_json::{Value, json};

use crate::{
    names::Names,
    trace_store::{Summary, TracedCall},
};

/// What versions are called.
pub(crate) type Name<'a> = &'a dyn Fn(DoeeVersion) -> Option<Names>;

/// A list of calls.
pub(crate) fn summaries(summaries: &[Summary], name: Name<'_>) -> Value {
    let shown = summaries.iter().map(|summary| {
        let last = &summary.last;
        let names = name(last.doee);
        json!({
            "process": last.process,
            "trace": last.trace.to_string(),
            "project": last.project,
            "project_name": names.as_ref().map(|names| &names.project),
            "doee": names.as_ref().map(|names| &names.doee),
            "version": last.doee,
            "class": last.class,
            "outcome": last.outcome.name(),
            "start": summary.run.as_ref().map(|run| run.start.name()),
            "at_us": summary.at_us,
            "took_us": summary.took_us,
            "attempts": summary.attempts,
            "spans": summary.spans,
        })
    });
    json!({ "traces": shown.collect::<Vec<Value>>() })
}

/// Calls of one trace, each with its spans.
pub(crate) fn calls(calls: &[TracedCall], name: Name<'_>) -> Value {
    let trace = calls.first().map(|call| call.trace.to_string());
    let shown: Vec<Value> = calls.iter().map(|call| self::call(call, name)).collect();
    json!({ "trace": trace, "calls": shown })
}

fn call(call: &TracedCall, name: Name<'_>) -> Value {
    let mut spans: Vec<&Span> = call.spans.iter().collect();
    // A call comes before what it asks for in the same microsecond.
    spans.sort_by_key(|span| (span.at_us, !span.parent.is_none(), span.process, span.attempt));
    let of_kernel: u32 = spans.iter().map(|span| span.omitted).sum();
    let shown: Vec<Value> = spans
        .iter()
        .map(|told| span(told, call.run_of(told), name))
        .collect();
    let last = call.last();
    json!({
        "process": call.process,
        "project": call.project,
        "project_name": last.and_then(|last| name(last.doee)).map(|names| names.project),
        "outcome": last.map(|last| last.outcome.name()),
        "omitted": call.omitted.saturating_add(of_kernel),
        "spans": shown,
    })
}

fn span(span: &Span, run: Option<&Run>, name: Name<'_>) -> Value {
    let names = match span.doee.is_none() {
        true => None,
        false => name(span.doee),
    };
    let ran = run.map(|run| Ran::of(span, run));
    let id = |id: ProcessId| (!id.is_none()).then_some(id);
    let client = (!span.client.is_none()).then(|| span.client.to_string());
    json!({
        "process": span.process,
        "attempt": span.attempt,
        "parent": id(span.parent),
        "parent_attempt": id(span.parent).map(|_| span.parent_attempt),
        "span": SpanId::of(span.process, span.attempt).to_string(),
        "client_span": client,
        "service": span.target.name(),
        "operation": operation(span.target, span.operation),
        "doee": names.map(|names| names.doee),
        "version": (!span.doee.is_none()).then_some(span.doee),
        "class": span.class,
        "async": span.asynchronous,
        "durable": span.durable,
        "at_us": span.at_us,
        "queued_us": span.queued_us,
        "dispatched_us": span.dispatched_us,
        "begun_us": ran.map(|ran| ran.begun_us),
        "ran_us": ran.map(|ran| ran.ran_us),
        "start": run.map(|run| run.start.name()),
        "replied_us": span.replied_us,
        "ended_us": span.ended_us,
        "outcome": span.outcome.name(),
    })
}

/// When a call was begun and for how long it ran, within the time that the Kernel says it was at the Doer: clocks are
/// read in two places, and set by people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ran {
    begun_us: u64,
    ran_us: u64,
}

impl Ran {
    fn of(span: &Span, run: &Run) -> Ran {
        let since = span.dispatched_us.unwrap_or(span.queued_us).min(span.ended_us);
        let begun_us = run.begun_at_us.saturating_sub(span.at_us);
        let begun_us = begun_us.clamp(since, span.ended_us);
        Ran {
            begun_us,
            ran_us: run.ran_us.min(span.ended_us - begun_us),
        }
    }
}

/// What a service was asked for.
pub(crate) fn operation(service: Service, number: u16) -> Option<&'static str> {
    match service {
        Service::Doer => doer::Operation::from_u16(number).map(doer::Operation::name),
        Service::Dbriver => dbriver::Operation::from_u16(number).map(dbriver::Operation::name),
        Service::Commserver => commserver::Operation::from_u16(number).map(commserver::Operation::name),
        Service::Resadmin => resadmin::Operation::from_u16(number).map(resadmin::Operation::name),
        Service::Kernel | Service::Gate | Service::Worker => None,
    }
}

#[cfg(test)]
mod tests {
    use isms_protocol::{
        Class, ProjectId, TraceId,
        gate::{Outcome, Start},
    };

    use super::*;

    fn span() -> Span {
        Span {
            process: ProcessId::from_bytes([1; 16]),
            attempt: 1,
            parent: ProcessId::NONE,
            parent_attempt: 0,
            root: ProcessId::from_bytes([1; 16]),
            trace: TraceId([2; 16]),
            client: SpanId::default(),
            project: ProjectId::from_bytes([3; 16]),
            target: Service::Doer,
            operation: 1,
            doee: DoeeVersion::from_bytes([4; 16]),
            class: Class::Normal,
            asynchronous: false,
            durable: false,
            at_us: 1_000,
            queued_us: 5,
            dispatched_us: Some(10),
            replied_us: 90,
            ended_us: 100,
            outcome: Outcome::Done,
            omitted: 0,
        }
    }

    #[test]
    fn what_a_run_says_stays_within_what_the_kernel_saw() {
        let cases = [
            ((1_020, 50), (20, 50)),
            ((1_005, 50), (10, 50)),
            ((1_095, 50), (95, 5)),
            ((0, u64::MAX), (10, 90)),
            ((u64::MAX, u64::MAX), (100, 0)),
        ];
        for ((begun_at_us, ran_us), (begun, ran)) in cases {
            let run = Run {
                process: span().process,
                attempt: 1,
                trace: span().trace,
                project: span().project,
                doee: span().doee,
                begun_at_us,
                ran_us,
                start: Start::Warm,
            };
            let expected = Ran {
                begun_us: begun,
                ran_us: ran,
            };
            assert_eq!(Ran::of(&span(), &run), expected, "{begun_at_us} {ran_us}");
        }
    }

    #[test]
    fn operations_have_the_names_of_the_rights_table() {
        assert_eq!(operation(Service::Doer, 1), Some("invoke"));
        assert_eq!(operation(Service::Dbriver, 1), Some("transaction"));
        assert_eq!(operation(Service::Commserver, 2), Some("fetch"));
        assert_eq!(operation(Service::Dbriver, 999), None);
    }
}
