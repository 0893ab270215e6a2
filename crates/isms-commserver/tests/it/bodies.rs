//! Bodies of every size, both ways.

use bytes::Bytes;
use isms_http::test_support::{Client, FakeCall, soon};
use isms_protocol::{
    Flags,
    commserver::HttpRoute,
    doer::{Invocation, InvocationReply},
    limits::INLINE_LEN_MAX,
};

use crate::harness::{Edge, replies, route};

/// Sends the payload back as it comes, as a stream.
async fn echo_stream(mut call: FakeCall) {
    let invocation: Invocation = call.message.decode_body().unwrap();
    call.reply_stream(&InvocationReply {
        payload_len: invocation.payload_len,
        ..replies(200, &[])
    });
    while let Some(piece) = call.piece().await {
        if !call.write(piece.unwrap()).await {
            return;
        }
    }
    call.finish(Flags::NONE);
}

/// Tells how the payload came and how long it was.
async fn measure(mut call: FakeCall) {
    let inline = !call.message.header.flags.contains(Flags::STREAM);
    let invocation: Invocation = call.message.decode_body().unwrap();
    let len = call.payload().await.len();
    call.reply(
        &replies(200, &[]),
        format!("inline={inline} {:?} {len}", invocation.payload_len),
    );
}

fn chunked(body: &[u8], piece_len: usize) -> Vec<u8> {
    let mut bytes = b"POST /p/ HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for piece in body.chunks(piece_len) {
        bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

#[tokio::test]
async fn small_bodies_travel_inline_and_large_ones_as_streams() {
    let edge = Edge::start(&["POST /"], measure).await;
    for (len, expected) in [
        (0, "inline=true Some(0) 0"),
        (1, "inline=true Some(1) 1"),
        (INLINE_LEN_MAX, "inline=true Some(49152) 49152"),
        (INLINE_LEN_MAX + 1, "inline=false Some(49153) 49153"),
        (1 << 20, "inline=false Some(1048576) 1048576"),
    ] {
        let response = Client::fetch(edge.address, "POST /p/", &[], &vec![7; len]).await;
        assert_eq!(response.text(), expected);
    }
    for (len, expected) in [
        (0, "inline=true Some(0) 0"),
        (5000, "inline=true Some(5000) 5000"),
        (INLINE_LEN_MAX, "inline=true Some(49152) 49152"),
        (INLINE_LEN_MAX + 1, "inline=false None 49153"),
        (1 << 20, "inline=false None 1048576"),
    ] {
        let mut client = edge.connect().await;
        client.send(chunked(&vec![7; len], 3000)).await;
        assert_eq!(client.response().await.text(), expected, "chunked");
    }
}

#[tokio::test]
async fn a_long_head_beside_a_full_inline_body_still_fits() {
    let edge = Edge::start(&["POST /"], measure).await;
    let long = "a".repeat(20 * 1024);
    let response = Client::fetch(
        edge.address,
        "POST /p/",
        &[("x", &long)],
        &vec![7; INLINE_LEN_MAX],
    )
    .await;
    assert_eq!(response.text(), "inline=false Some(49152) 49152");
}

#[tokio::test]
async fn bodies_over_the_routes_limit_are_413() {
    let small = HttpRoute {
        body_len_max: 100_000,
        ..route("POST /")
    };
    let edge = Edge::with_routes(vec![small], measure).await;
    assert_eq!(
        Client::fetch(edge.address, "POST /p/", &[], &[7; 100_000])
            .await
            .status,
        200
    );

    let mut client = edge.connect().await;
    client
        .send("POST /p/ HTTP/1.1\r\nhost: h\r\ncontent-length: 100001\r\n\r\n")
        .await;
    let response = client.response().await;
    assert_eq!(
        (response.status, &response.json()["title"]),
        (413, &"too large".into()),
        "before any byte of it"
    );

    let mut client = edge.connect().await;
    client.try_send(chunked(&[7; 100_001], 3000)).await;
    assert_eq!(client.response().await.status, 413, "while it streams");
}

/// Bytes of this process that are in memory: now, and at most so far.
fn resident() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    };
    (field("VmRSS:"), field("VmHWM:"))
}

#[tokio::test]
async fn large_bodies_stream_both_ways_at_once_in_bounded_memory() {
    const LEN: usize = 64 << 20;
    const PIECE: usize = 64 << 10;
    let edge = Edge::start(&["POST /"], echo_stream).await;
    let (before, _) = resident();
    let stream = tokio::net::TcpStream::connect(edge.address).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let sent = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let head = format!("POST /p/ HTTP/1.1\r\nhost: h\r\ncontent-length: {LEN}\r\n\r\n");
        write.write_all(head.as_bytes()).await.unwrap();
        for number in 0..LEN / PIECE {
            write.write_all(&[number as u8; PIECE]).await.unwrap();
        }
        write
    });
    let received = async {
        use tokio::io::AsyncReadExt;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(read.read_u8().await.unwrap());
        }
        let mut piece = vec![0; PIECE];
        for number in 0..LEN / PIECE {
            read.read_exact(&mut piece).await.unwrap();
            assert!(
                piece.iter().all(|&byte| byte == number as u8),
                "piece {number} differs"
            );
        }
        String::from_utf8(head).unwrap()
    };
    let head = tokio::time::timeout(std::time::Duration::from_secs(60), received)
        .await
        .unwrap();
    assert!(head.contains(&format!("content-length: {LEN}\r\n")), "{head}");
    drop(sent.await.unwrap());
    let grown = resident().1.saturating_sub(before);
    assert!(
        grown < 16 << 20,
        "client, edge, Kernel and Doee together grew by {grown} bytes"
    );
}

#[tokio::test]
async fn a_stream_of_unknown_length_comes_in_chunks() {
    let edge = Edge::start(&["GET /"], |mut call| async move {
        call.reply_stream(&replies(200, &[]));
        assert!(call.write(Bytes::from_static(b"one")).await);
        assert!(call.write(Bytes::from_static(b"two")).await);
        call.finish(Flags::NONE);
    })
    .await;
    let response = edge.fetch("GET /p/").await;
    assert_eq!(
        (&*response.header("transfer-encoding"), &*response.text()),
        ("chunked", "onetwo")
    );
}

#[tokio::test]
async fn a_stream_that_breaks_off_shows_as_an_incomplete_response() {
    let edge = Edge::start(&["GET /{how}"], |mut call| async move {
        let invocation: Invocation = call.message.decode_body().unwrap();
        let (flags, len) = match &*invocation.path {
            "/aborted" => (Flags::ABORTED, None),
            "/short" => (Flags::NONE, Some(10)),
            _ => (Flags::NONE, Some(2)),
        };
        call.reply_stream(&InvocationReply {
            payload_len: len,
            ..replies(200, &[])
        });
        assert!(call.write(Bytes::from_static(b"start")).await);
        call.finish(flags);
    })
    .await;
    for path in ["aborted", "short", "long"] {
        let mut client = edge.connect().await;
        client
            .send(format!("GET /p/{path} HTTP/1.1\r\nhost: h\r\n\r\n"))
            .await;
        let received = String::from_utf8(client.rest().await).unwrap();
        assert!(
            !received.ends_with("0\r\n\r\n"),
            "{path} looks complete: {received}"
        );
    }
}

#[tokio::test]
async fn a_doee_may_answer_before_it_has_read_everything() {
    let edge = Edge::start(
        &["POST /"],
        |call| async move { call.reply(&replies(403, &[]), "no") },
    )
    .await;
    let mut client = edge.connect().await;
    client
        .send("POST /p/ HTTP/1.1\r\nhost: h\r\ncontent-length: 1000000\r\n\r\n")
        .await;
    let response = client.response().await;
    assert_eq!((response.status, &*response.text()), (403, "no"));
}

#[tokio::test]
async fn a_body_that_does_not_come_in_time_is_408() {
    let hasty = HttpRoute {
        deadline_ms: 100,
        ..route("POST /")
    };
    let edge = Edge::with_routes(vec![hasty], |_| async { panic!("a call") }).await;
    let mut client = edge.connect().await;
    client
        .send("POST /p/ HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nhal")
        .await;
    assert_eq!(soon("the response", client.response()).await.status, 408);
}
