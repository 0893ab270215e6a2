//! Bytes that are not the HTTP that the standard wants.

use isms_http::HttpLimits;

use super::Server;

/// Sends bytes on a fresh connection and gives the first response's status and whether anything
/// followed it before the server closed.
async fn answers(server: &Server, bytes: &[u8]) -> (u16, usize) {
    let mut client = server.connect().await;
    // The server may close before it has read everything.
    client.try_send(bytes).await;
    let received = String::from_utf8(client.rest().await).unwrap();
    let statuses: Vec<u16> = received
        .split("HTTP/1.")
        .skip(1)
        .map(|response| response[2..5].parse().unwrap())
        .collect();
    (statuses.first().copied().unwrap_or(0), statuses.len())
}

#[tokio::test]
async fn malformed_requests_are_answered_once_and_closed() {
    let server = Server::echo(HttpLimits::default());
    let long_field = format!(
        "GET / HTTP/1.1\r\nhost: h\r\nx: {}\r\n\r\n",
        "a".repeat(33 * 1024)
    );
    let many_fields = format!("GET / HTTP/1.1\r\nhost: h\r\n{}\r\n", "x: y\r\n".repeat(101));
    let cases: &[(&[u8], u16)] = &[
        (b"\x00\x01\x02\x03\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nhost: h\r\n\r\n", 400),
        (b"GET /\x7f HTTP/1.1\r\nhost: h\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost h\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: h\r\nx : y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: h\r\n folded: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: h\r\nx: a\x00b\r\n\r\n", 400),
        (long_field.as_bytes(), 431),
        (many_fields.as_bytes(), 431),
    ];
    for (bytes, status) in cases {
        let shown = &bytes[..bytes.len().min(60)];
        assert_eq!(
            answers(&server, bytes).await,
            (*status, 1),
            "{}",
            shown.escape_ascii()
        );
    }
}

#[tokio::test]
async fn http_2_is_closed_unanswered() {
    let server = Server::echo(HttpLimits::default());
    assert_eq!(
        answers(&server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await,
        (0, 0)
    );
}

#[tokio::test]
async fn a_request_names_exactly_one_host() {
    let server = Server::echo(HttpLimits::default());
    for (head, status) in [
        ("GET / HTTP/1.1\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\n", 200),
        ("GET / HTTP/1.0\r\n", 200),
    ] {
        let bytes = format!("{head}connection: close\r\n\r\n");
        assert_eq!(answers(&server, bytes.as_bytes()).await, (status, 1), "{head}");
    }
}

#[tokio::test]
async fn a_long_target_is_414() {
    let server = Server::echo(HttpLimits::default());
    let mut client = server.connect().await;
    let target = format!("GET /{}", "a".repeat(8 * 1024));
    assert_eq!(client.exchange(&target, &[], b"").await.status, 414);
}

/// The second request is what an attacker smuggles: no shape may get it answered.
#[tokio::test]
async fn smuggling_shapes_never_get_a_second_answer() {
    let server = Server::echo(HttpLimits::default());
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: h\r\n\r\n";
    let post = "POST /a HTTP/1.1\r\nhost: h\r\n";
    let cases = [
        // Length and chunks at once: read by the chunks, then closed (RFC 9112 §6.1).
        (
            format!("{post}content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"),
            200,
        ),
        (
            format!("{post}transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n{smuggled}"),
            200,
        ),
        (
            format!(
                "{post}transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n{smuggled}"
            ),
            400,
        ),
        (
            format!("{post}transfer-encoding: xchunked\r\n\r\n0\r\n\r\n{smuggled}"),
            400,
        ),
        (
            format!("{post}transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n{smuggled}"),
            400,
        ),
        (
            format!("{post}transfer-encoding : chunked\r\n\r\n0\r\n\r\n{smuggled}"),
            400,
        ),
        (
            format!("{post}content-length: 0\r\ncontent-length: 40\r\n\r\n{smuggled}"),
            400,
        ),
        (format!("{post}content-length: 0, 40\r\n\r\n{smuggled}"), 400),
        (format!("{post}content-length: +5\r\n\r\nhello{smuggled}"), 400),
        (format!("{post}content-length: -1\r\n\r\n{smuggled}"), 400),
        (
            format!("{post}content-length: 18446744073709551616\r\n\r\n{smuggled}"),
            400,
        ),
        (format!("{post}content-length: 0x5\r\n\r\nhello{smuggled}"), 400),
        (
            format!("{post}transfer-encoding: chunked\r\n\r\nZZ\r\nhello\r\n0\r\n\r\n{smuggled}"),
            400,
        ),
        (
            format!("{post}transfer-encoding: chunked\r\n\r\n-1\r\nhello\r\n0\r\n\r\n{smuggled}"),
            400,
        ),
        (
            format!("{post}transfer-encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n{smuggled}"),
            400,
        ),
        (
            format!("{post}transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n{smuggled}"),
            400,
        ),
        (
            "POST /a HTTP/1.0\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned()
                + smuggled,
            400,
        ),
    ];
    for (bytes, status) in cases {
        assert_eq!(
            answers(&server, bytes.as_bytes()).await,
            (status, 1),
            "{}",
            bytes.escape_debug()
        );
    }
}
