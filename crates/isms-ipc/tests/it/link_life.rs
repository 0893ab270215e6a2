//! The life of a link: registering, dying Kernels, closing.

use std::time::Duration;

use isms_ipc::{Inbound, Link};
use isms_protocol::{
    ErrorCode, Header, Kind, Message, Secret, Service, WireError, kernel::StreamCredit,
    limits::HEARTBEAT_TIMEOUT,
};
use tokio::time::Instant;

use crate::kernel::{FakeKernel, next_request, request, soon};

#[tokio::test]
async fn a_link_registers_with_its_incarnation_and_secret() {
    let kernel = FakeKernel::start();
    let (link, mut inbox) = Link::open(kernel.options(Service::Doer));
    let (peer, register) = kernel.accept().await;
    assert_eq!((register.service, register.incarnation.0), (Service::Doer, 7));
    assert_eq!((&register.secret, register.concurrency), (&Secret([3; 32]), 16));
    assert!(!link.is_registered());
    assert_eq!(
        link.call(request(Service::Gate)).await.unwrap_err().code,
        ErrorCode::Unavailable
    );
    peer.confirm(&register, 1);
    assert!(matches!(soon(inbox.next()).await, Some(Inbound::Registered(_))));
    assert!(link.is_registered());
}

#[tokio::test]
async fn a_link_that_is_refused_tries_again() {
    let kernel = FakeKernel::start();
    let (_link, mut inbox) = Link::open(kernel.options(Service::Doer));
    let (peer, _) = kernel.accept().await;
    let refusal = WireError::new(ErrorCode::Forbidden, "another one is registered");
    let header = Header::new(Kind::Register, Service::Doer, Service::Kernel);
    peer.send(&Message::error_answer(&header, &refusal));
    let _peer = kernel.register(1).await;
    assert!(matches!(soon(inbox.next()).await, Some(Inbound::Registered(_))));
}

#[tokio::test]
async fn everything_under_way_ends_at_once_when_the_kernel_dies_and_the_link_registers_again() {
    let kernel = FakeKernel::start();
    let (link, mut inbox, mut peer) = kernel.link(Service::Dbriver, 10).await;
    let mut header = Header::new(Kind::Request, Service::Kernel, Service::Dbriver);
    header.call = 1;
    peer.send(&Message::bare(header));
    let working = next_request(&mut inbox).await;
    header.call = 2;
    peer.send(&Message::bare(header));

    let killer = async {
        peer.next().await;
        peer.next().await;
        drop(peer);
    };
    let (mut stream, streaming) = link.call_streaming(request(Service::Doer));
    let (answer, streaming, sent, ()) = tokio::join!(
        link.call(request(Service::Gate)),
        streaming,
        stream.send(vec![0; 10].into()),
        killer
    );
    assert_eq!(answer.unwrap_err().code, ErrorCode::Unavailable);
    assert_eq!(streaming.unwrap_err().code, ErrorCode::Unavailable);
    assert_eq!(sent.unwrap_err().code, ErrorCode::Unavailable);
    soon(working.responder.cancelled()).await;
    // The request that nobody has looked at is gone: its Kernel is.
    assert!(matches!(soon(inbox.next()).await, Some(Inbound::Lost)));
    assert!(!link.is_registered());

    let kernel = kernel.restart();
    let (mut peer, register) = kernel.accept().await;
    assert_eq!(register.incarnation.0, 7);
    peer.confirm(&register, 10);
    assert!(matches!(soon(inbox.next()).await, Some(Inbound::Registered(_))));
    // The late reply to the dead Kernel reaches nobody.
    working.responder.reply_empty();
    let kernel_side = async {
        let asked = peer.next().await;
        assert_eq!(asked.header.kind, Kind::Request);
        peer.send(&Message::bare(asked.header.answer(Kind::Reply)));
    };
    let (answer, ()) = tokio::join!(link.call(request(Service::Gate)), kernel_side);
    answer.unwrap();
}

#[tokio::test]
async fn a_chunk_without_credit_cuts_the_connection() {
    let kernel = FakeKernel::start();
    let (link, mut inbox, mut peer) = kernel.link(Service::Gate, 10).await;
    let kernel_side = async {
        let asked = peer.next().await.header;
        let mut reply = asked.answer(Kind::Reply);
        reply.flags = isms_protocol::Flags::STREAM;
        peer.send(&Message::bare(reply));
        let mut chunk = asked.answer(Kind::StreamChunk);
        chunk.flags = isms_protocol::Flags::TO_CALLER;
        let credit: StreamCredit = peer.next().await.decode_body().unwrap();
        for _ in 0..=credit.bytes / 32_768 {
            peer.send(&Message::bare(chunk).with_raw(vec![0; 32_768]));
        }
        assert!(
            peer.next_or_end().await.is_none(),
            "the link has cut the connection"
        );
    };
    let calling = async {
        let mut stream = link.call(request(Service::Doer)).await.unwrap().stream.unwrap();
        // Asks once, which grants the window, and takes nothing.
        tokio::select! {
            biased;
            chunk = stream.next() => panic!("nothing was sent, got {chunk:?}"),
            () = std::future::ready(()) => {}
        }
        stream
    };
    let (_stream, ()) = tokio::join!(calling, kernel_side);
    assert!(matches!(soon(inbox.next()).await, Some(Inbound::Lost)));
    let _peer = kernel.register(10).await;
    assert!(matches!(soon(inbox.next()).await, Some(Inbound::Registered(_))));
}

#[tokio::test(start_paused = true)]
async fn a_silent_kernel_is_dead_after_the_heartbeat_timeout() {
    let kernel = FakeKernel::start();
    let (link, mut inbox, mut peer) = kernel.link(Service::Gate, 10).await;
    let before = Instant::now();
    let asked = tokio::join!(link.call(request(Service::Doer)), async {
        for _ in 0..3 {
            let message = peer.receiver.next().await.unwrap().unwrap();
            assert!(matches!(message.header.kind, Kind::Request | Kind::Heartbeat));
        }
    });
    assert_eq!(asked.0.unwrap_err().code, ErrorCode::Unavailable);
    assert!(matches!(inbox.next().await, Some(Inbound::Lost)));
    let silence = before.elapsed();
    assert!(silence >= HEARTBEAT_TIMEOUT && silence < HEARTBEAT_TIMEOUT + Duration::from_millis(1_100));
}

#[tokio::test(start_paused = true)]
async fn heartbeats_alone_keep_a_link_alive() {
    let kernel = FakeKernel::start();
    let (link, _inbox, mut peer) = kernel.link(Service::Gate, 10).await;
    let heartbeat = Message::bare(Header::new(Kind::Heartbeat, Service::Kernel, Service::Gate));
    for _ in 0..20 {
        let message = peer.receiver.next().await.unwrap().unwrap();
        assert_eq!(message.header.kind, Kind::Heartbeat);
        peer.send(&heartbeat);
    }
    assert!(link.is_registered());
}

#[tokio::test]
async fn a_closed_link_has_sent_what_was_answered_and_ends_its_inbox() {
    let kernel = FakeKernel::start();
    let (link, mut inbox, mut peer) = kernel.link(Service::Dbriver, 10).await;
    peer.send(&Message::bare(Header::new(
        Kind::Request,
        Service::Kernel,
        Service::Dbriver,
    )));
    next_request(&mut inbox).await.responder.reply_empty();
    soon(link.close()).await;
    assert!(soon(inbox.next()).await.is_none());
    assert_eq!(peer.next().await.header.kind, Kind::Reply);
    assert!(peer.next_or_end().await.is_none());
    assert_eq!(
        link.call(request(Service::Doer)).await.unwrap_err().code,
        ErrorCode::Unavailable
    );
}

#[tokio::test]
async fn a_link_that_nobody_holds_ends() {
    let kernel = FakeKernel::start();
    let (link, inbox, mut peer) = kernel.link(Service::Dbriver, 10).await;
    drop((link, inbox));
    assert!(peer.next_or_end().await.is_none());
}
