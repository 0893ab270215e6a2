//! Spans as OTLP/HTTP writes them in JSON: a process is a span, what its worker did of it is one within.

use std::fmt::Write;

use isms_protocol::{
    DoeeVersion, ProcessId, SpanId, TraceId,
    gate::{Outcome, Run, Span},
};
use serde_json::{Value, json};

use crate::{names::Names, trace_view::operation};

const INTERNAL: u8 = 1;
const SERVER: u8 = 2;
const CLIENT: u8 = 3;
const STATUS_ERROR: u8 = 2;

/// What is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Span(Box<Span>),
    Run(Run),
}

impl Item {
    pub(crate) fn doee(&self) -> DoeeVersion {
        match self {
            Item::Span(span) => span.doee,
            Item::Run(run) => run.doee,
        }
    }
}

/// A request's body; `name` tells what versions are called.
pub(crate) fn request(items: &[Item], name: impl Fn(DoeeVersion) -> Option<Names>) -> Vec<u8> {
    let spans: Vec<Value> = items
        .iter()
        .map(|item| match item {
            Item::Span(span) => of_span(span, name(span.doee)),
            Item::Run(run) => of_run(run, name(run.doee)),
        })
        .collect();
    let version = env!("CARGO_PKG_VERSION");
    let resource = [text("service.name", "isms"), text("service.version", version)];
    let request = json!({
        "resourceSpans": [{
            "resource": { "attributes": resource },
            "scopeSpans": [{ "scope": { "name": "isms", "version": version }, "spans": spans }],
        }],
    });
    request.to_string().into_bytes()
}

fn of_span(span: &Span, names: Option<Names>) -> Value {
    let is_root = span.parent.is_none();
    let what = operation(span.target, span.operation).unwrap_or("?");
    let title = match &names {
        Some(names) => format!("{}/{}", names.project, names.doee),
        None => format!("{} {what}", span.target),
    };
    let mut attributes = vec![
        text("isms.process", &span.process.to_string()),
        text("isms.project", &span.project.to_string()),
        text("isms.service", span.target.name()),
        text("isms.operation", what),
        text("isms.class", span.class.name()),
        text("isms.outcome", span.outcome.name()),
        number("isms.attempt", span.attempt.into()),
    ];
    attributes.extend(of_doee(span.doee, names));
    if span.asynchronous {
        attributes.push(flag("isms.async"));
    }
    if span.durable {
        attributes.push(flag("isms.durable"));
    }
    if span.omitted > 0 {
        attributes.push(number("isms.omitted", span.omitted.into()));
    }
    let parent = match is_root {
        true => span.client,
        false => SpanId::of(span.parent, span.parent_attempt),
    };
    let event = |name: &str, us: u64| json!({ "timeUnixNano": nanos(span.at_us, us), "name": name });
    let mut events = vec![event("queued", span.queued_us)];
    events.extend(span.dispatched_us.map(|us| event("dispatched", us)));
    events.push(event("replied", span.replied_us));
    let mut told = json!({
        "traceId": hex(&span.trace.0),
        "spanId": hex(&SpanId::of(span.process, span.attempt).0),
        "name": title,
        "kind": if is_root { SERVER } else { CLIENT },
        "startTimeUnixNano": nanos(span.at_us, 0),
        "endTimeUnixNano": nanos(span.at_us, span.ended_us),
        "attributes": attributes,
        "events": events,
    });
    if !parent.is_none() {
        told["parentSpanId"] = hex(&parent.0).into();
    }
    if span.outcome != Outcome::Done {
        told["status"] = json!({ "code": STATUS_ERROR, "message": span.outcome.name() });
    }
    told
}

fn of_run(run: &Run, names: Option<Names>) -> Value {
    let Run {
        process,
        attempt,
        trace: TraceId(trace),
        ..
    } = run;
    let mut attributes = vec![
        text("isms.process", &process.to_string()),
        number("isms.attempt", (*attempt).into()),
        text("isms.start", run.start.name()),
    ];
    attributes.extend(of_doee(run.doee, names));
    json!({
        "traceId": hex(trace),
        "spanId": hex(&run_span(*process, *attempt).0),
        "parentSpanId": hex(&SpanId::of(*process, *attempt).0),
        "name": "run",
        "kind": INTERNAL,
        "startTimeUnixNano": nanos(run.begun_at_us, 0),
        "endTimeUnixNano": nanos(run.begun_at_us, run.ran_us),
        "attributes": attributes,
    })
}

/// The span of a run. Those of processes begin with the bits `10`, as the second half of a UUID does.
fn run_span(process: ProcessId, attempt: u32) -> SpanId {
    let mut span = SpanId::of(process, attempt);
    span.0[0] ^= 0x40;
    span
}

fn of_doee(doee: DoeeVersion, names: Option<Names>) -> Vec<Value> {
    if doee.is_none() {
        return Vec::new();
    }
    let mut attributes = vec![text("isms.version", &doee.to_string())];
    if let Some(Names { project, doee }) = names {
        attributes.push(text("isms.project_name", &project));
        attributes.push(text("isms.doee", &doee));
    }
    attributes
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

/// A 64-bit number is a string in the JSON of protocol buffers.
fn number(key: &str, value: u64) -> Value {
    json!({ "key": key, "value": { "intValue": value.to_string() } })
}

fn flag(key: &str) -> Value {
    json!({ "key": key, "value": { "boolValue": true } })
}

fn nanos(at_us: u64, after_us: u64) -> String {
    at_us.saturating_add(after_us).saturating_mul(1000).to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

#[cfg(test)]
mod tests {
    use isms_protocol::{Class, ProjectId, Service, gate::Start};

    use super::*;

    fn span() -> Span {
        Span {
            process: ProcessId::from_bytes([0x91; 16]),
            attempt: 1,
            parent: ProcessId::NONE,
            parent_attempt: 0,
            root: ProcessId::from_bytes([0x91; 16]),
            trace: TraceId([2; 16]),
            client: SpanId([5; 8]),
            project: ProjectId::from_bytes([3; 16]),
            target: Service::Doer,
            operation: 1,
            doee: DoeeVersion::from_bytes([4; 16]),
            class: Class::High,
            asynchronous: false,
            durable: true,
            at_us: 1_700_000_000_000_000,
            queued_us: 5,
            dispatched_us: Some(10),
            replied_us: 90,
            ended_us: 100,
            outcome: Outcome::TimedOut,
            omitted: 2,
        }
    }

    fn spans(items: &[Item]) -> Vec<Value> {
        let name = |doee: DoeeVersion| {
            (!doee.is_none()).then(|| Names {
                project: "shop".into(),
                doee: "pay".into(),
            })
        };
        let request: Value = serde_json::from_slice(&request(items, name)).expect("json");
        let resource = &request["resourceSpans"][0];
        assert_eq!(
            resource["resource"]["attributes"][0],
            text("service.name", "isms")
        );
        resource["scopeSpans"][0]["spans"]
            .as_array()
            .expect("spans")
            .clone()
    }

    #[test]
    fn a_process_is_a_span_with_its_times_as_events_and_its_failure_as_status() {
        let expected = json!({
            "traceId": "02020202020202020202020202020202",
            "spanId": "9191919191919190",
            "parentSpanId": "0505050505050505",
            "name": "shop/pay",
            "kind": 2,
            "startTimeUnixNano": "1700000000000000000",
            "endTimeUnixNano": "1700000000000100000",
            "attributes": [
                text("isms.process", "91919191-9191-9191-9191-919191919191"),
                text("isms.project", "03030303-0303-0303-0303-030303030303"),
                text("isms.service", "doer"),
                text("isms.operation", "invoke"),
                text("isms.class", "high"),
                text("isms.outcome", "timed_out"),
                number("isms.attempt", 1),
                text("isms.version", "04040404-0404-0404-0404-040404040404"),
                text("isms.project_name", "shop"),
                text("isms.doee", "pay"),
                flag("isms.durable"),
                number("isms.omitted", 2),
            ],
            "events": [
                { "timeUnixNano": "1700000000000005000", "name": "queued" },
                { "timeUnixNano": "1700000000000010000", "name": "dispatched" },
                { "timeUnixNano": "1700000000000090000", "name": "replied" },
            ],
            "status": { "code": 2, "message": "timed_out" },
        });
        assert_eq!(spans(&[Item::Span(Box::new(span()))]), [expected]);
    }

    #[test]
    fn what_ran_on_behalf_of_a_call_is_its_child_and_so_is_the_run() {
        let call = span();
        let child = Span {
            process: ProcessId::from_bytes([0xa7; 16]),
            parent: call.process,
            parent_attempt: 1,
            client: SpanId::default(),
            target: Service::Dbriver,
            doee: DoeeVersion::NONE,
            outcome: Outcome::Done,
            ..call.clone()
        };
        let run = Run {
            process: call.process,
            attempt: 1,
            trace: call.trace,
            project: call.project,
            doee: call.doee,
            begun_at_us: call.at_us + 20,
            ran_us: 50,
            start: Start::Cold,
        };
        let told = spans(&[Item::Span(Box::new(child)), Item::Run(run)]);
        for span in &told {
            assert_eq!(span["parentSpanId"], "9191919191919190");
            assert!(span.get("status").is_none(), "{span}");
        }
        assert_eq!(
            (&told[0]["name"], &told[0]["kind"]),
            (&json!("dbriver transaction"), &json!(3))
        );
        assert_eq!((&told[1]["name"], &told[1]["kind"]), (&json!("run"), &json!(1)));
        assert_eq!(told[1]["spanId"], "d191919191919190");
        assert_eq!(told[1]["endTimeUnixNano"], "1700000000000070000");
        assert!(
            told[1]["attributes"]
                .as_array()
                .expect("a list")
                .contains(&text("isms.start", "cold"))
        );
    }

    #[test]
    fn a_span_of_no_client_has_no_parent() {
        let alone = Span {
            client: SpanId::default(),
            ..span()
        };
        let told = spans(&[Item::Span(Box::new(alone))]);
        assert!(told[0].get("parentSpanId").is_none(), "{}", told[0]);
    }
}
