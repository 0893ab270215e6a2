//! Links over a given connection, without a Kernel.

use std::os::unix::net::UnixStream as StdStream;

use bytes::Bytes;
use isms_ipc::{Connection, ConnectionError, Inbound, Inbox, Link, Side};
use isms_protocol::{
    ErrorCode, Flags, Header, Kind, Message, Service,
    kernel::StreamCredit,
    limits::{HANDSHAKE_TIMEOUT, HEARTBEAT_TIMEOUT},
};
use tokio::{
    net::UnixStream,
    time::{Instant, timeout},
};

use crate::kernel::{Peer, next_request, request, soon};

/// Calls that an attached link may have under way.
const CALLS_MAX: usize = 1024;

/// An attached link that takes so many requests, and the test's end of its connection.
async fn attached(requests_max: u32) -> (Link, Inbox, Peer) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (link, peer) = tokio::join!(
        Link::attach(ours, Side::Bind, Service::Doer, requests_max),
        Connection::establish(theirs, Side::Connect)
    );
    let ((link, inbox), (sender, receiver)) = (link.unwrap(), peer.unwrap());
    (link, inbox, Peer { sender, receiver })
}

fn asked(call: u64) -> Message {
    let header = Header::new(Kind::Request, Service::Worker, Service::Doer);
    Message::bare(Header { call, ..header })
}

fn asked_streaming(call: u64) -> Message {
    let mut message = asked(call);
    message.header.flags = Flags::STREAM;
    message
}

fn about(kind: Kind, call: u64) -> Message {
    let header = Header::new(kind, Service::Worker, Service::Doer);
    Message::bare(Header { call, ..header })
}

async fn expect_reply(peer: &mut Peer, call: u64) {
    let header = peer.next().await.header;
    assert_eq!((header.kind, header.call), (Kind::Reply, call));
}

/// The link has ended, and says so once.
async fn expect_end(link: &Link, inbox: &mut Inbox) {
    assert!(matches!(soon(inbox.next()).await, Some(Inbound::Lost)));
    assert!(soon(inbox.next()).await.is_none());
    assert!(!link.is_registered());
}

#[tokio::test]
async fn both_ends_call_each_other_without_registering() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (doer, worker) = tokio::join!(
        Link::attach(ours, Side::Bind, Service::Doer, 1),
        Link::attach(theirs, Side::Connect, Service::Worker, 1)
    );
    let (mut doer, mut worker) = (doer.unwrap(), worker.unwrap());
    assert!(doer.0.is_registered() && worker.0.is_registered());
    for (sender, calling, serving) in [
        (Service::Doer, &doer.0, &mut worker.1),
        (Service::Worker, &worker.0, &mut doer.1),
    ] {
        let serve = async {
            let request = next_request(serving).await;
            assert_eq!(request.message.header.sender, sender);
            request.responder.reply(&"served", Bytes::new());
        };
        let (answer, ()) = tokio::join!(soon(calling.call(request(Service::Worker))), serve);
        assert_eq!(answer.unwrap().message.decode_body::<String>().unwrap(), "served");
    }
}

#[tokio::test(start_paused = true)]
async fn an_attached_link_says_nothing_of_its_own_and_outlives_any_silence() {
    let (link, _inbox, mut peer) = attached(1).await;
    let silence = timeout(10 * HEARTBEAT_TIMEOUT, peer.receiver.next()).await;
    assert!(silence.is_err(), "{silence:?}");
    assert!(link.is_registered());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_shake_hands_is_not_attached() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let error = Link::attach(ours, Side::Bind, Service::Doer, 1)
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            ConnectionError::HandshakeClosed | ConnectionError::Write(_)
        ),
        "{error:?}"
    );
    let (ours, _silent) = UnixStream::pair().unwrap();
    let before = Instant::now();
    let error = Link::attach(ours, Side::Bind, Service::Doer, 1)
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectionError::HandshakeTimeout), "{error:?}");
    assert_eq!(before.elapsed().as_millis(), HANDSHAKE_TIMEOUT.as_millis());
}

#[tokio::test]
async fn a_connection_that_is_attached_a_second_time_serves_neither_link() {
    let (ours, theirs) = StdStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let again = UnixStream::from_std(ours.try_clone().unwrap()).unwrap();
    let (link, peer) = tokio::join!(
        Link::attach(UnixStream::from_std(ours).unwrap(), Side::Bind, Service::Doer, 1),
        Connection::establish(UnixStream::from_std(theirs).unwrap(), Side::Connect)
    );
    let ((link, mut inbox), (_sender, mut receiver)) = (link.unwrap(), peer.unwrap());
    let peer = async {
        // A greeting where a message should be.
        let error = receiver.next().await.unwrap_err();
        assert!(matches!(error, ConnectionError::Zmtp(_)), "{error:?}");
        receiver.shut_down().await;
    };
    let (second, ()) = tokio::join!(soon(Link::attach(again, Side::Bind, Service::Doer, 1)), peer);
    assert!(second.is_err());
    expect_end(&link, &mut inbox).await;
}

#[tokio::test]
async fn a_request_more_than_allowed_cuts_the_connection_and_an_answer_makes_room() {
    let (link, mut inbox, mut peer) = attached(2).await;
    peer.send(&asked(1));
    peer.send(&asked(2));
    next_request(&mut inbox).await.responder.reply_empty();
    expect_reply(&mut peer, 1).await;
    peer.send(&asked(3));
    let (second, third) = (next_request(&mut inbox).await, next_request(&mut inbox).await);
    peer.send(&asked(4));
    assert!(peer.next_or_end().await.is_none());
    for request in [second, third] {
        soon(request.responder.cancelled()).await;
    }
    expect_end(&link, &mut inbox).await;
}

#[tokio::test]
async fn a_link_that_takes_no_requests_is_cut_by_the_first() {
    let (link, mut inbox, mut peer) = attached(0).await;
    peer.send(&asked(1));
    assert!(peer.next_or_end().await.is_none());
    expect_end(&link, &mut inbox).await;
}

#[tokio::test]
async fn an_answered_request_counts_until_its_stream_has_ended_or_nobody_reads_it() {
    let (link, mut inbox, mut peer) = attached(1).await;
    peer.send(&asked_streaming(1));
    let ended = next_request(&mut inbox).await;
    ended.responder.reply_empty();
    expect_reply(&mut peer, 1).await;
    peer.send(&about(Kind::StreamEnd, 1));
    let mut stream = ended.stream.unwrap();
    assert_eq!(soon(stream.next()).await, None);
    assert_eq!(peer.next().await.header.kind, Kind::Credit);

    peer.send(&asked_streaming(2));
    let unread = next_request(&mut inbox).await;
    unread.responder.reply_empty();
    drop(unread.stream);
    expect_reply(&mut peer, 2).await;

    peer.send(&asked_streaming(3));
    let read = next_request(&mut inbox).await;
    read.responder.reply_empty();
    expect_reply(&mut peer, 3).await;
    peer.send(&asked(4));
    assert!(peer.next_or_end().await.is_none());
    assert_eq!(
        soon(read.stream.unwrap().next()).await.unwrap().unwrap_err().code,
        ErrorCode::Unavailable
    );
    expect_end(&link, &mut inbox).await;
}

#[tokio::test]
async fn a_stream_that_answers_a_cancelled_request_fails_at_once_and_breaks_off() {
    let (_link, mut inbox, mut peer) = attached(1).await;
    peer.send(&asked(1));
    let request = next_request(&mut inbox).await;
    peer.send(&about(Kind::Cancel, 1));
    soon(request.responder.cancelled()).await;
    let mut stream = request.responder.reply_stream(&());
    let error = soon(stream.send("for nobody".into())).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Cancelled);
    drop(stream);
    expect_reply(&mut peer, 1).await;
    let end = peer.next().await.header;
    assert_eq!((end.kind, end.call), (Kind::StreamEnd, 1));
    assert!(end.flags.contains(Flags::ABORTED));
    // It counts no longer.
    peer.send(&asked(2));
    next_request(&mut inbox).await.responder.reply_empty();
    expect_reply(&mut peer, 2).await;
}

#[tokio::test]
async fn what_no_peer_may_say_cuts_the_connection() {
    let credit_without_a_body = about(Kind::Credit, 1);
    let chunk_without_credit = about(Kind::StreamChunk, 1).with_raw(&b"early"[..]);
    let forbidden = [
        vec![asked(1), asked(1)],
        vec![about(Kind::Register, 0)],
        vec![credit_without_a_body],
        vec![asked_streaming(1), chunk_without_credit],
    ];
    for messages in forbidden {
        let (link, mut inbox, mut peer) = attached(10).await;
        for message in &messages {
            peer.send(message);
        }
        assert!(peer.next_or_end().await.is_none(), "{messages:?}");
        expect_end(&link, &mut inbox).await;
    }
}

#[tokio::test]
async fn a_call_more_than_an_attached_link_may_have_is_busy_until_one_is_answered() {
    let (link, _inbox, mut peer) = attached(1).await;
    let mut pending: Vec<_> = (0..CALLS_MAX)
        .map(|_| link.start(request(Service::Worker)))
        .collect();
    let busy = soon(link.call(request(Service::Worker))).await.unwrap_err();
    assert_eq!(busy.code, ErrorCode::Busy);
    let first = peer.next().await.header;
    peer.send(&Message::bare(first.answer(Kind::Reply)));
    soon(pending.remove(0)).await.unwrap();
    for _ in 1..CALLS_MAX {
        peer.next().await;
    }
    let next = link.start(request(Service::Worker));
    let header = peer.next().await.header;
    peer.send(&Message::bare(header.answer(Kind::Reply)));
    soon(next).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_goes_in_the_middle_ends_every_stream_and_call_at_once() {
    let (link, mut inbox, mut peer) = attached(1).await;
    let (mut upload, uploading) = link.call_streaming(request(Service::Worker));
    let downloading = link.start(request(Service::Worker));
    peer.next().await;
    let mut reply = peer.next().await.header.answer(Kind::Reply);
    reply.flags = Flags::STREAM;
    peer.send(&Message::bare(reply));
    let mut download = soon(downloading).await.unwrap().stream.unwrap();
    peer.send(&asked_streaming(1));
    let mut serving = next_request(&mut inbox).await;
    let mut request_stream = serving.stream.take().unwrap();

    // One chunk of each stream that comes in, before it breaks off.
    let chunks = async {
        for _ in 0..2 {
            let credit = peer.next().await.header;
            assert_eq!(credit.kind, Kind::Credit);
            let to_caller = credit.flags.contains(Flags::TO_CALLER);
            let mut chunk = about(Kind::StreamChunk, credit.call).with_raw(&b"part"[..]);
            chunk.header.flags = if to_caller { Flags::NONE } else { Flags::TO_CALLER };
            peer.send(&chunk);
        }
    };
    let (first, second, ()) =
        soon(async { tokio::join!(download.next(), request_stream.next(), chunks) }).await;
    assert_eq!(
        (first, second),
        (Some(Ok("part".into())), Some(Ok("part".into())))
    );

    drop(peer);
    for stream in [&mut download, &mut request_stream] {
        let error = soon(stream.next()).await.unwrap().unwrap_err();
        assert_eq!(error.code, ErrorCode::Unavailable);
        assert_eq!(soon(stream.next()).await, None);
    }
    assert_eq!(soon(uploading).await.unwrap_err().code, ErrorCode::Unavailable);
    let mut sending = serving.responder.reply_stream(&());
    for stream in [&mut upload, &mut sending] {
        let error = soon(stream.send("more".into())).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Unavailable);
    }
    expect_end(&link, &mut inbox).await;
    let late = soon(link.call(request(Service::Worker))).await.unwrap_err();
    assert_eq!(late.code, ErrorCode::Unavailable);
}

#[tokio::test]
async fn a_peer_that_goes_has_been_heard_to_its_last_word_but_its_requests_are_moot() {
    let (link, mut inbox, peer) = attached(1).await;
    let answered = link.start(request(Service::Worker));
    let first_call = 1;
    peer.send(&about(Kind::Reply, first_call));
    peer.send(&asked(1));
    peer.receiver.shut_down().await;
    soon(answered).await.unwrap();
    // Handed out before the end was seen, or taken back.
    let mut next = soon(inbox.next()).await;
    if let Some(Inbound::Request(asked)) = next {
        soon(asked.responder.cancelled()).await;
        next = soon(inbox.next()).await;
    }
    assert!(matches!(next, Some(Inbound::Lost)));
    assert!(soon(inbox.next()).await.is_none());
    assert!(!link.is_registered());
}

#[tokio::test]
async fn a_closed_link_has_sent_what_was_answered_and_ends_the_connection() {
    let (link, mut inbox, mut peer) = attached(1).await;
    peer.send(&asked(1));
    next_request(&mut inbox).await.responder.reply_empty();
    soon(link.close()).await;
    expect_reply(&mut peer, 1).await;
    assert!(peer.next_or_end().await.is_none());
    expect_end(&link, &mut inbox).await;
}

#[tokio::test]
async fn an_attached_link_that_nobody_holds_ends_the_connection() {
    let (link, inbox, mut peer) = attached(1).await;
    drop((link, inbox));
    assert!(peer.next_or_end().await.is_none());
}

/// The peer sends this on a link with one call under way, whose id is 1: it is cut, and says why.
async fn check_cut(messages: &[Message], why: &str) {
    let (link, mut inbox, mut peer) = attached(1).await;
    let answer = link.start(request(Service::Worker));
    assert_eq!(peer.next().await.header.call, 1);
    for message in messages {
        peer.send(message);
    }
    assert!(peer.next_or_end().await.is_none());
    expect_end(&link, &mut inbox).await;
    assert!(
        link.violation().is_some_and(|what| what.contains(why)),
        "{:?}",
        link.violation()
    );
    let _ = soon(answer).await;
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_or_a_second_one_cuts_the_connection() {
    let unasked = "which does not wait for one";
    for kind in [Kind::Reply, Kind::Error] {
        check_cut(&[about(kind, 7)], unasked).await;
        check_cut(&[about(kind, 0)], unasked).await;
        check_cut(&[about(kind, u64::MAX)], unasked).await;
        check_cut(&[about(Kind::Reply, 1), about(kind, 1)], unasked).await;
    }
    let mut streaming = about(Kind::Reply, 1);
    streaming.header.flags = Flags::STREAM;
    check_cut(&[streaming, about(Kind::Error, 1)], unasked).await;
}

#[tokio::test]
async fn messages_about_what_has_just_ended_pass_and_a_flood_of_them_cuts_the_connection() {
    let strays = [
        Kind::Credit,
        Kind::StreamChunk,
        Kind::StreamEnd,
        Kind::Cancel,
        Kind::Heartbeat,
    ];
    let stray = |kind, call| match kind {
        Kind::Credit => Message::with_body(about(kind, call).header, &StreamCredit { bytes: 1 }),
        kind => about(kind, call).with_raw(&b"x"[..]),
    };
    for kind in strays {
        let flood: Vec<_> = (0..5_000).map(|call| stray(kind, 100 + call)).collect();
        check_cut(&flood, "about nothing that is under way").await;
    }
    // As many as cross the ends of calls go on for ever.
    let (link, mut inbox, mut peer) = attached(1).await;
    for call in 1..500 {
        strays
            .iter()
            .for_each(|kind| peer.send(&stray(*kind, 1_000_000 + call)));
        (0..10).for_each(|_| peer.send(&stray(Kind::StreamChunk, 1_000_000 + call)));
        peer.send(&asked(call));
        next_request(&mut inbox).await.responder.reply_empty();
        expect_reply(&mut peer, call).await;
    }
    assert!(link.is_registered());
}

#[tokio::test]
async fn a_chunk_of_no_bytes_cuts_the_connection() {
    let (link, mut inbox, mut peer) = attached(1).await;
    peer.send(&asked_streaming(1));
    let mut asked = next_request(&mut inbox).await;
    let mut stream = asked.stream.take().unwrap();
    let chunk = |bytes: &'static [u8]| about(Kind::StreamChunk, 1).with_raw(bytes);
    let reading = tokio::spawn(async move { while stream.next().await.is_some() {} });
    assert_eq!(peer.next().await.header.kind, Kind::Credit);
    peer.send(&chunk(b"x"));
    peer.send(&chunk(b""));
    assert!(peer.next_or_end().await.is_none());
    expect_end(&link, &mut inbox).await;
    assert!(link.violation().unwrap().contains("no bytes"));
    soon(reading).await.unwrap();
}

#[tokio::test]
async fn a_link_whose_peer_has_just_gone_was_not_cut() {
    let (link, mut inbox, peer) = attached(1).await;
    peer.receiver.shut_down().await;
    expect_end(&link, &mut inbox).await;
    assert_eq!(link.violation(), None);
}
