//! What projects get where they share the platform.

use isms_protocol::{
    Service,
    resadmin::{ChangeProject, Operation},
};
use serde_json::json;

use crate::harness::{A, Gate};

#[tokio::test]
async fn an_administrator_changes_what_a_project_gets_and_everybody_sees_it() {
    let gate = Gate::start().await;
    let response = gate
        .send(
            "admin",
            "PATCH /api/v1/projects/a",
            br#"{"weight":7,"rate_max":9,"concurrency_max":3}"#,
        )
        .await;
    let shown = json!({ "weight": 7, "rate_max": 9, "concurrency_max": 3 });
    assert_eq!((response.status, response.json()), (200, shown));
    let seen = gate.seen.requests.lock().unwrap().last().unwrap().clone();
    assert_eq!(seen.header.operation, Operation::ChangeProject as u16);
    assert_eq!(seen.header.project, A);
    let asked: ChangeProject = seen.decode_body().unwrap();
    assert_eq!(
        asked,
        ChangeProject {
            weight: Some(7),
            rate_max: Some(9),
            concurrency_max: Some(3)
        }
    );
    let shown = gate.fetch("reader-a", "GET /api/v1/projects/a").await.json();
    assert_eq!(
        shown["settings"],
        json!({ "weight": 300, "rate_max": 0, "concurrency_max": 4 })
    );
}

#[tokio::test]
async fn changes_that_make_no_sense_or_are_not_allowed_reach_nobody() {
    let gate = Gate::start().await;
    for body in [
        "",
        "{",
        "[7]",
        r#"{"weight":-1}"#,
        r#"{"weight":"7"}"#,
        r#"{"colour":1}"#,
        r#"{"weight":7,"weight":8}"#,
        "[7,9,3]",
    ] {
        let response = gate
            .send("admin", "PATCH /api/v1/projects/a", body.as_bytes())
            .await;
        assert_eq!(response.status, 400, "{body}");
    }
    let body = br#"{"weight":7}"#;
    for (token, status) in [("admin-a", 403), ("deployer-a", 403), ("reader", 403)] {
        let response = gate.send(token, "PATCH /api/v1/projects/a", body).await;
        assert_eq!(response.status, status, "{token}");
    }
    assert!(gate.operations(Service::Resadmin).is_empty());
    let unknown = gate.send("admin", "PATCH /api/v1/projects/c", body).await;
    assert_eq!(unknown.status, 404);
}
