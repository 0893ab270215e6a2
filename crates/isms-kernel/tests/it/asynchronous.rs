//! Asynchronous calls: accepted, kept, read by whom they concern.

use isms_kernel::Config;
use isms_protocol::{
    ErrorCode, Flags, Header, Kind, Message, PrincipalId, ProcessId, ProjectId, Service,
    kernel::{Operation, ProcessQuestion, ProcessState, Progress, StreamCredit},
    limits::{ASYNC_BODY_LEN_MAX, CHUNK_LEN_MAX, STREAM_WINDOW},
};

use crate::{
    calls::{invoke, slots},
    harness::{Kernel, Peer, request},
};

pub(crate) fn asynchronous(call: u64) -> Header {
    Header {
        flags: Flags::ASYNC,
        ..invoke(call)
    }
}

pub(crate) fn question(operation: Operation, process: ProcessId, wait_ms: u32, call: u64) -> Message {
    let header = Header {
        project: invoke(0).project,
        principal: invoke(0).principal,
        ..request(Service::Commserver, Service::Kernel, operation as u16, call)
    };
    let question = ProcessQuestion {
        process,
        wait_ms,
        any_principal: false,
    };
    Message::with_body(header, &question)
}

pub(crate) async fn state(edge: &mut Peer, question: Message) -> Progress {
    edge.send(question);
    let state: ProcessState = edge.expect(Kind::Reply).await.decode_body().unwrap();
    state.progress
}

pub(crate) async fn roles() -> (Kernel, Peer, Peer) {
    roles_with(Config::default()).await
}

async fn roles_with(config: Config) -> (Kernel, Peer, Peer) {
    let mut kernel = Kernel::with(config);
    let edge = kernel.service(Service::Commserver).await;
    let doer = kernel.service(Service::Doer).await;
    doer.send(slots(1));
    (kernel, edge, doer)
}

/// Allows a stream's sender all that it has, and returns what came.
async fn read_stream(peer: &mut Peer, header: Header, direction: Flags) -> usize {
    let mut len = 0;
    let credit = |bytes| {
        let header = Header {
            kind: Kind::Credit,
            flags: direction,
            ..header
        };
        Message::with_body(header, &StreamCredit { bytes })
    };
    peer.send(credit(STREAM_WINDOW));
    loop {
        let message = peer.next().await.expect("a stream");
        match message.header.kind {
            Kind::StreamChunk => {
                len += message.raw.len();
                peer.send(credit(message.raw.len() as u32));
            }
            Kind::StreamEnd => return len,
            Kind::Demand => {}
            kind => panic!("{kind:?} in a stream"),
        }
    }
}

/// Sends a stream against the credit that its receiver grants.
pub(crate) async fn write_stream(peer: &mut Peer, header: Header, direction: Flags, len: usize) {
    let (mut left, mut credit) = (len, 0);
    while left > 0 {
        while credit < CHUNK_LEN_MAX {
            let message = peer.next().await.expect("credit");
            match message.header.kind {
                Kind::Credit => {
                    let granted: StreamCredit = message.decode_body().unwrap();
                    credit += granted.bytes as usize;
                }
                Kind::Demand => {}
                // The receiver has had enough.
                _ => return,
            }
        }
        let now = left.min(CHUNK_LEN_MAX);
        let header = Header {
            kind: Kind::StreamChunk,
            flags: direction,
            ..header
        };
        peer.send(Message::bare(header).with_raw(vec![7; now]));
        (left, credit) = (left - now, credit - now);
    }
    peer.send(Message::bare(Header {
        kind: Kind::StreamEnd,
        flags: direction,
        ..header
    }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_asynchronous_call_survives_its_caller_and_its_result_is_read_afterwards() {
    let (mut kernel, mut edge, mut doer) = roles().await;
    edge.send(Message::bare(asynchronous(1)).with_raw(&b"question"[..]));
    let process = edge.expect(Kind::Reply).await.header.process;
    let dispatched = doer.expect_request().await;
    assert_eq!(
        (dispatched.header.process, dispatched.header.flags),
        (process, Flags::NONE)
    );
    assert_eq!(&dispatched.raw[..], b"question");
    drop(edge);
    let mut edge = kernel.incarnation(Service::Commserver, 2).await;
    let running = question(Operation::Process, process, 0, 1);
    assert_eq!(state(&mut edge, running).await, Progress::Running);
    edge.send(question(Operation::Result, process, 0, 2));
    edge.expect_error(ErrorCode::Conflict).await;
    edge.send(question(Operation::Process, process, 60_000, 3));
    doer.send(Message::bare(dispatched.header.answer(Kind::Reply)).with_raw(&b"answer"[..]));
    let ended: ProcessState = edge.expect(Kind::Reply).await.decode_body().unwrap();
    assert_eq!(ended.progress, Progress::Done);
    for call in 4..6 {
        edge.send(question(Operation::Result, process, 0, call));
        let result = edge.expect(Kind::Reply).await;
        assert_eq!((result.header.call, &result.raw[..]), (call, &b"answer"[..]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn bodies_of_the_greatest_length_pass_both_ways_and_longer_ones_are_too_large() {
    let (_kernel, mut edge, mut doer) = roles().await;
    let header = Header {
        flags: Flags::ASYNC.with(Flags::STREAM),
        ..invoke(1)
    };
    edge.send(Message::bare(header));
    write_stream(&mut edge, header, Flags::NONE, ASYNC_BODY_LEN_MAX).await;
    let accepted = loop {
        let message = edge.next().await.expect("an answer");
        if message.header.kind != Kind::Credit {
            break message;
        }
    };
    assert_eq!(accepted.header.kind, Kind::Reply);
    let process = accepted.header.process;
    let call = doer.expect_request().await.header;
    assert_eq!(call.flags, Flags::STREAM);
    assert_eq!(
        read_stream(&mut doer, call, Flags::TO_CALLER).await,
        ASYNC_BODY_LEN_MAX
    );
    let reply = Header {
        flags: Flags::STREAM,
        ..call.answer(Kind::Reply)
    };
    doer.send(Message::bare(reply));
    write_stream(&mut doer, reply, Flags::TO_CALLER, ASYNC_BODY_LEN_MAX).await;
    let waits = question(Operation::Process, process, 60_000, 2);
    assert_eq!(state(&mut edge, waits).await, Progress::Done);
    let reads = question(Operation::Result, process, 0, 3);
    let reading = reads.header;
    edge.send(reads);
    assert_eq!(edge.expect(Kind::Reply).await.header.flags, Flags::STREAM);
    assert_eq!(
        read_stream(&mut edge, reading, Flags::NONE).await,
        ASYNC_BODY_LEN_MAX
    );

    let header = Header { call: 4, ..header };
    edge.send(Message::bare(header));
    write_stream(&mut edge, header, Flags::NONE, ASYNC_BODY_LEN_MAX + CHUNK_LEN_MAX).await;
    loop {
        let message = edge.next().await.expect("an answer");
        if message.header.kind != Kind::Credit {
            let error: isms_protocol::WireError = message.decode_body().unwrap();
            assert_eq!(error.code, ErrorCode::TooLarge);
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_result_that_is_too_long_fails_the_call_and_stops_its_callee() {
    let (_kernel, mut edge, mut doer) = roles().await;
    edge.send(Message::bare(asynchronous(1)));
    let process = edge.expect(Kind::Reply).await.header.process;
    let call = doer.expect_request().await.header;
    let reply = Header {
        flags: Flags::STREAM,
        ..call.answer(Kind::Reply)
    };
    doer.send(Message::bare(reply));
    write_stream(
        &mut doer,
        reply,
        Flags::TO_CALLER,
        ASYNC_BODY_LEN_MAX + CHUNK_LEN_MAX,
    )
    .await;
    let waits = question(Operation::Process, process, 60_000, 2);
    assert_eq!(state(&mut edge, waits).await, Progress::Failed);
    edge.send(question(Operation::Result, process, 0, 3));
    edge.expect_error(ErrorCode::TooLarge).await;
    while doer.next().await.expect("a cancel").header.kind != Kind::Cancel {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn only_its_project_and_principal_know_of_a_call() {
    let (_kernel, mut edge, _doer) = roles().await;
    edge.send(Message::bare(asynchronous(1)));
    let process = edge.expect(Kind::Reply).await.header.process;
    let own = question(Operation::Process, process, 0, 2);
    let other = [9; 16];
    let foreign = [
        Header {
            project: ProjectId::from_bytes(other),
            ..own.header
        },
        Header {
            principal: PrincipalId::from_bytes(other),
            ..own.header
        },
        Header {
            principal: PrincipalId::NONE,
            project: ProjectId::NONE,
            ..own.header
        },
    ];
    for header in foreign {
        for operation in [Operation::Process, Operation::Result, Operation::Cancel] {
            let operation = operation as u16;
            let header = Header { operation, ..header };
            edge.send(Message {
                header,
                ..own.clone()
            });
            edge.expect_error(ErrorCode::NotFound).await;
        }
    }
    let anywhere = Header {
        project: ProjectId::NONE,
        ..own.header
    };
    let anywhere = Message {
        header: anywhere,
        ..own
    };
    assert_eq!(state(&mut edge, anywhere).await, Progress::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_nobody_in_particular_has_called_is_told_in_its_project_only() {
    let (_kernel, mut edge, _doer) = roles().await;
    edge.send(Message::bare(Header {
        principal: PrincipalId::NONE,
        ..asynchronous(1)
    }));
    let process = edge.expect(Kind::Reply).await.header.process;
    let somebody = question(Operation::Process, process, 0, 2);
    assert_eq!(state(&mut edge, somebody.clone()).await, Progress::Running);
    for project in [ProjectId::NONE, ProjectId::from_bytes([9; 16])] {
        let header = Header {
            project,
            ..somebody.header
        };
        edge.send(Message {
            header,
            ..somebody.clone()
        });
        edge.expect_error(ErrorCode::NotFound).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_queued_and_a_running_call_are_cancelled() {
    let (_kernel, mut edge, mut doer) = roles().await;
    edge.send(Message::bare(asynchronous(1)));
    let running = edge.expect(Kind::Reply).await.header.process;
    let call = doer.expect_request().await.header;
    edge.send(Message::bare(asynchronous(2)));
    let queued = edge.expect(Kind::Reply).await.header.process;
    let cancel = question(Operation::Cancel, queued, 0, 3);
    assert_eq!(state(&mut edge, cancel).await, Progress::Cancelled);
    let cancel = question(Operation::Cancel, running, 0, 4);
    assert_eq!(state(&mut edge, cancel).await, Progress::Running);
    while doer.next().await.expect("a cancel").header.kind != Kind::Cancel {}
    doer.send(Message::error_answer(
        &call,
        &isms_protocol::WireError::new(ErrorCode::Cancelled, "stopped"),
    ));
    let waits = question(Operation::Process, running, 60_000, 5);
    assert_eq!(state(&mut edge, waits).await, Progress::Cancelled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_child_and_what_is_no_invoke_may_not_be_asynchronous() {
    let (_kernel, mut edge, _doer) = roles().await;
    let header = Header {
        flags: Flags::ASYNC,
        ..question(Operation::Process, ProcessId::NONE, 0, 1).header
    };
    edge.send(Message::bare(header));
    edge.expect_error(ErrorCode::Invalid).await;
}

/// The question of somebody else's token, which administers a project, or all of them.
fn administers(service: Service, project: ProjectId, asked: Message) -> Message {
    let header = Header {
        sender: service,
        project,
        principal: PrincipalId::from_bytes([9; 16]),
        ..asked.header
    };
    let question: ProcessQuestion = asked.decode_body().unwrap();
    let question = ProcessQuestion {
        any_principal: true,
        ..question
    };
    Message::with_body(header, &question)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_administers_the_project_sees_and_cancels_a_call_and_does_not_read_its_result() {
    let (mut kernel, mut edge, mut doer) = roles().await;
    let mut gate = kernel.service(Service::Gate).await;
    let own = invoke(0).project;
    let asks = |operation, process, wait_ms, call| question(operation, process, wait_ms, call);
    let as_gate = |project, asked| administers(Service::Gate, project, asked);
    edge.send(Message::bare(asynchronous(1)));
    let running = edge.expect(Kind::Reply).await.header.process;
    let call = doer.expect_request().await.header;
    edge.send(Message::bare(asynchronous(2)));
    let queued = edge.expect(Kind::Reply).await.header.process;

    for (call, project) in (1..).zip([own, ProjectId::NONE]) {
        let asked = as_gate(project, asks(Operation::Process, queued, 0, call));
        assert_eq!(state(&mut gate, asked).await, Progress::Queued);
        gate.send(as_gate(project, asks(Operation::Result, queued, 0, call + 10)));
        gate.expect_error(ErrorCode::Forbidden).await;
    }
    for operation in [Operation::Process, Operation::Result, Operation::Cancel] {
        // Another project's administrator, and an edge that has no business to know of administrators.
        gate.send(as_gate(
            ProjectId::from_bytes([8; 16]),
            asks(operation, queued, 0, 3),
        ));
        gate.expect_error(ErrorCode::NotFound).await;
        edge.send(administers(
            Service::Commserver,
            own,
            asks(operation, queued, 0, 3),
        ));
        edge.expect_error(ErrorCode::Forbidden).await;
    }
    let cancels = as_gate(own, asks(Operation::Cancel, queued, 0, 4));
    assert_eq!(state(&mut gate, cancels).await, Progress::Cancelled);
    gate.send(as_gate(own, asks(Operation::Process, running, 60_000, 5)));
    let cancels = as_gate(own, asks(Operation::Cancel, running, 0, 6));
    assert_eq!(state(&mut gate, cancels).await, Progress::Running);
    while doer.next().await.expect("a cancel").header.kind != Kind::Cancel {}
    doer.send(Message::error_answer(
        &call,
        &isms_protocol::WireError::new(ErrorCode::Cancelled, "stopped"),
    ));
    let waited: ProcessState = gate.expect(Kind::Reply).await.decode_body().unwrap();
    assert_eq!(waited.progress, Progress::Cancelled);
    edge.send(asks(Operation::Result, running, 0, 7));
    edge.expect_error(ErrorCode::Cancelled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_finds_no_room_for_a_result_is_not_told_that_a_queue_is_full() {
    let (_kernel, mut edge, _doer) = roles_with(Config {
        // One for each project.
        results_max: 4,
        ..Config::default()
    })
    .await;
    edge.send(Message::bare(asynchronous(1)));
    edge.expect(Kind::Reply).await;
    edge.send(Message::bare(asynchronous(2)));
    let refused: isms_protocol::WireError = edge.expect_error(ErrorCode::Busy).await.decode_body().unwrap();
    assert_eq!(
        refused.message,
        "there is no room to keep the results of more asynchronous calls; try again later"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_message_that_waits_is_charged_until_its_call_begins_or_ends() {
    const LEN: usize = 40 * 1024;
    let (_kernel, mut edge, mut doer) = roles_with(Config {
        results_bytes_max: 4 * 2 * LEN,
        ..Config::default()
    })
    .await;
    let call = |call| Message::bare(asynchronous(call)).with_raw(vec![7; LEN]);
    edge.send(call(1));
    edge.expect(Kind::Reply).await;
    // It runs, so the Kernel has no more of it.
    let running = doer.expect_request().await.header;
    for round in (2..11).step_by(3) {
        edge.send(call(round));
        let waiting = edge.expect(Kind::Reply).await.header.process;
        edge.send(call(round + 1));
        edge.expect_error(ErrorCode::Busy).await;
        let cancel = question(Operation::Cancel, waiting, 0, round + 2);
        assert_eq!(state(&mut edge, cancel).await, Progress::Cancelled);
    }
    edge.send(call(20));
    let waiting = edge.expect(Kind::Reply).await.header.process;
    doer.send(Message::bare(running.answer(Kind::Reply)));
    assert_eq!(doer.expect_request().await.header.process, waiting);
    edge.send(call(21));
    edge.expect(Kind::Reply).await;
}
