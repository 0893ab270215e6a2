//! Which processes are traced, and what is told of them.

use std::time::Duration;

use isms_kernel::Config;
use isms_protocol::{
    ErrorCode, Flags, Header, Kind, Message, ProcessId, Service, SpanId, TraceContext, TraceId,
    gate::{Operation, Outcome, Span, Spans},
    kernel::Slots,
    limits::SPANS_PER_CALL_MAX,
};

use crate::{
    calls::{error, invoke},
    harness::{Kernel, Peer, request},
};

struct Roles {
    edge: Peer,
    doer: Peer,
    dbriver: Peer,
    gate: Peer,
    // Last, since it waits for them to leave.
    _kernel: Kernel,
}

/// A Kernel that traces so many calls in a second, and whoever a call meets.
async fn roles(traces_per_s: u32, slow_ms: u32) -> Roles {
    let mut kernel = Kernel::with(Config {
        traces_per_s,
        slow_ms,
        ..Config::default()
    });
    let edge = kernel.service(Service::Commserver).await;
    let doer = kernel.service(Service::Doer).await;
    let dbriver = kernel.service(Service::Dbriver).await;
    let gate = kernel.service(Service::Gate).await;
    let header = Header {
        target_doee: invoke(1).target_doee,
        ..Header::new(Kind::Slots, Service::Doer, Service::Kernel)
    };
    doer.send(Message::with_body(header, &Slots::all(1000)));
    Roles {
        _kernel: kernel,
        edge,
        doer,
        dbriver,
        gate,
    }
}

impl Roles {
    /// Calls, and gives what the Doer gets to see.
    async fn call(&mut self, header: Header) -> Header {
        self.edge.send(Message::bare(header));
        self.doer.expect_request().await.header
    }

    async fn answer(&mut self, running: &Header) {
        self.doer.send(Message::bare(running.answer(Kind::Reply)));
        self.edge.expect(Kind::Reply).await;
    }

    /// Asks DBriver on behalf of a call, which answers.
    async fn ask(&mut self, parent: &Header, call: u64) -> Header {
        let header = Header {
            parent: parent.process,
            attempt: parent.attempt,
            ..request(Service::Doer, Service::Dbriver, 1, call)
        };
        self.doer.send(Message::bare(header));
        let asked = self.dbriver.expect_request().await.header;
        self.dbriver.send(Message::bare(asked.answer(Kind::Reply)));
        self.doer.expect(Kind::Reply).await;
        asked
    }

    async fn spans(&mut self) -> Vec<Span> {
        let message = self.gate.expect(Kind::Event).await;
        let Header {
            sender, operation, ..
        } = message.header;
        assert_eq!((sender, operation), (Service::Kernel, Operation::Spans as u16));
        message.decode_body::<Spans>().unwrap().spans
    }
}

fn is_traced(header: &Header) -> bool {
    header.flags.contains(Flags::TRACED)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_call_and_what_it_asks_for_are_told_with_their_times_in_order() {
    let mut roles = roles(100, 60_000).await;
    let called = Header {
        trace: TraceContext {
            trace: TraceId([3; 16]),
            span: SpanId([4; 8]),
        },
        ..invoke(7)
    };
    let running = roles.call(called).await;
    assert!(is_traced(&running));
    let asked = roles.ask(&running, 1).await;
    assert!(is_traced(&asked));
    roles.answer(&running).await;
    let spans = roles.spans().await;
    let [child, root] = &spans[..] else {
        panic!("two spans, the one that ended first before the other: {spans:?}");
    };
    assert_eq!(
        (root.process, root.parent, root.root),
        (running.process, ProcessId::NONE, running.process)
    );
    assert_eq!((root.attempt, root.outcome, root.omitted), (1, Outcome::Done, 0));
    assert_eq!((root.trace, root.client), (called.trace.trace, called.trace.span));
    assert_eq!((root.doee, root.project), (running.target_doee, running.project));
    assert_eq!(
        (child.process, child.parent, child.root),
        (asked.process, running.process, running.process)
    );
    assert_eq!(
        (child.parent_attempt, child.target, child.operation),
        (1, Service::Dbriver, 1)
    );
    assert!(child.client.is_none());
    for span in &spans {
        let dispatched = span.dispatched_us.unwrap();
        assert!(
            [span.queued_us, dispatched, span.replied_us, span.ended_us].is_sorted(),
            "{span:?}"
        );
    }
    assert!(root.at_us + root.dispatched_us.unwrap() <= child.at_us);
    assert!(child.at_us + child.ended_us <= root.at_us + root.ended_us);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_one_call_asks_for_is_traced_up_to_a_bound_and_the_rest_counted() {
    let mut roles = roles(100, 60_000).await;
    let running = roles.call(invoke(1)).await;
    let more = 3;
    let mut traced = 0;
    for call in 0..SPANS_PER_CALL_MAX + more {
        traced += u32::from(is_traced(&roles.ask(&running, call.into()).await));
    }
    assert_eq!(traced, SPANS_PER_CALL_MAX);
    roles.answer(&running).await;
    let mut spans = Vec::new();
    while !spans.iter().any(|span: &Span| span.parent.is_none()) {
        spans.append(&mut roles.spans().await);
    }
    assert_eq!(spans.len() as u32, SPANS_PER_CALL_MAX + 1);
    assert_eq!(spans.last().unwrap().omitted, more);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn beyond_the_rate_calls_are_not_traced_unless_they_end_badly() {
    let mut roles = roles(1, 60_000).await;
    let mut untraced = None;
    for call in 1..100 {
        let running = roles.call(invoke(call)).await;
        if !is_traced(&running) {
            untraced = Some(running);
            break;
        }
        roles.answer(&running).await;
    }
    let untraced = untraced.expect("a hundred calls in a moment are too many for one a second");
    let asked = roles.ask(&untraced, 1).await;
    assert!(!is_traced(&asked));
    let failed = Message::with_body(untraced.answer(Kind::Error), &error(ErrorCode::DoeeFailed));
    roles.doer.send(failed);
    roles.edge.expect_error(ErrorCode::DoeeFailed).await;
    let mut spans = roles.spans().await;
    while !spans.iter().any(|span| span.process == untraced.process) {
        spans = roles.spans().await;
    }
    let span = spans
        .iter()
        .find(|span| span.process == untraced.process)
        .unwrap();
    assert_eq!(span.outcome, Outcome::Failed);
    assert!(span.dispatched_us.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn without_a_rate_nothing_is_told_whoever_asks() {
    let mut roles = roles(0, 1).await;
    let running = roles
        .call(Header {
            flags: Flags::TRACED,
            ..invoke(1)
        })
        .await;
    assert!(!is_traced(&running));
    let failed = Message::with_body(running.answer(Kind::Error), &error(ErrorCode::DoeeFailed));
    roles.doer.send(failed);
    roles.edge.expect_error(ErrorCode::DoeeFailed).await;
    // Heartbeats come every second; nothing else does.
    let told = tokio::time::timeout(Duration::from_secs(1), roles.gate.next()).await;
    assert!(told.is_err(), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_call_that_expires_is_told_as_one_that_never_ran() {
    let mut roles = roles(100, 60_000).await;
    let header = Header {
        target_doee: isms_protocol::DoeeVersion::from_bytes([9; 16]),
        remaining_us: 20_000,
        ..invoke(1)
    };
    roles.edge.send(Message::bare(header));
    roles.edge.expect_error(ErrorCode::Expired).await;
    let spans = roles.spans().await;
    assert_eq!((spans.len(), spans[0].outcome), (1, Outcome::Expired));
    assert_eq!(spans[0].dispatched_us, None);
    assert!(spans[0].ended_us >= 20_000);
}
