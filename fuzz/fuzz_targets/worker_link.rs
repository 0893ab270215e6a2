//! The Doer's end of a worker's data channel against any sequence of well-formed messages: calls of the Doer are under
//! way, requests of the worker are answered in all manners, streams flow in both directions. Nothing may panic, the
//! worker's requests stay within their limit, and each call ends once.
//!
//! Each message is five bytes: kind, call, flags, length of its raw bytes, and what it carries as credit.

#![no_main]

use bytes::Bytes;
use isms_ipc::{Connection, Inbound, Link, Side};
use isms_protocol::{Flags, Header, Kind, Message, Service, WireError, kernel::StreamCredit};
use libfuzzer_sys::fuzz_target;
use tokio::net::UnixStream;

/// Requests that the worker may have under way.
const REQUESTS_MAX: u32 = 4;
/// Calls of the Doer that are under way; half of them with a stream.
const CALLS: u64 = 6;

fuzz_target!(|data: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build();
    runtime.unwrap().block_on(converse(data));
});

async fn converse(data: &[u8]) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (doer, worker) = tokio::join!(
        Link::attach(ours, Side::Bind, Service::Doer, REQUESTS_MAX),
        Connection::establish(theirs, Side::Connect)
    );
    let ((link, mut inbox), (sender, receiver)) = (doer.unwrap(), worker.unwrap());
    let mut calls = Vec::new();
    for call in 0..CALLS {
        let request = Message::bare(Header::new(Kind::Request, Service::Doer, Service::Worker));
        if call % 2 == 0 {
            let (mut stream, answer) = link.call_streaming(request);
            tokio::spawn(async move {
                if stream.send(Bytes::from_static(&[7; 100_000])).await.is_ok() {
                    stream.finish();
                }
            });
            calls.push(answer);
        } else {
            calls.push(link.start(request));
        }
    }
    let answered = tokio::spawn(async move {
        for call in calls {
            if let Ok(answer) = call.await {
                let _ = answer.payload(64 * 1024).await;
            }
        }
    });
    let served = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Some(inbound) = inbox.next().await {
            let Inbound::Request(mut request) = inbound else {
                continue;
            };
            match request.message.header.operation % 5 {
                0 => request.responder.reply_empty(),
                1 => request
                    .responder
                    .error(WireError::new(isms_protocol::ErrorCode::Invalid, "no")),
                2 => drop(request),
                3 => drop(tokio::spawn(async move {
                    if request.payload(1 << 20).await.is_ok() {
                        let long = Bytes::from_static(&[9; 100_000]);
                        let _ = request.responder.reply_payload(&(), long).await;
                    }
                })),
                _ => {
                    held.retain(|request: &isms_ipc::InboundRequest| !request.responder.is_cancelled());
                    held.push(request);
                    assert!(held.len() <= REQUESTS_MAX as usize);
                }
            }
        }
    });
    for bytes in data.chunks_exact(5) {
        if sender.send(&message(bytes)).is_err() {
            break;
        }
        if bytes[4] & 1 == 0 {
            tokio::task::yield_now().await;
        }
    }
    receiver.shut_down().await;
    // Each call is answered, at the latest by the end of the connection.
    answered.await.unwrap();
    served.await.unwrap();
    assert!(!link.is_registered());
}

fn message(bytes: &[u8]) -> Message {
    let kinds = [
        Kind::Request,
        Kind::Reply,
        Kind::Error,
        Kind::Cancel,
        Kind::Credit,
        Kind::StreamChunk,
        Kind::StreamEnd,
        Kind::Event,
        Kind::Heartbeat,
        Kind::Begun,
    ];
    let kind = kinds[usize::from(bytes[0]) % kinds.len()];
    let flags = [
        Flags::NONE,
        Flags::STREAM,
        Flags::TO_CALLER,
        Flags::TO_CALLER.with(Flags::ABORTED),
    ];
    let header = Header {
        call: u64::from(bytes[1]) % 16,
        flags: flags[usize::from(bytes[2]) % flags.len()],
        operation: u16::from(bytes[2]) / 4,
        ..Header::new(kind, Service::Worker, Service::Doer)
    };
    let raw = vec![1; usize::from(bytes[3]) * 128];
    match kind {
        Kind::Credit => Message::with_body(
            header,
            &StreamCredit {
                bytes: u32::from(bytes[4]) << (bytes[3] % 25),
            },
        ),
        Kind::Error if bytes[4] & 2 == 0 => Message::with_body(
            header,
            &WireError::new(isms_protocol::ErrorCode::DoeeFailed, "no"),
        ),
        _ => Message::bare(header).with_raw(raw),
    }
}
