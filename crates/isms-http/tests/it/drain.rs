//! The end of a server.

use std::sync::Arc;

use isms_http::{
    Body, HttpLimits,
    test_support::{Client, soon},
};
use tokio::sync::Notify;

use super::{OnDrop, Server};

/// A server whose requests wait until they are let go.
fn gated(limits: HttpLimits) -> (Server, Arc<Notify>, Arc<Notify>) {
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (enter, wait) = (entered.clone(), release.clone());
    let server = Server::start(limits, move |_| {
        let (enter, wait) = (enter.clone(), wait.clone());
        async move {
            enter.notify_one();
            wait.notified().await;
            http::Response::new(Body::full("done"))
        }
    });
    (server, entered, release)
}

#[tokio::test]
async fn running_requests_end_and_idle_connections_close_at_once() {
    let (server, entered, release) = gated(HttpLimits::default());
    let mut fresh = server.connect().await;
    let mut running = server.connect().await;
    running.send("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    entered.notified().await;

    server.stop.send_replace(true);
    assert_eq!(fresh.rest().await, b"");
    release.notify_one();
    let response = running.response().await;
    assert_eq!((response.status, response.text()), (200, "done".into()));
    assert_eq!(response.header("connection"), "close");
    assert_eq!(running.rest().await, b"");
    soon("the end", server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn nobody_is_let_in_after_the_stop() {
    let server = Server::echo(HttpLimits::default());
    server.stop.send_replace(true);
    soon("the end", server.task).await.unwrap().unwrap();
    assert!(std::net::TcpStream::connect(server.address).is_err());
}

#[tokio::test]
async fn a_request_that_outlasts_the_drain_is_dropped() {
    let (server, entered, _release) = gated(HttpLimits {
        drain_timeout_ms: 50,
        ..HttpLimits::default()
    });
    let mut client = server.connect().await;
    client.send("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    entered.notified().await;
    server.stop.send_replace(true);
    soon("the end", server.task).await.unwrap().unwrap();
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn a_client_that_leaves_drops_its_handler() {
    let (entered, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (enter, drop_signal) = (entered.clone(), dropped.clone());
    let server = Server::start(HttpLimits::default(), move |_| {
        let (enter, guard) = (enter.clone(), OnDrop(drop_signal.clone()));
        async move {
            let _guard = guard;
            enter.notify_one();
            std::future::pending().await
        }
    });
    let mut client: Client = server.connect().await;
    client.send("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    entered.notified().await;
    drop(client);
    soon("the handler's end", dropped.notified()).await;
}
