//! Limits of connections, bodies and patience.

use std::sync::Arc;

use bytes::Bytes;
use isms_http::{
    Body, HttpLimits,
    test_support::{Client, soon},
};
use tokio::sync::Notify;

use super::{OnDrop, Server, not_found};

/// Short enough for a test, long enough for a busy machine.
const SHORT_MS: u64 = 200;

#[tokio::test]
async fn a_connection_over_the_limit_is_answered_503_and_closed() {
    let server = Server::echo(HttpLimits {
        connections_max: 1,
        ..HttpLimits::default()
    });
    let mut first = server.connect().await;
    assert_eq!(first.exchange("GET /", &[], b"").await.status, 200);

    let refused = String::from_utf8(server.connect().await.rest().await).unwrap();
    assert!(
        refused.starts_with("HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n"),
        "{refused}"
    );

    assert_eq!(
        first.exchange("GET /", &[], b"").await.status,
        200,
        "the first is not disturbed"
    );
    drop(first);
    let place_is_free = async {
        loop {
            let mut next = server.connect().await;
            if next
                .try_send("GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
                .await
                && next.rest().await.starts_with(b"HTTP/1.1 200")
            {
                return;
            }
        }
    };
    soon("the place of the closed connection", place_is_free).await;
}

#[tokio::test]
async fn bodies_over_the_limit_are_413_by_length_and_by_count() {
    let server = Server::echo(HttpLimits::default());
    let mut client = server.connect().await;
    assert_eq!(
        client.exchange("POST /", &[], &[0; 1000]).await.text(),
        "POST / 1000"
    );
    let response = client
        .exchange("POST /", &[("expect", "100-continue")], &[0; 1001])
        .await;
    assert_eq!(response.status, 413, "refused before the body is asked for");
    assert_eq!(response.json()["type"], "https://isms.invalid/errors/TooLarge");

    let mut client = server.connect().await;
    client
        .send("POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    client
        .send([b"1f4\r\n", &[b'a'; 500][..], b"\r\n"].concat())
        .await;
    client
        .send([b"1f5\r\n", &[b'a'; 501][..], b"\r\n"].concat())
        .await;
    assert_eq!(client.response().await.status, 413);
}

#[tokio::test]
async fn a_client_that_waits_for_100_gets_it() {
    let server = Server::echo(HttpLimits::default());
    let mut client = server.connect().await;
    client
        .send("POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n")
        .await;
    assert_eq!(client.head().await.status, 100);
    client.send("hi").await;
    assert_eq!(client.response().await.text(), "POST /a 2");
}

#[tokio::test]
async fn an_unfinished_head_is_cut_off() {
    let server = Server::echo(HttpLimits {
        head_timeout_ms: SHORT_MS,
        ..HttpLimits::default()
    });
    let mut client = server.connect().await;
    client.send("GET / HTTP/1.1\r\nhost: h\r\nx: ").await;
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let server = Server::echo(HttpLimits {
        idle_timeout_ms: SHORT_MS,
        ..HttpLimits::default()
    });
    assert_eq!(
        server.connect().await.rest().await,
        b"",
        "before its first request"
    );
    let mut client = server.connect().await;
    assert_eq!(client.exchange("GET /", &[], b"").await.status, 200);
    assert_eq!(client.rest().await, b"", "after it");
}

#[tokio::test]
async fn a_request_that_takes_long_is_not_idle() {
    let limits = HttpLimits {
        idle_timeout_ms: 50,
        head_timeout_ms: 50,
        write_timeout_ms: 50,
        ..HttpLimits::default()
    };
    let server = Server::start(limits, |_| async {
        tokio::time::sleep(std::time::Duration::from_millis(SHORT_MS)).await;
        not_found()
    });
    assert_eq!(Client::fetch(server.address, "GET /", &[], b"").await.status, 404);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_given_up() {
    let dropped = Arc::new(Notify::new());
    let on_drop = dropped.clone();
    let limits = HttpLimits {
        write_timeout_ms: SHORT_MS,
        ..HttpLimits::default()
    };
    let server = Server::start(limits, move |_| {
        let endless = OnDrop(on_drop.clone());
        let next = |endless| async move { Some((Ok(Bytes::from_static(&[0; 65536])), endless)) };
        async move { http::Response::new(Body::unfold(endless, None, next)) }
    });
    let mut client = server.connect().await;
    client.send("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    client.head().await;
    soon("the end of the response", dropped.notified()).await;
}
