//! Streams from link to link, through a Kernel that only passes on and keeps accounts.

use std::collections::HashMap;

use bytes::Bytes;
use isms_ipc::{Inbox, Link};
use isms_protocol::{
    ErrorCode, Flags, Kind, Message, Service, WireError,
    kernel::StreamCredit,
    limits::{CHUNK_LEN_MAX, CONNECTION_UNSENT_MAX, INLINE_LEN_MAX, STREAM_WINDOW},
};
use tokio::task::JoinHandle;

use crate::kernel::{FakeKernel, Peer, next_request, request, soon};

const MIB: usize = 1024 * 1024;

/// Bytes granted and sent of each call's stream in one direction.
#[derive(Default)]
struct Accounts {
    calls: HashMap<u64, (u64, u64)>,
}

impl Accounts {
    /// What flows in streams of the direction `to_caller` against credit of the other.
    fn note(&mut self, message: &Message, to_caller: bool) {
        let (granted, sent) = self.calls.entry(message.header.call).or_default();
        let marked = message.header.flags.contains(Flags::TO_CALLER);
        match message.header.kind {
            Kind::StreamChunk if marked == to_caller => {
                assert!(message.raw.len() <= CHUNK_LEN_MAX);
                *sent += message.raw.len() as u64;
            }
            Kind::Credit if marked != to_caller => {
                *granted += u64::from(message.decode_body::<StreamCredit>().unwrap().bytes);
            }
            _ => return,
        }
        assert!(*sent <= *granted, "nothing is sent without credit");
        assert!(
            *granted - *sent <= u64::from(STREAM_WINDOW),
            "no more than a window is open"
        );
    }
}

/// Passes everything on between a caller and a callee until one of them goes.
async fn relay(mut caller: Peer, mut callee: Peer) -> (Peer, Peer) {
    let (mut request, mut reply) = (Accounts::default(), Accounts::default());
    loop {
        let (message, to) = tokio::select! {
            message = caller.receiver.next() => (message, &callee.sender),
            message = callee.receiver.next() => (message, &caller.sender),
        };
        let Ok(Some(message)) = message else {
            return (caller, callee);
        };
        request.note(&message, false);
        reply.note(&message, true);
        if message.header.kind != Kind::Heartbeat {
            to.send(&message).unwrap();
        }
    }
}

struct Pair {
    link: Link,
    callee: Inbox,
    _caller_inbox: Inbox,
    _callee_link: Link,
    relay: JoinHandle<(Peer, Peer)>,
}

async fn pair() -> Pair {
    let kernel = FakeKernel::start();
    let (link, caller_inbox, caller) = kernel.link(Service::Commserver, 100).await;
    let (callee_link, callee, callee_peer) = kernel.link(Service::Doer, 100).await;
    let relay = tokio::spawn(relay(caller, callee_peer));
    Pair {
        link,
        callee,
        _caller_inbox: caller_inbox,
        _callee_link: callee_link,
        relay,
    }
}

impl Pair {
    /// Ends the relay by ending the caller's link; fails when an account did not hold.
    async fn finish(self) {
        self.link.close().await;
        soon(self.relay).await.unwrap();
    }
}

fn pattern(len: usize) -> Bytes {
    (0..len).map(|index| (index / 7) as u8).collect()
}

#[tokio::test]
async fn sixteen_mib_go_there_and_back_in_windows() {
    let mut pair = pair().await;
    let payload = pattern(16 * MIB);
    let serving = async {
        let mut request = next_request(&mut pair.callee).await;
        let payload = request.payload(16 * MIB).await.unwrap();
        request
            .responder
            .reply_payload(&"all of it", payload)
            .await
            .unwrap();
    };
    let calling = async {
        let answer = pair
            .link
            .call_payload(request(Service::Doer), payload.clone())
            .await
            .unwrap();
        answer.payload(16 * MIB).await.unwrap()
    };
    let ((), returned) = soon(async { tokio::join!(serving, calling) }).await;
    assert!(returned == payload);
    pair.finish().await;
}

#[tokio::test]
async fn both_streams_of_a_call_flow_at_the_same_time() {
    let mut pair = pair().await;
    let payload = pattern(2 * MIB);
    let serving = async {
        let request = next_request(&mut pair.callee).await;
        let mut from = request.stream.unwrap();
        let mut to = request.responder.reply_stream(&());
        while let Some(chunk) = from.next().await {
            to.send(chunk.unwrap()).await.unwrap();
        }
        to.finish();
    };
    let calling = async {
        let (mut stream, answer) = pair.link.call_streaming(request(Service::Doer));
        let sending = async {
            stream.send(payload.clone()).await.unwrap();
            stream.finish();
        };
        let receiving = async { answer.await.unwrap().payload(2 * MIB).await.unwrap() };
        tokio::join!(sending, receiving).1
    };
    let ((), returned) = soon(async { tokio::join!(serving, calling) }).await;
    assert!(returned == payload);
    pair.finish().await;
}

#[tokio::test]
async fn a_payload_up_to_the_inline_limit_needs_no_stream() {
    let mut pair = pair().await;
    let serving = async {
        for streamed in [false, true] {
            let mut request = next_request(&mut pair.callee).await;
            assert_eq!(request.stream.is_some(), streamed);
            let payload = request.payload(MIB).await.unwrap();
            request.responder.reply_payload(&(), payload).await.unwrap();
        }
    };
    let calling = async {
        for len in [INLINE_LEN_MAX, INLINE_LEN_MAX + 1] {
            let answer = pair
                .link
                .call_payload(request(Service::Doer), pattern(len))
                .await
                .unwrap();
            assert_eq!(answer.stream.is_some(), len > INLINE_LEN_MAX);
            assert_eq!(answer.payload(MIB).await.unwrap().len(), len);
        }
    };
    soon(async { tokio::join!(serving, calling) }).await;
    pair.finish().await;
}

#[tokio::test]
async fn a_payload_over_the_receivers_limit_is_too_large_and_the_caller_gets_the_answer() {
    let mut pair = pair().await;
    let serving = async {
        let mut request = next_request(&mut pair.callee).await;
        let error = request.payload(MIB).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::TooLarge);
        request.responder.error(error);
    };
    let calling = pair.link.call_payload(request(Service::Doer), pattern(4 * MIB));
    let ((), answer) = soon(async { tokio::join!(serving, calling) }).await;
    assert_eq!(answer.unwrap_err().code, ErrorCode::TooLarge);
    pair.finish().await;
}

#[tokio::test]
async fn a_request_stream_that_nobody_reads_does_not_hold_up_the_reply_stream() {
    let mut pair = pair().await;
    let serving = async {
        let mut request = next_request(&mut pair.callee).await;
        drop(request.stream.take());
        request.responder.reply_payload(&(), pattern(MIB)).await.unwrap();
    };
    let calling = async {
        let (mut stream, answer) = pair.link.call_streaming(request(Service::Doer));
        stream.send(pattern(2 * MIB)).await.unwrap();
        stream.finish();
        answer.await.unwrap().payload(MIB).await.unwrap()
    };
    let ((), payload) = soon(async { tokio::join!(serving, calling) }).await;
    assert_eq!(payload.len(), MIB);
    pair.finish().await;
}

#[tokio::test]
async fn a_stream_that_is_dropped_unfinished_breaks_off_at_its_receiver() {
    let mut pair = pair().await;
    let (mut stream, answer) = pair.link.call_streaming(request(Service::Doer));
    let mut asked = next_request(&mut pair.callee).await;
    let mut received = asked.stream.take().unwrap();
    let (sent, first) = soon(async { tokio::join!(stream.send(pattern(10)), received.next()) }).await;
    assert_eq!((sent, first), (Ok(()), Some(Ok(pattern(10)))));
    drop(stream);
    assert_eq!(
        soon(received.next()).await.unwrap().unwrap_err().code,
        ErrorCode::Unavailable
    );
    assert_eq!(soon(received.next()).await, None);
    let replying = asked.responder.reply_stream(&());
    let mut reply = soon(answer).await.unwrap().stream.unwrap();
    drop(replying);
    assert_eq!(
        soon(reply.next()).await.unwrap().unwrap_err().code,
        ErrorCode::Unavailable
    );
    pair.finish().await;
}

#[tokio::test]
async fn a_reply_stream_that_is_dropped_cancels_the_call() {
    let mut pair = pair().await;
    let (stream, answer) = pair.link.call_streaming(request(Service::Doer));
    stream.finish();
    let asked = next_request(&mut pair.callee).await;
    let mut sending = asked.responder.reply_stream(&());
    let mut reply = soon(answer).await.unwrap().stream.unwrap();
    let (sent, first) = soon(async { tokio::join!(sending.send(pattern(10)), reply.next()) }).await;
    assert_eq!((sent, first), (Ok(()), Some(Ok(pattern(10)))));
    drop(reply);
    let error = soon(sending.send(pattern(16 * MIB))).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Cancelled);
    pair.finish().await;
}

#[tokio::test]
async fn a_sender_that_has_nothing_to_send_learns_that_its_receiver_has_gone() {
    let mut pair = pair().await;
    let (stream, answer) = pair.link.call_streaming(request(Service::Doer));
    stream.finish();
    let asked = next_request(&mut pair.callee).await;
    let sending = asked.responder.reply_stream(&());
    let reply = soon(answer).await.unwrap().stream.unwrap();
    let (error, ()) = soon(async { tokio::join!(sending.refused(), async { drop(reply) }) }).await;
    assert_eq!(error.code, ErrorCode::Cancelled);
    pair.finish().await;
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_requests_stream_stops_its_sender() {
    let mut pair = pair().await;
    let (mut stream, answer) = pair.link.call_streaming(request(Service::Doer));
    let asked = next_request(&mut pair.callee).await;
    asked
        .responder
        .error(WireError::new(ErrorCode::Forbidden, "not you"));
    let (sent, answer) = soon(async { tokio::join!(stream.send(pattern(16 * MIB)), answer) }).await;
    assert_eq!(sent.unwrap_err().code, ErrorCode::Cancelled);
    assert_eq!(answer.unwrap_err().code, ErrorCode::Forbidden);
    pair.finish().await;
}

#[tokio::test]
async fn many_streams_at_once_share_the_connection() {
    let mut pair = pair().await;
    let serving = async {
        let mut tasks = Vec::new();
        for _ in 0..40 {
            let mut request = next_request(&mut pair.callee).await;
            tasks.push(tokio::spawn(async move {
                let payload = request.payload(MIB).await.unwrap();
                request.responder.reply_payload(&(), payload).await.unwrap();
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    };
    let calling = async {
        let mut tasks = Vec::new();
        for number in 0..40_usize {
            let link = pair.link.clone();
            tasks.push(tokio::spawn(async move {
                let payload = pattern(500_000 + number);
                let answer = link
                    .call_payload(request(Service::Doer), payload.clone())
                    .await
                    .unwrap();
                assert!(answer.payload(MIB).await.unwrap() == payload);
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    };
    soon(async { tokio::join!(serving, calling) }).await;
    pair.finish().await;
}

#[tokio::test]
async fn the_credit_of_many_streams_together_is_less_than_a_peer_may_leave_unread() {
    const STREAMS: usize = 1000;
    let kernel = FakeKernel::start();
    let (link, _inbox, mut peer) = kernel.link(Service::Commserver, STREAMS as u32).await;
    let pending: Vec<_> = (0..STREAMS).map(|_| link.start(request(Service::Doer))).collect();
    for _ in 0..STREAMS {
        let mut reply = peer.next().await.header.answer(Kind::Reply);
        reply.flags = Flags::STREAM;
        peer.send(&Message::bare(reply));
    }
    let (mut streams, mut credits, mut sum) = (Vec::new(), Vec::new(), 0);
    for answer in pending {
        let mut stream = soon(answer).await.unwrap().stream.unwrap();
        tokio::select! {
            biased;
            chunk = stream.next() => panic!("nothing was sent, got {chunk:?}"),
            credit = peer.next() => {
                sum += credit.decode_body::<StreamCredit>().unwrap().bytes as usize;
                credits.push(credit);
            }
        }
        streams.push(stream);
    }
    assert!(sum < CONNECTION_UNSENT_MAX, "{sum} bytes may be under way");

    // The last one has the least, and flows while all others sit on theirs.
    let (mut stream, mut credit) = (streams.pop().unwrap(), credits.pop().unwrap());
    for _ in 0..10 {
        let len = credit.decode_body::<StreamCredit>().unwrap().bytes as usize;
        let mut chunk = Message::bare(credit.header).with_raw(pattern(len));
        (chunk.header.kind, chunk.header.flags) = (Kind::StreamChunk, Flags::TO_CALLER);
        peer.send(&chunk);
        assert_eq!(soon(stream.next()).await, Some(Ok(pattern(len))));
        credit = peer.next().await;
        assert_eq!(credit.header.kind, Kind::Credit);
    }
}
