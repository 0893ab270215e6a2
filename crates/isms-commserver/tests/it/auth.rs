//! Routes that need a token.

use std::sync::atomic::Ordering;

use isms_protocol::{
    ProjectId,
    commserver::{Auth, HttpRoute},
    resadmin::Right,
};

use crate::harness::{Edge, PROJECT, replies, route, tell};

fn guarded() -> Vec<HttpRoute> {
    vec![HttpRoute {
        auth: Auth::Token,
        ..route("GET /a")
    }]
}

#[tokio::test]
async fn a_token_opens_the_route_and_names_the_principal() {
    let edge = Edge::with_routes(guarded(), tell).await;
    edge.resadmin.add_token("mine", Some(PROJECT), &[Right::Invoke]);
    let response = edge
        .fetch_with("GET /p/a", &[("authorization", "Bearer mine")])
        .await;
    assert_eq!(
        (response.status, &*response.text()),
        (200, "GET /a /a [] ? <mine> Some(0)")
    );
}

#[tokio::test]
async fn no_token_or_a_wrong_one_is_401_and_one_that_does_not_fit_is_403() {
    let edge = Edge::with_routes(guarded(), |_| async { panic!("a call") }).await;
    edge.resadmin
        .add_token("foreign", Some(ProjectId::from_bytes([9; 16])), &[Right::Admin]);
    edge.resadmin.add_token("reader", Some(PROJECT), &[Right::Read]);
    for (fields, status) in [
        (&[][..], 401),
        (&[("authorization", "Bearer unknown")][..], 401),
        (&[("authorization", "Basic bWluZQ==")][..], 401),
        (
            &[("authorization", "Bearer a"), ("authorization", "Bearer b")][..],
            401,
        ),
        (&[("cookie", "isms_token=foreign")][..], 401),
        (&[("authorization", "Bearer foreign")][..], 403),
        (&[("authorization", "Bearer reader")][..], 403),
    ] {
        let response = edge.fetch_with("GET /p/a", fields).await;
        assert_eq!(response.status, status, "{fields:?}");
        let challenge = if status == 401 {
            "Bearer realm=\"isms\""
        } else {
            ""
        };
        assert_eq!(response.header("www-authenticate"), challenge, "{fields:?}");
    }
}

#[tokio::test]
async fn an_accepted_token_is_asked_about_once_and_a_refused_one_each_time() {
    let edge = Edge::with_routes(guarded(), tell).await;
    edge.resadmin.add_token("all", None, &[Right::Admin]);
    for _ in 0..5 {
        assert_eq!(
            edge.fetch_with("GET /p/a", &[("authorization", "Bearer all")])
                .await
                .status,
            200
        );
    }
    assert_eq!(edge.resadmin.authentications.load(Ordering::Relaxed), 1);
    for _ in 0..2 {
        assert_eq!(
            edge.fetch_with("GET /p/a", &[("authorization", "Bearer no")])
                .await
                .status,
            401
        );
    }
    assert_eq!(edge.resadmin.authentications.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn the_doee_sees_the_principal_and_never_the_token() {
    let edge = Edge::with_routes(guarded(), |call| {
        let invocation: isms_protocol::doer::Invocation = call.message.decode_body().unwrap();
        let leaked = invocation.headers.iter().any(|(name, _)| name == "authorization");
        let text = format!("{leaked} {}", call.message.header.principal);
        call.reply(&replies(200, &[]), text);
        async {}
    })
    .await;
    let id = edge.resadmin.add_token("mine", None, &[Right::Invoke]);
    let response = edge
        .fetch_with("GET /p/a", &[("authorization", "Bearer mine")])
        .await;
    assert_eq!(response.text(), format!("false {id}"));
}
