//! One call: what the Doee sees of it, what becomes of its answer, its log.

use isms_protocol::doer::{Invocation, Trigger};
use isms_protocol::limits::LOG_LEN_MAX;
use isms_protocol::worker::LogLevel;
use isms_protocol::{ErrorCode, Header, Kind, Message};

use crate::worker::{Worker, kitchen};

#[test]
fn the_doee_sees_all_of_the_request() {
    let mut worker = Worker::start(&kitchen());
    let invocation = Invocation {
        trigger: Trigger::Http,
        method: "POST".into(),
        path: "/describe".into(),
        route: "/{id}".into(),
        parameters: vec![("id".into(), "m1".into())],
        query: "a=1".into(),
        headers: vec![("x-y".into(), b"z".to_vec().into())],
        principal: "token".into(),
        payload_len: None,
    };
    let header = Header {
        attempt: 2,
        ..worker.request(3)
    };
    worker.send(&Message::with_body(header, &invocation).with_raw(&b"four"[..]));
    assert_eq!(worker.text(), "1 2 POST /describe /{id} a=1 token id=m1 x-y=z 4");
}

#[test]
fn an_answer_has_its_status_and_header_fields_in_lower_case() {
    let mut worker = Worker::start(&kitchen());
    worker.begin("/hello", b"");
    let (reply, _) = worker.reply();
    assert_eq!(
        (reply.status, reply.headers),
        (200, vec![("content-type".into(), "text/plain".into())])
    );
}

#[test]
fn a_doee_that_answers_nothing_or_less_than_it_promised_fails_with_a_clear_error() {
    let mut worker = Worker::start(&kitchen());
    worker.begin("/nothing", b"");
    let error = worker.error();
    assert_eq!(
        (error.code, &*error.message),
        (ErrorCode::DoeeFailed, "execute returned without an answer")
    );
    worker.begin("/short", b"");
    assert_eq!(
        worker.error().message,
        "the answer's body has 0 bytes, 10 were promised"
    );
    assert_eq!(worker.get("/hello"), "hello");
}

#[test]
fn a_failure_carries_the_doees_own_words() {
    let mut worker = Worker::start(&kitchen());
    worker.begin("/fail", b"");
    let error = worker.error();
    assert_eq!(
        (error.code, &*error.message),
        (ErrorCode::DoeeFailed, "the reason")
    );
}

#[test]
fn a_doee_cannot_claim_a_cancel_that_nobody_sent() {
    let mut worker = Worker::start(&kitchen());
    worker.begin("/claims-cancel", b"");
    assert_eq!(worker.error().code, ErrorCode::DoeeFailed);
}

#[test]
fn a_flood_of_log_lines_is_cut_with_one_line_that_says_so_and_the_next_call_logs_again() {
    let mut worker = Worker::start(&kitchen());
    assert_eq!(worker.log_line().text, "initialized");
    for _ in 0..2 {
        let header = worker.begin("/flood", b"");
        let (mut lines, mut bytes) = (Vec::new(), 0);
        let reply = loop {
            let message = worker.receive();
            if message.header.kind != Kind::Event {
                break message;
            }
            assert_eq!(message.header.process, header.process);
            let line: isms_protocol::worker::LogLine = message.decode_body().unwrap();
            bytes += line.text.len();
            lines.push(line);
        };
        assert_eq!(&reply.raw[..], b"flooded");
        assert!(
            bytes <= LOG_LEN_MAX && lines.len() > 1000,
            "{bytes} {}",
            lines.len()
        );
        let cut = lines.iter().filter(|line| line.level == LogLevel::Warn).count();
        assert_eq!(
            (cut, lines.last().map(|line| line.level)),
            (1, Some(LogLevel::Warn))
        );
    }
}

#[test]
fn another_thread_may_not_call_the_host() {
    let mut worker = Worker::start(&kitchen());
    assert_eq!(
        worker.get("/thread"),
        "3 only the thread that runs execute may call the host"
    );
}

#[test]
fn misuse_of_the_host_is_answered_with_codes() {
    let mut worker = Worker::start(&kitchen());
    worker.get("/hello");
    assert_eq!(worker.get("/misuse"), "8 ".repeat(25));
}

#[test]
fn calls_that_wait_are_answered_in_order_and_a_cancelled_one_does_not_run() {
    let mut worker = Worker::start(&kitchen());
    let invocation = Invocation {
        path: "/hello".into(),
        ..Invocation::default()
    };
    worker.begin_with(worker.request(1), "/sql-wait", b"");
    let host_call = worker.receive_answer();
    for call in [2, 3, 4] {
        worker.send(&Message::with_body(worker.request(call), &invocation));
    }
    worker.send(&Message::bare(Header {
        kind: Kind::Cancel,
        ..worker.request(3)
    }));
    worker.send(&Message::error_answer(
        &host_call.header,
        &isms_protocol::WireError::new(ErrorCode::Database, "no"),
    ));
    let mut receive = || {
        let header = worker.receive_answer().header;
        (header.kind, header.call)
    };
    let seen: [(Kind, u64); 4] = std::array::from_fn(|_| receive());
    let expected = [
        (Kind::Error, 3),
        (Kind::Error, 1),
        (Kind::Reply, 2),
        (Kind::Reply, 4),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_recalled_call_does_not_run_and_the_next_one_does() {
    let mut worker = Worker::start(&kitchen());
    worker.begin_with(worker.request(1), "/sql-wait", b"");
    let host_call = worker.receive_answer();
    let invocation = Invocation {
        path: "/hello".into(),
        ..Invocation::default()
    };
    for call in [2, 3] {
        worker.send(&Message::with_body(worker.request(call), &invocation));
    }
    assert!(!worker.page.recall(1), "it has begun");
    assert!(worker.page.recall(2));
    worker.send(&Message::error_answer(
        &host_call.header,
        &isms_protocol::WireError::new(ErrorCode::Database, "no"),
    ));
    assert_eq!(worker.receive_answer().header.call, 1);
    assert_eq!(worker.error().code, ErrorCode::Cancelled);
    assert!(!worker.page.has_begun(2));
    assert!(!worker.text().is_empty());
    assert!(worker.page.has_begun(3));
}
