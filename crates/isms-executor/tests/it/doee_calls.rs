//! Calls of other Doees, with the test as the Doer.

use isms_protocol::doer::InvocationReply;
use isms_protocol::kernel::StreamCredit;
use isms_protocol::limits::CHUNK_LEN_MAX;
use isms_protocol::worker::{CallAccepted, DoeeCall, Operation};
use isms_protocol::{Class, ErrorCode, Flags, Header, Kind, Message, ProcessId, Service, WireError};
use serde_bytes::ByteBuf;

use crate::worker::{Worker, compile};

fn caller() -> Worker {
    Worker::start(&compile("caller.c", include_str!("doees/caller.c")))
}

fn asked(worker: &mut Worker) -> (Message, DoeeCall) {
    let message = worker.receive_answer();
    assert_eq!(
        (
            message.header.kind,
            message.header.target,
            message.header.operation
        ),
        (Kind::Request, Service::Doer, Operation::Call as u16)
    );
    let call = message.decode_body().unwrap();
    (message, call)
}

fn head(payload_len: Option<u64>) -> InvocationReply {
    InvocationReply {
        status: 404,
        headers: vec![("x-b".into(), "2".into())],
        payload_len,
    }
}

fn expected(is_async: bool) -> DoeeCall {
    DoeeCall {
        doee: "other".into(),
        headers: vec![("x-mine".into(), ByteBuf::from(&b"a\xff"[..]))],
        body_len: 4,
        class: Some(Class::Batch),
        deadline_ms: 250,
        is_async,
    }
}

#[test]
fn a_call_goes_to_the_doer_and_its_answer_comes_back() {
    let mut worker = caller();
    let header = worker.begin("/", b"");
    let (request, call) = asked(&mut worker);
    assert_eq!((call, &request.raw[..]), (expected(false), &b"body"[..]));
    assert_eq!(
        (request.header.parent, request.header.flags),
        (header.process, Flags::NONE)
    );
    let reply = Message::with_body(request.header.answer(Kind::Reply), &head(None));
    worker.send(&reply.with_raw(&b"abc"[..]));
    assert_eq!(worker.text(), "404 <> x-b=2 3: 3");
}

#[test]
fn a_long_answer_is_read_as_it_is_consumed() {
    let mut worker = caller();
    worker.begin("/", b"");
    let (request, _) = asked(&mut worker);
    let streaming = Header {
        flags: Flags::STREAM,
        ..request.header.answer(Kind::Reply)
    };
    worker.send(&Message::with_body(streaming, &head(Some(1_000_000))));
    let chunk = Header {
        flags: Flags::TO_CALLER,
        ..request.header.answer(Kind::StreamChunk)
    };
    let mut credit = 0;
    for piece in vec![1; 1_000_000].chunks(CHUNK_LEN_MAX) {
        while credit < piece.len() {
            let granted = worker.receive_answer();
            assert_eq!(granted.header.kind, Kind::Credit);
            credit += granted.decode_body::<StreamCredit>().unwrap().bytes as usize;
        }
        credit -= piece.len();
        worker.send(&Message::bare(chunk).with_raw(piece.to_vec()));
    }
    worker.send(&Message::bare(Header {
        kind: Kind::StreamEnd,
        ..chunk
    }));
    let reply = worker.receive_past_credit();
    assert_eq!(reply.header.kind, Kind::Reply);
    assert_eq!(&reply.raw[..], b"404 <> x-b=2 1000000: 1000000");
}

#[test]
fn an_asynchronous_call_is_answered_with_its_process() {
    let mut worker = caller();
    worker.begin("/async", b"");
    let (request, call) = asked(&mut worker);
    assert_eq!(call, expected(true));
    let process = ProcessId::generate();
    let accepted = CallAccepted { process };
    worker.send(&Message::with_body(request.header.answer(Kind::Reply), &accepted));
    assert_eq!(worker.text(), format!("202 <{process}> = 0: 0"));
    // The answer of another kind of call is none.
    worker.begin("/async", b"");
    let (request, _) = asked(&mut worker);
    let unreadable = Message::bare(request.header.answer(Kind::Reply));
    worker.send(&unreadable);
    assert_eq!(worker.text(), "13 the answer of the called Doee cannot be read");
}

#[test]
fn what_goes_wrong_reaches_the_doee_as_a_code_with_its_text() {
    let mut worker = caller();
    for (code, number) in [
        (ErrorCode::Forbidden, 4),
        (ErrorCode::LimitReached, 6),
        (ErrorCode::Invalid, 8),
        (ErrorCode::Crashed, 9),
        (ErrorCode::Busy, 9),
        (ErrorCode::NotFound, 10),
        (ErrorCode::Expired, 11),
        (ErrorCode::TimedOut, 11),
        (ErrorCode::DoeeFailed, 12),
        (ErrorCode::Conflict, 12),
    ] {
        worker.begin("/", b"");
        let (request, _) = asked(&mut worker);
        let error = WireError::new(code, "because");
        worker.send(&Message::error_answer(&request.header, &error));
        assert_eq!(worker.text(), format!("{number} because"));
    }
}

#[test]
fn a_cancel_reaches_a_doee_that_waits_for_another_one() {
    let mut worker = caller();
    let header = worker.begin("/", b"");
    let (request, _) = asked(&mut worker);
    worker.send(&Message::bare(Header {
        kind: Kind::Cancel,
        ..header
    }));
    let given_up = worker.receive_past_credit();
    assert_eq!(
        (given_up.header.kind, given_up.header.call),
        (Kind::Cancel, request.header.call)
    );
}

#[test]
fn misuse_is_answered_with_codes_and_sends_nothing() {
    let mut worker = caller();
    worker.begin("/misuse", b"");
    // Only the one that is well formed.
    let (request, call) = asked(&mut worker);
    assert_eq!(call, expected(false));
    let given_up = worker.receive_past_credit();
    assert_eq!(
        (given_up.header.kind, given_up.header.call),
        (Kind::Cancel, request.header.call)
    );
    assert_eq!(worker.text(), "8 8 8 8 8 8 8 8 8 0 8 0 ");
}
