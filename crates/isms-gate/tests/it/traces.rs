//! Traces: who may see which, how they are found, and what is believed of whom.

use isms_http::test_support::soon;
use isms_protocol::{
    Class, DoeeVersion, Header, Kind, Message, ProcessId, ProjectId, Service, SpanId, TraceId,
    gate::{Operation, Outcome, Run, Runs, Span, Spans, Start},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::harness::{A, B, Gate, VERSION};

const TRACE: &str = "07070707070707070707070707070707";

fn process(number: u8) -> ProcessId {
    ProcessId::from_bytes([number; 16])
}

fn span(project: ProjectId, number: u8) -> Span {
    Span {
        process: process(number),
        attempt: 1,
        parent: ProcessId::NONE,
        parent_attempt: 0,
        root: process(number),
        trace: TraceId([7; 16]),
        client: SpanId([8; 8]),
        project,
        target: Service::Doer,
        operation: 1,
        doee: VERSION,
        class: Class::Normal,
        asynchronous: false,
        durable: false,
        at_us: 1_000 + u64::from(number),
        queued_us: 1,
        dispatched_us: Some(10),
        replied_us: 90,
        ended_us: 100,
        outcome: Outcome::Done,
        omitted: 0,
    }
}

fn sql(of: &Span, number: u8) -> Span {
    Span {
        process: process(number),
        parent: of.process,
        parent_attempt: 1,
        client: SpanId::default(),
        target: Service::Dbriver,
        doee: DoeeVersion::NONE,
        at_us: of.at_us + 30,
        ended_us: 20,
        ..of.clone()
    }
}

fn run(of: &Span) -> Run {
    Run {
        process: of.process,
        attempt: of.attempt,
        trace: of.trace,
        project: of.project,
        doee: of.doee,
        begun_at_us: of.at_us + 25,
        ran_us: 60,
        start: Start::Pooled,
    }
}

impl Gate {
    async fn tell_of(&self, sender: Service, operation: Operation, body: &impl Serialize) {
        let header = Header {
            operation: operation as u16,
            ..Header::new(Kind::Event, sender, Service::Gate)
        };
        self.kernel.tell(&Message::with_body(header, body)).await;
    }

    async fn spans(&self, spans: Vec<Span>) {
        self.tell_of(Service::Kernel, Operation::Spans, &Spans { spans, dropped: 0 })
            .await;
    }

    /// Waits until somebody who sees all finds this.
    async fn finds(&self, process: ProcessId) -> Value {
        let found = async {
            loop {
                let response = self
                    .fetch("admin", &format!("GET /api/v1/traces/{process}"))
                    .await;
                if response.status == 200 {
                    return response.json();
                }
            }
        };
        soon("the trace", found).await
    }
}

#[tokio::test]
async fn a_call_is_shown_with_what_it_asked_for_and_how_it_was_run() {
    let gate = Gate::start().await;
    let root = span(A, 1);
    gate.tell_of(
        Service::Doer,
        Operation::Runs,
        &Runs {
            runs: vec![run(&root)],
        },
    )
    .await;
    gate.spans(vec![sql(&root, 2), root.clone()]).await;
    let shown = gate.finds(root.process).await;
    let expected = json!({
        "trace": TRACE,
        "calls": [{
            "process": root.process,
            "project": A,
            "project_name": "a",
            "outcome": "done",
            "omitted": 0,
            "spans": [
                {
                    "process": root.process, "attempt": 1, "parent": null, "parent_attempt": null,
                    "span": SpanId::of(root.process, 1).to_string(), "client_span": "0808080808080808",
                    "service": "doer", "operation": "invoke", "doee": "d", "version": VERSION,
                    "class": "normal", "async": false, "durable": false,
                    "at_us": 1001, "queued_us": 1, "dispatched_us": 10, "begun_us": 25, "ran_us": 60,
                    "start": "pooled", "replied_us": 90, "ended_us": 100, "outcome": "done",
                },
                {
                    "process": process(2), "attempt": 1, "parent": root.process, "parent_attempt": 1,
                    "span": SpanId::of(process(2), 1).to_string(), "client_span": null,
                    "service": "dbriver", "operation": "transaction", "doee": null, "version": null,
                    "class": "normal", "async": false, "durable": false,
                    "at_us": 1031, "queued_us": 1, "dispatched_us": 10, "begun_us": null, "ran_us": null,
                    "start": null, "replied_us": 90, "ended_us": 20, "outcome": "done",
                },
            ],
        }],
    });
    assert_eq!(shown, expected);
    for path in [
        format!("GET /api/v1/traces/{TRACE}"),
        format!("GET /api/v1/traces/{}", process(2)),
        format!("GET /api/v1/projects/a/traces/{}", root.process),
        format!("GET /api/v1/projects/a/traces/{TRACE}"),
    ] {
        for token in ["admin", "reader", "reader-a"] {
            let response = gate.fetch(token, &path).await;
            assert_eq!(
                (response.status, response.json()),
                (200, expected.clone()),
                "{token} {path}"
            );
        }
    }
}

#[tokio::test]
async fn another_projects_traces_do_not_exist_for_a_projects_token() {
    let gate = Gate::start().await;
    let (own, others) = (span(A, 1), span(B, 2));
    gate.spans(vec![own.clone(), others.clone()]).await;
    gate.finds(others.process).await;
    for path in [
        format!("GET /api/v1/traces/{}", others.process),
        format!("GET /api/v1/projects/a/traces/{}", others.process),
        "GET /api/v1/projects/b/traces".to_owned(),
        format!("GET /api/v1/projects/b/traces/{}", others.process),
        format!("GET /api/v1/projects/b/traces/{TRACE}"),
    ] {
        assert_eq!(gate.fetch("reader-a", &path).await.status, 404, "{path}");
    }
    // Both are of one trace, of which each sees its own part.
    let path = format!("GET /api/v1/traces/{TRACE}");
    let seen = gate.fetch("reader-a", &path).await.json();
    assert_eq!(seen["calls"].as_array().unwrap().len(), 1);
    assert_eq!(seen["calls"][0]["process"], json!(own.process));
    let seen = gate.fetch("reader", &path).await.json();
    assert_eq!(seen["calls"].as_array().unwrap().len(), 2);
    let listed = |list: Value| -> Vec<String> {
        let traces = list["traces"].as_array().unwrap().clone();
        traces
            .iter()
            .map(|call| call["process"].as_str().unwrap().to_owned())
            .collect()
    };
    let list = gate.fetch("reader-a", "GET /api/v1/traces").await.json();
    assert_eq!(listed(list), [own.process.to_string()]);
    let list = gate.fetch("reader", "GET /api/v1/traces").await.json();
    assert_eq!(
        listed(list),
        [others.process.to_string(), own.process.to_string()]
    );
    assert_eq!(gate.fetch("invoker-a", "GET /api/v1/traces").await.status, 403);
    assert_eq!(gate.fetch("", "GET /api/v1/traces").await.status, 401);
}

#[tokio::test]
async fn a_list_shows_how_each_call_went() {
    let gate = Gate::start().await;
    let slow = Span {
        ended_us: 5_000,
        outcome: Outcome::TimedOut,
        ..span(A, 1)
    };
    gate.spans(vec![slow.clone(), span(A, 2)]).await;
    gate.finds(process(2)).await;
    let path = "GET /api/v1/projects/a/traces?order=slowest&count=1&doee=d";
    let list = gate.fetch("reader-a", path).await.json();
    let expected = json!({ "traces": [{
        "process": slow.process, "trace": TRACE, "project": A, "project_name": "a", "doee": "d",
        "version": VERSION, "class": "normal", "outcome": "timed_out", "start": null,
        "at_us": 1001, "took_us": 5_000, "attempts": 1, "spans": 1,
    }]});
    assert_eq!(list, expected);
    let none = gate
        .fetch("reader-a", "GET /api/v1/traces?doee=other")
        .await
        .json();
    assert_eq!(none, json!({ "traces": [] }));
    let refused = gate.fetch("reader-a", "GET /api/v1/traces?count=0").await;
    assert_eq!(refused.status, 400);
}

#[tokio::test]
async fn only_the_kernel_tells_of_spans_and_malformed_ones_are_ignored() {
    let gate = Gate::start().await;
    let forged = Spans {
        spans: vec![span(B, 9)],
        dropped: 0,
    };
    gate.tell_of(Service::Doer, Operation::Spans, &forged).await;
    let runs = Runs {
        runs: vec![run(&span(A, 1))],
    };
    gate.tell_of(Service::Commserver, Operation::Runs, &runs).await;
    gate.tell_of(Service::Kernel, Operation::Spans, &"nonsense").await;
    gate.tell_of(Service::Doer, Operation::Runs, &vec![1, 2, 3]).await;
    gate.spans(vec![span(A, 1)]).await;
    let shown = gate.finds(process(1)).await;
    assert_eq!(shown["calls"][0]["spans"][0]["start"], Value::Null);
    let forged = gate
        .fetch("admin", &format!("GET /api/v1/traces/{}", process(9)))
        .await;
    assert_eq!(forged.status, 404);
}

#[tokio::test]
async fn the_traces_of_a_deleted_project_are_forgotten() {
    let gate = Gate::start().await;
    gate.spans(vec![span(A, 1), span(B, 2)]).await;
    gate.finds(process(2)).await;
    assert_eq!(gate.fetch("admin", "DELETE /api/v1/projects/a").await.status, 204);
    let gone = gate
        .fetch("admin", &format!("GET /api/v1/traces/{}", process(1)))
        .await;
    assert_eq!(gone.status, 404);
    gate.finds(process(2)).await;
}
