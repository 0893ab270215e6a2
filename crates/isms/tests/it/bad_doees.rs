//! A Doee that misbehaves harms its caller at most: a clear error, and everybody else notices nothing.

use crate::{
    harness::{Platform, Response, await_calls, eventually, under_load},
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

/// A Doee of the SDK's class, with these members beside an `execute` of this body.
fn cpp(name: &str, members: &str, execute: &str) -> Project {
    let source = format!(
        "#include <isms/doee.hpp>\n#include <cstdlib>\n#include <stdexcept>\nISMS_DOEE(Test) {{\n  {members}\n  \
         void terminate() override {{}}\n  isms::Response execute(isms::Request &) override {{ {execute} }}\n}};\n"
    );
    Project::new(&manifest(name, "").replace("\"c\"", "\"cpp\"")).file("doees/main/main.cpp", source)
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
        "if (query_is(call, \"now\")) abort(); if (query_is(call, \"trap\")) *(volatile int *)8 = 1;\n\
         return say(call, \"alive\");",
    );
    let says = "the worker died of signal 6 (SIGABRT)";
    check(&platform, &project, "/crash/?now", 502, says);
    let trapped = platform.get("/crash/?trap");
    assert!(
        detail(&trapped).contains("the worker died of signal 11 (SIGSEGV)"),
        "{}",
        trapped.text()
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
    let class = "int thing = (abort(), 0); void initialize(isms::Context &) override {}";
    check(
        &platform,
        &cpp("class", class, "return isms::Response::text(\"x\");"),
        "/class/",
        502,
        "while it loaded and initialized its Doee",
    );
    let project = Project::new(&manifest("init", "")).file(
        "doees/main/main.c",
        c_doee_with("", "abort();", "return say(call, \"x\");", ""),
    );
    let says = "the worker died of signal 6 (SIGABRT)";
    check(&platform, &project, "/init/", 502, says);
}

#[test]
fn a_constructor_may_no_more_than_the_rest_of_its_doee() {
    let Some(platform) = with_neighbour() else { return };
    let early = "#include <fcntl.h>\n#include <sys/socket.h>\nstatic int file, connection, child, program;\n\
        __attribute__((constructor)) static void early(void) { char *none[] = {NULL};\n\
        file = open(\"/stolen\", O_CREAT | O_WRONLY, 0600); connection = socket(AF_INET, SOCK_STREAM, 0);\n\
        child = fork(); program = execve(\"/proc/self/exe\", none, none); }";
    let tell = "char t[64]; snprintf(t, sizeof t, \"%d %d %d %d\", file, connection, child, program);\n\
        return say(call, t);";
    let project = Project::new(&manifest("early", "")).file(
        "doees/main/main.c",
        c_doee_with(early, "return ISMS_OK;", tell, ""),
    );
    platform.deploy(project.path());
    let answer = platform.get("/early/");
    assert_eq!((answer.status, answer.text().as_str()), (200, "-1 -1 -1 -1"));
    check_neighbour(&platform);
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
        answer.status == 500
            || detail.contains("memory limit (raise memory_mb or use less) while it ran the call"),
        "{detail}"
    );
    check_neighbour(&platform);
}

#[test]
fn every_failure_of_a_doee_is_a_line_of_its_log_with_the_process_and_of_the_platforms() {
    let folder = tempfile::tempdir().unwrap();
    let own_log = folder.path().join("log");
    let Some(platform) = Platform::start_logging_to(&own_log) else {
        return;
    };
    let members = "void initialize(isms::Context &) override {}";
    let execute = "const std::string what(request.query()); if (what == \"crash\") std::abort(); \
         if (what == \"spin\") for (volatile int turn = 0;;) turn = 1; \
         if (what == \"late\") return isms::Response::stream(200, \"text/plain\", [](isms::Writer &out) { \
             out.write(std::string(1 << 20, 'x')); throw std::runtime_error(\"broken pump\"); }); \
         throw std::runtime_error(\"no such sensor\");";
    let source = format!(
        "#include <isms/doee.hpp>\n#include <cstdlib>\nISMS_DOEE(Test) {{\n  {members}\n  void terminate() override {{}}\n  \
         isms::Response execute(isms::Request &request) override {{ {execute} }}\n}};\n"
    );
    let manifest = manifest("teller", "timeout_ms = 500").replace("\"c\"", "\"cpp\"");
    let project = Project::new(&manifest).file("doees/main/main.cpp", source);
    platform.deploy(project.path());
    let logged = |text: &str, process: Option<&str>| {
        eventually(text, || {
            let output = platform.isms(&["logs", "teller/main"]);
            let lines = String::from_utf8_lossy(&output.stdout).into_owned();
            let process = process.map_or(String::new(), |process| format!("[process {process}]"));
            let mut lines = lines.lines();
            lines
                .any(|line| line.contains(" error ") && line.contains(text) && line.ends_with(&process))
                .then_some(())
        });
    };
    for (query, status, text) in [
        ("throw", 500, "no such sensor"),
        ("crash", 502, "the worker died of signal 6 (SIGABRT)"),
        ("spin", 504, "timeout_ms = 500"),
    ] {
        let answer = platform.get(&format!("/teller/?{query}"));
        assert_eq!(answer.status, status, "{}", answer.text());
        logged(text, answer.json()["instance"].as_str());
    }
    // An answer that has begun can only be cut off, so the log alone tells why.
    let mut http = crate::harness::Http::connect(platform.http);
    assert!(http.try_send("GET", "/teller/?late", &[], b"").is_err());
    logged("broken pump", None);
    let own_log = std::fs::read_to_string(own_log).unwrap();
    let killed = own_log.lines().find(|line| line.contains("killed a worker"));
    let killed = killed.expect("the kill is in the platform's log");
    for field in ["teller", "main", "its call ran longer than its time limit"] {
        assert!(killed.contains(field), "{killed}");
    }
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
    let project = cpp(
        "throws",
        "void initialize(isms::Context &) override {}",
        "throw std::runtime_error(\"out of cheese\");",
    );
    check(&platform, &project, "/throws/", 500, "out of cheese");
}

#[test]
fn an_exception_that_nothing_catches_ends_its_worker_and_no_more() {
    let Some(platform) = with_neighbour() else { return };
    let source = c_doee("if (query_is(call, \"now\")) throw 1; return say(call, \"alive\");").replace(
        "const isms_doee_table *isms_doee_v1",
        "extern \"C\" ISMS_DOEE_EXPORT const isms_doee_table *isms_doee_v1",
    );
    let project =
        Project::new(&manifest("bare", "").replace("\"c\"", "\"cpp\"")).file("doees/main/main.cpp", source);
    check(
        &platform,
        &project,
        "/bare/?now",
        502,
        "the worker died of signal 6 (SIGABRT)",
    );
    assert_eq!(platform.get("/bare/").text(), "alive");
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

#[test]
fn a_neighbour_is_served_all_the_while_others_crash_hang_and_eat_memory() {
    let Some(platform) = with_neighbour() else { return };
    let eat =
        "for (;;) { char *p = malloc(1 << 20); if (!p) abort(); memset(p, 1, 1 << 20); } return ISMS_OK;";
    for (name, timeout_ms, execute) in [
        ("crashes", 20_000, "abort(); return ISMS_OK;"),
        ("hangs", 500, "for (;;) pause(); return ISMS_OK;"),
        ("eats", 20_000, eat),
    ] {
        let keys = format!("memory_mb = 32\ntimeout_ms = {timeout_ms}");
        platform.deploy(Project::c_with(name, &keys, execute).path());
    }
    under_load(&platform, "/neighbour/", |calls| {
        let statuses = std::thread::scope(|scope| {
            let others = ["/crashes/", "/hangs/", "/eats/"].map(|path| {
                let platform = &platform;
                scope.spawn(move || [(); 3].map(|()| platform.get(path).status))
            });
            others.map(|other| other.join().unwrap())
        });
        assert_eq!(statuses, [[502; 3], [504; 3], [502; 3]]);
        await_calls(calls, 100);
    });
}
