//! Tokens.

use std::sync::atomic::Ordering;

use isms_protocol::{
    Service,
    resadmin::{CreateToken, Operation, RevokeToken, Right},
};
use serde_json::json;

use crate::harness::{Gate, principals};

#[tokio::test]
async fn a_token_is_made_and_shown_once() {
    let gate = Gate::start().await;
    let body = json!({ "name": "ci", "project": "a", "rights": ["deploy", "read"], "expires_in_s": 60 });
    let response = gate
        .send("admin", "POST /api/v1/tokens", body.to_string().as_bytes())
        .await;
    assert_eq!(response.status, 201);
    assert_eq!(
        response.json(),
        json!({ "id": "09090909-0909-0909-0909-090909090909", "token": "secret" })
    );
    let seen = gate.seen.requests.lock().unwrap().last().unwrap().clone();
    let expected = CreateToken {
        name: "ci".into(),
        project: Some("a".into()),
        rights: vec![Right::Deploy, Right::Read],
        expires_in_s: Some(60),
    };
    assert_eq!(seen.decode_body::<CreateToken>().unwrap(), expected);
}

#[tokio::test]
async fn malformed_descriptions_are_400() {
    let gate = Gate::start().await;
    let long = json!({ "name": "x".repeat(101), "rights": ["read"] }).to_string();
    for body in [
        "",
        "{",
        "[]",
        r#"{"name":"x"}"#,
        r#"["x",null,["read"],60]"#,
        r#"{"name":"x","rights":["read"],"rights":["admin"]}"#,
        r#"{"name":"x","rights":[]}"#,
        r#"{"name":"x","rights":["root"]}"#,
        r#"{"name":" ","rights":["read"]}"#,
        r#"{"name":"a\u0000b","rights":["read"]}"#,
        r#"{"name":"x","rights":["read"],"expires_in_s":0}"#,
        r#"{"name":"x","rights":["read"],"expires_in_s":-1}"#,
        r#"{"name":"x","rights":["read"],"extra":1}"#,
        &long,
    ] {
        assert_eq!(
            gate.send("admin", "POST /api/v1/tokens", body.as_bytes())
                .await
                .status,
            400,
            "{body}"
        );
    }
    let huge = vec![b' '; 16 * 1024 + 1];
    assert_eq!(gate.send("admin", "POST /api/v1/tokens", &huge).await.status, 413);
    assert!(gate.operations(Service::Resadmin).is_empty());
}

#[tokio::test]
async fn a_projects_administrator_stays_within_its_project() {
    let gate = Gate::start().await;
    for (body, status) in [
        (json!({ "name": "x", "rights": ["admin"] }), 403),
        (json!({ "name": "x", "project": null, "rights": ["read"] }), 403),
        (json!({ "name": "x", "project": "b", "rights": ["read"] }), 404),
        (json!({ "name": "x", "project": "a", "rights": ["read"] }), 201),
    ] {
        let response = gate
            .send("admin-a", "POST /api/v1/tokens", body.to_string().as_bytes())
            .await;
        assert_eq!(response.status, status, "{body}");
    }
    let listed = gate.fetch("admin-a", "GET /api/v1/tokens").await.json();
    let names: Vec<_> = listed["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| token["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["admin-a", "reader-a", "invoker-a", "deployer-a"]);

    let foreign = principals()[0].id;
    assert_eq!(
        gate.fetch("admin-a", &format!("DELETE /api/v1/tokens/{foreign}"))
            .await
            .status,
        404
    );
    assert!(
        !gate
            .operations(Service::Resadmin)
            .contains(&(Operation::RevokeToken as u16))
    );
}

#[tokio::test]
async fn a_revoked_token_is_asked_about_again_at_once() {
    let gate = Gate::start().await;
    let id = principals()[0].id;
    let revoke = format!("DELETE /api/v1/tokens/{id}");
    assert_eq!(gate.fetch("admin", &revoke).await.status, 204);
    let seen = gate.seen.requests.lock().unwrap().last().unwrap().clone();
    assert_eq!(seen.decode_body::<RevokeToken>().unwrap(), RevokeToken { id });

    let asked = || gate.seen.authentications.load(Ordering::Relaxed);
    let before = asked();
    assert_eq!(
        gate.fetch("admin", "DELETE /api/v1/tokens/not-an-id")
            .await
            .status,
        404
    );
    assert_eq!(asked(), before + 1);
}
