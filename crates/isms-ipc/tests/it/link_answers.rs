//! Answers that a role passes on as another process encoded them.

use bytes::Bytes;
use isms_ipc::{Inbox, Link, Responder};
use isms_protocol::{
    ErrorCode, Flags, Header, Kind, Message, Service, WireError,
    kernel::StreamCredit,
    limits::{CHUNK_LEN_MAX, MESSAGE_LEN_MAX},
};

use crate::kernel::{FakeKernel, Peer, next_request, soon};

/// Not MessagePack: nobody on the way may look into it.
const BODY: &[u8] = b"\xc1\x00as it was";

const ABORTED: Flags = Flags(Flags::TO_CALLER.0 | Flags::ABORTED.0);

struct Serving {
    _kernel: FakeKernel,
    _link: Link,
    inbox: Inbox,
    peer: Peer,
}

/// A role, and the Kernel that asks it.
async fn serving() -> Serving {
    let kernel = FakeKernel::start();
    let (link, inbox, peer) = kernel.link(Service::Doer, 10).await;
    Serving {
        _kernel: kernel,
        _link: link,
        inbox,
        peer,
    }
}

impl Serving {
    /// The means to answer a request of the Kernel's with this call id.
    async fn asked(&mut self, call: u64) -> Responder {
        self.peer.send(&about(Kind::Request, call));
        next_request(&mut self.inbox).await.responder
    }

    fn grant(&self, call: u64, bytes: u32) {
        let header = about(Kind::Credit, call).header;
        self.peer
            .send(&Message::with_body(header, &StreamCredit { bytes }));
    }
}

fn about(kind: Kind, call: u64) -> Message {
    let header = Header::new(kind, Service::Kernel, Service::Doer);
    Message::bare(Header { call, ..header })
}

#[tokio::test]
async fn an_encoded_body_is_passed_on_byte_by_byte_beside_its_raw_bytes() {
    let mut serving = serving().await;
    for (call, (body, raw)) in [(BODY, &b"raw"[..]), (BODY, b""), (b"", b"raw"), (b"", b"")]
        .into_iter()
        .enumerate()
    {
        let responder = serving.asked(call as u64).await;
        responder.reply_encoded(body.into(), raw.into());
        let reply = serving.peer.next().await;
        assert_eq!(
            reply.header,
            about(Kind::Request, call as u64).header.answer(Kind::Reply)
        );
        assert_eq!((&reply.body[..], &reply.raw[..]), (body, raw));
    }
}

#[tokio::test]
async fn an_encoded_reply_that_fits_no_message_fails_as_internal() {
    let mut serving = serving().await;
    let responder = serving.asked(1).await;
    responder.reply_encoded(BODY.into(), vec![0; MESSAGE_LEN_MAX].into());
    let answer = serving.peer.next().await;
    assert_eq!((answer.header.kind, answer.header.call), (Kind::Error, 1));
    assert_eq!(
        answer.decode_body::<WireError>().unwrap().code,
        ErrorCode::Internal
    );
}

#[tokio::test]
async fn an_encoded_reply_streams_what_follows_it_within_its_credit_to_its_end() {
    let mut serving = serving().await;
    let responder = serving.asked(1).await;
    let mut stream = responder.reply_stream_encoded(BODY.into());
    let reply = serving.peer.next().await;
    assert_eq!(
        (reply.header.kind, reply.header.flags),
        (Kind::Reply, Flags::STREAM)
    );
    assert_eq!((&reply.body[..], &reply.raw[..]), (BODY, &b""[..]));
    let payload = Bytes::from(vec![7; CHUNK_LEN_MAX + 10]);
    let sending = async {
        stream.send(payload).await.unwrap();
        stream.finish();
    };
    let receiving = async {
        for (granted, pieces) in [(10, vec![10]), (1 << 20, vec![CHUNK_LEN_MAX])] {
            serving.grant(1, granted);
            for piece in pieces {
                let chunk = serving.peer.next().await;
                assert_eq!(
                    (chunk.header.kind, chunk.header.flags),
                    (Kind::StreamChunk, Flags::TO_CALLER)
                );
                assert_eq!(chunk.raw.len(), piece);
            }
        }
        let end = serving.peer.next().await;
        assert_eq!(
            (end.header.kind, end.header.flags),
            (Kind::StreamEnd, Flags::TO_CALLER)
        );
    };
    soon(async { tokio::join!(sending, receiving) }).await;
}

#[tokio::test]
async fn an_encoded_reply_whose_stream_is_dropped_is_marked_incomplete() {
    let mut serving = serving().await;
    let responder = serving.asked(1).await;
    drop(responder.reply_stream_encoded(BODY.into()));
    assert_eq!(serving.peer.next().await.header.flags, Flags::STREAM);
    let end = serving.peer.next().await.header;
    assert_eq!((end.kind, end.flags), (Kind::StreamEnd, ABORTED));
}

#[tokio::test]
async fn an_encoded_reply_that_is_cancelled_in_the_middle_of_its_stream_fails_its_sender() {
    let mut serving = serving().await;
    let responder = serving.asked(1).await;
    let mut stream = responder.reply_stream_encoded(BODY.into());
    serving.grant(1, 4);
    let cancelling = async {
        while serving.peer.next().await.header.kind != Kind::StreamChunk {}
        serving.peer.send(&about(Kind::Cancel, 1));
    };
    let (sent, ()) = soon(async { tokio::join!(stream.send("more than four".into()), cancelling) }).await;
    assert_eq!(sent.unwrap_err().code, ErrorCode::Cancelled);
}

#[tokio::test]
async fn an_encoded_reply_fails_its_stream_when_the_kernel_goes_before_or_in_the_middle() {
    let mut serving = serving().await;
    let early = serving.asked(1).await;
    let late = serving.asked(2).await;
    let mut stream = early.reply_stream_encoded(BODY.into());
    serving.grant(1, 4);
    let dying = async {
        while serving.peer.next().await.header.kind != Kind::StreamChunk {}
        drop(serving.peer);
    };
    let (sent, ()) = soon(async { tokio::join!(stream.send("more than four".into()), dying) }).await;
    assert_eq!(sent.unwrap_err().code, ErrorCode::Unavailable);
    assert!(late.is_cancelled());
    let mut stream = late.reply_stream_encoded(BODY.into());
    let sent = soon(stream.send("anything".into())).await;
    assert_eq!(sent.unwrap_err().code, ErrorCode::Unavailable);
}

#[tokio::test]
async fn a_streaming_reply_that_fits_no_message_fails_its_stream_and_leaves_nothing_behind() {
    let mut serving = serving().await;
    let responder = serving.asked(1).await;
    let mut stream = responder.reply_stream_encoded(vec![0; MESSAGE_LEN_MAX].into());
    let answer = serving.peer.next().await;
    assert_eq!(
        answer.decode_body::<WireError>().unwrap().code,
        ErrorCode::Internal
    );
    let sent = soon(stream.send("anything".into())).await;
    assert_eq!(sent.unwrap_err().code, ErrorCode::Internal);
    drop(stream);
    // The call is over: nothing more is said of it, and its id may be used again.
    serving.asked(1).await.reply_empty();
    assert_eq!(serving.peer.next().await.header.kind, Kind::Reply);
}
