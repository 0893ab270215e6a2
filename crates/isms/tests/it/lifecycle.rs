//! Start, ready line, stop, second start, and what goes wrong at a start.

use std::{
    net::TcpListener,
    process::{Command, Output, Stdio},
};

use crate::{
    harness::{Platform, binaries, descendants, eventually},
    project::Project,
};

#[test]
fn the_platform_starts_each_role_as_a_process_of_its_own_and_stops_them_all() {
    let Some(mut platform) = Platform::start() else {
        return;
    };
    let roles = [
        "kernel",
        "doer",
        "dbriver",
        "commserver",
        "resadmin",
        "gate",
        "spawner",
    ];
    for role in roles {
        assert!(platform.process(role).is_some(), "{role} does not run");
    }
    let status = platform.isms(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    let services = status["services"].as_array().unwrap();
    assert_eq!(services.len(), 5);
    assert!(services.iter().all(|service| service["up"] == true), "{status}");
    platform.stop();
    assert!(descendants(platform.pid()).is_empty());
}

#[test]
fn as_root_every_role_but_the_spawner_has_a_uid_of_its_own() {
    let Some(platform) = Platform::start() else { return };
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can give roles their own uids");
        return;
    }
    let uid = |role: &str| {
        let pid = platform.process(role).unwrap().pid;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("Uid:"))
            .unwrap()
            .to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u32>().unwrap()
    };
    let mut uids: Vec<u32> = ["kernel", "doer", "dbriver", "commserver", "resadmin", "gate"]
        .into_iter()
        .map(uid)
        .collect();
    uids.sort_unstable();
    uids.dedup();
    assert_eq!(uids.len(), 6, "{uids:?}");
    assert!(!uids.contains(&0));
}

#[test]
fn a_restart_keeps_what_was_deployed() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(Project::c("kept", "return say(call, \"still here\");").path());
    let platform = platform.restart();
    assert_eq!(platform.get("/kept/").text(), "still here");
}

#[test]
fn isms_down_stops_the_platform_of_a_data_directory() {
    let Some(platform) = Platform::start() else { return };
    let processes = descendants(platform.pid());
    let data = platform.data.path().to_str().unwrap();
    let output = platform.isms(&["down", "--json", "--data", data]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        r#"{"stopped":true}"#
    );
    eventually("the end of every process", || {
        processes.iter().all(|process| !process.is_alive()).then_some(())
    });
    let output = platform.isms(&["down", "--json", "--data", data]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        r#"{"stopped":false}"#
    );
}

/// Runs `isms up` that is expected to fail.
fn up(arguments: &[&str]) -> Option<Output> {
    let output = Command::new(binaries()?.join("isms"))
        .args(["up", "--gate", "127.0.0.1:0"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty());
    Some(output)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_port_in_use_is_named_with_the_flag_that_changes_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data = tempfile::tempdir().unwrap();
    let Some(output) = up(&["--http", &address, "--data", data.path().to_str().unwrap()]) else {
        return;
    };
    let error = stderr(&output);
    assert!(error.contains(&address) && error.contains("--http"), "{error}");
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named_with_the_way_out() {
    let Some(output) = up(&["--http", "127.0.0.1:0", "--data", "/proc/isms"]) else {
        return;
    };
    let error = stderr(&output);
    assert!(
        error.contains("/proc/isms") && error.contains("--data DIR"),
        "{error}"
    );
}

#[test]
fn a_second_platform_on_the_same_data_is_refused_and_the_first_goes_on() {
    let Some(platform) = Platform::start() else { return };
    let data = platform.data.path().to_str().unwrap();
    let Some(output) = up(&["--http", "127.0.0.1:0", "--data", data]) else {
        return;
    };
    assert!(stderr(&output).contains("another isms"), "{}", stderr(&output));
    assert!(platform.isms(&["status"]).status.success());
}

#[test]
fn a_role_started_by_hand_says_who_starts_it() {
    let Some(binaries) = binaries() else { return };
    let output = Command::new(binaries.join("isms"))
        .arg("kernel")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("isms up"), "{}", stderr(&output));
}

#[test]
fn a_platform_that_is_not_there_is_exit_code_4() {
    let Some(binaries) = binaries() else { return };
    let data = tempfile::tempdir().unwrap();
    let output = Command::new(binaries.join("isms"))
        .args(["status", "--data"])
        .arg(data.path())
        .env_remove("ISMS_URL")
        .env_remove("ISMS_TOKEN")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains("isms up"), "{}", stderr(&output));
}
