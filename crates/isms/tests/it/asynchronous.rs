//! Calls that go on without their client, on a whole platform: accepted, asked about, waited for, cancelled, forgotten.

use serde_json::Value;

use crate::{
    harness::{Http, Platform, Response, descendants, eventually},
    project::Project,
};

const ASYNC: (&str, &str) = ("prefer", "respond-async");

/// A function that answers at once, or runs until it is stopped where the query says so; one call at a time.
fn project(name: &str) -> Project {
    project_with(name, "")
}

fn project_with(name: &str, keys: &str) -> Project {
    let keys = &format!("timeout_ms = 60000\ndeadline_ms = 60000\nworkers = {{ min = 0, max = 1 }}\n{keys}");
    let execute = "if (query_is(call, \"hang\")) for (;;) usleep(1000);\nreturn say(call, \"made\");";
    Project::c_with(name, keys, execute)
}

fn send(platform: &Platform, method: &str, path: &str, fields: &[(&str, &str)]) -> Response {
    Http::connect(platform.http).send(method, path, fields, b"")
}

/// Has a call accepted; its URL.
fn accept(platform: &Platform, path: &str) -> String {
    let response = send(platform, "POST", path, &[ASYNC]);
    assert_eq!(response.status, 202, "{}", response.text());
    assert_eq!(response.header("preference-applied"), Some("respond-async"));
    response.header("location").unwrap().to_owned()
}

fn state(platform: &Platform, url: &str) -> Value {
    let response = platform.get(url);
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()["state"].clone()
}

fn await_state(platform: &Platform, url: &str, wanted: &str) {
    eventually(wanted, || (state(platform, url) == wanted).then_some(()));
}

#[test]
fn a_call_is_accepted_waited_for_and_read_after_its_client_left() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(project("later").path());
    let url = accept(&platform, "/later/");
    assert!(url.starts_with("/later/.processes/"), "{url}");
    assert_eq!(state(&platform, &format!("{url}?wait=60")), "done");
    let result = platform.get(&format!("{url}/result"));
    assert_eq!((result.status, result.text()), (200, "made".into()));
    assert_eq!(
        result.header("isms-process"),
        url.rsplit('/').next(),
        "the call's own id"
    );
    let foreign = send(
        &platform,
        "GET",
        &url.replace("/later/", "/other/"),
        &[("authorization", "Bearer x")],
    );
    assert_eq!(foreign.status, 404);
}

#[test]
fn a_running_and_a_queued_call_are_cancelled() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(project("later").path());
    let running = accept(&platform, "/later/?hang");
    await_state(&platform, &running, "running");
    let early = platform.get(&format!("{running}/result"));
    assert_eq!(early.status, 409, "{}", early.text());
    // The only worker is busy, so the last of many waits in the Kernel, whatever was sent ahead.
    let waiting: Vec<String> = (0..40).map(|_| accept(&platform, "/later/?hang")).collect();
    let last = waiting.last().unwrap();
    assert_eq!(state(&platform, last), "queued");
    let cancelled = send(&platform, "DELETE", last, &[]);
    assert_eq!(
        (cancelled.status, &cancelled.json()["state"]),
        (200, &Value::from("cancelled"))
    );
    for url in &waiting {
        let cancelled = send(&platform, "DELETE", url, &[]);
        assert!([200, 202].contains(&cancelled.status), "{}", cancelled.text());
        assert_eq!(state(&platform, &format!("{url}?wait=60")), "cancelled");
    }
    assert_eq!(send(&platform, "DELETE", &running, &[]).status, 202);
    assert_eq!(state(&platform, &format!("{running}?wait=60")), "cancelled");
    assert_eq!(platform.get(&format!("{running}/result")).status, 499);
    // The worker was stopped with the call, and another one serves.
    let after = accept(&platform, "/later/");
    assert_eq!(state(&platform, &format!("{after}?wait=60")), "done");
}

#[test]
fn results_are_forgotten_in_time_and_bounded_in_number() {
    let settings = ["[results]", "keep_s = 1", "count_max = 4"];
    let Some(platform) = Platform::start_with(&settings) else {
        return;
    };
    for name in ["later", "other"] {
        platform.deploy(project(name).path());
    }
    let hanging = accept(&platform, "/later/?hang");
    await_state(&platform, &hanging, "running");
    // A quarter of four is one, and another project has its own.
    let refused = send(&platform, "POST", "/later/", &[ASYNC]);
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(refused.header("retry-after"), Some("1"));
    let other = accept(&platform, "/other/");
    eventually("the end of a result", || {
        (platform.get(&other).status == 404).then_some(())
    });
    assert_eq!(
        state(&platform, &hanging),
        "running",
        "what has not ended is not forgotten"
    );
}

#[test]
fn a_killed_kernel_still_has_what_ran_what_waited_and_what_had_ended() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(project("later").path());
    let ended = accept(&platform, "/later/");
    assert_eq!(state(&platform, &format!("{ended}?wait=60")), "done");
    let running = accept(&platform, "/later/?hang");
    await_state(&platform, &running, "running");
    let waiting = accept(&platform, "/later/");
    let workers = platform.workers("later");
    let worker = descendants(platform.pid()).into_iter();
    let worker = worker
        .into_iter()
        .find(|process| workers[0]["pid"] == process.pid)
        .unwrap();
    platform.process("kernel").unwrap().kill();
    let result = eventually("an answer of the new Kernel", || {
        let answer = platform.get(&format!("{ended}/result"));
        (answer.status == 200).then_some(answer)
    });
    assert_eq!(result.text(), "made");
    // Until the Doer has said that it has it, it is queued or running as it was.
    await_state(&platform, &running, "running");
    assert!(worker.is_alive(), "the attempt goes on where it was");
    assert_eq!(state(&platform, &waiting), "queued");
    assert_eq!(send(&platform, "DELETE", &running, &[]).status, 202);
    assert_eq!(state(&platform, &format!("{running}?wait=60")), "cancelled");
    assert_eq!(state(&platform, &format!("{waiting}?wait=60")), "done");
}

#[test]
fn a_killed_kernel_has_lost_calls_that_are_not_durable_and_says_so() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(project_with("later", "durable = false").path());
    let url = accept(&platform, "/later/");
    assert_eq!(state(&platform, &format!("{url}?wait=60")), "done");
    let kernel = platform.process("kernel").unwrap();
    kernel.kill();
    let lost = eventually("an answer of the new Kernel", || {
        let answer = platform.get(&url);
        (answer.status == 404).then_some(answer)
    });
    let problem = lost.json();
    assert_eq!(problem["type"], "https://isms.invalid/errors/NotFound");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("lost with the kernel"), "{detail}");
}

#[test]
fn the_command_line_calls_waits_and_cancels_and_other_tokens_find_nothing() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(project("later").path());
    let isms = |arguments: &[&str]| {
        let output = platform.isms(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let text = isms(&["invoke", "later/main", "--async", "--json"]);
    let accepted: Value = serde_json::from_str(&text).unwrap();
    let id = accepted["process"].as_str().unwrap();
    let url = accepted["url"].as_str().unwrap();
    assert_eq!(url, format!("http://{}/api/v1/processes/{id}", platform.gate));
    assert_eq!(isms(&["process", id, "--wait", "--result"]), "made");
    let state: Value = serde_json::from_str(&isms(&["process", id, "--json"])).unwrap();
    assert_eq!(state["state"], "done");
    assert!(isms(&["cancel", id]).contains("done"), "it has ended");

    let with_rights = |rights: &str, arguments: &[&str]| {
        let token = isms(&["token", "create", "foreign", "--rights", rights]);
        let mut foreign = platform.command(arguments);
        foreign.env("ISMS_URL", format!("http://{}", platform.gate));
        foreign.env("ISMS_TOKEN", token.lines().last().unwrap());
        foreign.output().unwrap()
    };
    let refused = with_rights("invoke", &["process", id]);
    assert_eq!(refused.status.code(), Some(3));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("there is no such process"), "{text}");
    // Who administers sees how far it is, and reads nothing.
    let seen = with_rights("admin", &["process", id, "--json"]);
    let state: Value = serde_json::from_slice(&seen.stdout).unwrap();
    assert_eq!(state["state"], "done");
    let refused = with_rights("admin", &["process", id, "--result"]);
    assert_eq!(refused.stdout, b"", "{refused:?}");
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("only who made the call"), "{text}");
}

#[test]
fn an_administrator_cancels_a_call_whose_token_was_revoked() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(project("later").path());
    let admin = format!("Bearer {}", platform.admin_token());
    let manage = |method: &str, path: &str, token: &str, body: &str| {
        let fields = [("authorization", token), ("prefer", "respond-async")];
        Http::connect(platform.gate).send(method, path, &fields, body.as_bytes())
    };
    let token = r#"{"name":"t","project":"later","rights":["invoke"]}"#;
    let made = manage("POST", "/api/v1/tokens", &admin, token).json();
    let own = format!("Bearer {}", made["token"].as_str().unwrap());
    let invoke = "/api/v1/projects/later/doees/main/invoke?hang";
    let accepted = manage("POST", invoke, &own, "");
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let url = accepted.header("location").unwrap().to_owned();
    let token = format!("/api/v1/tokens/{}", made["id"].as_str().unwrap());
    assert_eq!(manage("DELETE", &token, &admin, "").status, 204);
    assert_eq!(manage("DELETE", &url, &own, "").status, 401);
    eventually("running", || {
        let state = manage("GET", &url, &admin, "").json();
        (state["state"] == "running").then_some(())
    });
    assert_eq!(manage("DELETE", &url, &admin, "").status, 202);
    let state = manage("GET", &format!("{url}?wait=60"), &admin, "").json();
    assert_eq!(state["state"], "cancelled");
    assert_eq!(manage("GET", &format!("{url}/result"), &admin, "").status, 403);
}

#[test]
fn a_deleted_project_takes_its_calls_its_results_and_its_name_with_it() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(project("later").path());
    let admin = format!("Bearer {}", platform.admin_token());
    let metrics = || {
        let fields = [("authorization", admin.as_str())];
        let metrics = Http::connect(platform.gate).send("GET", "/metrics", &fields, b"");
        assert_eq!(metrics.status, 200, "{}", metrics.text());
        metrics.text()
    };
    let running = accept(&platform, "/later/?hang");
    await_state(&platform, &running, "running");
    let waiting: Vec<String> = (0..40).map(|_| accept(&platform, "/later/?hang")).collect();
    assert_eq!(state(&platform, waiting.last().unwrap()), "queued");
    assert!(metrics().contains("project=\"later\""));

    let deleted = platform.isms(&["delete", "later"]);
    assert!(deleted.status.success(), "{deleted:?}");
    assert!(!metrics().contains("later"));
    let processes = || {
        let fields = [("authorization", admin.as_str())];
        let listed = Http::connect(platform.gate).send("GET", "/api/v1/processes", &fields, b"");
        listed.json()["processes"].as_array().unwrap().len()
    };
    eventually("the end of all calls", || (processes() == 0).then_some(()));
    eventually("the end of its workers", || {
        platform.workers("later").is_empty().then_some(())
    });
    // Its name is free, and what comes anew is not in the way of what was.
    platform.deploy(project("later").path());
    for url in [&running, &waiting[0]] {
        assert_eq!(platform.get(url).status, 404, "{url}");
    }
    let after = accept(&platform, "/later/");
    assert_eq!(state(&platform, &format!("{after}?wait=60")), "done");
}
