//! Bodies larger than a message, both ways, within their credit and within memory.

use std::fs;

use bytes::Bytes;
use isms_protocol::doer::{Invocation, InvocationReply};
use isms_protocol::kernel::StreamCredit;
use isms_protocol::limits::{CHUNK_LEN_MAX, STREAM_WINDOW};
use isms_protocol::{ErrorCode, Flags, Header, Kind, Message};

use crate::worker::{Worker, compile, kitchen};

const MIB: usize = 1024 * 1024;

/// The Doer's side of a call that streams both ways.
struct Exchange {
    header: Header,
    to_send: usize,
    sent: usize,
    credit: usize,
    ended: bool,
    received: usize,
    granted: usize,
}

impl Exchange {
    fn start(worker: &mut Worker, path: &str, len: usize) -> Exchange {
        let header = Header {
            flags: Flags::STREAM,
            ..worker.request(1)
        };
        let invocation = Invocation {
            path: path.into(),
            payload_len: Some(len as u64),
            ..Invocation::default()
        };
        worker.send(&Message::with_body(header, &invocation));
        Exchange {
            header,
            to_send: len,
            sent: 0,
            credit: 0,
            ended: false,
            received: 0,
            granted: 0,
        }
    }

    fn byte(at: usize) -> u8 {
        (at / 7 % 251) as u8
    }

    fn send(&mut self, worker: &mut Worker) {
        let chunk_header = Header {
            kind: Kind::StreamChunk,
            flags: Flags::NONE,
            ..self.header
        };
        while self.credit > 0 && self.sent < self.to_send {
            let len = (self.to_send - self.sent).min(self.credit).min(CHUNK_LEN_MAX);
            let chunk: Bytes = (self.sent..self.sent + len).map(Exchange::byte).collect();
            worker.send(&Message::bare(chunk_header).with_raw(chunk));
            self.sent += len;
            self.credit -= len;
        }
        if self.sent == self.to_send && !self.ended {
            self.ended = true;
            worker.send(&Message::bare(Header {
                kind: Kind::StreamEnd,
                ..chunk_header
            }));
        }
    }

    /// Runs until the reply's stream ends; returns its last flags.
    fn run(&mut self, worker: &mut Worker) -> Flags {
        self.send(worker);
        loop {
            let message = worker.receive_answer();
            assert_eq!(message.header.call, self.header.call);
            match message.header.kind {
                Kind::Credit => {
                    assert_eq!(message.header.flags, Flags::TO_CALLER);
                    self.credit += message.decode_body::<StreamCredit>().unwrap().bytes as usize;
                    assert!(self.credit <= STREAM_WINDOW as usize);
                    self.send(worker);
                }
                Kind::Reply => {
                    assert_eq!(message.header.flags, Flags::STREAM);
                    assert_eq!(message.decode_body::<InvocationReply>().unwrap().status, 200);
                }
                Kind::StreamChunk => {
                    for byte in &message.raw {
                        assert_eq!(*byte, Exchange::byte(self.received));
                        self.received += 1;
                    }
                    assert!(self.received <= self.granted);
                }
                Kind::StreamEnd => return message.header.flags,
                kind => panic!("{kind:?}"),
            }
            if self.granted - self.received < STREAM_WINDOW as usize / 2 {
                self.granted += STREAM_WINDOW as usize;
                let header = Header {
                    flags: Flags::NONE,
                    ..self.header
                };
                worker.credit(header, STREAM_WINDOW);
            }
        }
    }
}

#[test]
fn a_small_body_is_echoed_inline() {
    let mut worker = Worker::start(&kitchen());
    worker.begin("/echo", b"small");
    assert_eq!(worker.text(), "small");
    worker.begin("/echo", b"");
    assert_eq!(worker.text(), "");
}

#[test]
fn sixteen_mebibytes_stream_both_ways_in_bounded_memory() {
    let mut worker = Worker::start(&kitchen());
    let mut exchange = Exchange::start(&mut worker, "/echo", 16 * MIB);
    assert_eq!(exchange.run(&mut worker), Flags::TO_CALLER);
    assert_eq!(exchange.received, 16 * MIB);
    let status = fs::read_to_string(format!("/proc/{}/status", worker.pid())).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak_kib: usize = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kib <= 16 * 1024, "{peak_kib} KiB");
    assert_eq!(worker.get("/hello"), "hello");
}

#[test]
fn a_response_waits_for_credit() {
    let binary = compile("kitchen.cpp", include_str!("doees/kitchen.cpp"));
    let mut worker = Worker::start(&binary);
    let header = worker.begin("/stream", b"");
    let reply = worker.receive_answer();
    assert_eq!(
        (reply.header.kind, reply.header.flags),
        (Kind::Reply, Flags::STREAM)
    );
    worker.credit(header, 1000);
    assert_eq!(worker.receive_answer().raw.len(), 1000);
    let none = worker
        .connection
        .as_mut()
        .unwrap()
        .receive(Some(std::time::Duration::from_millis(50)))
        .unwrap();
    assert!(none.is_none(), "{none:?}");
    worker.credit(header, u32::MAX);
    let mut received = 1000;
    loop {
        let message = worker.receive_answer();
        if message.header.kind == Kind::StreamEnd {
            assert_eq!(message.header.flags, Flags::TO_CALLER);
            break;
        }
        received += message.raw.len();
    }
    assert_eq!(received, 16_000_000);
}

#[test]
fn a_cancel_breaks_a_response_that_waits_for_credit() {
    let binary = compile("kitchen.cpp", include_str!("doees/kitchen.cpp"));
    let mut worker = Worker::start(&binary);
    let header = worker.begin("/stream", b"");
    assert_eq!(worker.receive_answer().header.kind, Kind::Reply);
    worker.send(&Message::bare(Header {
        kind: Kind::Cancel,
        ..header
    }));
    let end = worker.receive_answer().header;
    assert_eq!(
        (end.kind, end.flags),
        (Kind::StreamEnd, Flags::TO_CALLER.with(Flags::ABORTED))
    );
}

#[test]
fn a_body_that_the_doee_does_not_read_is_thrown_away_and_the_next_call_runs() {
    let mut worker = Worker::start(&kitchen());
    let mut exchange = Exchange::start(&mut worker, "/hello", MIB);
    assert_eq!(worker.text(), "hello");
    while !exchange.ended {
        let message = worker.receive_answer();
        assert_eq!(
            (message.header.kind, message.header.call),
            (Kind::Credit, exchange.header.call)
        );
        exchange.credit += message.decode_body::<StreamCredit>().unwrap().bytes as usize;
        exchange.send(&mut worker);
    }
    worker.begin_with(worker.request(2), "/hello", b"");
    assert_eq!(worker.text(), "hello");
}

#[test]
fn a_body_that_breaks_off_fails_the_call() {
    let mut worker = Worker::start(&kitchen());
    let exchange = Exchange::start(&mut worker, "/echo", MIB);
    let end = Header {
        kind: Kind::StreamEnd,
        flags: Flags::ABORTED,
        ..exchange.header
    };
    worker.send(&Message::bare(end));
    assert_eq!(worker.error().code, ErrorCode::DoeeFailed);
}
