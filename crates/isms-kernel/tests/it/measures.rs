//! How calls of Doees went, as the Kernel tells it.

use isms_protocol::{
    Class, DoeeVersion, ErrorCode, Flags, Header, Kind, Message, ProcessId, Service,
    kernel::{BUCKETS_US, Calls, CallsAfter, ClassCalls, DoeeCalls, Operation, Outcomes, Progress, Status},
    limits::{ASYNC_BODY_LEN_MAX, CHUNK_LEN_MAX},
};

use crate::{
    asynchronous::{self, asynchronous, roles, state, write_stream},
    calls::{error, invoke, working},
    harness::{Kernel, Peer, request},
};

fn question(sender: Service, call: u64, row: u32) -> Message {
    let header = request(sender, Service::Kernel, Operation::Calls as u16, call);
    Message::with_body(header, &CallsAfter { row })
}

async fn ask(gate: &mut Peer, call: u64) -> Calls {
    gate.send(question(Service::Gate, call, 0));
    gate.expect(Kind::Reply).await.decode_body().unwrap()
}

fn failure(request: &Header, code: ErrorCode) -> Message {
    Message::with_body(request.answer(Kind::Error), &error(code))
}

fn class_of(doee: &DoeeCalls, class: Class) -> &ClassCalls {
    let mut classes = doee.classes.iter();
    classes.find(|listed| listed.class == class).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn each_call_of_a_doee_counts_once_by_how_it_ended() {
    let (mut kernel, mut edge, mut doer, running) = working().await;
    let mut gate = kernel.service(Service::Gate).await;
    let in_a_moment = |call| Header {
        remaining_us: 20_000,
        ..invoke(call)
    };
    edge.send(Message::bare(in_a_moment(2)));
    edge.expect_error(ErrorCode::Expired).await;
    edge.send(Message::bare(invoke(3)));
    let waiting = ask(&mut gate, 1).await;
    assert_eq!((waiting.next, waiting.doees.len()), (0, 1));
    let doee = &waiting.doees[0];
    assert_eq!(
        (doee.doee, doee.project, doee.queued, doee.running),
        (running.target_doee, running.project, 1, 1)
    );
    edge.send(Message::bare(Header {
        kind: Kind::Cancel,
        ..invoke(3)
    }));
    edge.expect_error(ErrorCode::Cancelled).await;
    doer.send(Message::bare(running.answer(Kind::Reply)));
    edge.expect(Kind::Reply).await;

    edge.send(Message::bare(invoke(4)));
    let failing = doer.expect_request().await.header;
    doer.send(failure(&failing, ErrorCode::DoeeFailed));
    edge.expect_error(ErrorCode::DoeeFailed).await;

    edge.send(Message::bare(Header {
        class: Class::Batch,
        ..in_a_moment(5)
    }));
    let slow = doer.expect_request().await.header;
    doer.expect(Kind::Cancel).await;
    doer.send(failure(&slow, ErrorCode::Cancelled));
    edge.expect_error(ErrorCode::TimedOut).await;

    edge.send(Message::bare(invoke(6)));
    doer.expect_request().await;
    drop(doer);
    edge.expect_error(ErrorCode::Crashed).await;

    let calls = ask(&mut gate, 2).await;
    let doee = &calls.doees[0];
    assert_eq!((doee.queued, doee.running), (0, 0));
    let normal = class_of(doee, Class::Normal);
    let outcomes = Outcomes {
        done: 1,
        failed: 1,
        crashed: 1,
        cancelled: 1,
        expired: 1,
        ..Outcomes::default()
    };
    assert_eq!(normal.outcomes, outcomes);
    assert_eq!((normal.deadlines_met, normal.deadlines_missed), (2, 0));
    let batch = class_of(doee, Class::Batch);
    let outcomes = Outcomes {
        timed_out: 1,
        ..Outcomes::default()
    };
    assert_eq!(batch.outcomes, outcomes);
    assert_eq!((batch.deadlines_met, batch.deadlines_missed), (0, 1));
    // What expired or was cancelled in the queue never had its turn; the crash ended when the Doer was lost.
    for (class, waited, ran) in [(normal, 3, 2), (batch, 1, 1)] {
        assert_eq!(class.waited.counts.len(), BUCKETS_US.len() + 1);
        assert_eq!(class.waited.counts.iter().sum::<u64>(), waited);
        assert_eq!(class.ran.counts.iter().sum::<u64>(), ran);
    }
    assert!(batch.ran.sum_us >= 20_000, "{}", batch.ran.sum_us);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn how_calls_went_is_told_to_gate_alone_and_a_part_that_is_not_there_is_empty() {
    let (mut kernel, edge, _doer, _) = working().await;
    let mut edge = edge;
    edge.send(question(Service::Commserver, 9, 0));
    edge.expect_error(ErrorCode::Forbidden).await;
    let mut gate = kernel.service(Service::Gate).await;
    gate.send(question(Service::Gate, 1, u32::MAX));
    let calls: Calls = gate.expect(Kind::Reply).await.decode_body().unwrap();
    assert_eq!(calls, Calls::default());
    let mut nonsense = question(Service::Gate, 2, 0);
    nonsense.body = b"\xc1".to_vec().into();
    gate.send(nonsense);
    gate.expect_error(ErrorCode::Invalid).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn calls_of_services_are_not_among_those_of_doees() {
    let mut kernel = Kernel::start();
    let edge = kernel.service(Service::Commserver).await;
    let mut resadmin = kernel.service(Service::Resadmin).await;
    let authenticate = isms_protocol::resadmin::Operation::Authenticate as u16;
    edge.send(Message::bare(Header {
        target_doee: DoeeVersion::from_bytes([5; 16]),
        ..request(Service::Commserver, Service::Resadmin, authenticate, 1)
    }));
    resadmin.expect_request().await;
    let mut gate = kernel.service(Service::Gate).await;
    assert_eq!(ask(&mut gate, 1).await, Calls::default());
}

/// An asynchronous call whose Doee has begun to answer with a stream.
async fn streaming(edge: &mut Peer, doer: &mut Peer, call: u64) -> (ProcessId, Header) {
    edge.send(Message::bare(asynchronous(call)));
    let process = edge.expect(Kind::Reply).await.header.process;
    let reply = Header {
        flags: Flags::STREAM,
        ..until(doer, Kind::Request).await.header.answer(Kind::Reply)
    };
    doer.send(Message::bare(reply));
    (process, reply)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_asynchronous_call_counts_by_what_became_of_its_result() {
    let (mut kernel, mut edge, mut doer) = roles().await;
    let mut gate = kernel.service(Service::Gate).await;
    let waits = |process, call| asynchronous::question(Operation::Process, process, 60_000, call);

    // Complete, too long, broken off by the Doee, cancelled while it streams, lost with the Doer.
    let (done, reply) = streaming(&mut edge, &mut doer, 1).await;
    write_stream(&mut doer, reply, Flags::TO_CALLER, 1).await;
    assert_eq!(state(&mut edge, waits(done, 2)).await, Progress::Done);
    let (too_long, reply) = streaming(&mut edge, &mut doer, 3).await;
    let len = ASYNC_BODY_LEN_MAX + CHUNK_LEN_MAX;
    write_stream(&mut doer, reply, Flags::TO_CALLER, len).await;
    assert_eq!(state(&mut edge, waits(too_long, 4)).await, Progress::Failed);
    end(&doer, reply, Flags::ABORTED);
    let (broken, reply) = streaming(&mut edge, &mut doer, 5).await;
    end(&doer, reply, Flags::ABORTED);
    assert_eq!(state(&mut edge, waits(broken, 6)).await, Progress::Failed);
    let (unwanted, reply) = streaming(&mut edge, &mut doer, 7).await;
    until(&mut doer, Kind::Credit).await;
    let cancel = asynchronous::question(Operation::Cancel, unwanted, 0, 8);
    assert_eq!(state(&mut edge, cancel).await, Progress::Running);
    end(&doer, reply, Flags::ABORTED);
    assert_eq!(state(&mut edge, waits(unwanted, 9)).await, Progress::Cancelled);
    let (lost, _) = streaming(&mut edge, &mut doer, 10).await;
    until(&mut doer, Kind::Credit).await;
    drop(doer);
    assert_eq!(state(&mut edge, waits(lost, 11)).await, Progress::Failed);

    let counted = ask(&mut gate, 1).await;
    let normal = class_of(&counted.doees[0], Class::Normal);
    let outcomes = Outcomes {
        done: 1,
        failed: 2,
        cancelled: 1,
        crashed: 1,
        ..Outcomes::default()
    };
    assert_eq!(normal.outcomes, outcomes);
    assert_eq!((normal.deadlines_met, normal.deadlines_missed), (3, 0));
    let status = request(Service::Gate, Service::Kernel, Operation::Status as u16, 2);
    gate.send(Message::bare(status));
    let status: Status = gate.expect(Kind::Reply).await.decode_body().unwrap();
    assert_eq!(status.ended, [1, 3, 1, 0]);
}

/// The next message of this kind, past everything before it.
async fn until(peer: &mut Peer, kind: Kind) -> Message {
    loop {
        let message = peer.next().await.expect("the Kernel has more to say");
        if message.header.kind == kind {
            return message;
        }
    }
}

/// A stream is over.
fn end(sender: &Peer, header: Header, aborted: Flags) {
    sender.send(Message::bare(Header {
        kind: Kind::StreamEnd,
        flags: Flags::TO_CALLER.with(aborted),
        ..header
    }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_asynchronous_call_whose_body_does_not_come_has_not_expired_in_a_queue() {
    let (mut kernel, mut edge, _doer) = roles().await;
    let mut gate = kernel.service(Service::Gate).await;
    let begins = |call, remaining_us| Header {
        flags: Flags::ASYNC.with(Flags::STREAM),
        remaining_us,
        ..invoke(call)
    };
    edge.send(Message::bare(begins(1, 20_000)));
    edge.expect(Kind::Credit).await;
    edge.expect_error(ErrorCode::Expired).await;
    edge.send(Message::bare(begins(2, 60_000_000)));
    edge.expect(Kind::Credit).await;
    edge.send(Message::bare(Header {
        kind: Kind::StreamEnd,
        flags: Flags::ABORTED,
        ..begins(2, 0)
    }));
    edge.expect_error(ErrorCode::Invalid).await;
    let counted = ask(&mut gate, 1).await;
    let outcomes = Outcomes {
        cancelled: 2,
        ..Outcomes::default()
    };
    assert_eq!(class_of(&counted.doees[0], Class::Normal).outcomes, outcomes);
}
