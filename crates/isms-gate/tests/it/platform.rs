//! Status, processes, workers, isolation, projects.

use isms_protocol::{Service, resadmin};
use serde_json::json;

use crate::harness::{A, Gate};

const A_ID: &str = "0a0a0a0a-0a0a-0a0a-0a0a-0a0a0a0a0a0a";
const VERSION_ID: &str = "02020202-0202-0202-0202-020202020202";

#[tokio::test]
async fn the_status_shows_services_and_counts() {
    let gate = Gate::start().await;
    let expected = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "services": [{ "service": "doer", "generation": 3, "up": true, "running": 1, "queued": 2 }],
        "ready": 4,
        "running": 5,
        "ended": { "done": 6, "failed": 7, "cancelled": 8, "expired": 9 },
        "events_dropped": 10,
        "logs": { "bytes": 0, "dropped": 0 },
    });
    assert_eq!(gate.fetch("reader", "GET /api/v1/status").await.json(), expected);
}

#[tokio::test]
async fn a_projects_token_sees_its_own_processes_and_workers() {
    let gate = Gate::start().await;
    let all = gate.fetch("reader", "GET /api/v1/processes").await.json();
    assert_eq!(all["processes"].as_array().unwrap().len(), 2);
    let own = gate.fetch("reader-a", "GET /api/v1/processes").await.json();
    let process = json!({
        "process": "07070707-0707-0707-0707-070707070707",
        "parent": null,
        "project": A_ID,
        "target": "doer",
        "doee": VERSION_ID,
        "class": "high",
        "queued": true,
        "age_us": 12,
    });
    assert_eq!(own["processes"], json!([process]));

    let all = gate.fetch("reader", "GET /api/v1/workers").await.json();
    assert_eq!(
        (all["workers"].as_array().unwrap().len(), &all["waiting"]),
        (3, &json!(1))
    );
    let worker = json!({
        "worker": 1,
        "pid": 2,
        "state": "idle",
        "project": A_ID,
        "project_name": "a",
        "doee": "d",
        "version": VERSION_ID,
        "process": null,
        "calls": 3,
        "age_ms": 4,
        "backend": "apptainer",
        "image": "1a".repeat(32),
    });
    let own = gate.fetch("reader-a", "GET /api/v1/workers").await.json();
    assert_eq!(own, json!({ "workers": [worker] }));
}

#[tokio::test]
async fn isolation_is_shown_layer_by_layer() {
    let gate = Gate::start().await;
    let layer = json!({ "name": "seccomp", "proven": true, "detail": "socket", "required": true });
    let expected = json!({ "layers": [layer], "sufficient": true });
    assert_eq!(
        gate.fetch("reader-a", "GET /api/v1/isolation").await.json(),
        expected
    );
}

#[tokio::test]
async fn projects_are_listed_and_shown_within_the_tokens_scope() {
    let gate = Gate::start().await;
    let names = |list: serde_json::Value| {
        let projects = list["projects"].as_array().unwrap().clone();
        projects
            .iter()
            .map(|project| project["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(gate.fetch("reader", "GET /api/v1/projects").await.json()),
        ["a", "b"]
    );
    assert_eq!(
        names(gate.fetch("reader-a", "GET /api/v1/projects").await.json()),
        ["a"]
    );
    let expected = json!({
        "id": A_ID,
        "name": "a",
        "revision": 1,
        "doees": [{ "name": "d", "version": VERSION_ID, "binary": "cd".repeat(32), "deadline_ms": 5000 }],
        "databases": ["readings"],
        "routes": ["GET /"],
            "settings": { "weight": 300, "rate_max": 0, "concurrency_max": 4 },
    });
    assert_eq!(
        gate.fetch("reader-a", "GET /api/v1/projects/a").await.json(),
        expected
    );
    let foreign = gate.fetch("reader-a", "GET /api/v1/projects/b").await;
    let unknown = gate.fetch("reader-a", "GET /api/v1/projects/c").await;
    assert_eq!(
        (foreign.status, foreign.text()),
        (404, unknown.text()),
        "a foreign project looks like none"
    );
}

#[tokio::test]
async fn only_a_project_in_scope_is_deleted() {
    let gate = Gate::start().await;
    assert_eq!(
        gate.fetch("deployer-a", "DELETE /api/v1/projects/b").await.status,
        404
    );
    assert_eq!(
        gate.operations(Service::Resadmin),
        [resadmin::Operation::DescribeProject as u16]
    );
    assert_eq!(
        gate.fetch("deployer-a", "DELETE /api/v1/projects/a").await.status,
        204
    );
    let seen = gate.seen.requests.lock().unwrap();
    let last = seen.last().unwrap().header;
    assert_eq!(
        (last.operation, last.project),
        (resadmin::Operation::DeleteProject as u16, A)
    );
    assert!(!last.principal.is_none());
}
