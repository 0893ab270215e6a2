//! A Doer that lies, floods, or asks for more than there is.

use std::{fs, os::fd::AsFd};

use isms_sandbox::{
    linux::seqpacket,
    native::Limits,
    spawner::{Environment, Event, REQUEST_LEN, Request},
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

/// Bytes without any order, the same in each run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte = self.next() as u8);
    }

    /// Half of them noise, half of them a request of which a few bytes are noise.
    fn request(&mut self) -> [u8; REQUEST_LEN] {
        let mut bytes = [0; REQUEST_LEN];
        if self.next().is_multiple_of(2) {
            self.fill(&mut bytes);
            // Far enough to be read beyond its first byte.
            bytes[0] %= 4;
            return bytes;
        }
        let environment = if self.next().is_multiple_of(2) {
            Environment::WORKER
        } else {
            Environment::BUILDER
        };
        let worker = self.next() % 4;
        let request = match self.next() % 4 {
            0 => Request::Kill { worker },
            1 => Request::Limit {
                worker,
                limits: LIMITS,
            },
            _ => Request::Spawn {
                worker,
                environment,
                limits: LIMITS,
            },
        };
        bytes = request.encode();
        for _ in 0..self.next() % 4 {
            let at = self.next() as usize % REQUEST_LEN;
            bytes[at] = self.next() as u8;
        }
        bytes
    }
}

/// The process has its own view of everything that a sandbox has one of.
fn check_inside(pid: u32) {
    for name in ["mnt", "net", "pid", "user", "ipc", "uts", "cgroup"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
        assert_ne!(of(&pid.to_string()), of("self"), "{name}");
    }
}

#[test]
fn thousands_of_random_requests_start_nothing_but_sandboxes() {
    let Some(mut platform) = Platform::start() else {
        return;
    };
    let mut noise = Noise(0x2545_f491_4f6c_dd1d);
    let (mut refused, mut failed, mut started) = (0, 0, 0);
    for round in 0..5_000 {
        let bytes = noise.request();
        let meant = Request::decode(&bytes);
        seqpacket::send(platform.doer.as_fd(), &bytes, &[]).unwrap();
        if matches!(meant, Ok(Request::Kill { .. } | Request::Limit { .. })) {
            continue;
        }
        // Exits of workers that were killed may come before the answer. The ends of a sandbox's channels stay open
        // while it is looked at.
        let (event, _ends) = std::iter::repeat_with(|| platform.event().unzip())
            .find(|(event, _)| !matches!(event, Some(Event::Exited { .. })))
            .unwrap();
        match event {
            Some(Event::Spawned { pid, worker }) => {
                assert!(
                    matches!(meant, Ok(Request::Spawn { worker: it, .. }) if it == worker),
                    "{round}: {meant:?}"
                );
                check_inside(pid);
                platform.send(Request::Kill { worker });
                started += 1;
            }
            Some(Event::Failed { .. }) => {
                assert!(meant.is_ok(), "{round}: {bytes:?}");
                failed += 1;
            }
            None => {
                assert!(meant.is_err(), "{round}: {meant:?}");
                platform.replace_doer();
                refused += 1;
            }
            Some(event) => panic!("{round}: {event:?}"),
        }
    }
    assert!(
        refused > 1_000 && failed > 100 && started > 100,
        "{refused} {failed} {started}"
    );
    // The spawner has lived through all of it.
    assert_eq!(
        platform
            .spawn(1_000, Environment::WORKER, LIMITS)
            .ask("descriptors"),
        "0 1 2 3 4"
    );
}
