//! HTTP requests to servers outside, with the test as CommServer.

use isms_protocol::commserver::{Fetch, FetchReply, Operation};
use isms_protocol::dbriver::{Results, StatementResult};
use isms_protocol::kernel::StreamCredit;
use isms_protocol::limits::{CHUNK_LEN_MAX, STREAM_WINDOW};
use isms_protocol::{ErrorCode, Flags, Header, Kind, Message, Service, WireError, encode};
use serde_bytes::ByteBuf;

use crate::worker::{Worker, compile};

fn fetcher() -> Vec<u8> {
    compile("fetcher.c", include_str!("doees/fetcher.c"))
}

fn asked(worker: &mut Worker) -> (Message, Fetch) {
    let message = worker.receive_answer();
    assert_eq!(
        (
            message.header.kind,
            message.header.target,
            message.header.operation
        ),
        (Kind::Request, Service::Commserver, Operation::Fetch as u16)
    );
    let fetch = message.decode_body().unwrap();
    (message, fetch)
}

fn head(status: u16, body_len: Option<u64>) -> FetchReply {
    FetchReply {
        status,
        headers: vec![("x-b".into(), ByteBuf::from(&b"2"[..]))],
        body_len,
        url: "https://a.b/d".into(),
    }
}

/// Sends a body as the worker grants it, and its end; returns the most that it had granted at a time.
fn stream(worker: &mut Worker, request: &Header, body: &[u8], end: Flags) -> usize {
    let answer = Header {
        flags: Flags::TO_CALLER,
        ..request.answer(Kind::StreamChunk)
    };
    let (mut credit, mut most) = (0, 0);
    for piece in body.chunks(CHUNK_LEN_MAX) {
        while credit < piece.len() {
            let message = worker.receive_answer();
            assert_eq!(
                (message.header.kind, message.header.flags, message.header.call),
                (Kind::Credit, Flags::NONE, request.call)
            );
            credit += message.decode_body::<StreamCredit>().unwrap().bytes as usize;
            most = most.max(credit);
        }
        credit -= piece.len();
        worker.send(&Message::bare(answer).with_raw(piece.to_vec()));
    }
    worker.send(&Message::bare(Header {
        kind: Kind::StreamEnd,
        flags: Flags::TO_CALLER.with(end),
        ..answer
    }));
    most
}

/// What the Doee says in the end, past credit.
fn said(worker: &mut Worker) -> String {
    let reply = worker.receive_past_credit();
    assert_eq!(reply.header.kind, Kind::Reply);
    String::from_utf8(reply.raw.to_vec()).unwrap()
}

#[test]
fn a_request_goes_to_commserver_and_its_answer_comes_back() {
    let mut worker = Worker::start(&fetcher());
    let header = worker.begin("/post", b"");
    let (request, fetch) = asked(&mut worker);
    let expected = Fetch {
        method: "POST".into(),
        url: "https://a.b/c".into(),
        headers: vec![("x-mine".into(), ByteBuf::from(&b"a\xff"[..]))],
        body_len: 4,
        timeout_ms: 1500,
        redirects_max: 3,
    };
    assert_eq!((fetch, &request.raw[..]), (expected, &b"body"[..]));
    assert_eq!(
        (request.header.parent, request.header.flags),
        (header.process, Flags::NONE)
    );
    let reply = Message::with_body(request.header.answer(Kind::Reply), &head(404, Some(3)));
    worker.send(&reply.with_raw(&b"abc"[..]));
    assert_eq!(worker.text(), "404 https://a.b/d x-b=2 3: 3 294");
}

#[test]
fn large_bodies_are_streams_and_an_answer_is_read_as_it_is_consumed() {
    let mut worker = Worker::start(&fetcher());
    worker.begin("/post-big", b"");
    let (request, fetch) = asked(&mut worker);
    assert_eq!(
        (request.header.flags, fetch.body_len),
        (Flags::STREAM, 300 * 1024)
    );
    let mut received = 0;
    loop {
        let to_us = Header {
            flags: Flags::TO_CALLER,
            ..request.header
        };
        worker.credit(to_us, CHUNK_LEN_MAX as u32);
        let message = worker.receive_answer();
        match message.header.kind {
            Kind::StreamChunk => received += message.raw.len(),
            Kind::StreamEnd => break,
            kind => panic!("{kind:?}"),
        }
    }
    assert_eq!(received, 300 * 1024);
    let streaming = Header {
        flags: Flags::STREAM,
        ..request.header.answer(Kind::Reply)
    };
    worker.send(&Message::with_body(streaming, &head(200, None)));
    let most = stream(&mut worker, &request.header, &vec![2; 3_000_000], Flags::NONE);
    assert!(most <= STREAM_WINDOW as usize, "{most}");
    assert_eq!(said(&mut worker), "200 https://a.b/d x-b=2 -1: 3000000 6000000");
}

#[test]
fn what_goes_wrong_reaches_the_doee_as_a_code_with_its_text() {
    let mut worker = Worker::start(&fetcher());
    for (code, number) in [
        (ErrorCode::Forbidden, 4),
        (ErrorCode::LimitReached, 6),
        (ErrorCode::Invalid, 8),
        (ErrorCode::Unavailable, 9),
        (ErrorCode::Busy, 9),
    ] {
        worker.begin("/get", b"");
        let (request, _) = asked(&mut worker);
        let error = WireError::new(code, "because");
        worker.send(&Message::error_answer(&request.header, &error));
        assert_eq!(worker.text(), format!("{number} because"));
    }
    // A head that cannot be read.
    worker.begin("/get", b"");
    let (request, _) = asked(&mut worker);
    worker.send(&Message::bare(request.header.answer(Kind::Reply)));
    assert_eq!(worker.text(), "13 the server's answer cannot be read");
    // A body that breaks off.
    worker.begin("/get", b"");
    let (request, _) = asked(&mut worker);
    let streaming = Header {
        flags: Flags::STREAM,
        ..request.header.answer(Kind::Reply)
    };
    worker.send(&Message::with_body(streaming, &head(200, Some(9))));
    stream(&mut worker, &request.header, b"abc", Flags::ABORTED);
    let expected = "9 the server's answer broke off, is over 16 MiB, or took too long";
    assert_eq!(said(&mut worker), expected);
}

#[test]
fn an_answer_that_is_left_half_read_is_cancelled() {
    let mut worker = Worker::start(&fetcher());
    worker.begin("/leave", b"");
    let (request, _) = asked(&mut worker);
    let streaming = Header {
        flags: Flags::STREAM,
        ..request.header.answer(Kind::Reply)
    };
    worker.send(&Message::with_body(streaming, &head(200, None)));
    assert_eq!(worker.receive_answer().header.kind, Kind::Credit);
    let chunk = Header {
        flags: Flags::TO_CALLER,
        ..request.header.answer(Kind::StreamChunk)
    };
    worker.send(&Message::bare(chunk).with_raw(&b"abc"[..]));
    let cancel = worker.receive_past_credit();
    assert_eq!(
        (cancel.header.kind, cancel.header.call),
        (Kind::Cancel, request.header.call)
    );
    assert_eq!(worker.text(), "left");
}

#[test]
fn misuse_is_answered_with_codes_and_kinds_of_host_calls_are_told_apart() {
    let mut worker = Worker::start(&fetcher());
    worker.begin("/misuse", b"");
    let (request, _) = asked(&mut worker);
    let sql = worker.receive_answer();
    assert_eq!(sql.header.target, Service::Dbriver);
    worker.send(&Message::with_body(
        request.header.answer(Kind::Reply),
        &head(200, Some(0)),
    ));
    let results = encode(&Results {
        results: vec![StatementResult::default()],
    });
    worker.send(&Message::bare(sql.header.answer(Kind::Reply)).with_raw(results));
    assert_eq!(worker.text(), "8 8 8 8 6 8 8 8 8 0 0 8 8 8 ");
}

#[test]
fn in_cpp_a_request_is_a_value_and_its_answer_reads_as_json() {
    let mut worker = Worker::start(&compile("fetcher.cpp", include_str!("doees/fetcher.cpp")));
    worker.begin("/", b"");
    let (request, fetch) = asked(&mut worker);
    let field = |name: &str, value: &str| (name.to_owned(), ByteBuf::from(value.as_bytes()));
    let expected = Fetch {
        method: "PUT".into(),
        url: "http://a.b/".into(),
        headers: vec![field("x-a", "1"), field("content-type", "application/json")],
        body_len: 7,
        timeout_ms: 250,
        redirects_max: 2,
    };
    assert_eq!((fetch, &request.raw[..]), (expected, &b"{\"n\":7}"[..]));
    let reply = Message::with_body(request.header.answer(Kind::Reply), &head(201, Some(9)));
    worker.send(&reply.with_raw(&b"[1, \"x\"] "[..]));
    assert_eq!(
        worker.text(),
        r#"{"status":201,"url":"https://a.b/d","x-b":"2","none":"","len":9,"body":[1,"x"]}"#
    );

    worker.begin("/", b"");
    let (request, _) = asked(&mut worker);
    let error = WireError::new(ErrorCode::Forbidden, "not granted");
    worker.send(&Message::error_answer(&request.header, &error));
    assert_eq!(worker.error().message, "not granted");

    worker.begin("/stream", b"");
    let (request, _) = asked(&mut worker);
    let streaming = Header {
        flags: Flags::STREAM,
        ..request.header.answer(Kind::Reply)
    };
    worker.send(&Message::with_body(streaming, &head(200, None)));
    stream(&mut worker, &request.header, &vec![0; 1_000_000], Flags::NONE);
    assert_eq!(said(&mut worker), "1000000");
}
