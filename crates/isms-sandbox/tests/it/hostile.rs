//! A Doer that lies, floods, or asks for more than there is.

use std::os::fd::AsFd;

use isms_sandbox::{
    linux::seqpacket,
    native::Limits,
    spawner::{Environment, Event, Request},
};

use crate::platform::{LIMITS, MAXIMA, Platform, WORKERS_MAX};

fn failure(platform: &Platform, request: Request) -> String {
    platform.send(request);
    match platform.event().unwrap().0 {
        Event::Failed { message, .. } => message,
        event => panic!("{event:?}"),
    }
}

#[test]
fn a_doer_that_says_something_unknown_is_cut_off_and_its_workers_die() {
    let Some(mut platform) = Platform::start() else {
        return;
    };
    let good = Request::Spawn {
        worker: 2,
        environment: Environment::WORKER,
        limits: LIMITS,
    }
    .encode();
    let mut unknown_profile = good;
    unknown_profile[1] = 9;
    let mut reserved = good;
    reserved[5] = 1;
    let lies: [&[u8]; 5] = [
        b"x",
        &good[..79],
        &[&good[..], b"x"].concat(),
        &unknown_profile,
        &reserved,
    ];
    for lie in lies {
        let worker = platform.worker();
        seqpacket::send(platform.doer.as_fd(), lie, &[]).unwrap();
        worker.wait_for_death();
        assert!(platform.event().is_none());
        platform.replace_doer();
    }
}

#[test]
fn limits_beyond_the_administrator_s_are_refused() {
    let Some(platform) = Platform::start() else { return };
    let spawn = |limits| {
        failure(
            &platform,
            Request::Spawn {
                worker: 1,
                environment: Environment::WORKER,
                limits,
            },
        )
    };
    let refused = |message: String| assert!(message.contains("is outside"), "{message}");
    refused(spawn(Limits {
        memory_bytes: MAXIMA.memory_bytes + 1,
        ..LIMITS
    }));
    refused(spawn(Limits {
        memory_bytes: u64::MAX,
        ..LIMITS
    }));
    refused(spawn(Limits {
        memory_bytes: 0,
        ..LIMITS
    }));
    refused(spawn(Limits {
        cpu_permille: MAXIMA.cpu_permille + 1,
        ..LIMITS
    }));
    refused(spawn(Limits {
        cpu_permille: 0,
        ..LIMITS
    }));
    refused(spawn(Limits {
        pids: MAXIMA.pids + 1,
        ..LIMITS
    }));
    refused(spawn(Limits { pids: 0, ..LIMITS }));
}

#[test]
fn a_worker_that_is_to_get_more_than_allowed_is_killed() {
    let Some(platform) = Platform::start() else { return };
    let worker = platform.worker();
    platform.send(Request::Limit {
        worker: 1,
        limits: Limits {
            pids: u32::MAX,
            ..LIMITS
        },
    });
    worker.wait_for_death();
    assert!(matches!(
        platform.event().unwrap().0,
        Event::Exited { worker: 1, .. }
    ));
}

#[test]
fn more_workers_than_allowed_and_numbers_in_use_are_refused() {
    let Some(platform) = Platform::start() else { return };
    let workers: Vec<_> = (0..WORKERS_MAX.into())
        .map(|number| platform.spawn(number, Environment::WORKER, LIMITS))
        .collect();
    let spawn = |worker| {
        failure(
            &platform,
            Request::Spawn {
                worker,
                environment: Environment::WORKER,
                limits: LIMITS,
            },
        )
    };
    assert_eq!(spawn(0), "worker 0 exists already");
    assert_eq!(spawn(99), "there are 4 workers, which is the most");
    assert_eq!(workers[0].ask("descriptors"), "0 1 2 3 4");
}

#[test]
fn requests_about_workers_that_do_not_exist_are_ignored() {
    let Some(platform) = Platform::start() else { return };
    platform.send(Request::Kill { worker: u64::MAX });
    platform.send(Request::Limit {
        worker: 42,
        limits: LIMITS,
    });
    assert_eq!(platform.worker().ask("descriptors"), "0 1 2 3 4");
}
