//! Who dies when, and what is left.

use std::{
    fs,
    os::{fd::AsFd, unix::net::UnixListener},
};

use isms_sandbox::{
    linux::seqpacket,
    spawner::{Environment, Event, FromSpawner, Request, ToSpawner},
};

use crate::platform::{LIMITS, Platform, WORKERS_MAX};

#[test]
fn an_exit_is_told_with_its_code_and_its_number_may_be_used_again() {
    let Some(platform) = Platform::start() else { return };
    for code in [0, 7] {
        let worker = platform.worker();
        assert_eq!(worker.ask(&format!("exit {code}")), "");
        let (event, _) = platform.event().unwrap();
        assert_eq!(
            event,
            Event::Exited {
                worker: 1,
                code: Some(code),
                signal: None,
                oom: false
            }
        );
    }
}

#[test]
fn a_crash_is_told_with_its_signal() {
    let Some(platform) = Platform::start() else { return };
    let worker = platform.worker();
    assert_eq!(worker.ask("crash"), "");
    let (event, _) = platform.event().unwrap();
    assert_eq!(
        event,
        Event::Exited {
            worker: 1,
            code: None,
            signal: Some(libc::SIGSEGV),
            oom: false
        }
    );
}

#[test]
fn many_workers_come_and_go_without_using_anything_up() {
    let Some(platform) = Platform::start() else { return };
    // More than there are uids, more than there may be workers at a time.
    for round in 0..20 {
        let worker = platform.spawn(round, Environment::WORKER, LIMITS);
        platform.send(Request::Kill { worker: round });
        worker.wait_for_death();
        let (event, _) = platform.event().unwrap();
        assert!(
            matches!(event, Event::Exited { worker, .. } if worker == round),
            "{event:?}"
        );
    }
    let status = format!("/proc/{0}/task/{0}/children", platform.spawner.id());
    assert_eq!(
        fs::read_to_string(status).unwrap_or_default().trim(),
        "",
        "no zombie is left"
    );
    assert!(
        platform.groups().iter().all(|group| !group.join("1").exists()),
        "no group is left"
    );
    let descriptors = fs::read_dir(format!("/proc/{}/fd", platform.spawner.id()))
        .unwrap()
        .count();
    assert!(
        descriptors < 20,
        "{descriptors} descriptors are open in the spawner"
    );
}

#[test]
fn workers_die_with_a_killed_spawner_and_the_next_one_sweeps_their_groups() {
    let Some(mut platform) = Platform::start() else {
        return;
    };
    let workers = [
        platform.spawn(1, Environment::WORKER, LIMITS),
        platform.spawn(2, Environment::BUILDER, LIMITS),
    ];
    assert_eq!(workers[1].ask("forks 3"), "3");
    platform.spawner.kill().unwrap();
    platform.spawner.wait().unwrap();
    workers.iter().for_each(|worker| worker.wait_for_death());
    platform.restart_spawner();
    let worker = platform.worker();
    assert_eq!(worker.ask("descriptors"), "0 1 2 3 4");
}

#[test]
fn workers_die_with_their_doer_and_a_new_one_starts_afresh() {
    let Some(mut platform) = Platform::start() else {
        return;
    };
    let worker = platform.worker();
    platform.replace_doer();
    worker.wait_for_death();
    let worker = platform.worker();
    assert_eq!(worker.ask("descriptors"), "0 1 2 3 4");
}

#[test]
fn a_new_doer_takes_over_from_one_that_still_lives() {
    let Some(mut platform) = Platform::start() else {
        return;
    };
    let worker = platform.worker();
    let old = platform.doer.try_clone().unwrap();
    platform.replace_doer();
    worker.wait_for_death();
    assert_eq!(
        seqpacket::receive(old.as_fd(), &mut [0; 64]).map_or(0, |received| received.len),
        0
    );
}

#[test]
fn nothing_is_left_when_the_supervisor_stops_the_spawner() {
    let Some(mut platform) = Platform::start() else {
        return;
    };
    let worker = platform.worker();
    let socket = platform.directory.join("run/role.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    seqpacket::send(platform.supervisor.as_fd(), &ToSpawner::Stop.encode(), &[]).unwrap();
    assert!(platform.wait_for_end().success());
    worker.wait_for_death();
    assert!(platform.groups().is_empty());
    assert!(!platform.directory.join("run/templates").exists());
    assert!(
        socket.exists(),
        "sockets are the supervisor's, as long as it lives"
    );
}

#[test]
fn nothing_is_left_when_the_supervisor_dies() {
    let Some(mut platform) = Platform::start() else {
        return;
    };
    let workers: Vec<_> = (0..WORKERS_MAX.into())
        .map(|number| platform.spawn(number, Environment::WORKER, LIMITS))
        .collect();
    let socket = platform.directory.join("run/role.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let (dead, _) = seqpacket::pair().unwrap();
    drop(std::mem::replace(&mut platform.supervisor, dead));
    workers.iter().for_each(|worker| worker.wait_for_death());
    assert!(platform.spawner.wait().unwrap().success());
    assert!(platform.groups().is_empty());
    assert!(!socket.exists());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains("isms-sandbox-"), "{mounts}");
}

#[test]
fn the_supervisor_hears_a_heartbeat() {
    let Some(platform) = Platform::start() else { return };
    assert_eq!(platform.heard(), Some(FromSpawner::Heartbeat));
    assert_eq!(platform.heard(), Some(FromSpawner::Heartbeat));
}
