//! From a folder to a serving project, and what is refused on the way.

use std::{
    io::{BufRead, BufReader},
    process::{Output, Stdio},
    sync::mpsc,
};

use crate::{
    harness::{Platform, SOON, eventually},
    project::{Project, c_doee, manifest, shared_object},
};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn refused(platform: &Platform, project: &Project) -> String {
    let output = platform.isms(&["deploy", project.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    stderr(&output)
}

#[test]
fn each_template_deploys_as_it_is_and_answers_with_200() {
    let Some(platform) = Platform::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    for lang in ["cpp", "c"] {
        let name = format!("hello-{lang}");
        let made = platform.isms_in(folder.path(), &["new", &name, "--lang", lang]);
        assert!(made.status.success(), "{}", stderr(&made));
        let deployed = platform.isms_in(&folder.path().join(&name), &["deploy"]);
        assert!(deployed.status.success(), "{}", stderr(&deployed));
        let answer = platform.get(&format!("/{name}/"));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

#[test]
fn source_that_does_not_compile_comes_back_with_file_and_line_and_the_old_version_serves() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(Project::c("site", "return say(call, \"old\");").path());
    let broken = Project::c("site", "return say(call, undeclared_name);");
    let error = refused(&platform, &broken);
    assert!(
        error.contains("\ndoees/main/main.c:") && error.contains("undeclared_name"),
        "{error}"
    );
    assert_eq!(platform.get("/site/").text(), "old");
    platform.deploy(Project::c("site", "return say(call, \"new\");").path());
    assert_eq!(platform.get("/site/").text(), "new");
}

#[test]
fn a_wrong_manifest_is_refused_with_key_and_line() {
    let Some(platform) = Platform::start() else { return };
    let wrong = manifest("wrong", "memory_md = 64");
    let error = refused(
        &platform,
        &Project::new(&wrong).file("doees/main/main.c", c_doee("return ISMS_OK;")),
    );
    assert!(
        error.contains("project.toml:7") && error.contains("memory_md"),
        "{error}"
    );
    let wrong = manifest("wrong", "memory_mb = \"much\"");
    let error = refused(
        &platform,
        &Project::new(&wrong).file("doees/main/main.c", c_doee("return ISMS_OK;")),
    );
    assert!(
        error.contains("project.toml:7") && error.contains("memory_mb"),
        "{error}"
    );
    assert_eq!(platform.get("/wrong/").status, 404);
}

#[test]
fn an_unchanged_doee_keeps_its_version_and_its_warm_worker() {
    let Some(platform) = Platform::start() else { return };
    let count = "static int calls; char t[32]; snprintf(t, sizeof t, \"%d\", ++calls); return say(call, t);";
    let project = Project::c("counter", count);
    platform.deploy(project.path());
    assert_eq!(platform.get("/counter/").text(), "1");
    platform.deploy(project.path());
    assert_eq!(platform.get("/counter/").text(), "2");
}

#[test]
fn a_prebuilt_binary_is_served_without_a_build_and_what_is_no_doee_is_refused() {
    let Some(platform) = Platform::start() else { return };
    let manifest = manifest("prebuilt", "").replace("source = \"doees/main\"", "binary = \"main.so\"");
    let project = |binary: &[u8]| Project::new(&manifest).file("main.so", binary);
    let doee = c_doee("return say(call, \"prebuilt\");");
    platform.deploy(project(&shared_object(&doee, &[])).path());
    assert_eq!(platform.get("/prebuilt/").text(), "prebuilt");
    let error = refused(&platform, &project(b"not an ELF file"));
    assert!(error.contains("main") && error.contains("ELF"), "{error}");
    let error = refused(
        &platform,
        &project(&shared_object("int unrelated(void) { return 1; }\n", &[])),
    );
    assert!(
        error.contains("main") && error.contains("isms_doee_v1"),
        "{error}"
    );
    assert_eq!(platform.get("/prebuilt/").text(), "prebuilt");
}

#[test]
fn params_reach_initialize_with_their_types() {
    let Some(platform) = Platform::start() else { return };
    let execute = "const isms_param *p; size_t n; isms_params(call, &p, &n); char t[64]; \
        snprintf(t, sizeof t, \"%zu %u %u %u %u\", n, p[0].value.kind, p[1].value.kind, p[2].value.kind, p[3].value.kind); \
        return say(call, t);";
    let project = Project::c_with(
        "params",
        "params = { a = 1, b = 1.5, c = true, d = \"x\" }",
        execute,
    );
    platform.deploy(project.path());
    assert_eq!(platform.get("/params/").text(), "4 1 2 5 3");
}

#[test]
fn invoke_calls_a_doee_directly_and_logs_show_what_it_said() {
    let Some(platform) = Platform::start() else { return };
    let execute = "isms_text body; isms_body(call, &body); isms_log(call, ISMS_LOG_WARN, body); return say(call, \"thanks\");";
    platform.deploy(Project::c("talker", execute).path());
    let output = platform.isms(&["invoke", "talker/main", "--data", "a word"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "thanks",
        "{}",
        stderr(&output)
    );
    eventually("the log line", || {
        let output = platform.isms(&["logs", "talker/main"]);
        String::from_utf8_lossy(&output.stdout)
            .contains("a word")
            .then_some(())
    });
    let output = platform.isms(&["invoke", "talker/nobody"]);
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn logs_that_are_followed_come_while_they_are_written() {
    let Some(platform) = Platform::start() else { return };
    let execute = "isms_text body; isms_body(call, &body); isms_log(call, ISMS_LOG_INFO, body); return say(call, \"ok\");";
    platform.deploy(Project::c("talker", execute).path());
    let mut follower = platform
        .command(&["logs", "talker/main", "-f"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (sender, lines) = mpsc::channel();
    let stdout = BufReader::new(follower.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        stdout
            .lines()
            .map_while(Result::ok)
            .try_for_each(|line| sender.send(line))
    });
    for word in ["first", "second"] {
        assert_eq!(platform.request("POST", "/talker/", word).status, 200);
        let line = lines.recv_timeout(SOON).unwrap();
        assert!(line.ends_with(&format!("info  {word}")), "{line}");
    }
    follower.kill().unwrap();
    follower.wait().unwrap();
    reader.join().unwrap().unwrap();
}

#[test]
fn a_deleted_project_is_gone_and_its_name_can_be_used_again() {
    let Some(platform) = Platform::start() else { return };
    let project = Project::c("brief", "return say(call, \"x\");");
    platform.deploy(project.path());
    assert!(platform.isms(&["delete", "brief"]).status.success());
    assert_eq!(platform.get("/brief/").status, 404);
    platform.deploy(project.path());
    assert_eq!(platform.get("/brief/").status, 200);
}

#[test]
fn the_builder_sees_no_file_of_the_host_and_no_other_project() {
    let Some(platform) = Platform::start() else { return };
    let host = Project::new(&manifest("thief", "")).file("doees/main/main.c", "#include \"/etc/shadow\"\n");
    let error = refused(&platform, &host);
    assert!(
        error.contains("/etc/shadow") && !error.contains("root:"),
        "{error}"
    );
    let key = platform.data.path().join("admin.token");
    let source = format!("#include \"{}\"\n", key.display());
    let error = refused(
        &platform,
        &Project::new(&manifest("thief", "")).file("doees/main/main.c", source),
    );
    assert!(!error.contains(&platform.admin_token()), "{error}");
}
