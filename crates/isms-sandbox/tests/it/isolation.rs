//! What is not possible inside.

use std::{
    collections::BTreeSet,
    ffi::CStr,
    fs,
    io::Read,
    os::fd::AsFd,
    process::{self, Command},
};

use isms_sandbox::{
    linux::{lockdown, memfd, process::effective_uid, seqpacket},
    probe::{OPTIONAL, REQUIRED},
    spawner::{Environment, Request},
};

use crate::{
    apptainer::layers_with_containers,
    platform::{LIMITS, Platform, receive},
};

/// Asks a fresh worker, command by command.
fn check(expected: &[(&str, &str)]) {
    let Some(platform) = Platform::start() else { return };
    let worker = platform.worker();
    for (command, answer) in expected {
        assert_eq!(worker.ask(command), *answer, "{command}");
    }
}

#[test]
fn every_layer_is_proven_where_root_starts_the_platform() {
    let Some(platform) = Platform::start() else { return };
    if !platform.has("sub-uid") {
        return;
    }
    let layers = layers_with_containers(&platform);
    let mut names: Vec<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
    let mut known: Vec<&str> = REQUIRED.into_iter().chain(OPTIONAL).collect();
    names.sort_unstable();
    known.sort_unstable();
    assert_eq!(names, known);
    let missing: Vec<_> = layers.iter().filter(|layer| !layer.proven).collect();
    let of_the_machine = ["cgroup ", "landlock", "apptainer"];
    let is_of_the_machine = |name: &str| of_the_machine.iter().any(|start| name.starts_with(start));
    let all_are = missing.iter().all(|layer| is_of_the_machine(&layer.name));
    assert!(all_are, "{missing:#?}");
    for layer in missing {
        eprintln!("SKIPPED: {}: {}", layer.name, layer.detail);
    }
}

#[test]
fn a_worker_sees_its_own_root_and_nothing_of_the_host() {
    check(&[
        ("list /", "data dev isms lib lib64 proc tmp"),
        ("list /isms", "doee-executor"),
        ("list /dev", ""),
        ("list /data", ""),
        ("list /tmp", ""),
        ("read /etc/passwd", "ENOENT"),
        ("read /work", "ENOENT"),
        ("read /usr", "ENOENT"),
        ("read /../../../../etc/passwd", "ENOENT"),
        ("read /proc/1/root/etc/passwd", "ENOENT"),
        ("read /proc/sys/kernel/core_pattern", "ENOENT"),
        ("read /proc/kcore", "ENOENT"),
        ("read /sys", "ENOENT"),
    ]);
}

#[test]
fn a_worker_writes_below_tmp_and_nowhere_else() {
    check(&[
        ("create /tmp/a", "ok"),
        ("create /a", "EROFS"),
        ("create /isms/a", "EROFS"),
        ("create /dev/a", "EROFS"),
        ("write /isms/doee-executor", "EACCES"),
        ("write /proc/self/comm", "EACCES"),
        ("write /proc/self/oom_score_adj", "EACCES"),
        ("write /proc/self/uid_map", "EACCES"),
        ("fill /tmp/full", "ENOSPC"),
    ]);
}

#[test]
fn a_worker_has_no_network_and_no_way_to_make_a_socket() {
    check(&[
        ("socket 1", "EPERM"),
        ("socket 2", "EPERM"),
        ("socket 10", "EPERM"),
        ("socket 16", "EPERM"),
        ("connect", "EPERM"),
    ]);
}

#[test]
fn a_worker_is_nobody_with_no_privileges_and_an_empty_environment() {
    // Only root can drop the groups of whoever started the platform; nothing inside belongs to them.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let groups = status
        .lines()
        .find_map(|line| line.strip_prefix("Groups:"))
        .unwrap();
    let kept = if effective_uid() == 0 {
        0
    } else {
        groups.split_whitespace().count()
    };
    let identity = format!("pid 1 uid 1000 gid 1000 session 1 groups {kept} environment empty");
    check(&[
        ("identity", identity.as_str()),
        ("status CapPrm", "CapPrm:\t0000000000000000"),
        ("status CapEff", "CapEff:\t0000000000000000"),
        ("status CapBnd", "CapBnd:\t0000000000000000"),
        ("status CapAmb", "CapAmb:\t0000000000000000"),
        ("status NoNewPrivs", "NoNewPrivs:\t1"),
        ("status Seccomp:", "Seccomp:\t2"),
        ("core-limit", "1 1"),
        ("clear-death-signal", "EPERM"),
    ]);
}

#[test]
fn a_worker_has_descriptors_0_to_4_only() {
    check(&[("descriptors", "0 1 2 3 4"), ("read /proc/self/fd/5", "ENOENT")]);
}

#[test]
fn a_worker_meets_nobody_else() {
    let parent = format!("kill {}", process::id());
    check(&[("kill 2", "ESRCH"), (&parent, "ESRCH"), ("kill 1", "ok")]);
}

#[test]
fn each_worker_has_a_uid_of_its_own_on_the_host() {
    let Some(platform) = Platform::start() else { return };
    if !platform.has("sub-uid") {
        return;
    }
    let workers = [1, 2, 3].map(|number| platform.spawn(number, Environment::WORKER, LIMITS));
    let uids = workers.each_ref().map(|worker| {
        let status = fs::read_to_string(format!("/proc/{}/status", worker.pid)).unwrap();
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
        let uids: Vec<u32> = uids.split_whitespace().map(|uid| uid.parse().unwrap()).collect();
        assert!(uids.iter().all(|uid| *uid == uids[0]), "{uids:?}");
        uids[0]
    });
    assert!(uids.iter().all(|uid| *uid >= 500_000), "{uids:?}");
    assert!(
        uids[0] != uids[1] && uids[1] != uids[2] && uids[0] != uids[2],
        "{uids:?}"
    );
}

#[test]
fn each_worker_has_a_network_namespace_of_its_own_whether_made_ahead_or_with_it() {
    let Some(platform) = Platform::start() else { return };
    let network = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    // Asked for at once, so that only the first can have the one that was made ahead.
    let numbers = [1, 2, 3];
    for worker in numbers {
        platform.send(Request::Spawn {
            worker,
            environment: Environment::WORKER,
            limits: LIMITS,
        });
    }
    let workers = numbers.map(|_| platform.spawned());
    let networks: BTreeSet<_> = workers.iter().map(|worker| network(worker.pid)).collect();
    assert_eq!(networks.len(), numbers.len());
    assert!(!networks.contains(&network(process::id())), "the host's");
}

#[test]
fn output_data_and_a_sealed_library_reach_where_they_belong() {
    let Some(platform) = Platform::start() else { return };
    let worker = platform.worker();
    assert_eq!(worker.ask("print hello"), "ok");
    let library = platform.directory.join("doee.so");
    let source = platform.directory.join("doee.c");
    fs::write(&source, "int doee(void) { return 7; }").unwrap();
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .status();
    assert!(compiled.unwrap().success());
    let name: &CStr = c"doee";
    let sealed = memfd::create_sealed(name, &fs::read(&library).unwrap()).unwrap();
    seqpacket::send(worker.control.as_fd(), b"load", &[sealed.as_fd()]).unwrap();
    assert_eq!(receive(worker.control.as_fd()), b"ok");
    drop((worker.control, worker.data));
    let mut output = String::new();
    fs::File::from(worker.output).read_to_string(&mut output).unwrap();
    assert_eq!(output, "hello\n");
}

#[test]
fn a_builder_runs_the_toolchain_and_sees_nothing_else_of_the_host() {
    let Some(platform) = Platform::start() else { return };
    let builder = platform.spawn(1, Environment::BUILDER, LIMITS);
    assert_eq!(builder.ask("run /bin/sh"), "ok");
    assert_eq!(builder.ask("list /sdk"), "include");
    assert_eq!(builder.ask("list /etc"), "alternatives");
    assert_eq!(builder.ask("read /usr/local"), "ENOENT");
    assert_eq!(builder.ask("read /usr/share"), "ENOENT");
    assert_eq!(builder.ask("write /dev/null"), "ok");
    assert_eq!(builder.ask("create /usr/a"), "EROFS");
    assert_eq!(builder.ask("create /tmp/a"), "ok");
    assert_eq!(builder.ask("socket 2"), "EPERM");
    assert_eq!(builder.ask("set-core-limit"), "EPERM");
    assert_eq!(builder.ask("read /work"), "ENOENT");
}

#[test]
fn two_builders_at_the_same_time_see_nothing_of_each_other() {
    let Some(platform) = Platform::start() else { return };
    let [first, second] = [1, 2].map(|number| platform.spawn(number, Environment::BUILDER, LIMITS));
    assert_eq!(first.ask("create /tmp/secret.c"), "ok");
    assert_eq!(first.ask("list /tmp"), "secret.c");
    assert_eq!(second.ask("list /tmp"), "");
    assert_eq!(second.ask("read /tmp/secret.c"), "ENOENT");
    // Each is the only process that it sees, and can signal nobody else.
    assert_eq!(first.ask("identity"), second.ask("identity"));
    assert_eq!(second.ask("list /proc"), "1 self thread-self");
    assert_eq!(second.ask(&format!("kill {}", first.pid)), "ESRCH");
    let files: Vec<_> = (1..=64)
        .map(|number| format!("/proc/{number}/root/tmp/secret.c"))
        .collect();
    for file in files {
        assert_eq!(second.ask(&format!("read {file}")), "ENOENT", "{file}");
    }
}

#[test]
fn an_ordinary_user_s_workers_are_isolated_too() {
    if effective_uid() != 0 {
        eprintln!("SKIPPED: only root can start a spawner as another user");
        return;
    }
    let Some(platform) = Platform::start_as(1000) else {
        return;
    };
    let worker = platform.worker();
    assert_eq!(worker.ask("read /etc/passwd"), "ENOENT");
    assert_eq!(worker.ask("socket 2"), "EPERM");
    assert_eq!(worker.ask("status CapBnd"), "CapBnd:\t0000000000000000");
    let sub_uid = platform
        .layers
        .iter()
        .find(|layer| layer.name == "sub-uid")
        .unwrap();
    assert!(
        !sub_uid.proven && sub_uid.detail.contains("share the uid"),
        "{sub_uid:?}"
    );
}

#[test]
#[ignore = "a process of its own, which the next test starts"]
fn locked_down_process() {
    lockdown::forbid_exec().unwrap();
    let error = Command::new("/bin/true").status().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    std::thread::spawn(|| ()).join().unwrap();
}

#[test]
fn nothing_can_be_executed_after_lockdown() {
    let arguments = [
        "isolation::locked_down_process",
        "--exact",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ];
    let output = Command::new(std::env::current_exe().unwrap())
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("1 passed"),
        "{output:?}"
    );
}
