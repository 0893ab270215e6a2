//! Parties that leave: the client, the Kernel, CommServer itself.

use std::sync::Arc;

use isms_http::test_support::{FakeCall, soon};
use isms_protocol::{ErrorCode, doer::Invocation};
use tokio::sync::Notify;

use crate::harness::{Edge, project_routes, replies, route, tell};

/// What a held call tells.
#[derive(Clone, Default)]
struct Signals {
    begun: Arc<Notify>,
    cancelled: Arc<Notify>,
    release: Arc<Notify>,
}

impl Signals {
    /// A Doee that answers when it is released, and tells when it is cancelled.
    fn hold(
        &self,
    ) -> impl Fn(FakeCall) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync + 'static {
        let signals = self.clone();
        move |mut call| {
            let signals = signals.clone();
            Box::pin(async move {
                signals.begun.notify_one();
                tokio::select! {
                    () = signals.release.notified() => call.reply(&replies(200, &[]), "done"),
                    () = call.cancelled() => signals.cancelled.notify_one(),
                }
            })
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_call() {
    let signals = Signals::default();
    let edge = Edge::start(&["GET /", "POST /"], signals.hold()).await;
    for head in [
        "GET /p/ HTTP/1.1\r\nhost: h\r\n\r\n",
        "POST /p/ HTTP/1.1\r\nhost: h\r\ncontent-length: 100000\r\n\r\n",
    ] {
        let mut client = edge.connect().await;
        client.send(head).await;
        soon("the call", signals.begun.notified()).await;
        drop(client);
        soon("the cancel", signals.cancelled.notified()).await;
    }
}

#[tokio::test]
async fn errors_of_the_platform_are_problems() {
    let edge = Edge::start(&["GET /{code}"], |call| async move {
        let invocation: Invocation = call.message.decode_body().unwrap();
        let number: u16 = invocation.path[1..].parse().unwrap();
        call.fail(ErrorCode::from(number), "what happened");
    })
    .await;
    for code in ErrorCode::ALL {
        let response = edge.fetch(&format!("GET /p/{}", *code as u16)).await;
        assert_eq!(response.status, code.http_status(), "{}", code.name());
        let problem = response.json();
        assert_eq!(
            problem["type"],
            format!("https://isms.invalid/errors/{}", code.name())
        );
        assert_eq!(
            (&problem["title"], &problem["detail"]),
            (&code.title().into(), &"what happened".into())
        );
        let passes = matches!(
            code,
            ErrorCode::Busy | ErrorCode::Unavailable | ErrorCode::RateLimited
        );
        assert_eq!(
            response.header("retry-after"),
            if passes { "1" } else { "" },
            "{}",
            code.name()
        );
    }
}

#[tokio::test]
async fn a_malformed_reply_is_a_500_that_names_the_process() {
    let edge = Edge::start(&["GET /{how}"], |call| async move {
        let invocation: Invocation = call.message.decode_body().unwrap();
        match &*invocation.path {
            "/no-reply" => call.reply(&"not a reply", ""),
            _ => call.reply(&replies(999, &[]), ""),
        }
    })
    .await;
    for path in ["no-reply", "no-status"] {
        let response = edge.fetch(&format!("GET /p/{path}")).await;
        assert_eq!(response.status, 500, "{path}");
        assert_eq!(response.json()["instance"].as_str().unwrap().len(), 36);
    }
}

#[tokio::test]
async fn the_loss_of_the_kernel_is_503_at_once_and_its_return_brings_new_routes() {
    let signals = Signals::default();
    let mut edge = Edge::start(&["GET /"], signals.hold()).await;
    let mut client = edge.connect().await;
    client.send("GET /p/ HTTP/1.1\r\nhost: h\r\n\r\n").await;
    soon("the call", signals.begun.notified()).await;

    edge.kernel.stop().await;
    let response = client.response().await;
    assert_eq!(
        (response.status, &*response.header("retry-after")),
        (503, "1"),
        "what it held"
    );
    assert_eq!(edge.fetch("GET /p/").await.status, 503, "what comes now");
    assert_eq!(edge.fetch("GET /p/x").await.status, 404, "what needs no kernel");

    *edge.resadmin.routes.lock().unwrap() = vec![project_routes(2, vec![route("GET /new")])];
    edge.kernel.restart();
    let new_route = async { while edge.fetch("OPTIONS /p/new").await.status != 204 {} };
    soon("the new routes", new_route).await;
    signals.release.notify_one();
    assert_eq!(edge.fetch("GET /p/new").await.text(), "done");
    assert_eq!(edge.fetch("GET /p/").await.status, 404, "the old route is gone");
}

#[tokio::test]
async fn a_stop_lets_the_running_call_end() {
    let signals = Signals::default();
    let edge = Edge::start(&["GET /"], signals.hold()).await;
    let mut client = edge.connect().await;
    client.send("GET /p/ HTTP/1.1\r\nhost: h\r\n\r\n").await;
    soon("the call", signals.begun.notified()).await;
    edge.stop.send_replace(true);
    signals.release.notify_one();
    assert_eq!(client.response().await.text(), "done");
    soon("the end", edge.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_idle_stop_is_immediate() {
    let edge = Edge::start(&["GET /"], tell).await;
    let mut idle = edge.connect().await;
    assert_eq!(idle.exchange("GET /p/", &[], b"").await.status, 200);
    edge.stop.send_replace(true);
    soon("the end", edge.task).await.unwrap().unwrap();
    assert_eq!(idle.rest().await, b"");
}
