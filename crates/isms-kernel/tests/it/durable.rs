//! Durable calls: acknowledged when they are in the journal, tried until they have ended, recovered after a restart.

use std::time::SystemTime;

use isms_protocol::{
    DoeeVersion, ErrorCode, Flags, Header, Kind, Message, ProcessId, Service, WireError,
    kernel::{
        DeadAfter, DeadLetters, DeadQuestion, DoeeRetries, DoeeRetry, Durability, Operation, ProcessState,
        Progress, Resume, Resumed, ResumedCall, Retry,
    },
    limits::KEY_LEN,
};

use crate::{
    asynchronous::question,
    calls::{invoke, slots},
    harness::{Kernel, Peer, request},
};

fn durable(call: u64) -> Message {
    Message::bare(Header {
        flags: Flags::ASYNC.with(Flags::DURABLE),
        ..invoke(call)
    })
}

fn keyed(call: u64, key: u8, body: &[u8]) -> Message {
    let header = Header {
        flags: Flags::ASYNC.with(Flags::DURABLE).with(Flags::KEYED),
        ..invoke(call)
    };
    Message::bare(header).with_raw([&[key; KEY_LEN], body].concat())
}

async fn state(edge: &mut Peer, question: Message) -> ProcessState {
    edge.send(question);
    edge.expect(Kind::Reply).await.decode_body().unwrap()
}

/// The Doer says what it still has.
async fn resume(doer: &mut Peer, calls: Vec<ResumedCall>) -> Vec<u64> {
    let header = request(Service::Doer, Service::Kernel, Operation::Resume as u16, 1 << 40);
    doer.send(Message::with_body(header, &Resume { calls, more: false }));
    loop {
        let message = doer.next().await.expect("an answer");
        if message.header.kind == Kind::Reply {
            let Resumed { calls } = message.decode_body().unwrap();
            return calls;
        }
    }
}

async fn doer(kernel: &mut Kernel, incarnation: u32, calls: Vec<ResumedCall>) -> (Peer, Vec<u64>) {
    let mut doer = kernel.incarnation(Service::Doer, incarnation).await;
    let calls = resume(&mut doer, calls).await;
    doer.send(slots(1));
    (doer, calls)
}

async fn roles() -> (Kernel, Peer, Peer) {
    let mut kernel = Kernel::start_durable(tempfile::tempdir().unwrap());
    let edge = kernel.service(Service::Commserver).await;
    let (doer, _) = doer(&mut kernel, 1, Vec::new()).await;
    (kernel, edge, doer)
}

/// Failed attempts are tried again at once, so often.
async fn set_retries(kernel: &mut Kernel, attempts: u32) {
    let retry = Retry {
        attempts,
        backoff_ms: 0,
        ..Retry::default()
    };
    let mut resadmin = kernel.service(Service::Resadmin).await;
    let header = Header {
        project: invoke(0).project,
        ..request(
            Service::Resadmin,
            Service::Kernel,
            Operation::SetRetries as u16,
            1,
        )
    };
    let doee = invoke(0).target_doee;
    let durability = Durability::Durable(retry);
    let doees = vec![DoeeRetry { doee, durability }];
    resadmin.send(Message::with_body(header, &DoeeRetries { doees }));
    resadmin.expect(Kind::Reply).await;
}

fn failure(call: &Header, code: ErrorCode) -> Message {
    Message::error_answer(call, &WireError::new(code, "it did not work"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_durable_call_and_its_result_survive_the_kernel() {
    let (mut kernel, mut edge, mut doer_peer) = roles().await;
    edge.send(durable(1).with_raw(&b"first"[..]));
    let ended = edge.expect(Kind::Reply).await.header.process;
    let call = doer_peer.expect_request().await;
    assert_eq!((call.header.flags, call.header.attempt), (Flags::DURABLE, 1));
    doer_peer.send(Message::bare(call.header.answer(Kind::Reply)).with_raw(&b"answer"[..]));
    let waits = question(Operation::Process, ended, 60_000, 2);
    assert_eq!(state(&mut edge, waits).await.progress, Progress::Done);
    edge.send(durable(3).with_raw(&b"second"[..]));
    let running = edge.expect(Kind::Reply).await.header.process;
    doer_peer.expect_request().await;
    edge.send(durable(4).with_raw(&b"third"[..]));
    let queued = edge.expect(Kind::Reply).await.header.process;
    drop((edge, doer_peer));
    kernel = kernel.restart();
    let mut edge = kernel.service(Service::Commserver).await;
    edge.send(question(Operation::Result, ended, 0, 1));
    assert_eq!(&edge.expect(Kind::Reply).await.raw[..], b"answer");
    let (mut doer_peer, _) = doer(&mut kernel, 1, Vec::new()).await;
    for (process, body) in [(running, &b"second"[..]), (queued, &b"third"[..])] {
        let call = doer_peer.expect_request().await;
        assert_eq!((call.header.process, &call.raw[..]), (process, body));
        doer_peer.send(Message::bare(call.header.answer(Kind::Reply)));
        let waits = question(Operation::Process, process, 60_000, 2);
        assert_eq!(state(&mut edge, waits).await.progress, Progress::Done);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_the_doer_still_has_goes_on_after_the_kernel_was_lost() {
    let (mut kernel, mut edge, mut doer_peer) = roles().await;
    edge.send(durable(1));
    let process = edge.expect(Kind::Reply).await.header.process;
    let attempt = doer_peer.expect_request().await.header.attempt;
    drop((edge, doer_peer));
    kernel = kernel.restart();
    let mut edge = kernel.service(Service::Commserver).await;
    let unknown = ResumedCall {
        process: ProcessId::from_bytes([3; 16]),
        attempt: 1,
    };
    let (doer_peer, calls) = doer(&mut kernel, 1, vec![ResumedCall { process, attempt }, unknown]).await;
    assert!(calls[0] != 0 && calls[1] == 0, "{calls:?}");
    let now = state(&mut edge, question(Operation::Process, process, 0, 1)).await;
    assert_eq!(now.progress, Progress::Running);
    let header = Header {
        call: calls[0],
        process,
        attempt,
        ..Header::new(Kind::Reply, Service::Doer, Service::Kernel)
    };
    doer_peer.send(Message::bare(header).with_raw(&b"kept"[..]));
    let waits = question(Operation::Process, process, 60_000, 2);
    assert_eq!(state(&mut edge, waits).await.progress, Progress::Done);
    edge.send(question(Operation::Result, process, 0, 3));
    assert_eq!(&edge.expect(Kind::Reply).await.raw[..], b"kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_call_is_held_while_its_last_attempt_may_be_running_and_the_old_one_is_fenced() {
    let (mut kernel, mut edge, mut doer_peer) = roles().await;
    edge.send(durable(1));
    let process = edge.expect(Kind::Reply).await.header.process;
    let first = doer_peer.expect_request().await.header;
    drop(doer_peer);
    let mut doer_peer = kernel.incarnation(Service::Doer, 2).await;
    doer_peer.send(slots(1));
    // Not before the Doer has spoken: what another service asks meanwhile is answered first.
    let now = state(&mut edge, question(Operation::Process, process, 0, 2)).await;
    assert_eq!(now.progress, Progress::Running);
    resume(&mut doer_peer, Vec::new()).await;
    let second = doer_peer.expect_request().await.header;
    assert_eq!((second.process, second.attempt), (process, first.attempt + 1));
    let child = Header {
        parent: process,
        attempt: first.attempt,
        ..request(
            Service::Doer,
            Service::Dbriver,
            isms_protocol::dbriver::Operation::Transaction as u16,
            9,
        )
    };
    doer_peer.send(Message::bare(child));
    doer_peer.expect_error(ErrorCode::Fenced).await;
    // What is said of the old attempt finds nothing.
    doer_peer.send(Message::bare(first.answer(Kind::Reply)).with_raw(&b"late"[..]));
    doer_peer.send(Message::bare(second.answer(Kind::Reply)).with_raw(&b"new"[..]));
    let waits = question(Operation::Process, process, 60_000, 3);
    assert_eq!(state(&mut edge, waits).await.progress, Progress::Done);
    edge.send(question(Operation::Result, process, 0, 4));
    assert_eq!(&edge.expect(Kind::Reply).await.raw[..], b"new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_call_that_fails_is_tried_again_and_given_up_after_its_last_attempt() {
    let (mut kernel, mut edge, mut doer_peer) = roles().await;
    set_retries(&mut kernel, 3).await;
    edge.send(durable(1).with_raw(&b"request"[..]));
    let process = edge.expect(Kind::Reply).await.header.process;
    for attempt in 1..=3 {
        let call = doer_peer.expect_request().await;
        assert_eq!((call.header.attempt, &call.raw[..]), (attempt, &b"request"[..]));
        doer_peer.send(failure(&call.header, ErrorCode::Crashed));
    }
    let waits = question(Operation::Process, process, 60_000, 2);
    let dead = state(&mut edge, waits).await;
    assert_eq!((dead.progress, dead.failures), (Progress::Dead, 3));
    edge.send(question(Operation::Result, process, 0, 3));
    edge.expect_error(ErrorCode::Crashed).await;

    // It survives the Kernel, is listed, and runs again under its id, as another version if so asked.
    drop((edge, doer_peer));
    kernel = kernel.restart();
    let mut gate = kernel.service(Service::Gate).await;
    let ask = |operation: Operation, call| Header {
        project: invoke(0).project,
        ..request(Service::Gate, Service::Kernel, operation as u16, call)
    };
    let list = DeadAfter {
        count: 10,
        ..DeadAfter::default()
    };
    gate.send(Message::with_body(ask(Operation::Dead, 1), &list));
    let DeadLetters { letters, more } = gate.expect(Kind::Reply).await.decode_body().unwrap();
    assert_eq!((letters.len(), more), (1, false));
    let letter = &letters[0];
    assert_eq!(
        (
            letter.process,
            letter.failures,
            letter.code,
            letter.reason.as_str(),
            letter.request_len
        ),
        (process, 3, ErrorCode::Crashed, "it did not work", 7)
    );
    let other = DoeeVersion::from_bytes([0x55; 16]);
    let replay = DeadQuestion { process, doee: other };
    gate.send(Message::with_body(ask(Operation::Replay, 2), &replay));
    let again: ProcessState = gate.expect(Kind::Reply).await.decode_body().unwrap();
    assert_eq!((again.progress, again.failures), (Progress::Queued, 0));
    gate.send(Message::with_body(ask(Operation::Replay, 3), &replay));
    gate.expect_error(ErrorCode::NotFound).await;
    let mut doer_peer = kernel.service(Service::Doer).await;
    resume(&mut doer_peer, Vec::new()).await;
    doer_peer.send(Message {
        header: Header {
            target_doee: other,
            ..slots(1).header
        },
        ..slots(1)
    });
    let call = doer_peer.expect_request().await;
    assert_eq!(
        (call.header.process, call.header.target_doee, &call.raw[..]),
        (process, other, &b"request"[..])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_discarded_letter_does_not_come_back() {
    let (mut kernel, mut edge, mut doer_peer) = roles().await;
    set_retries(&mut kernel, 1).await;
    edge.send(durable(1));
    let process = edge.expect(Kind::Reply).await.header.process;
    let call = doer_peer.expect_request().await.header;
    doer_peer.send(failure(&call, ErrorCode::DoeeFailed));
    let waits = question(Operation::Process, process, 60_000, 2);
    assert_eq!(state(&mut edge, waits).await.progress, Progress::Dead);
    let mut gate = kernel.service(Service::Gate).await;
    let header = Header {
        project: invoke(0).project,
        ..request(Service::Gate, Service::Kernel, Operation::Discard as u16, 1)
    };
    let doee = DoeeVersion::NONE;
    gate.send(Message::with_body(header, &DeadQuestion { process, doee }));
    gate.expect(Kind::Reply).await;
    drop((edge, doer_peer, gate));
    kernel = kernel.restart();
    let mut edge = kernel.service(Service::Commserver).await;
    edge.send(question(Operation::Process, process, 0, 1));
    edge.expect_error(ErrorCode::NotFound).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_repeated_idempotency_key_names_the_first_call_also_after_a_restart() {
    let (mut kernel, mut edge, mut doer_peer) = roles().await;
    edge.send(keyed(1, 7, b"body"));
    edge.send(keyed(2, 7, b"body"));
    let first = edge.expect(Kind::Reply).await.header;
    let second = edge.expect(Kind::Reply).await.header;
    assert_eq!(first.process, second.process);
    assert_eq!([first.call, second.call], [1, 2]);
    let call = doer_peer.expect_request().await;
    assert_eq!(&call.raw[..], b"body");
    doer_peer.send(Message::bare(call.header.answer(Kind::Reply)));
    let waits = question(Operation::Process, first.process, 60_000, 3);
    assert_eq!(state(&mut edge, waits).await.progress, Progress::Done);
    edge.send(keyed(4, 7, b"other body"));
    edge.expect_error(ErrorCode::Conflict).await;
    edge.send(keyed(5, 8, b"body"));
    assert_ne!(edge.expect(Kind::Reply).await.header.process, first.process);
    drop((edge, doer_peer));
    kernel = kernel.restart();
    let mut edge = kernel.service(Service::Commserver).await;
    edge.send(keyed(1, 7, b"body"));
    assert_eq!(edge.expect(Kind::Reply).await.header.process, first.process);
}

/// A call that runs in so many ms.
fn later(call: u64, in_ms: i64) -> Message {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let at = (now.as_micros() as u64).saturating_add_signed(1_000 * in_ms);
    let header = Header {
        flags: Flags::ASYNC.with(Flags::DURABLE).with(Flags::LATER),
        ..invoke(call)
    };
    Message::bare(header).with_raw([&at.to_le_bytes()[..], b"body"].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_call_for_later_runs_then_and_one_whose_time_has_passed_at_once() {
    let (mut kernel, mut edge, mut doer_peer) = roles().await;
    edge.send(later(1, 60_000));
    let far = edge.expect(Kind::Reply).await.header.process;
    edge.send(later(2, 400));
    let near = edge.expect(Kind::Reply).await.header.process;
    edge.send(later(3, -1_000));
    let past = edge.expect(Kind::Reply).await.header.process;
    for process in [past, near] {
        let call = doer_peer.expect_request().await;
        assert_eq!((call.header.process, &call.raw[..]), (process, &b"body"[..]));
        doer_peer.send(Message::bare(call.header.answer(Kind::Reply)));
    }
    let waiting = state(&mut edge, question(Operation::Process, far, 0, 4)).await;
    assert_eq!(waiting.progress, Progress::Queued);
    assert!(
        (50_000_000..=60_000_000).contains(&waiting.retry_us),
        "{waiting:?}"
    );
    edge.send(Message::bare(later(5, 1_000).header));
    edge.expect_error(ErrorCode::Invalid).await;
    edge.send(later(6, 1_000 * 3_600 * 24 * 500));
    edge.expect_error(ErrorCode::Invalid).await;
    drop((edge, doer_peer));
    kernel = kernel.restart();
    let mut edge = kernel.service(Service::Commserver).await;
    let waiting = state(&mut edge, question(Operation::Process, far, 0, 1)).await;
    assert!(
        (40_000_000..=60_000_000).contains(&waiting.retry_us),
        "{waiting:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_cancelled_call_stays_cancelled() {
    let (mut kernel, mut edge, mut doer_peer) = roles().await;
    edge.send(durable(1));
    let running = edge.expect(Kind::Reply).await.header.process;
    let call = doer_peer.expect_request().await.header;
    edge.send(durable(2));
    let queued = edge.expect(Kind::Reply).await.header.process;
    let cancel = |process, number| question(Operation::Cancel, process, 0, number);
    assert_eq!(
        state(&mut edge, cancel(running, 3)).await.progress,
        Progress::Running
    );
    assert_eq!(
        state(&mut edge, cancel(queued, 4)).await.progress,
        Progress::Cancelled
    );
    while doer_peer.next().await.expect("a cancel").header.kind != Kind::Cancel {}
    doer_peer.send(failure(&call, ErrorCode::Cancelled));
    for (process, number) in [(running, 5), (queued, 6)] {
        let waits = question(Operation::Process, process, 60_000, number);
        assert_eq!(state(&mut edge, waits).await.progress, Progress::Cancelled);
    }
    drop((edge, doer_peer));
    kernel = kernel.restart();
    let mut edge = kernel.service(Service::Commserver).await;
    let (_doer, _) = doer(&mut kernel, 1, Vec::new()).await;
    for (process, number) in [(running, 1), (queued, 2)] {
        let now = state(&mut edge, question(Operation::Process, process, 0, number)).await;
        assert_eq!(now.progress, Progress::Cancelled);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_kernel_without_a_journal_takes_no_durable_calls() {
    let mut kernel = Kernel::start();
    let mut edge = kernel.service(Service::Commserver).await;
    edge.send(durable(1));
    edge.expect_error(ErrorCode::Unavailable).await;
    let header = Header {
        flags: Flags::ASYNC.with(Flags::KEYED),
        ..invoke(2)
    };
    edge.send(Message::bare(header));
    edge.expect_error(ErrorCode::Invalid).await;
}
