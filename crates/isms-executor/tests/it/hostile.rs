//! A host that lies: the executor answers, ignores or ends with a reason, and never panics.

use isms_executor::EXIT_CHANNEL;
use isms_protocol::doer::Invocation;
use isms_protocol::kernel::StreamCredit;
use isms_protocol::{ErrorCode, Flags, Header, Kind, Message, Service};

use crate::worker::{Worker, kitchen};

fn check_ends(mut worker: Worker, reason: &str) {
    let (status, stderr) = worker.wait();
    assert_eq!(status.code(), Some(EXIT_CHANNEL), "{stderr}");
    assert!(stderr.contains(reason), "{stderr}");
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let mut worker = Worker::start(&kitchen());
    let header = worker.request(1);
    worker.send(&Message::bare(header).with_raw(&b"x"[..]));
    assert_eq!(worker.error().code, ErrorCode::Invalid);
    worker.send(&Message::bare(Header {
        operation: 999,
        ..header
    }));
    assert_eq!(worker.error().code, ErrorCode::Invalid);
    worker.send(&Message::bare(Header {
        target: Service::Dbriver,
        ..header
    }));
    assert_eq!(worker.error().code, ErrorCode::Invalid);
    assert_eq!(worker.get("/hello"), "hello");
}

#[test]
fn messages_for_nobody_are_ignored() {
    let mut worker = Worker::start(&kitchen());
    let kinds = [
        Kind::Register,
        Kind::Heartbeat,
        Kind::Reply,
        Kind::Error,
        Kind::Event,
        Kind::Cancel,
        Kind::Credit,
        Kind::StreamChunk,
        Kind::StreamEnd,
        Kind::Slots,
        Kind::Demand,
        Kind::Begun,
    ];
    for kind in kinds {
        for flags in 0..8 {
            let header = Header {
                kind,
                flags: Flags(flags),
                call: 77,
                ..worker.request(77)
            };
            worker.send(&Message::bare(header));
            worker.send(&Message::bare(header).with_raw(vec![0xff; 1000]));
            worker.send(&Message::with_body(header, &StreamCredit { bytes: u32::MAX }));
        }
    }
    assert_eq!(worker.get("/hello"), "hello");
}

#[test]
fn every_kind_for_the_running_call_is_survived_or_ends_the_executor_with_a_reason() {
    for kind in [Kind::Reply, Kind::Error, Kind::Credit, Kind::StreamEnd] {
        for flags in 0..8 {
            let mut worker = Worker::start(&kitchen());
            worker.begin("/sql-wait", b"");
            let request = worker.receive_answer().header;
            let header = Header {
                kind,
                flags: Flags(flags),
                ..request
            };
            worker.send(&Message::bare(header).with_raw(vec![0xff; 1000]));
            worker.send(&Message::bare(Header {
                kind: Kind::StreamEnd,
                flags: Flags::TO_CALLER,
                ..request
            }));
            worker.send(&Message::bare(Header {
                kind: Kind::Error,
                flags: Flags::NONE,
                ..request
            }));
            assert_eq!(worker.error().code, ErrorCode::DoeeFailed, "{kind:?} {flags}");
        }
    }
}

#[test]
fn a_chunk_without_credit_ends_the_executor() {
    let mut worker = Worker::start(&kitchen());
    let header = Header {
        flags: Flags::STREAM,
        ..worker.request(1)
    };
    worker.begin_with(header, "/sql-wait", b"");
    let chunk = Header {
        kind: Kind::StreamChunk,
        flags: Flags::NONE,
        ..header
    };
    worker.send(&Message::bare(chunk).with_raw(&b"x"[..]));
    check_ends(worker, "exceeds the credit");

    let mut worker = Worker::start(&kitchen());
    worker.begin("/sql-wait", b"");
    let request = worker.receive_answer().header;
    let chunk = Header {
        kind: Kind::StreamChunk,
        flags: Flags::TO_CALLER,
        ..request
    };
    worker.send(&Message::bare(chunk).with_raw(&b"x"[..]));
    check_ends(worker, "exceeds the credit");
}

#[test]
fn more_waiting_calls_than_allowed_end_the_executor() {
    let mut worker = Worker::start(&kitchen());
    worker.begin("/sql-wait", b"");
    let invocation = Invocation::default();
    for call in 2..=66 {
        worker.send(&Message::with_body(worker.request(call), &invocation));
    }
    check_ends(worker, "more than 64 calls wait");
}

#[test]
fn nonsense_on_the_control_channel_ends_the_executor() {
    use isms_sandbox::linux::seqpacket;
    use std::os::fd::AsFd;
    let worker = Worker::start(&kitchen());
    seqpacket::send(worker.control.as_fd(), &[0xff; 100], &[]).unwrap();
    check_ends(worker, "nonsense");
    let worker = Worker::start(&kitchen());
    worker.send_assignment(b"second", Vec::new());
    check_ends(worker, "a second Doee");
}
