//! Limits hold, and can be changed while a worker is empty.

use std::fs;

use isms_sandbox::{
    native::Limits,
    spawner::{Environment, Event, Request},
};

use crate::platform::{LIMITS, Platform};

#[test]
fn a_worker_beyond_its_memory_is_killed_and_said_to_be_out_of_memory() {
    let Some(platform) = Platform::start() else { return };
    if !platform.has("cgroup memory") {
        return;
    }
    let worker = platform.worker();
    assert_eq!(worker.ask("eat 16"), "ok");
    assert_eq!(worker.ask("eat 256"), "");
    let (event, _) = platform.event().unwrap();
    assert_eq!(
        event,
        Event::Exited {
            worker: 1,
            code: None,
            signal: Some(libc::SIGKILL),
            oom: true
        }
    );
}

#[test]
fn a_worker_starts_threads_up_to_its_limit_and_never_a_process() {
    let Some(platform) = Platform::start() else { return };
    let worker = platform.worker();
    assert_eq!(worker.ask("forks 1"), "0");
    assert_eq!(worker.ask("threads 100"), (LIMITS.pids - 1).to_string());
}

#[test]
fn a_builder_starts_processes_up_to_its_limit_and_all_die_with_it() {
    let Some(platform) = Platform::start() else { return };
    let builder = platform.spawn(1, Environment::BUILDER, LIMITS);
    assert_eq!(builder.ask("forks 100"), (LIMITS.pids - 1).to_string());
    platform.send(Request::Kill { worker: 1 });
    builder.wait_for_death();
    let (event, _) = platform.event().unwrap();
    assert_eq!(
        event,
        Event::Exited {
            worker: 1,
            code: None,
            signal: Some(libc::SIGKILL),
            oom: false
        }
    );
}

#[test]
fn limits_set_at_assignment_hold_from_then_on() {
    let Some(platform) = Platform::start() else { return };
    if !platform.has("cgroup memory") {
        return;
    }
    let worker = platform.worker();
    let limits = Limits {
        memory_bytes: 16 << 20,
        cpu_permille: 500,
        cpu_weight: 25,
        pids: 4,
    };
    platform.send(Request::Limit { worker: 1, limits });
    // The spawner handles requests in order: once this has failed, the limit is set.
    platform.send(Request::Spawn {
        worker: 1,
        environment: Environment::WORKER,
        limits,
    });
    let (event, _) = platform.event().unwrap();
    assert!(matches!(event, Event::Failed { worker: 1, .. }), "{event:?}");
    assert_eq!(worker.ask("threads 100"), "3");
    let shares = platform
        .groups()
        .into_iter()
        .find_map(|group| fs::read_to_string(group.join("1/cpu.shares")).ok());
    if let Some(shares) = shares {
        assert_eq!(shares.trim(), "256");
    }
    assert_eq!(worker.ask("eat 32"), "");
    let (event, _) = platform.event().unwrap();
    assert_eq!(
        event,
        Event::Exited {
            worker: 1,
            code: None,
            signal: Some(libc::SIGKILL),
            oom: true
        }
    );
}
