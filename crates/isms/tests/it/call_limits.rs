//! Limits of calls, of one Doee and of one project: what is beyond them waits in the Kernel, and all are served.

use serde_json::Value;

use crate::{
    harness::{Http, Platform, eventually},
    project::Project,
    shares::a_new_kernel_refuses,
};

/// A function whose call lasts until its caller has sent the whole body.
const READ_ALL: &str = "char piece[4096]; size_t len = 1; \
    while (len) { isms_result r = isms_body_read(call, piece, sizeof piece, &len); if (r != ISMS_OK) return r; } \
    return say(call, \"ok\");";
/// More than is sent ahead of a call.
const BODY: usize = 1 << 20;

/// A call of a project that lasts until it is finished.
struct OpenCall(Http);

impl OpenCall {
    fn new(platform: &Platform, path: &str) -> OpenCall {
        let mut http = Http::connect(platform.http);
        let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {BODY}\r\n\r\n");
        http.write(head.as_bytes()).unwrap();
        OpenCall(http)
    }

    fn finish(mut self) {
        self.0.write(&vec![b'x'; BODY]).unwrap();
        let answer = self.0.receive(false).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    }
}

/// Calls of Doees that wait in the Kernel, and those that it has given to the Doer, at one moment.
fn queued_and_running(platform: &Platform) -> (usize, usize) {
    let listed: Value = serde_json::from_slice(&platform.isms(&["ps", "--json"]).stdout).unwrap();
    let processes = listed["processes"].as_array().unwrap().iter();
    let (queued, running): (Vec<_>, Vec<_>) = processes
        .filter(|process| !process["doee"].is_null() && process["target"] == "doer")
        .partition(|process| process["queued"] == true);
    (queued.len(), running.len())
}

/// Tasks that the Doer has, in whatever state.
fn tasks_of_the_doer(platform: &Platform) -> u64 {
    let authorization = format!("Bearer {}", platform.admin_token());
    let fields = [("authorization", authorization.as_str())];
    let workers = Http::connect(platform.gate)
        .send("GET", "/api/v1/workers", &fields, b"")
        .json();
    ["waiting", "ready", "running"]
        .iter()
        .map(|state| workers[state].as_u64().unwrap())
        .sum()
}

/// Finishes calls at once, of which never more than `most` run meanwhile.
fn finish_all(platform: &Platform, calls: Vec<OpenCall>, most: usize) {
    std::thread::scope(|scope| {
        let clients: Vec<_> = calls
            .into_iter()
            .map(|call| scope.spawn(|| call.finish()))
            .collect();
        while clients.iter().any(|client| !client.is_finished()) {
            let (_, running) = queued_and_running(platform);
            assert!(running <= most, "{running} calls ran");
        }
    });
}

#[test]
fn calls_of_a_doee_beyond_its_concurrency_wait_in_the_kernel_and_not_in_the_doer() {
    let Some(platform) = Platform::start() else { return };
    let keys = "concurrency = 2\nworkers = { min = 1, max = 4 }";
    platform.deploy(Project::c_with("narrow", keys, READ_ALL).path());
    let calls: Vec<OpenCall> = (0..6).map(|_| OpenCall::new(&platform, "/narrow/")).collect();
    eventually("two calls run and four wait", || {
        let (queued, running) = queued_and_running(&platform);
        assert!(running <= 2, "{running} calls run");
        ((queued, running) == (4, 2)).then_some(())
    });
    assert!(tasks_of_the_doer(&platform) <= 2);
    assert!(platform.workers("narrow").len() <= 2);
    finish_all(&platform, calls, 2);
    assert!(platform.workers("narrow").len() <= 2);
}

#[test]
fn calls_of_a_project_beyond_its_concurrency_wait_in_the_kernel_and_those_of_others_do_not() {
    let Some(platform) = Platform::start() else { return };
    for name in ["narrow", "broad"] {
        platform.deploy(Project::c_with(name, "workers = { min = 1, max = 4 }", READ_ALL).path());
    }
    let set = |most: &str| {
        let output = platform.isms(&["project", "--json", "narrow", "--concurrency-max", most]);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    assert_eq!(set("1")["concurrency_max"], 1);
    let calls: Vec<OpenCall> = (0..4).map(|_| OpenCall::new(&platform, "/narrow/")).collect();
    eventually("one call runs and three wait", || {
        let (queued, running) = queued_and_running(&platform);
        assert!(running <= 1, "{running} calls run");
        ((queued, running) == (3, 1)).then_some(())
    });
    assert_eq!(platform.request("POST", "/broad/", "x").text(), "ok");
    finish_all(&platform, calls, 1);

    // A higher limit counts for what waits already.
    let calls: Vec<OpenCall> = (0..3).map(|_| OpenCall::new(&platform, "/narrow/")).collect();
    eventually("two calls that wait", || {
        (queued_and_running(&platform).0 == 2).then_some(())
    });
    set("3");
    eventually("three calls that run", || {
        (queued_and_running(&platform) == (0, 3)).then_some(())
    });
    finish_all(&platform, calls, 3);
    let refused = platform.isms(&["project", "narrow", "--concurrency-max", "16385"]);
    assert!(!refused.status.success());
}

#[test]
fn calls_beyond_a_doees_rate_are_429_also_by_a_kernel_that_comes_anew_and_until_the_manifest_lifts_it() {
    let Some(platform) = Platform::start() else { return };
    let deploy = |rate: &str| {
        platform.deploy(Project::c_with("slow", rate, "return say(call, \"ok\");").path());
    };
    deploy("rate = { per_s = 1, burst = 3 }");
    let answers: Vec<u16> = (0..40).map(|_| platform.get("/slow/").status).collect();
    assert_eq!(answers[..3], [200, 200, 200]);
    let refused = eventually("a refusal", || {
        let answer = platform.get("/slow/");
        (answer.status != 200).then_some(answer)
    });
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(refused.text().contains("the function may have 1 calls a second"));

    a_new_kernel_refuses(&platform, "/slow/");
    deploy("");
    for _ in 0..20 {
        assert_eq!(platform.get("/slow/").status, 200);
    }
}
