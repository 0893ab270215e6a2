//! Calls over a link, in both directions.

use std::time::{Duration, Instant};

use bytes::Bytes;
use isms_ipc::Inbound;
use isms_protocol::{
    ErrorCode, Flags, Header, Kind, Message, Service, WireError, kernel::StreamCredit,
    limits::MESSAGE_LEN_MAX,
};

use crate::kernel::{FakeKernel, next_request, request, soon};

fn dispatch(call: u64) -> Message {
    let mut header = Header::new(Kind::Request, Service::Kernel, Service::Dbriver);
    header.call = call;
    Message::bare(header)
}

fn event() -> Message {
    Message::bare(Header::new(Kind::Event, Service::Worker, Service::Gate))
}

fn demand() -> Message {
    Message::bare(Header::new(Kind::Demand, Service::Kernel, Service::Doer))
}

#[tokio::test]
async fn a_call_gets_its_reply_and_a_failed_one_its_error() {
    let kernel = FakeKernel::start();
    let (link, _inbox, mut peer) = kernel.link(Service::Gate, 10).await;
    let kernel_side = async {
        let first = peer.next().await;
        let second = peer.next().await;
        assert_eq!((first.header.sender, first.header.operation), (Service::Gate, 2));
        assert_ne!(first.header.call, second.header.call);
        let error = WireError::new(ErrorCode::NotFound, "no such thing");
        peer.send(&Message::error_answer(&second.header, &error));
        peer.send(&Message::with_body(first.header.answer(Kind::Reply), &"done").with_raw(&b"raw"[..]));
        // Answers twice, which must not matter.
        peer.send(&Message::bare(first.header.answer(Kind::Reply)));
    };
    let (first, second, ()) = tokio::join!(
        link.call(request(Service::Resadmin)),
        link.call(request(Service::Resadmin)),
        kernel_side
    );
    let first = first.unwrap();
    assert_eq!(first.message.decode_body::<String>().unwrap(), "done");
    assert_eq!(first.payload(3).await.unwrap(), "raw");
    assert_eq!(
        second.unwrap_err(),
        WireError::new(ErrorCode::NotFound, "no such thing")
    );
}

#[tokio::test]
async fn a_dropped_call_is_cancelled_and_counts_until_it_is_answered() {
    let kernel = FakeKernel::start();
    let (link, _inbox, mut peer) = kernel.link(Service::Gate, 1).await;
    let asked = tokio::select! {
        answer = link.call(request(Service::Resadmin)) => panic!("nobody answered, got {answer:?}"),
        asked = peer.next() => asked,
    };
    let cancel = peer.next().await;
    assert_eq!(
        (cancel.header.kind, cancel.header.call),
        (Kind::Cancel, asked.header.call)
    );
    assert_eq!(cancel.header.target, Service::Resadmin);
    let busy = link.call(request(Service::Resadmin)).await.unwrap_err();
    assert_eq!(busy.code, ErrorCode::Busy);

    let over = WireError::new(ErrorCode::Cancelled, "over");
    peer.send(&Message::error_answer(&asked.header, &over));
    let kernel_side = async {
        // The answer above comes first, so the next call has room as soon as an event has come.
        let next = peer.next().await;
        peer.send(&Message::bare(next.header.answer(Kind::Reply)));
    };
    let calling = async {
        loop {
            match link.call(request(Service::Resadmin)).await {
                Err(error) if error.code == ErrorCode::Busy => tokio::task::yield_now().await,
                other => return other,
            }
        }
    };
    let (answer, ()) = tokio::join!(soon(calling), kernel_side);
    assert_eq!(answer.unwrap().message.header.kind, Kind::Reply);
}

#[tokio::test]
async fn a_started_call_is_sent_before_anybody_waits_for_its_answer() {
    let kernel = FakeKernel::start();
    let (link, _inbox, mut peer) = kernel.link(Service::Gate, 10).await;
    let pending = link.start(request(Service::Resadmin));
    let asked = peer.next().await.header;
    assert_eq!(
        (asked.kind, asked.sender, asked.operation),
        (Kind::Request, Service::Gate, 2)
    );
    peer.send(&Message::bare(asked.answer(Kind::Reply)).with_raw(&b"raw"[..]));
    assert_eq!(soon(pending).await.unwrap().message.raw, "raw");
}

#[tokio::test]
async fn a_call_that_cannot_be_started_tells_its_future_and_leaves_no_call_behind() {
    let kernel = FakeKernel::start();
    let (link, mut inbox, mut peer) = kernel.link(Service::Gate, 1).await;
    let large = link.start(request(Service::Resadmin).with_raw(vec![0; MESSAGE_LEN_MAX]));
    // The one place is still free.
    let pending = link.start(request(Service::Resadmin));
    let busy = link.start(request(Service::Resadmin));
    for failed in [&large, &busy] {
        failed.cancel();
    }
    assert_eq!(soon(large).await.unwrap_err().code, ErrorCode::TooLarge);
    assert_eq!(soon(busy).await.unwrap_err().code, ErrorCode::Busy);
    let asked = peer.next().await.header;
    assert_eq!(asked.kind, Kind::Request);
    peer.send(&Message::bare(asked.answer(Kind::Reply)));
    soon(pending).await.unwrap();

    link.send(event()).unwrap();
    assert_eq!(
        peer.next().await.header.kind,
        Kind::Event,
        "of the others nothing was said"
    );
    drop(peer);
    assert!(matches!(soon(inbox.next()).await, Some(Inbound::Lost)));
    let unavailable = link.start(request(Service::Resadmin));
    unavailable.cancel();
    assert_eq!(soon(unavailable).await.unwrap_err().code, ErrorCode::Unavailable);
}

#[tokio::test]
async fn a_cancel_before_the_answer_asks_the_callee_and_still_waits_for_what_it_says() {
    let kernel = FakeKernel::start();
    let (link, _inbox, mut peer) = kernel.link(Service::Gate, 10).await;
    for (answer, code) in [(Kind::Error, Some(ErrorCode::Cancelled)), (Kind::Reply, None)] {
        let pending = link.start(request(Service::Resadmin));
        pending.cancel();
        let asked = peer.next().await.header;
        let cancel = peer.next().await.header;
        assert_eq!((cancel.kind, cancel.call), (Kind::Cancel, asked.call));
        assert_eq!(cancel.target, Service::Resadmin);
        let stopped = WireError::new(ErrorCode::Cancelled, "stopped");
        peer.send(&match answer {
            Kind::Error => Message::error_answer(&asked, &stopped),
            _ => Message::bare(asked.answer(answer)),
        });
        assert_eq!(soon(pending).await.err().map(|error| error.code), code);
    }
}

#[tokio::test]
async fn a_cancel_or_drop_after_the_answer_says_nothing_whether_it_was_taken_or_not() {
    let kernel = FakeKernel::start();
    let (link, mut inbox, mut peer) = kernel.link(Service::Gate, 10).await;
    let (mut taken, untaken) = (
        link.start(request(Service::Resadmin)),
        link.start(request(Service::Resadmin)),
    );
    for _ in 0..2 {
        let asked = peer.next().await.header;
        peer.send(&Message::bare(asked.answer(Kind::Reply)));
    }
    peer.send(&demand());
    soon(&mut taken).await.unwrap();
    // What came after the answers has been seen, so they have been, too.
    assert!(matches!(soon(inbox.next()).await, Some(Inbound::Other(_))));
    for pending in [taken, untaken] {
        pending.cancel();
        drop(pending);
    }
    link.send(event()).unwrap();
    assert_eq!(peer.next().await.header.kind, Kind::Event);
}

#[tokio::test]
async fn an_answer_that_nobody_takes_cancels_the_stream_that_follows_it() {
    let kernel = FakeKernel::start();
    let (link, mut inbox, mut peer) = kernel.link(Service::Gate, 10).await;
    let untaken = link.start(request(Service::Resadmin));
    let asked = peer.next().await.header;
    let mut reply = Message::bare(asked.answer(Kind::Reply));
    reply.header.flags = Flags::STREAM;
    peer.send(&reply);
    peer.send(&demand());
    assert!(matches!(soon(inbox.next()).await, Some(Inbound::Other(_))));
    drop(untaken);
    let cancel = peer.next().await.header;
    assert_eq!((cancel.kind, cancel.call), (Kind::Cancel, asked.call));
}

#[tokio::test]
async fn a_cancel_after_the_kernel_has_gone_changes_nothing() {
    let kernel = FakeKernel::start();
    let (link, mut inbox, peer) = kernel.link(Service::Gate, 10).await;
    let pending = link.start(request(Service::Resadmin));
    drop(peer);
    assert!(matches!(soon(inbox.next()).await, Some(Inbound::Lost)));
    pending.cancel();
    assert_eq!(soon(pending).await.unwrap_err().code, ErrorCode::Unavailable);
}

#[tokio::test]
async fn messages_about_calls_that_nobody_made_are_ignored() {
    let kernel = FakeKernel::start();
    let (link, _inbox, mut peer) = kernel.link(Service::Dbriver, 10).await;
    let about = |kind, flags| Header {
        kind,
        flags,
        ..dispatch(99).header
    };
    let error = WireError::new(ErrorCode::NotFound, "no such thing");
    let streaming = Message::bare(about(Kind::Reply, Flags::STREAM));
    peer.send(&Message::error_answer(&dispatch(99).header, &error));
    peer.send(&Message::bare(about(Kind::Reply, Flags::NONE)));
    peer.send(&streaming);
    peer.send(&Message::bare(about(Kind::Cancel, Flags::NONE)));
    for flags in [Flags::NONE, Flags::TO_CALLER] {
        peer.send(&Message::with_body(
            about(Kind::Credit, flags),
            &StreamCredit { bytes: 10 },
        ));
        peer.send(&Message::bare(about(Kind::StreamChunk, flags)).with_raw(&b"raw"[..]));
        peer.send(&Message::bare(about(Kind::StreamEnd, flags)));
    }
    let kernel_side = async {
        let asked = peer.next().await.header;
        assert_eq!(asked.kind, Kind::Request);
        peer.send(&Message::bare(asked.answer(Kind::Reply)));
    };
    let (answer, ()) = soon(async { tokio::join!(link.call(request(Service::Resadmin)), kernel_side) }).await;
    answer.unwrap();
}

#[tokio::test]
async fn a_request_is_answered_with_its_own_call_and_process() {
    let kernel = FakeKernel::start();
    let (_link, mut inbox, mut peer) = kernel.link(Service::Dbriver, 10).await;
    let mut message = dispatch(77).with_raw(&b"payload"[..]);
    message.header.process = isms_protocol::ProcessId::generate();
    message.header.attempt = 3;
    message.header.remaining_us = 5_000_000;
    peer.send(&message);
    let mut request = next_request(&mut inbox).await;
    let left = request.deadline.unwrap().duration_since(Instant::now());
    assert!(
        left <= Duration::from_secs(5) && left > Duration::from_secs(4),
        "{left:?}"
    );
    assert_eq!(request.payload(7).await.unwrap(), "payload");
    request.responder.reply(&42_u8, Bytes::from_static(b"r"));
    let reply = peer.next().await;
    assert_eq!(reply.header, message.header.answer(Kind::Reply));
    assert_eq!(
        (reply.decode_body::<u8>().unwrap(), reply.raw),
        (42, Bytes::from_static(b"r"))
    );
}

#[tokio::test]
async fn a_request_that_is_dropped_or_answered_too_large_fails_as_internal() {
    let kernel = FakeKernel::start();
    let (_link, mut inbox, mut peer) = kernel.link(Service::Dbriver, 10).await;
    peer.send(&dispatch(1));
    peer.send(&dispatch(2));
    drop(next_request(&mut inbox).await);
    next_request(&mut inbox)
        .await
        .responder
        .reply(&(), Bytes::from(vec![0; MESSAGE_LEN_MAX]));
    for call in [1, 2] {
        let answer = peer.next().await;
        assert_eq!((answer.header.kind, answer.header.call), (Kind::Error, call));
        assert_eq!(
            answer.decode_body::<WireError>().unwrap().code,
            ErrorCode::Internal
        );
    }
}

#[tokio::test]
async fn a_cancel_reaches_the_one_who_works_on_the_call() {
    let kernel = FakeKernel::start();
    let (_link, mut inbox, mut peer) = kernel.link(Service::Dbriver, 10).await;
    peer.send(&dispatch(1));
    peer.send(&dispatch(2));
    let (first, second) = (next_request(&mut inbox).await, next_request(&mut inbox).await);
    peer.send(&Message::bare(Header {
        kind: Kind::Cancel,
        ..dispatch(2).header
    }));
    soon(second.responder.cancelled()).await;
    assert!(!first.responder.is_cancelled());
    second
        .responder
        .error(WireError::new(ErrorCode::Cancelled, "stopped"));
    assert_eq!(peer.next().await.header.call, 2);
}

#[tokio::test]
async fn events_pass_in_both_directions() {
    let kernel = FakeKernel::start();
    let (link, mut inbox, mut peer) = kernel.link(Service::Doer, 10).await;
    link.send(event().with_raw(&b"log"[..])).unwrap();
    let received = peer.next().await;
    assert_eq!(
        (received.header.sender, &received.raw[..]),
        (Service::Doer, &b"log"[..])
    );
    peer.send(&demand());
    let other = soon(inbox.next()).await.unwrap();
    assert!(
        matches!(&other, Inbound::Other(message) if message.header.kind == Kind::Demand),
        "{other:?}"
    );
}

#[tokio::test]
async fn events_and_requests_are_refused_while_the_kernel_does_not_keep_up_and_answers_pass() {
    let kernel = FakeKernel::start();
    let (link, mut inbox, mut peer) = kernel.link(Service::Doer, 10).await;
    peer.send(&dispatch(9));
    let asked = next_request(&mut inbox).await;
    let event = event().with_raw(vec![0; 60_000]);
    let error = (0..1000).find_map(|_| link.send(event.clone()).err()).unwrap();
    assert_eq!(error.code, ErrorCode::Busy);
    assert_eq!(
        link.call(request(Service::Gate)).await.unwrap_err().code,
        ErrorCode::Busy
    );
    asked.responder.reply_empty();
    assert!(link.is_registered());
    while peer.next().await.header.kind != Kind::Reply {}
}
