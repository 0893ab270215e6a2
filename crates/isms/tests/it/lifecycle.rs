//! Start, ready line, stop, second start, and what goes wrong at a start.

use std::{
    net::TcpListener,
    os::unix::fs::MetadataExt,
    process::{Command, Output, Stdio},
};

use crate::{
    harness::{Platform, ROLES, as_ordinary_user, binaries, descendants, eventually},
    project::Project,
};

#[test]
fn the_platform_starts_each_role_as_a_process_of_its_own_and_stops_them_all() {
    let Some(mut platform) = Platform::start() else {
        return;
    };
    for role in ROLES {
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
fn as_root_every_role_but_the_spawner_has_a_uid_and_a_part_of_the_data_of_its_own() {
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
    let roles = ["kernel", "doer", "dbriver", "commserver", "resadmin", "gate"];
    let mut uids: Vec<u32> = roles.into_iter().map(uid).collect();
    uids.sort_unstable();
    uids.dedup();
    assert_eq!(uids.len(), 6, "{uids:?}");
    assert!(!uids.contains(&0));
    for role in roles {
        let part = std::fs::metadata(platform.data.path().join(role)).unwrap();
        assert_eq!((part.uid(), part.mode() & 0o777), (uid(role), 0o700), "{role}");
    }
}

#[test]
fn the_arguments_and_the_environment_of_a_role_hold_no_secret() {
    let Some(platform) = Platform::start() else { return };
    let environment = |pid: u32| std::fs::read(format!("/proc/{pid}/environ"));
    let inherited = environment(platform.pid()).unwrap();
    let processes = descendants(platform.pid());
    assert!(
        processes.iter().any(|process| process.is_role("gate")),
        "{processes:?}"
    );
    for process in processes {
        // A role's name, and nothing for a worker.
        assert!(process.command.len() <= 2, "{:?}", process.command);
        // What cannot be read shows nothing.
        let Ok(environment) = environment(process.pid) else {
            continue;
        };
        assert!(
            environment.is_empty() || environment == inherited,
            "{:?} has {}",
            process.command,
            String::from_utf8_lossy(&environment)
        );
    }
}

#[test]
fn isms_doctor_shows_every_layer_of_isolation_and_whether_it_is_proven() {
    let Some(platform) = Platform::start() else { return };
    let output = platform.isms(&["doctor", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let isolation: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(isolation["sufficient"], true);
    let layers = isolation["layers"].as_array().unwrap();
    let unproven = layers
        .iter()
        .filter(|layer| layer["required"] == true && layer["proven"] != true);
    assert_eq!(unproven.count(), 0, "{isolation}");
    let shown = platform.isms(&["doctor"]).stdout;
    let shown = String::from_utf8(shown).unwrap();
    for layer in layers {
        assert!(shown.contains(layer["name"].as_str().unwrap()), "{shown}");
    }
    assert_eq!(shown.lines().count(), layers.len());
}

#[test]
fn below_what_the_administrator_requires_no_worker_starts_and_everybody_is_told_why() {
    as_ordinary_user(|programs| {
        // Workers of an ordinary user's platform share its uid.
        let settings = ["[workers]", "required_layers = [\"sub-uid\"]"];
        let platform = Platform::start_from(programs, &settings);
        let doctor = platform.isms(&["doctor"]);
        let shown = String::from_utf8_lossy(&doctor.stdout).into_owned();
        let missing: Vec<&str> = shown.lines().filter(|line| line.contains("MISSING")).collect();
        assert!(
            missing.len() == 1 && missing[0].contains("sub-uid") && missing[0].contains("share the uid"),
            "{shown}"
        );
        assert!(!doctor.status.success());
        assert!(
            stderr(&doctor).contains("below the required minimum"),
            "{}",
            stderr(&doctor)
        );
        let project = Project::c("refused", "return say(call, \"x\");");
        let deployed = platform.isms(&["deploy", project.path().to_str().unwrap()]);
        assert!(
            !deployed.status.success() && stderr(&deployed).contains("does not isolate workers enough"),
            "{}",
            stderr(&deployed)
        );
    });
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
    assert_eq!(output.status.code(), Some(4));
    let text = stderr(&output);
    assert!(
        text.contains("nothing was stopped") && text.contains("--data DIR"),
        "{text}"
    );
    let output = platform.isms(&["down", "--data", "/nowhere"]);
    assert!(
        stderr(&output).contains("/nowhere, which is no data directory"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_stop_in_order_warns_of_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let Some(mut platform) = Platform::start_logging_to(&log) else {
        return;
    };
    platform.deploy(Project::c("site", "return say(call, \"up\");").path());
    assert_eq!(platform.get("/site/").text(), "up");
    platform.stop();
    let log = std::fs::read_to_string(log).unwrap();
    let after = log.split_once("stopping").expect("the stop is told").1;
    assert!(!after.contains("WARN") && !after.contains("ERROR"), "{after}");
}

/// A port that the system picks.
const ANY: &str = "127.0.0.1:0";

/// Runs `isms up` that is expected to fail.
fn up(arguments: &[&str]) -> Option<Output> {
    let output = Command::new(binaries()?.join("isms"))
        .arg("up")
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
    let listener = TcpListener::bind(ANY).unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let data = tempfile::tempdir().unwrap();
    let data = data.path().to_str().unwrap();
    for (http, gate, flag) in [(taken.as_str(), ANY, "--http"), (ANY, taken.as_str(), "--gate")] {
        let Some(output) = up(&["--http", http, "--gate", gate, "--data", data]) else {
            return;
        };
        let error = stderr(&output);
        assert!(error.contains(&taken) && error.contains(flag), "{error}");
    }
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named_with_the_way_out() {
    let Some(output) = up(&["--http", ANY, "--gate", ANY, "--data", "/proc/isms"]) else {
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
    let Some(output) = up(&["--http", ANY, "--gate", ANY, "--data", data]) else {
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
    // The payload has taken the usual flag's name there.
    let output = Command::new(binaries.join("isms"))
        .args(["invoke", "a/b", "--data-dir"])
        .arg(data.path())
        .env_remove("ISMS_URL")
        .env_remove("ISMS_TOKEN")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains("--data-dir DIR"), "{}", stderr(&output));
}

#[test]
fn the_token_of_this_machine_is_not_sent_to_another() {
    let Some(binaries) = binaries() else { return };
    let data = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(data.path().join("isms")).unwrap();
    std::fs::write(data.path().join("isms/admin.token"), "of this machine").unwrap();
    let listener = TcpListener::bind(ANY).unwrap();
    listener.set_nonblocking(true).unwrap();
    let output = Command::new(binaries.join("isms"))
        .args(["status"])
        .env("ISMS_URL", format!("http://{}", listener.local_addr().unwrap()))
        .env_remove("ISMS_TOKEN")
        .env("XDG_DATA_HOME", data.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("ISMS_TOKEN is not"),
        "{}",
        stderr(&output)
    );
    assert!(listener.accept().is_err(), "nobody was asked");
}
