//! How calls end otherwise than by their callee's answer: deadlines, cancels, deaths on either side.

use std::{collections::BTreeSet, time::Instant};

use isms_kernel::RECONNECT_GRACE;
use isms_protocol::{
    ErrorCode, Header, Incarnation, Kind, Message, Service, dbriver, kernel, limits::CANCEL_GRACE, resadmin,
    supervisor::FromRole,
};

use crate::{
    calls::{error, invoke, slots, transaction, working},
    harness::{CONCURRENCY, Kernel, Peer, request},
};

/// An invoke that is told apart by its payload wherever it arrives.
fn marked(call: u64, mark: &'static str) -> Message {
    Message::bare(invoke(call)).with_raw(mark)
}

fn cancel(call: u64) -> Message {
    Message::bare(Header {
        kind: Kind::Cancel,
        ..invoke(call)
    })
}

fn reply(request: &Header) -> Message {
    Message::bare(request.answer(Kind::Reply))
}

/// The Doer's next request carries this mark.
async fn expect_marked(doer: &mut Peer, mark: &str) -> Header {
    let request = doer.expect_request().await;
    assert_eq!(&request.raw[..], mark.as_bytes(), "another call was dispatched");
    request.header
}

async fn expect_reply(edge: &mut Peer, call: u64) {
    assert_eq!(edge.expect(Kind::Reply).await.header.call, call);
}

async fn expect_error(edge: &mut Peer, code: ErrorCode, call: u64) {
    assert_eq!(edge.expect_error(code).await.header.call, call);
}

async fn wait_for_loss(kernel: &mut Kernel, service: Service) {
    let incarnation = Incarnation(1);
    kernel.wait_for(&FromRole::Lost { service, incarnation }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_deadline_that_passes_in_the_queue_expires_without_a_dispatch() {
    let (_kernel, mut edge, mut doer, running) = working().await;
    edge.send(Message::bare(Header {
        remaining_us: 30_000,
        ..invoke(2)
    }));
    expect_error(&mut edge, ErrorCode::Expired, 2).await;
    edge.send(marked(3, "in time"));
    doer.send(reply(&running));
    expect_reply(&mut edge, 1).await;
    let next = expect_marked(&mut doer, "in time").await;
    doer.send(reply(&next));
    expect_reply(&mut edge, 3).await;
}

/// A call that has run past its deadline, and whose callee has been asked to stop.
async fn past_deadline() -> (Kernel, Peer, Peer, Header) {
    let mut kernel = Kernel::start();
    let edge = kernel.service(Service::Commserver).await;
    let mut doer = kernel.service(Service::Doer).await;
    doer.send(slots(1));
    let call = Header {
        remaining_us: 500_000,
        ..invoke(1)
    };
    edge.send(Message::bare(call));
    let running = doer.expect_request().await.header;
    assert!(running.remaining_us > 0 && running.remaining_us <= call.remaining_us);
    while doer.next().await.unwrap().header.kind != Kind::Cancel {}
    (kernel, edge, doer, running)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_deadline_that_passes_while_the_call_runs_cancels_it_and_times_out() {
    let (_kernel, mut edge, _doer, _running) = past_deadline().await;
    expect_error(&mut edge, ErrorCode::TimedOut, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_callee_that_gives_up_a_call_past_its_deadline_does_not_make_it_a_cancelled_one() {
    let (_kernel, mut edge, mut doer, running) = past_deadline().await;
    doer.send(Message::error_answer(&running, &error(ErrorCode::Cancelled)));
    expect_error(&mut edge, ErrorCode::TimedOut, 1).await;
    edge.send(marked(2, "next"));
    expect_marked(&mut doer, "next").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_queued_call_that_is_cancelled_is_answered_once_and_never_dispatched() {
    let (_kernel, mut edge, mut doer, running) = working().await;
    edge.send(Message::bare(invoke(2)));
    edge.send(cancel(2));
    edge.send(cancel(2));
    expect_error(&mut edge, ErrorCode::Cancelled, 2).await;
    edge.send(marked(3, "wanted"));
    doer.send(reply(&running));
    expect_reply(&mut edge, 1).await;
    let next = expect_marked(&mut doer, "wanted").await;
    doer.send(reply(&next));
    expect_reply(&mut edge, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_cancel_of_an_unknown_or_answered_call_changes_nothing() {
    let (_kernel, mut edge, mut doer, running) = working().await;
    edge.send(cancel(99));
    doer.send(reply(&running));
    expect_reply(&mut edge, 1).await;
    edge.send(cancel(1));
    edge.send(marked(2, "next"));
    let next = expect_marked(&mut doer, "next").await;
    doer.send(reply(&next));
    expect_reply(&mut edge, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_running_call_that_is_cancelled_is_asked_to_stop_once_and_its_callee_has_the_last_word() {
    let (_kernel, mut edge, mut doer, running) = working().await;
    edge.send(cancel(1));
    edge.send(cancel(1));
    let asked = doer.expect(Kind::Cancel).await.header;
    assert_eq!((asked.call, asked.process), (running.call, running.process));
    // It was done before it heard of the cancel.
    doer.send(reply(&running));
    expect_reply(&mut edge, 1).await;
    edge.send(marked(2, "next"));
    expect_marked(&mut doer, "next").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_callee_that_ignores_a_cancel_is_answered_for_after_the_grace_and_still_occupied() {
    let (_kernel, mut edge, mut doer, running) = working().await;
    let begun = Instant::now();
    edge.send(cancel(1));
    doer.expect(Kind::Cancel).await;
    expect_error(&mut edge, ErrorCode::Cancelled, 1).await;
    assert!(begun.elapsed() >= CANCEL_GRACE);
    edge.send(marked(2, "next"));
    doer.expect(Kind::Demand).await;
    // Late, and heard by nobody; but now it has room.
    doer.send(reply(&running));
    let next = expect_marked(&mut doer, "next").await;
    doer.send(reply(&next));
    expect_reply(&mut edge, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_cancelled_call_takes_its_running_and_its_queued_children_along() {
    let (mut kernel, edge, mut doer, parent) = working().await;
    let mut dbriver = kernel.service(Service::Dbriver).await;
    for call in 1..=CONCURRENCY + 1 {
        doer.send(Message::bare(transaction(&parent, call)));
    }
    // Its refusal tells that all before it has arrived.
    doer.send(Message::bare(Header {
        attempt: 2,
        ..transaction(&parent, 99)
    }));
    doer.expect_error(ErrorCode::Fenced).await;
    let mut running = BTreeSet::new();
    for _ in 1..=CONCURRENCY {
        running.insert(dbriver.expect(Kind::Request).await.header.call);
    }
    edge.send(cancel(1));
    doer.expect(Kind::Cancel).await;
    expect_error(&mut doer, ErrorCode::Cancelled, CONCURRENCY + 1).await;
    for _ in 1..=CONCURRENCY {
        let cancelled = dbriver.expect(Kind::Cancel).await.header;
        assert!(
            running.remove(&cancelled.call),
            "asked to stop what it runs, once"
        );
        dbriver.send(Message::error_answer(&cancelled, &error(ErrorCode::Cancelled)));
        doer.expect_error(ErrorCode::Cancelled).await;
    }
    // All is free again, and what comes next is not the child that waited.
    let mut resadmin = kernel.service(Service::Resadmin).await;
    let operation = dbriver::Operation::Drop as u16;
    resadmin.send(Message::bare(request(
        Service::Resadmin,
        Service::Dbriver,
        operation,
        1,
    )));
    let next = dbriver.expect(Kind::Request).await.header;
    assert_eq!((next.sender, next.operation), (Service::Resadmin, operation));
    dbriver.send(reply(&next));
    expect_reply(&mut resadmin, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_restarted_service_gets_what_waited_and_what_ran_has_failed() {
    let mut kernel = Kernel::start();
    let mut edge = kernel.service(Service::Commserver).await;
    let mut resadmin = kernel.service(Service::Resadmin).await;
    let operation = resadmin::Operation::Routes as u16;
    let ask = |call| Message::bare(request(Service::Commserver, Service::Resadmin, operation, call));
    for call in 1..=CONCURRENCY + 2 {
        edge.send(ask(call));
    }
    for _ in 1..=CONCURRENCY {
        resadmin.expect(Kind::Request).await;
    }
    drop(resadmin);
    let mut failed = BTreeSet::new();
    for _ in 1..=CONCURRENCY {
        failed.insert(edge.expect_error(ErrorCode::Unavailable).await.header.call);
    }
    assert_eq!(failed, (1..=CONCURRENCY).collect());

    let mut resadmin = kernel.incarnation(Service::Resadmin, 2).await;
    for call in CONCURRENCY + 1..=CONCURRENCY + 2 {
        let waited = resadmin.expect(Kind::Request).await.header;
        assert_eq!(waited.target_generation, Incarnation(2));
        resadmin.send(reply(&waited));
        expect_reply(&mut edge, call).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_waits_for_a_service_that_does_not_come_back_in_time_is_unavailable() {
    let (mut kernel, mut edge, doer, _) = working().await;
    edge.send(Message::bare(invoke(2)));
    let lost = Instant::now();
    drop(doer);
    expect_error(&mut edge, ErrorCode::Crashed, 1).await;
    expect_error(&mut edge, ErrorCode::Unavailable, 2).await;
    assert!(lost.elapsed() >= RECONNECT_GRACE);
    // Nor does it get the call when it comes after all.
    let mut doer = kernel.incarnation(Service::Doer, 2).await;
    doer.send(slots(1));
    edge.send(marked(3, "new"));
    expect_marked(&mut doer, "new").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_call_that_is_meant_for_one_incarnation_is_not_given_to_the_next() {
    let (mut kernel, mut edge, doer, _) = working().await;
    edge.send(Message::bare(Header {
        target_generation: Incarnation(1),
        ..invoke(2)
    }));
    edge.send(marked(3, "for any"));
    drop(doer);
    expect_error(&mut edge, ErrorCode::Crashed, 1).await;
    let mut doer = kernel.incarnation(Service::Doer, 2).await;
    doer.send(slots(1));
    expect_error(&mut edge, ErrorCode::Unavailable, 2).await;
    expect_marked(&mut doer, "for any").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_dead_callers_queued_calls_are_dropped_and_its_running_ones_asked_to_stop() {
    let (mut kernel, edge, mut doer, running) = working().await;
    edge.send(marked(2, "orphan"));
    doer.expect(Kind::Demand).await;
    drop(edge);
    wait_for_loss(&mut kernel, Service::Commserver).await;
    while doer.next().await.unwrap().header.kind != Kind::Cancel {}

    let mut gate = kernel.service(Service::Gate).await;
    let status = kernel::Operation::Status as u16;
    gate.send(Message::bare(request(Service::Gate, Service::Kernel, status, 1)));
    let status: kernel::Status = gate.expect(Kind::Reply).await.decode_body().unwrap();
    assert_eq!((status.ready, status.running), (0, 1), "one runs and none waits");
    // The running one and the queued one.
    assert_eq!(status.ended, [0, 0, 2, 0]);

    // Its successor uses the same call ids and sees only answers to its own calls.
    let mut edge = kernel.incarnation(Service::Commserver, 2).await;
    edge.send(marked(1, "successor's"));
    doer.send(reply(&running).with_raw("dead caller's"));
    let next = expect_marked(&mut doer, "successor's").await;
    doer.send(reply(&next).with_raw("successor's"));
    let answer = edge.expect(Kind::Reply).await;
    assert_eq!((answer.header.call, &answer.raw[..]), (1, &b"successor's"[..]));
}
