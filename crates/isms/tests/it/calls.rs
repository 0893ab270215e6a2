//! Doees that call other Doees of their project, on a whole platform: answers, failures, limits, cancels, durability.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    harness::{Http, Platform, Response, eventually},
    project::Project,
};

/// Calls `other`, or itself, as its query or its caller says.
const CALLER: &str = r#"#include <isms/call.hpp>
#include <cstdlib>
using namespace isms;
ISMS_DOEE(Main) {
    void initialize(Context &) override {}
    static std::string said(Request &request, const std::string &name, const std::string &fallback) {
        return request.query_parameter(name).value_or(fallback);
    }
    static std::string shown(CallAnswer answer) {
        return std::to_string(answer.status()) + " " + std::string(answer.header("x-said")) + " " + answer.body(64 << 20);
    }
    static CallRequest asked(Request &request) {
        CallRequest call(said(request, "to", "other"));
        call.header("x-mine", "yes").body(std::string(request.body(64 << 20)));
        call.class_max(std::atoi(said(request, "class", "0").c_str()));
        call.deadline_ms(std::atoi(said(request, "ms", "0").c_str()));
        return call;
    }
    /// Calls itself until that is refused; how often it went.
    static Response deeper(Request &request, bool async) {
        const std::string depth(request.header("x-depth"));
        const std::string next = std::to_string(std::atoi(depth.c_str()) + 1);
        CallRequest call("main");
        call.header("x-do", async ? "deeper-async" : "deeper").header("x-depth", next);
        try {
            if (!async) return Response::text(isms::call(request, call).body());
            return Response::text(isms::call_async(request, call));
        } catch (const Error &error) {
            request.log(Level::Info, "refused " + std::to_string(error.code) + " at " + next);
            return Response::text(next + " " + std::to_string(error.code));
        }
    }
    Response execute(Request &request) override {
        const std::string act = request.header("x-do").empty() ? said(request, "do", "call") : std::string(request.header("x-do"));
        if (act == "deeper" || act == "deeper-async") return deeper(request, act == "deeper-async");
        if (act == "none") return Response::text("none");
        if (act == "parallel") {
            std::vector<PendingCall> pending;
            for (int n = 0; n < 4; ++n) pending.push_back(isms::start(request, CallRequest("other").body("meet " + std::to_string(n))));
            std::string all;
            for (auto &call : pending) all += call.answer().body() + ";";
            return Response::text(all);
        }
        if (act == "async") return Response::text(call_async(request, asked(request)));
        if (act == "async-fails") {
            request.log(Level::Info, "accepted " + call_async(request, asked(request)));
            if (request.attempt() < 3) throw std::runtime_error("not yet");
            return Response::text("done");
        }
        try {
            return Response::text(shown(isms::call(request, asked(request))));
        } catch (const Stopped &stopped) {
            request.log(Level::Info, "stopped " + std::to_string(stopped.code));
            throw;
        } catch (const Error &error) {
            return Response::text("code " + std::to_string(error.code) + " " + error.what());
        }
    }
    void terminate() override {}
};
"#;

/// Does what its body says, and tells what it was called with.
const CALLEE: &str = r#"#include <isms/doee.hpp>
#include <cstdlib>
#include <unistd.h>
using namespace isms;
ISMS_DOEE(Other) {
    void initialize(Context &) override {}
    Response execute(Request &request) override {
        const std::string body(request.body(64 << 20));
        const isms_request *raw = nullptr;
        isms_request_get(request.raw(), &raw);
        if (body == "hang") for (;;) { request.check(); usleep(1000); }
        if (body == "crash") std::abort();
        if (body == "fail") throw std::runtime_error("it did not work");
        if (body == "missing") return Response::error(404, "no such thing");
        std::string text = "WORD";
        text += " trigger=" + std::to_string(raw->trigger) + " mine=" + std::string(request.header("x-mine"));
        text += " principal=" + std::string(request.principal()) + " path=" + std::string(request.path());
        if (body.size() > 100) text = body;
        else text += " body=" + body;
        Response response(200, text, "text/plain");
        return response.header("x-said", "hello");
    }
    void terminate() override {}
};
"#;

fn project(name: &str, allowed: &str, keys: &str, word: &str) -> Project {
    let manifest = format!(
        "[project]\nname = \"{name}\"\n\n\
         [doee.main]\nlanguage = \"cpp\"\nsource = \"doees/main\"\nallow = {{ call = [{allowed}] }}\n\
         retry = {{ backoff_ms = 0 }}\n{keys}\n\n\
         [doee.other]\nlanguage = \"cpp\"\nsource = \"doees/other\"\n\n\
         [[trigger]]\nhttp = \"POST /\"\nauth = \"none\"\ndoee = \"main\"\n"
    );
    Project::new(&manifest)
        .file("doees/main/main.cpp", CALLER)
        .file("doees/other/other.cpp", CALLEE.replace("WORD", word))
}

const BOTH: &str = "\"main\", \"other\"";

fn post(platform: &Platform, path: &str, fields: &[(&str, &str)], body: &[u8]) -> Response {
    Http::connect(platform.http).send("POST", path, fields, body)
}

fn call(platform: &Platform, query: &str, body: &str) -> String {
    let response = post(platform, &format!("/chain/?{query}"), &[], body.as_bytes());
    assert_eq!(response.status, 200, "{query} {body}: {}", response.text());
    response.text()
}

fn await_end(platform: &Platform, project: &str, id: &str) -> Value {
    let response = platform.get(&format!("/{project}/.processes/{id}?wait=60"));
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()["state"].clone()
}

/// Calls of a Doee that `isms top` counts, by class.
fn counted(platform: &Platform, doee: &str, outcome: &str) -> Vec<(String, u64)> {
    let output = platform.isms(&["top", "--json"]);
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = listed["calls"].as_array().unwrap().iter();
    let classes = rows
        .filter(|row| row["doee"] == doee)
        .flat_map(|row| row["classes"].as_array().unwrap());
    let count = |class: &Value| {
        (
            class["class"].as_str().unwrap().to_owned(),
            class["outcomes"][outcome].as_u64().unwrap(),
        )
    };
    classes.map(count).filter(|(_, count)| *count > 0).collect()
}

fn logs(platform: &Platform, word: &str) -> Vec<String> {
    let output = platform.isms(&["logs", "chain/main"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter_map(|line| line.split_once(word));
    lines.map(|(_, rest)| rest.trim().to_owned()).collect()
}

#[test]
fn a_doee_calls_another_with_header_fields_and_bodies_and_several_at_once() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(project("chain", BOTH, "", "one").path());
    let answer = "200 hello one trigger=4 mine=yes principal= path=/ body=hi";
    assert_eq!(call(&platform, "", "hi"), answer);
    assert!(
        call(&platform, "", "missing").starts_with("404 "),
        "a status is an answer"
    );
    let parallel = call(&platform, "do=parallel", "");
    for number in 0..4 {
        assert!(parallel.contains(&format!("body=meet {number};")), "{parallel}");
    }
    let large = "0123456789abcdef".repeat(64 * 1024);
    let response = post(&platform, "/chain/", &[], large.as_bytes());
    assert_eq!(response.text().len(), "200 hello ".len() + large.len());
    // Whoever asked for the outer call is told to the inner one.
    let invoked = platform.isms(&["invoke", "chain/main", "--data", "hi"]);
    let text = String::from_utf8_lossy(&invoked.stdout).into_owned();
    assert!(
        text.contains("trigger=4") && !text.contains("principal= "),
        "{text}"
    );
}

#[test]
fn only_what_the_manifest_names_is_called_and_never_anything_of_another_project() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(project("chain", "\"other\"", "", "one").path());
    let foreign = project("foreign", "", "", "foreign");
    platform.deploy(foreign.path());
    for to in ["main", "foreign", "nothing"] {
        let refused = call(&platform, &format!("to={to}"), "");
        assert!(refused.starts_with("code 4 "), "{to}: {refused}");
        assert!(refused.contains("allow.call"), "{refused}");
    }
    let refused = post(&platform, "/foreign/", &[], b"");
    assert!(refused.text().starts_with("code 4 "), "{}", refused.text());
}

#[test]
fn a_deployment_swaps_the_callee_at_once() {
    let Some(platform) = Platform::start() else { return };
    for word in ["one", "two", "three"] {
        platform.deploy(project("chain", BOTH, "", word).path());
        let answer = call(&platform, "", "");
        assert!(answer.starts_with(&format!("200 hello {word} ")), "{answer}");
    }
}

#[test]
fn a_chain_of_calls_ends_at_its_depth() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(project("chain", BOTH, "workers = { max = 20 }", "one").path());
    assert_eq!(call(&platform, "do=deeper", ""), "16 6");
    // One that nobody waits for as well, whatever of it runs when.
    let process = call(&platform, "do=deeper-async", "");
    assert_eq!(await_end(&platform, "chain", &process), "done");
    eventually("the last of the chain", || {
        let lines = logs(&platform, "refused ");
        lines.iter().filter(|line| *line == "6 at 16").nth(1).map(drop)
    });
    assert_eq!(counted(&platform, "main", "done"), [("normal".to_owned(), 32)]);
}

#[test]
fn a_callee_that_fails_crashes_or_takes_too_long_is_a_code_to_its_caller() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(project("chain", BOTH, "", "one").path());
    let failed = call(&platform, "", "fail");
    assert!(
        failed.starts_with("code 12 ") && failed.contains("it did not work"),
        "{failed}"
    );
    let crashed = call(&platform, "", "crash");
    assert!(crashed.starts_with("code 9 "), "{crashed}");
    let late = call(&platform, "ms=200", "hang");
    assert!(late.starts_with("code 11 "), "{late}");
    assert_eq!(call(&platform, "", "x").split(' ').next(), Some("200"));
}

#[test]
fn the_end_of_the_outer_call_reaches_a_doee_that_waits_for_an_inner_one_and_the_inner_one() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(project("chain", BOTH, "", "one").path());
    assert_eq!(call(&platform, "", "").split(' ').next(), Some("200"));
    // Its time is over.
    let late = post(&platform, "/chain/", &[("isms-deadline-ms", "400")], b"hang");
    assert_eq!(late.status, 504, "{}", late.text());
    eventually("a stopped call", || {
        (logs(&platform, "stopped ").len() == 1).then_some(())
    });
    // Its caller leaves.
    let mut client = Http::connect(platform.http);
    client
        .write(b"POST /chain/ HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\nhang")
        .unwrap();
    let state = |doee: &str| {
        let workers = platform.workers("chain");
        let busy = workers
            .iter()
            .filter(|worker| worker["doee"] == doee && worker["state"] == "busy");
        busy.count()
    };
    eventually("both at work", || {
        (state("main") == 1 && state("other") == 1).then_some(())
    });
    drop(client);
    eventually("another stopped call", || {
        (logs(&platform, "stopped ").len() == 2).then_some(())
    });
    eventually("nobody at work", || {
        (state("main") == 0 && state("other") == 0).then_some(())
    });
    assert_eq!(call(&platform, "", "x").split(' ').next(), Some("200"));
}

#[test]
fn an_asynchronous_call_outlives_its_caller_and_is_accepted_once_by_all_attempts_of_a_durable_one() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(project("chain", BOTH, "", "one").path());
    let process = call(&platform, "do=async", "hi");
    assert_eq!(await_end(&platform, "chain", &process), "done");
    let result = platform.get(&format!("/chain/.processes/{process}/result"));
    assert!(
        result.text().starts_with("one trigger=4 mine=yes"),
        "{}",
        result.text()
    );

    // Long enough to be a stream at each step.
    let long = "x".repeat(100 * 1024);
    let accepted = post(
        &platform,
        "/chain/?do=async-fails",
        &[("prefer", "respond-async")],
        long.as_bytes(),
    );
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let parent = accepted.header("isms-process").unwrap();
    assert_eq!(await_end(&platform, "chain", parent), "done");
    let told = eventually("three attempts", || {
        let told = logs(&platform, "accepted ");
        (told.len() == 3).then_some(told)
    });
    let ids: BTreeSet<&String> = told.iter().collect();
    assert_eq!(ids.len(), 1, "{told:?}");
    assert_eq!(await_end(&platform, "chain", &told[0]), "done");
    let result = platform.get(&format!("/chain/.processes/{}/result", told[0]));
    assert_eq!(result.text(), long);
    assert_eq!(counted(&platform, "other", "done"), [("normal".to_owned(), 2)]);
}

#[test]
fn a_project_that_may_run_one_call_does_not_wait_for_itself() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(project("chain", BOTH, "", "one").path());
    let set = platform.isms(&["project", "chain", "--concurrency-max", "1"]);
    assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..6)
            .map(|number| {
                let query = if number % 2 == 0 {
                    "to=main&class=0&do=call"
                } else {
                    "do=call"
                };
                let platform = &platform;
                // The inner main does nothing but call `other`, since it has no query.
                scope.spawn(move || call(platform, query, "hi"))
            })
            .collect();
        for client in clients {
            assert!(client.join().unwrap().starts_with("200 "));
        }
    });
}

#[test]
fn a_call_lowers_its_class_and_so_does_whoever_calls_from_outside() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(project("chain", BOTH, "class = \"high\"", "one").path());
    // Of batch (4), of its own, and of more than there is.
    for class in ["4", "0", "1"] {
        assert!(call(&platform, &format!("class={class}"), "").starts_with("200 "));
    }
    let expected = [("batch".to_owned(), 1), ("normal".to_owned(), 2)];
    let sorted = |doee: &str| {
        let mut counted = counted(&platform, doee, "done");
        counted.sort();
        counted
    };
    assert_eq!(sorted("other"), expected);
    let invoked = platform.isms(&[
        "invoke",
        "chain/main",
        "--class",
        "batch",
        "--deadline-ms",
        "20000",
    ]);
    assert!(
        invoked.status.success(),
        "{}",
        String::from_utf8_lossy(&invoked.stderr)
    );
    assert_eq!(sorted("main"), [("batch".to_owned(), 1), ("high".to_owned(), 3)]);
    assert_eq!(
        sorted("other"),
        [("batch".to_owned(), 2), ("normal".to_owned(), 2)]
    );
    let refused = platform.isms(&["invoke", "chain/main", "--class", "urgent"]);
    assert!(!refused.status.success());
}
