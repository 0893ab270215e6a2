//! Who gets in, and under which name.

use std::collections::BTreeSet;

use isms_gate::Config;
use isms_http::test_support::{Client, soon};
use serde_json::Value;

use crate::harness::Gate;

/// Every operation of the OpenAPI document, with parameters filled in: request, right.
async fn documented(gate: &Gate) -> Vec<(String, Option<String>)> {
    let document = gate.fetch("", "GET /api/v1/openapi.json").await;
    assert_eq!(
        (document.status, &*document.header("content-type")),
        (200, "application/json")
    );
    let mut operations = Vec::new();
    for (path, methods) in document.json()["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let path = path.replace("{project}", "a").replace("{doee}", "d");
            let path = path.replace("{id}", "01010101-0101-0101-0101-010101010101");
            let right = operation["x-isms-right"].as_str().map(str::to_owned);
            operations.push((format!("{} {path}", method.to_uppercase()), right));
        }
    }
    operations
}

#[tokio::test]
async fn every_documented_operation_wants_a_token_with_its_right() {
    let gate = Gate::start().await;
    let operations = documented(&gate).await;
    assert_eq!(operations.len(), 30);
    for (request, right) in operations {
        let anonymous = gate.fetch("", &request).await;
        let Some(right) = right else {
            assert_eq!(anonymous.status, 200, "{request}");
            continue;
        };
        assert_eq!(anonymous.status, 401, "{request}");
        assert_eq!(
            anonymous.header("www-authenticate"),
            "Bearer realm=\"isms\"",
            "{request}"
        );
        assert_eq!(gate.fetch("unknown", &request).await.status, 401, "{request}");
        for (token, held) in [
            ("reader-a", "read"),
            ("invoker-a", "invoke"),
            ("deployer-a", "deploy"),
        ] {
            if held != right {
                assert_eq!(
                    gate.fetch(token, &request).await.status,
                    403,
                    "{request} as {token}"
                );
            }
        }
    }
    assert!(
        gate.seen.requests.lock().unwrap().is_empty(),
        "a refused request reaches no service"
    );
}

#[tokio::test]
async fn the_documents_references_all_resolve() {
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|field| references(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let gate = Gate::start().await;
    let document = gate.fetch("", "GET /api/v1/openapi.json").await.json();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 15);
    for reference in found {
        assert!(
            document.pointer(reference.strip_prefix('#').unwrap()).is_some(),
            "{reference} is nowhere"
        );
    }
}

#[tokio::test]
async fn a_cookie_is_no_credential() {
    let gate = Gate::start().await;
    let fields = [("cookie", "isms_token=admin; authorization=Bearer admin")];
    let response = Client::fetch(gate.address, "GET /api/v1/status", &fields, b"").await;
    assert_eq!(response.status, 401);
}

#[tokio::test]
async fn a_foreign_host_name_is_421_even_with_a_token() {
    let gate = Gate::with(
        Config {
            hosts: vec!["isms.example.com".into()],
            ..Config::default()
        },
        |_| async {},
    )
    .await;
    let port = gate.address.port();
    let status = async |request: &str, host: String| {
        let fields = [("host", &*host), ("authorization", "Bearer admin")];
        Client::fetch(gate.address, request, &fields, b"").await.status
    };
    for host in ["127.0.0.1", "localhost", "[::1]", "isms.example.com"] {
        assert_eq!(
            status("GET /api/v1/status", format!("{host}:{port}")).await,
            200,
            "{host}"
        );
    }
    for host in ["evil.example", "127.0.0.1.evil.example", "localhost."] {
        assert_eq!(
            status("GET /api/v1/status", format!("{host}:{port}")).await,
            421,
            "{host}"
        );
        assert_eq!(status("GET /", format!("{host}:{port}")).await, 421, "{host}");
    }
    assert_eq!(
        status("GET /api/v1/status", "127.0.0.1:1".into()).await,
        421,
        "another port"
    );
    let absolute = format!("GET http://evil.example:{port}/api/v1/status");
    assert_eq!(
        status(&absolute, format!("localhost:{port}")).await,
        421,
        "in the target"
    );
}

#[tokio::test]
async fn other_origins_get_no_permission() {
    let gate = Gate::start().await;
    let fields = [
        ("origin", "http://evil.example"),
        ("access-control-request-method", "DELETE"),
    ];
    let preflight = Client::fetch(gate.address, "OPTIONS /api/v1/projects/a", &fields, b"").await;
    assert_eq!(
        (preflight.status, &*preflight.header("allow")),
        (204, "DELETE, GET, HEAD, PATCH")
    );
    assert_eq!(preflight.header("access-control-allow-origin"), "");
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("cache-control", "no-store"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(preflight.header(name), value, "{name}");
    }
}

#[tokio::test]
async fn the_page_is_complete_in_itself() {
    let gate = Gate::start().await;
    let page = gate.fetch("", "GET /").await;
    assert_eq!(
        (page.status, &*page.header("content-type")),
        (200, "text/html; charset=utf-8")
    );
    assert!(
        page.header("content-security-policy")
            .starts_with("default-src 'none'")
    );
    let text = page.text();
    assert!(text.contains("href=\"/api/v1/openapi.json\""));
    for external in ["src=", "url(", "@import", "<script", "<link"] {
        assert!(!text.contains(external), "the page has {external}");
    }
}

#[tokio::test]
async fn unknown_routes_and_methods_are_problems() {
    let gate = Gate::start().await;
    for (request, status) in [
        ("GET /api/v1/nothing", 404),
        ("GET /api/v1/status/", 404),
        ("PUT /api/v1/status", 405),
        ("POST /", 405),
    ] {
        let response = gate.fetch("admin", request).await;
        assert_eq!(response.status, status, "{request}");
        assert_eq!(
            response.header("content-type"),
            "application/problem+json",
            "{request}"
        );
    }
    assert_eq!(
        gate.fetch("admin", "PUT /api/v1/status").await.header("allow"),
        "GET, HEAD"
    );
}

#[tokio::test]
async fn without_a_kernel_the_api_is_503_and_the_page_still_there() {
    let mut gate = Gate::start().await;
    gate.kernel.stop().await;
    let gone = async { while gate.fetch("admin", "GET /api/v1/status").await.status != 503 {} };
    soon("the loss", gone).await;
    assert_eq!(
        gate.fetch("admin", "GET /api/v1/projects")
            .await
            .header("retry-after"),
        "1"
    );
    assert_eq!(gate.fetch("", "GET /").await.status, 200);
    gate.kernel.restart();
    let back = async { while gate.fetch("admin", "GET /api/v1/status").await.status != 200 {} };
    soon("the return", back).await;
}

#[tokio::test]
async fn a_stop_ends_followers_and_the_server() {
    let gate = Gate::start().await;
    let mut follower = gate
        .open("admin", "GET /api/v1/projects/a/doees/d/logs?follow=true")
        .await;
    assert_eq!(follower.head().await.status, 200);
    gate.stop.send_replace(true);
    assert_eq!(follower.chunk().await, None);
    soon("the end", gate.task).await.unwrap().unwrap();
}
