//! Traces on a whole platform: where a call has spent its time, who may see it, and where else it goes.

mod otlp;

use std::time::Instant;

use serde_json::{Value, json};

use crate::{
    data::with_database,
    harness::{Http, Platform, Response, eventually},
    project::{Project, c_doee, manifest},
};

/// What two looks at the clock may differ by.
const LOOK_US: u64 = 1_000;

/// Two statements, one after the other.
const TWO_STATEMENTS: &str = "isms_rows rows; (void)tell;\n\
    if (run(call, \"store\", \"insert into items (name) values ('x')\", &rows)) return ISMS_FAILED;\n\
    if (run(call, \"store\", \"select count(*) from items\", &rows)) return ISMS_FAILED;\n\
    return say(call, \"ok\");";

fn fetch(platform: &Platform, token: &str, path: &str) -> Response {
    let authorization = format!("Bearer {token}");
    let fields = [("authorization", authorization.as_str())];
    Http::connect(platform.gate).send("GET", path, &fields, b"")
}

/// The trace of a process, once so many spans of it are there and it is known how each call of a Doee was run.
fn trace(platform: &Platform, process: &str, spans: usize) -> Value {
    let path = format!("/api/v1/traces/{process}");
    eventually("the trace", || {
        let response = fetch(platform, &platform.admin_token(), &path);
        if response.status != 200 {
            return None;
        }
        let trace: Value = serde_json::from_slice(&response.body).unwrap();
        let found = trace["calls"][0]["spans"].as_array().unwrap();
        let run = |span: &&Value| span["service"] == "doer" && !span["dispatched_us"].is_null();
        let runs_known = found.iter().filter(run).all(|span| !span["start"].is_null());
        (found.len() == spans && runs_known).then_some(trace)
    })
}

/// The process that made a response.
fn process(response: &Response) -> String {
    response.header("isms-process").unwrap().to_owned()
}

fn us(span: &Value, name: &str) -> u64 {
    span[name].as_u64().unwrap_or_else(|| panic!("{name} of {span}"))
}

/// From its arrival to its end, in Unix time.
fn extent(span: &Value) -> (u64, u64) {
    let at = us(span, "at_us");
    (at, at + us(span, "ended_us"))
}

fn token_of(platform: &Platform, project: &str) -> String {
    let made = platform.isms(&[
        "token",
        "create",
        "t",
        "--project",
        project,
        "--rights",
        "read",
        "--json",
    ]);
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    made["token"].as_str().unwrap().to_owned()
}

#[test]
fn a_call_shows_its_statements_within_the_time_that_its_client_has_waited() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(with_database("traced", "", TWO_STATEMENTS).path());
    assert_eq!(platform.get("/traced/").text(), "ok");
    let mut client = Http::connect(platform.http);
    let client_span = "b7ad6b7169203331";
    let parent = format!("00-0af7651916cd43dd8448eb211c80319c-{client_span}-01");
    let asked = Instant::now();
    let response = client.send("GET", "/traced/", &[("traceparent", &parent)], b"");
    let waited_us = asked.elapsed().as_micros() as u64;
    assert_eq!(response.text(), "ok");
    let process = process(&response);
    let shown = trace(&platform, &process, 3);
    assert_eq!(shown["trace"], "0af7651916cd43dd8448eb211c80319c");
    let call = &shown["calls"][0];
    assert_eq!(
        (&call["project_name"], &call["omitted"]),
        (&json!("traced"), &json!(0))
    );
    let [root, first, second] = &call["spans"].as_array().unwrap()[..] else {
        panic!("three spans: {call}");
    };
    assert_eq!(
        (&root["process"], &root["parent"]),
        (&json!(process), &Value::Null)
    );
    assert_eq!(
        (&root["doee"], &root["client_span"]),
        (&json!("main"), &json!(client_span))
    );
    let order = ["queued_us", "dispatched_us", "begun_us", "replied_us", "ended_us"];
    assert!(order.map(|name| us(root, name)).is_sorted(), "{root}");
    assert!(
        us(root, "begun_us") + us(root, "ran_us") <= us(root, "ended_us"),
        "{root}"
    );
    assert!(
        us(root, "ended_us") <= waited_us,
        "its client has waited {waited_us} us: {root}"
    );
    for statement in [first, second] {
        assert_eq!(
            (&statement["parent"], &statement["parent_attempt"]),
            (&json!(process), &json!(1))
        );
        let operation = (&statement["service"], &statement["operation"]);
        assert_eq!(operation, (&json!("dbriver"), &json!("transaction")));
        assert_eq!(statement["outcome"], "done");
    }
    let (began, ended) = extent(root);
    let (first, second) = (extent(first), extent(second));
    let follows = |later: u64, earlier: u64| later + LOOK_US >= earlier;
    assert!(
        follows(first.0, began) && follows(second.0, first.1) && follows(ended, second.1),
        "{call}"
    );
    let in_statements = first.1 - first.0 + second.1 - second.0;
    assert!(
        in_statements <= us(root, "ran_us") + LOOK_US,
        "it ran while it asked: {call}"
    );

    let listed = fetch(
        &platform,
        &platform.admin_token(),
        "/api/v1/projects/traced/traces",
    );
    let listed: Value = serde_json::from_slice(&listed.body).unwrap();
    let row = &listed["traces"][0];
    assert_eq!(
        (&row["process"], &row["outcome"], &row["spans"]),
        (&json!(process), &json!("done"), &json!(3))
    );
    assert_eq!(us(row, "took_us"), us(root, "ended_us"));
}

#[test]
fn a_call_says_whether_its_worker_was_started_for_it_or_taken_from_the_pool_or_warm() {
    let starts = |settings: &[&str]| {
        let platform = Platform::start_with(settings)?;
        platform.deploy(Project::c("starts", "return say(call, \"ok\");").path());
        let processes = [(); 2].map(|()| process(&platform.get("/starts/")));
        let shown = processes.map(|process| trace(&platform, &process, 1));
        Some(shown.map(|trace| trace["calls"][0]["spans"][0].clone()))
    };
    let Some([cold, warm]) = starts(&["[workers]", "pool = 0"]) else {
        return;
    };
    assert_eq!((&cold["start"], &warm["start"]), (&json!("cold"), &json!("warm")));
    assert!(
        us(&cold, "begun_us") > us(&warm, "begun_us"),
        "a start takes time: {cold} {warm}"
    );
    // The pool is filled before the platform says that it is ready, or soon after; a deployment takes longer.
    let [first, second] = starts(&["[workers]", "pool = 2"]).unwrap();
    assert_eq!(
        (&first["start"], &second["start"]),
        (&json!("pooled"), &json!("warm"))
    );
}

#[test]
fn failed_and_expired_calls_are_told_beyond_the_rate() {
    // One in a second, and eight at once.
    let Some(platform) = Platform::start_with(&["[traces]", "per_s = 1"]) else {
        return;
    };
    let execute = "if (query_is(call, \"fail\")) return ISMS_INVALID; \
        char piece[4096]; size_t len = 1; \
        while (len) { isms_result r = isms_body_read(call, piece, sizeof piece, &len); if (r != ISMS_OK) return r; } \
        return say(call, \"ok\");";
    let keys = "concurrency = 1\nworkers = { min = 1 }\ndeadline_ms = 20000";
    let manifest = manifest("unlucky", keys).replace("\"GET /\"", "\"GET /\"\ndeadline_ms = 500");
    let project = Project::new(&manifest).file("doees/main/main.c", c_doee(execute));
    platform.deploy(project.path());
    for _ in 0..30 {
        assert_eq!(platform.request("POST", "/unlucky/", "").text(), "ok");
    }
    let failed = platform.request("POST", "/unlucky/?fail", "");
    assert_eq!(failed.status, 500);
    let path = format!("/api/v1/traces/{}", failed.header("isms-trace").unwrap());
    let shown = eventually("the failed call", || {
        let response = fetch(&platform, &platform.admin_token(), &path);
        (response.status == 200).then(|| serde_json::from_slice::<Value>(&response.body).unwrap())
    });
    assert_eq!(shown["calls"][0]["outcome"], "failed");

    let mut stuck = Http::connect(platform.http);
    let head = "POST /unlucky/ HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n";
    stuck.write(head.as_bytes()).unwrap();
    eventually("a call that runs", || {
        let listed = platform.isms(&["top", "--json"]);
        let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
        (listed["calls"][0]["running"] == 1).then_some(())
    });
    assert_eq!(platform.get("/unlucky/").status, 504);
    drop(stuck);
    let expired = eventually("the expired call", || {
        let listed = fetch(&platform, &platform.admin_token(), "/api/v1/traces?count=200");
        let listed: Value = serde_json::from_slice(&listed.body).unwrap();
        let mut rows = listed["traces"].as_array().unwrap().iter();
        rows.find(|row| row["outcome"] == "expired").cloned()
    });
    assert!(us(&expired, "took_us") >= 400_000, "{expired}");
    let shown = trace(&platform, expired["process"].as_str().unwrap(), 1);
    assert_eq!(
        shown["calls"][0]["spans"][0]["dispatched_us"],
        Value::Null,
        "it never ran"
    );
    let listed = fetch(&platform, &platform.admin_token(), "/api/v1/traces?count=200");
    let listed: Value = serde_json::from_slice(&listed.body).unwrap();
    let count = listed["traces"].as_array().unwrap().len();
    assert!(count < 30, "one in a second was to be traced: {count}");
}

#[test]
fn another_projects_token_does_not_see_it() {
    let Some(platform) = Platform::start() else { return };
    for name in ["mine", "yours"] {
        platform.deploy(Project::c(name, "return say(call, \"ok\");").path());
    }
    let [mine, yours] = ["mine", "yours"].map(|name| process(&platform.get(&format!("/{name}/"))));
    let (shown, _) = (trace(&platform, &yours, 1), trace(&platform, &mine, 1));
    let token = token_of(&platform, "mine");
    assert_eq!(
        fetch(&platform, &token, &format!("/api/v1/traces/{mine}")).status,
        200
    );
    for id in [yours.as_str(), shown["trace"].as_str().unwrap()] {
        for path in [
            "/api/v1/traces",
            "/api/v1/projects/mine/traces",
            "/api/v1/projects/yours/traces",
        ] {
            assert_eq!(
                fetch(&platform, &token, &format!("{path}/{id}")).status,
                404,
                "{path}"
            );
        }
    }
    let listed = fetch(&platform, &token, "/api/v1/traces");
    let listed: Value = serde_json::from_slice(&listed.body).unwrap();
    let names: Vec<_> = listed["traces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["project_name"])
        .collect();
    assert_eq!(names, ["mine"]);
}

#[test]
fn a_durable_call_shows_each_of_its_attempts() {
    let Some(platform) = Platform::start() else { return };
    let execute = "static int calls; if (!calls++) return ISMS_INVALID; return say(call, \"ok\");";
    let keys = "workers = { max = 1 }\nretry = { attempts = 3, backoff_ms = 200, backoff_max_ms = 200 }";
    platform.deploy(Project::c_with("again", keys, execute).path());
    let mut client = Http::connect(platform.http);
    let accepted = client.send("POST", "/again/", &[("prefer", "respond-async")], b"");
    assert_eq!(accepted.status, 202);
    let process = process(&accepted);
    let shown = trace(&platform, &process, 2);
    let spans = shown["calls"][0]["spans"].as_array().unwrap();
    let of_each = |name: &str| [&spans[0][name], &spans[1][name]];
    assert_eq!(of_each("process"), [&json!(process), &json!(process)]);
    assert_eq!(of_each("attempt"), [&json!(1), &json!(2)]);
    assert_eq!(of_each("outcome"), [&json!("failed"), &json!("done")]);
    assert_eq!(of_each("durable"), [&json!(true), &json!(true)]);
    assert!(
        extent(&spans[0]).1 <= extent(&spans[1]).0 + LOOK_US,
        "one after the other: {shown}"
    );
    assert!(
        us(&spans[1], "queued_us") >= 100_000,
        "the second has waited for its time: {shown}"
    );
    assert_eq!(shown["calls"][0]["outcome"], "done");
}

#[test]
fn the_command_draws_a_call_and_lists_the_latest() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(with_database("drawn", "", TWO_STATEMENTS).path());
    let id = process(&platform.get("/drawn/"));
    trace(&platform, &id, 3);
    let run = |arguments: &[&str]| {
        let output = platform.isms(&[&["trace"], arguments].concat());
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        String::from_utf8(output.stdout).unwrap()
    };
    let drawn = run(&[&id]);
    assert!(drawn.starts_with(&format!("process {id}  trace ")), "{drawn}");
    assert!(!drawn.contains('\x1b'), "colours are for terminals: {drawn:?}");
    let labels: Vec<_> = drawn.lines().map(str::trim_start).collect();
    let count = |label: &str| labels.iter().filter(|line| line.starts_with(label)).count();
    assert_eq!(
        [count("drawn/main "), count("dbriver transaction "), count("run ")],
        [1, 2, 1],
        "{drawn}"
    );
    let json: Value = serde_json::from_str(&run(&[&id, "--json"])).unwrap();
    assert_eq!(json["calls"][0]["process"], id.as_str());
    let listed = run(&["--project", "drawn", "--doee", "main"]);
    let row: Vec<_> = listed.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..3], [id.as_str(), "drawn/main", "done"], "{listed}");
    let unknown = platform.isms(&["trace", "00000000-0000-7000-8000-000000000001"]);
    assert_eq!(unknown.status.code(), Some(3));
}
