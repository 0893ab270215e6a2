//! Deployments.

use bytes::Bytes;
use isms_gate::Config;
use isms_http::test_support::{Client, soon};
use isms_protocol::{
    ErrorCode, Flags, ProjectId, Service,
    resadmin::{Deploy, DeployEvent, Operation},
};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::harness::{A, Gate};

fn event_line(event: &DeployEvent) -> Bytes {
    let mut line = serde_json::to_vec(event).unwrap();
    line.push(b'\n');
    line.into()
}

#[tokio::test]
async fn the_upload_streams_in_and_events_stream_out_as_they_happen() {
    const LEN: usize = 16 << 20;
    let (go_on, may_go_on) = mpsc::channel::<()>(1);
    let may_go_on = std::sync::Arc::new(tokio::sync::Mutex::new(may_go_on));
    let gate = Gate::with(Config::default(), move |mut call| {
        let may_go_on = may_go_on.clone();
        async move {
            assert_eq!(call.message.header.operation, Operation::Deploy as u16);
            let deploy: Deploy = call.message.decode_body().unwrap();
            assert_eq!(deploy.only, Some(A));
            let mut len = 0;
            while let Some(piece) = call.piece().await {
                len += piece.unwrap().len();
            }
            assert_eq!(len, LEN);
            call.reply_stream(&());
            call.write(event_line(&DeployEvent::Building { doee: "d".into() }))
                .await;
            may_go_on.lock().await.recv().await;
            let deployed = DeployEvent::Deployed {
                project: "a".into(),
                revision: 2,
                routes: vec![],
            };
            call.write(event_line(&deployed)).await;
            call.finish(Flags::NONE);
        }
    })
    .await;
    let mut client = Client::connect(gate.address).await;
    let host = gate.address;
    client
        .send(format!(
            "POST /api/v1/deployments HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer deployer-a\r\n\
             content-length: {LEN}\r\n\r\n"
        ))
        .await;
    for _ in 0..LEN >> 16 {
        client.send([7; 1 << 16]).await;
    }
    let head = client.head().await;
    assert_eq!(
        (head.status, &*head.header("content-type")),
        (200, "application/x-ndjson")
    );
    let mut event = async || serde_json::from_slice::<Value>(&client.chunk().await.unwrap()).unwrap();
    assert_eq!(
        event().await["event"],
        "building",
        "told while the deployment goes on"
    );
    go_on.send(()).await.unwrap();
    assert_eq!(event().await["event"], "deployed");
    assert_eq!(client.chunk().await, None);
}

#[tokio::test]
async fn a_refused_deployment_is_a_problem() {
    let gate = Gate::with(Config::default(), |call| async move {
        call.fail(ErrorCode::Forbidden, "the token may not deploy this project");
    })
    .await;
    let response = gate.send("deployer-a", "POST /api/v1/deployments", b"tar").await;
    assert_eq!(
        (response.status, &response.json()["title"]),
        (403, &"forbidden".into())
    );
}

#[tokio::test]
async fn an_upload_over_the_limit_is_413_and_reaches_nobody() {
    let config = Config {
        deploy_len_max: 1000,
        ..Config::default()
    };
    let gate = Gate::with(config, |_| async { panic!("a call") }).await;
    assert_eq!(
        gate.send("deployer-a", "POST /api/v1/deployments", &[0; 1001])
            .await
            .status,
        413
    );
    assert!(gate.operations(Service::Resadmin).is_empty());
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_deployment() {
    let (cancelled, mut was_cancelled) = mpsc::channel::<ProjectId>(1);
    let gate = Gate::with(Config::default(), move |mut call| {
        let cancelled = cancelled.clone();
        async move {
            call.reply_stream(&());
            call.write(event_line(&DeployEvent::Building { doee: "d".into() }))
                .await;
            call.cancelled().await;
            cancelled.send(call.message.header.project).await.unwrap();
        }
    })
    .await;
    let mut client = gate.open("deployer-a", "POST /api/v1/deployments").await;
    assert_eq!(client.head().await.status, 200);
    client.chunk().await.unwrap();
    drop(client);
    soon("the cancel", was_cancelled.recv()).await.unwrap();
}
