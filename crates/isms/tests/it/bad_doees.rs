//! A Doee that misbehaves harms its caller at most: a clear error, and everybody else notices nothing.

use crate::{
    harness::{Platform, Response, eventually},
    project::{Project, c_doee, c_doee_with, manifest},
};

/// Deploys a neighbour that must go on whatever the others do.
fn with_neighbour() -> Option<Platform> {
    let platform = Platform::start()?;
    platform.deploy(Project::c("neighbour", "return say(call, \"fine\");").path());
    assert_eq!(platform.get("/neighbour/").text(), "fine");
    Some(platform)
}

fn check_neighbour(platform: &Platform) {
    let answer = platform.get("/neighbour/");
    assert_eq!((answer.status, answer.text().as_str()), (200, "fine"));
}

fn detail(answer: &Response) -> String {
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json"),
        "{}",
        answer.text()
    );
    answer.json()["detail"].as_str().unwrap_or_default().to_owned()
}

#[track_caller]
fn check(platform: &Platform, project: &Project, path: &str, status: u16, says: &str) {
    platform.deploy(project.path());
    let answer = platform.get(path);
    assert_eq!(answer.status, status, "{}", answer.text());
    let detail = detail(&answer);
    assert!(detail.contains(says), "{detail}");
    check_neighbour(platform);
}

#[test]
fn a_crash_in_execute_is_502_with_the_signal_and_the_next_call_is_served() {
    let Some(platform) = with_neighbour() else { return };
    let project = Project::c(
        "crash",
        "if (query_is(call, \"now\")) abort(); return say(call, \"alive\");",
    );
    check(
        &platform,
        &project,
        "/crash/?now",
        502,
        "the worker died of signal",
    );
    assert_eq!(platform.get("/crash/").text(), "alive");
}

#[test]
fn a_crash_in_a_constructor_create_or_initialize_tells_each_caller() {
    let Some(platform) = with_neighbour() else { return };
    let constructor = "__attribute__((constructor)) static void early(void) { abort(); }";
    let project = Project::new(&manifest("ctor", "")).file(
        "doees/main/main.c",
        c_doee_with(constructor, "return ISMS_OK;", "return say(call, \"x\");", ""),
    );
    check(
        &platform,
        &project,
        "/ctor/",
        502,
        "while it loaded and initialized its Doee",
    );
    let project = Project::new(&manifest("init", "")).file(
        "doees/main/main.c",
        c_doee_with("", "abort();", "return say(call, \"x\");", ""),
    );
    check(&platform, &project, "/init/", 502, "the worker died of signal");
}

#[test]
fn an_initialize_that_fails_gives_its_reason() {
    let Some(platform) = with_neighbour() else { return };
    let initialize = "isms_fail(call, text(\"no such window\")); return ISMS_FAILED;";
    let project = Project::new(&manifest("refuses", "")).file(
        "doees/main/main.c",
        c_doee_with("", initialize, "return say(call, \"x\");", ""),
    );
    check(&platform, &project, "/refuses/", 500, "no such window");
}

#[test]
fn a_crash_in_terminate_harms_nobody() {
    let Some(platform) = with_neighbour() else { return };
    let source = |text: &str| {
        c_doee_with(
            "",
            "return ISMS_OK;",
            &format!("return say(call, \"{text}\");"),
            "abort();",
        )
    };
    platform.deploy(
        Project::new(&manifest("end", ""))
            .file("doees/main/main.c", source("one"))
            .path(),
    );
    assert_eq!(platform.get("/end/").text(), "one");
    // The new version retires the old one, whose terminate crashes.
    platform.deploy(
        Project::new(&manifest("end", ""))
            .file("doees/main/main.c", source("two"))
            .path(),
    );
    eventually("the new version", || {
        (platform.get("/end/").text() == "two").then_some(())
    });
    check_neighbour(&platform);
}

#[test]
fn a_doee_that_never_returns_is_killed_at_its_time_limit() {
    let Some(platform) = with_neighbour() else { return };
    let project = Project::c_with("spin", "timeout_ms = 200", "for (;;) {} return ISMS_OK;");
    check(&platform, &project, "/spin/", 504, "timeout_ms = 200");
    let project = Project::c_with("sleeps", "timeout_ms = 200", "for (;;) pause(); return ISMS_OK;");
    check(&platform, &project, "/sleeps/", 504, "timeout_ms = 200");
}

#[test]
fn a_doee_that_answers_nothing_is_an_error_of_the_doee() {
    let Some(platform) = with_neighbour() else { return };
    platform.deploy(Project::c("mute", "return ISMS_OK;").path());
    let answer = platform.get("/mute/");
    assert_eq!(answer.status, 500, "{}", answer.text());
    check_neighbour(&platform);
}

#[test]
fn a_doee_that_eats_memory_is_killed_at_its_limit() {
    let Some(platform) = with_neighbour() else { return };
    let eat = "for (;;) { char *p = malloc(1 << 20); if (!p) return ISMS_FAILED; memset(p, 1, 1 << 20); } ";
    platform.deploy(Project::c_with("hungry", "memory_mb = 32\ntimeout_ms = 10000", eat).path());
    let answer = platform.get("/hungry/");
    assert!([500, 502].contains(&answer.status), "{}", answer.text());
    let detail = detail(&answer);
    assert!(
        answer.status == 500 || detail.contains("memory limit"),
        "{detail}"
    );
    check_neighbour(&platform);
}

#[test]
fn a_doee_that_forks_gets_no_process() {
    let Some(platform) = with_neighbour() else { return };
    let project = Project::c(
        "forks",
        "return say(call, fork() < 0 ? \"refused\" : \"forked\");",
    );
    platform.deploy(project.path());
    let answer = platform.get("/forks/");
    assert!(
        answer.text() == "refused" || answer.status == 502,
        "{}",
        answer.text()
    );
    check_neighbour(&platform);
}

#[test]
fn a_doee_that_floods_its_log_is_cut_and_answers() {
    let Some(platform) = with_neighbour() else { return };
    let flood = "for (int i = 0; i < 20000; i++) isms_log(call, ISMS_LOG_INFO, text(\"noise\")); return say(call, \"done\");";
    platform.deploy(Project::c_with("floods", "timeout_ms = 10000", flood).path());
    assert_eq!(platform.get("/floods/").text(), "done");
    let log = platform.isms(&["logs", "floods/main", "--tail", "100000"]);
    let lines = String::from_utf8_lossy(&log.stdout).lines().count();
    assert!((1..20_000).contains(&lines), "{lines} lines");
    check_neighbour(&platform);
}

#[test]
fn an_exception_across_the_abi_is_an_error_of_the_doee() {
    let Some(platform) = with_neighbour() else { return };
    let source = "#include <isms/doee.hpp>\n#include <stdexcept>\nISMS_DOEE(Thrower) {\n  \
        void initialize(isms::Context &) override {}\n  void terminate() override {}\n  \
        isms::Response execute(isms::Request &) override { throw std::runtime_error(\"out of cheese\"); }\n};\n";
    let project =
        Project::new(&manifest("throws", "").replace("\"c\"", "\"cpp\"")).file("doees/main/main.cpp", source);
    check(&platform, &project, "/throws/", 500, "out of cheese");
}

#[test]
fn a_binary_that_is_no_doee_is_named() {
    let Some(platform) = with_neighbour() else { return };
    let project = Project::new(&manifest("nothing", ""))
        .file("doees/main/main.c", "int unrelated(void) { return 1; }\n");
    let output = platform.isms(&["deploy", project.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("isms_doee_v1"),
        "{output:?}"
    );
    let other_abi = c_doee("return say(call, \"x\");").replace("ISMS_DOEE_ABI, 0, create", "99, 0, create");
    let project = Project::new(&manifest("abi99", "")).file("doees/main/main.c", other_abi);
    check(&platform, &project, "/abi99/", 500, "99");
}
