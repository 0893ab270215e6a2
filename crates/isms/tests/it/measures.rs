//! How calls went: what `isms top`, the API and `/metrics` say of calls that a test has made.

use serde_json::{Value, json};

use crate::{
    harness::{Http, Platform, Response, eventually},
    project::{Project, c_doee, manifest},
};

/// Answers, fails, or waits for a body that does not come.
const EXECUTE: &str = "if (query_is(call, \"fail\")) return ISMS_INVALID; \
    char piece[4096]; size_t len = 1; \
    while (len) { isms_result r = isms_body_read(call, piece, sizeof piece, &len); if (r != ISMS_OK) return r; } \
    return say(call, \"ok\");";

/// What `isms top` says.
pub(crate) fn top(platform: &Platform) -> Value {
    let output = platform.isms(&["top", "--json"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The only class of the only Doee of a project.
fn class_of(listed: &Value, project: &str) -> Option<Value> {
    let mut rows = listed["calls"].as_array().unwrap().iter();
    let row = rows.find(|row| row["project_name"] == project)?;
    assert_eq!(row["doee"], "main");
    let classes = row["classes"].as_array().unwrap();
    assert_eq!(classes.len(), 1);
    Some(classes[0].clone())
}

fn metrics(platform: &Platform, token: &str) -> Response {
    let authorization = format!("Bearer {token}");
    let fields = [("authorization", authorization.as_str())];
    Http::connect(platform.gate).send("GET", "/metrics", &fields, b"")
}

#[test]
fn calls_show_by_outcome_deadline_and_time() {
    let Some(platform) = Platform::start() else { return };
    let keys = "class = \"high\"\nconcurrency = 1\nworkers = { min = 1 }\ndeadline_ms = 20000";
    // Whoever asks with GET has less time.
    let manifest = manifest("watched", keys).replace("\"GET /\"", "\"GET /\"\ndeadline_ms = 500");
    let project = Project::new(&manifest).file("doees/main/main.c", c_doee(EXECUTE));
    platform.deploy(project.path());
    for _ in 0..3 {
        assert_eq!(platform.request("POST", "/watched/", "").text(), "ok");
    }
    assert_eq!(platform.request("POST", "/watched/?fail", "").status, 500);
    // One call waits for its body until its caller leaves, and another one behind it in the queue for too long.
    let mut stuck = Http::connect(platform.http);
    let head = "POST /watched/ HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n";
    stuck.write(head.as_bytes()).unwrap();
    eventually("a call that runs", || {
        let listed = top(&platform);
        let rows = listed["calls"].as_array().unwrap();
        (rows[0]["running"] == 1).then_some(())
    });
    assert_eq!(platform.get("/watched/").status, 504);
    drop(stuck);

    let class = eventually("six calls that have ended", || {
        let class = class_of(&top(&platform), "watched")?;
        let outcomes = class["outcomes"].as_object().unwrap();
        let ended: u64 = outcomes.values().filter_map(Value::as_u64).sum();
        (ended == 6).then_some(class)
    });
    assert_eq!(class["class"], "high");
    let outcomes = &class["outcomes"];
    assert_eq!(
        ["done", "failed", "expired", "cancelled"].map(|name| &outcomes[name]),
        [3, 1, 1, 1]
    );
    assert_eq!(class["deadlines"]["met"], 4);
    assert_eq!(class["deadlines"]["missed_queued"], 1);
    let long = class["ran"]["counts"].as_array().unwrap();
    let waited = class["waited"]["counts"].as_array().unwrap();
    let sum = |counts: &[Value]| counts.iter().filter_map(Value::as_u64).sum::<u64>();
    assert_eq!(sum(waited), 5, "the call that expired had no turn");
    assert!(sum(&long[11..]) >= 1, "one ran for half a second: {class}");

    let shown = platform.isms(&["top"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(!text.contains('\x1b'), "colours are for terminals: {text:?}");
    let row = text.lines().find(|line| line.starts_with("watched/main"));
    let words: Vec<_> = row.unwrap().split_whitespace().collect();
    assert_eq!(words[..3], ["watched/main", "high", "6"], "{text}");

    let read = metrics(&platform, &platform.admin_token());
    assert_eq!(
        read.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let text = read.text();
    let expired = text.lines().find(|line| {
        line.starts_with("isms_calls_total{project=\"watched\",doee=\"main\",")
            && line.contains("\"expired\"")
    });
    assert!(
        expired
            .unwrap()
            .ends_with("class=\"high\",outcome=\"expired\"} 1"),
        "{text}"
    );
    assert!(text.contains("isms_service_up{service=\"doer\"} 1"), "{text}");
}

#[test]
fn a_projects_token_reads_the_metrics_of_its_own_doees_only() {
    let Some(platform) = Platform::start() else { return };
    for name in ["mine", "yours"] {
        platform.deploy(Project::c(name, "return say(call, \"ok\");").path());
        assert_eq!(platform.get(&format!("/{name}/")).text(), "ok");
    }
    let made = platform.isms(&[
        "token",
        "create",
        "t",
        "--project",
        "mine",
        "--rights",
        "read",
        "--json",
    ]);
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let text = metrics(&platform, made["token"].as_str().unwrap()).text();
    assert!(text.contains("project=\"mine\""), "{text}");
    assert!(
        !text.contains("yours") && !text.contains("isms_service"),
        "{text}"
    );
    assert_eq!(metrics(&platform, "nobody").status, 401);
    let listed = top(&platform);
    let names: Vec<_> = listed["calls"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["project_name"])
        .collect();
    assert_eq!(names, [&json!("mine"), &json!("yours")]);
}
