//! The same walls around the same program, in an image that Apptainer runs.

use std::{
    fs::{self, File},
    io::Read,
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, symlink},
    },
    process::{self, Command},
    time::{Duration, Instant},
};

use isms_sandbox::{
    linux::{memfd, process::effective_uid, seqpacket},
    native::{Limits, Profile},
    probe::LayerReport,
    sif::Arch,
    spawner::{Backend, Environment, Event, Holes, ImageHash, Request, SpawnerConfig, ToSpawner},
};

use crate::{
    image::{Image, publish},
    images::wait_for_no_loop_device,
    platform::{Host, LIMITS, MAXIMA, Platform, Sandbox, receive},
};

const NO_HOLES: Holes = Holes {
    devices: 0,
    directories: 0,
    network: false,
};

/// A platform with an image that can run its executor.
struct Containers {
    platform: Platform,
    image: ImageHash,
}

/// All layers, that of containers after the first use of one, if there can be one here.
pub(crate) fn layers_with_containers(platform: &Platform) -> Vec<LayerReport> {
    if can_start(platform).is_err() {
        return platform.layers.clone();
    }
    let image = Image::with_libraries(platform, "debian").publish(platform);
    drop(platform.spawn(1, environment(image, NO_HOLES), LIMITS));
    platform.layers_later.take()
}

/// Whether containers can be used here, or why not.
fn can_start(platform: &Platform) -> Result<(), String> {
    let mut layers = platform.layers.iter();
    let layer = layers.find(|layer| layer.name == "apptainer").unwrap();
    if !layer.detail.contains(" is there") {
        return Err(format!("no containers here: {}", layer.detail));
    }
    if Command::new("mksquashfs").arg("-version").output().is_err() {
        return Err("mksquashfs is missing here".to_owned());
    }
    Ok(())
}

impl Containers {
    fn start() -> Option<Self> {
        let platform = Platform::start_with(&Host::default(), list)?;
        if let Err(reason) = can_start(&platform) {
            eprintln!("SKIPPED: {reason}");
            return None;
        }
        let image = Image::with_libraries(&platform, "debian").publish(&platform);
        Some(Self { platform, image })
    }

    fn environment(&self) -> Environment {
        environment(self.image, NO_HOLES)
    }

    fn worker(&self) -> Sandbox {
        self.platform.spawn(1, self.environment(), LIMITS)
    }

    /// Why a worker does not start in the image with these bytes.
    fn refusal(&self, image: &[u8]) -> String {
        let image = publish(&self.platform, image);
        failure(&self.platform, environment(image, NO_HOLES))
    }
}

fn list(config: &mut SpawnerConfig) {
    let maps = config.data_directory.join("maps");
    fs::create_dir(&maps).unwrap();
    fs::write(maps.join("town"), "").unwrap();
    config.device_nodes = vec!["/dev/full".into(), "/dev/does-not-exist".into()];
    config.directories = vec![maps];
}

fn environment(image: ImageHash, holes: Holes) -> Environment {
    Environment {
        profile: Profile::Worker,
        backend: Backend::Apptainer,
        image: Some(image),
        holes,
    }
}

fn failure(platform: &Platform, environment: Environment) -> String {
    platform.send(Request::Spawn {
        worker: 77,
        environment,
        limits: LIMITS,
    });
    match platform.event().unwrap().0 {
        Event::Failed { worker: 77, message } => message,
        event => panic!("{event:?}"),
    }
}

/// Asks a fresh worker, command by command.
fn check(expected: &[(&str, &str)]) {
    let Some(containers) = Containers::start() else {
        return;
    };
    let worker = containers.worker();
    for (command, answer) in expected {
        assert_eq!(worker.ask(command), *answer, "{command}");
    }
}

fn assert_nothing_is_left(platform: &Platform) {
    wait_for_no_loop_device(platform);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(platform.directory.to_str().unwrap()), "{mounts}");
}

#[test]
fn a_container_sees_its_image_and_nothing_of_the_host() {
    check(&[
        ("show /opt/marker", "debian"),
        ("list /isms", "doee-executor"),
        ("read /etc/passwd", "ENOENT"),
        ("read /etc/hosts", "ENOENT"),
        ("read /etc/resolv.conf", "ENOENT"),
        ("read /usr", "ENOENT"),
        ("read /dev", "ENOENT"),
        ("read /run", "ENOENT"),
        ("read /sys", "ENOENT"),
        ("read /../../../../etc/passwd", "ENOENT"),
        ("read /proc/1/root/etc/passwd", "ENOENT"),
        ("read /proc/sys/kernel/core_pattern", "ENOENT"),
        ("read /proc/sys", "ENOENT"),
        ("read /proc/meminfo", "ENOENT"),
        ("read /proc/loadavg", "ENOENT"),
        ("read /proc/interrupts", "ENOENT"),
        ("list /tmp", ""),
    ]);
}

#[test]
fn a_container_writes_below_tmp_and_nowhere_else() {
    check(&[
        ("create /tmp/a", "ok"),
        ("create /a", "EROFS"),
        ("create /opt/a", "EROFS"),
        ("create /isms/a", "EROFS"),
        ("write /isms/doee-executor", "EACCES"),
        ("write /proc/self/attr/current", "EROFS"),
        ("fill /tmp/full", "ENOSPC"),
    ]);
}

#[test]
fn a_container_has_no_network_and_no_way_to_make_a_socket() {
    check(&[
        ("socket 1", "EPERM"),
        ("socket 2", "EPERM"),
        ("socket 10", "EPERM"),
        ("socket 16", "EPERM"),
        ("connect", "EPERM"),
    ]);
}

#[test]
fn a_container_is_nobody_with_no_privileges() {
    check(&[
        ("status CapInh", "CapInh:\t0000000000000000"),
        ("status CapPrm", "CapPrm:\t0000000000000000"),
        ("status CapEff", "CapEff:\t0000000000000000"),
        ("status CapBnd", "CapBnd:\t0000000000000000"),
        ("status CapAmb", "CapAmb:\t0000000000000000"),
        ("status NoNewPrivs", "NoNewPrivs:\t1"),
        ("status Seccomp:", "Seccomp:\t2"),
        ("status Groups", "Groups:\t "),
        ("clear-death-signal", "ENOSYS"),
    ]);
}

#[test]
fn a_container_calls_what_a_native_worker_may_call_and_no_more() {
    let refused = [
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_accept4,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_mknodat,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_kexec_load,
        libc::SYS_setuid,
        libc::SYS_setresuid,
        libc::SYS_personality,
        libc::SYS_open_by_handle_at,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_getfd,
        libc::SYS_memfd_create,
        libc::SYS_shmget,
        libc::SYS_msgget,
        libc::SYS_mq_open,
        libc::SYS_vhangup,
        libc::SYS_reboot,
    ];
    let Some(containers) = Containers::start() else {
        return;
    };
    let native = containers.platform.spawn(2, Environment::WORKER, LIMITS);
    let container = containers.worker();
    for number in refused {
        let command = format!("call {number}");
        assert_eq!(container.ask(&command), "EPERM", "{command}");
        assert_eq!(native.ask(&command), "EPERM", "{command}");
    }
    // So that libraries fall back: a call that nobody knows, and the one whose flags no filter sees.
    for number in [libc::SYS_clone3, 4000] {
        assert_eq!(container.ask(&format!("call {number}")), "ENOSYS", "{number}");
    }
}

#[test]
fn a_container_has_descriptors_0_to_4_only() {
    check(&[("descriptors", "0 1 2 3 4"), ("read /proc/self/fd/5", "ENOENT")]);
}

#[test]
fn a_container_meets_nobody_else() {
    let parent = format!("kill {}", process::id());
    check(&[("kill 2", "ESRCH"), (&parent, "ESRCH"), ("kill 1", "ok")]);
}

#[test]
fn each_container_has_a_uid_of_its_own_and_an_environment_of_fixed_text() {
    let Some(containers) = Containers::start() else {
        return;
    };
    let workers = [1, 2, 3].map(|number| {
        containers
            .platform
            .spawn(number, containers.environment(), LIMITS)
    });
    let mut ids = workers.each_ref().map(|worker| {
        let identity = worker.ask("identity");
        let words: Vec<&str> = identity.split(' ').collect();
        let [_, "1", _, uid, _, gid, _, _, _, "0", ..] = words[..] else {
            panic!("{identity}")
        };
        assert_eq!(uid, gid);
        assert!(uid.parse::<u32>().unwrap() >= 500_000, "{uid}");
        uid.to_owned()
    });
    ids.sort();
    assert!(ids[0] != ids[1] && ids[1] != ids[2], "{ids:?}");
    // As the kernel shows it, to whom it may concern inside: no path of the host.
    let directory = containers.platform.directory.to_str().unwrap();
    let environment = workers[0].ask("environment");
    assert!(
        environment.contains("APPTAINER_CONTAINER=/run/image.sif"),
        "{environment}"
    );
    assert!(!environment.contains(directory), "{environment}");
}

#[test]
fn output_and_a_sealed_library_reach_where_they_belong() {
    let Some(containers) = Containers::start() else {
        return;
    };
    let worker = containers.worker();
    assert_eq!(worker.ask("print hello"), "ok");
    let directory = &containers.platform.directory;
    let (source, library) = (directory.join("doee.c"), directory.join("doee.so"));
    fs::write(&source, "int doee(void) { return 7; }").unwrap();
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .status();
    assert!(compiled.unwrap().success());
    let sealed = memfd::create_sealed(c"doee", &fs::read(&library).unwrap()).unwrap();
    seqpacket::send(worker.control.as_fd(), b"load", &[sealed.as_fd()]).unwrap();
    assert_eq!(receive(worker.control.as_fd()), b"ok");
    assert_eq!(worker.ask("exit 0"), "");
    let mut output = String::new();
    File::from(worker.output).read_to_string(&mut output).unwrap();
    assert_eq!(output, "hello\n");
}

#[test]
fn exits_and_crashes_are_told_as_those_of_native_workers() {
    let Some(containers) = Containers::start() else {
        return;
    };
    let ends = [
        ("exit 0", Some(0), None),
        ("exit 7", Some(7), None),
        ("crash", None, Some(libc::SIGSEGV)),
    ];
    for (command, code, signal) in ends {
        let worker = containers.worker();
        assert_eq!(worker.ask(command), "");
        let event = containers.platform.event().unwrap().0;
        let expected = Event::Exited {
            worker: 1,
            code,
            signal,
            oom: false,
        };
        assert_eq!(event, expected);
    }
}

#[test]
fn containers_come_and_go_without_using_anything_up() {
    let Some(containers) = Containers::start() else {
        return;
    };
    let platform = &containers.platform;
    // More than there are uids.
    for round in 0..10 {
        let worker = platform.spawn(round, containers.environment(), LIMITS);
        platform.send(Request::Kill { worker: round });
        worker.wait_for_death();
        let event = platform.event().unwrap().0;
        assert!(
            matches!(
                event,
                Event::Exited {
                    signal: Some(libc::SIGKILL),
                    ..
                }
            ),
            "{event:?}"
        );
    }
    let children = format!("/proc/{0}/task/{0}/children", platform.spawner.id());
    assert_eq!(
        fs::read_to_string(children).unwrap().trim(),
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
    assert_nothing_is_left(platform);
}

#[test]
fn a_killed_spawner_leaves_no_container_and_the_next_one_starts_afresh() {
    let Some(mut containers) = Containers::start() else {
        return;
    };
    let environment = containers.environment();
    let workers = [1, 2].map(|number| containers.platform.spawn(number, environment, LIMITS));
    let platform = &mut containers.platform;
    platform.spawner.kill().unwrap();
    platform.spawner.wait().unwrap();
    workers.iter().for_each(Sandbox::wait_for_death);
    // Their ends are closed before the last of their processes is reaped.
    let deadline = Instant::now() + Duration::from_secs(20);
    while !platform.processes().is_empty() {
        assert!(Instant::now() < deadline, "{:?}", platform.processes());
        std::thread::yield_now();
    }
    assert_nothing_is_left(platform);
    platform.restart_spawner();
    let worker = platform.spawn(1, environment, LIMITS);
    assert_eq!(worker.ask("descriptors"), "0 1 2 3 4");
}

#[test]
fn nothing_is_left_of_containers_when_the_supervisor_stops_the_spawner_or_dies() {
    for dies in [false, true] {
        let Some(mut containers) = Containers::start() else {
            return;
        };
        let worker = containers.worker();
        let platform = &mut containers.platform;
        if dies {
            let (dead, _) = seqpacket::pair().unwrap();
            drop(std::mem::replace(&mut platform.supervisor, dead));
        } else {
            seqpacket::send(platform.supervisor.as_fd(), &ToSpawner::Stop.encode(), &[]).unwrap();
        }
        assert!(platform.spawner.wait().unwrap().success());
        worker.wait_for_death();
        assert!(platform.groups().is_empty());
        assert!(!platform.directory.join("run/templates").exists());
        assert_nothing_is_left(platform);
    }
}

#[test]
fn a_container_that_is_given_up_while_it_starts_leaves_nothing() {
    let Some(mut containers) = Containers::start() else {
        return;
    };
    let environment = containers.environment();
    let platform = &mut containers.platform;
    for number in 0..4 {
        platform.send(Request::Spawn {
            worker: number,
            environment,
            limits: LIMITS,
        });
        platform.send(Request::Kill { worker: number });
        let event = platform.event().unwrap().0;
        assert!(
            matches!(event, Event::Failed { worker, .. } if worker == number),
            "{event:?}"
        );
    }
    seqpacket::send(platform.supervisor.as_fd(), &ToSpawner::Stop.encode(), &[]).unwrap();
    assert!(platform.wait_for_end().success());
    assert_nothing_is_left(platform);
}

#[test]
fn a_container_beyond_its_memory_is_killed_and_said_to_be_out_of_memory() {
    let Some(containers) = Containers::start() else {
        return;
    };
    let worker = containers.worker();
    assert_eq!(worker.ask("eat 48"), "ok");
    assert_eq!(worker.ask("eat 256"), "");
    let event = containers.platform.event().unwrap().0;
    let Event::Exited {
        signal: Some(libc::SIGKILL),
        oom: true,
        ..
    } = event
    else {
        panic!("{event:?}")
    };
}

#[test]
fn a_container_starts_threads_up_to_its_limit_and_never_a_process() {
    let Some(containers) = Containers::start() else {
        return;
    };
    let worker = containers.worker();
    assert_eq!(worker.ask("forks 1"), "0");
    let threads: u32 = worker.ask("threads 100").parse().unwrap();
    // What the runtime leaves unused of its share is the Doee's.
    assert!((LIMITS.pids - 1..MAXIMA.pids).contains(&threads), "{threads}");
}

#[test]
fn limits_set_at_assignment_hold_for_containers_too() {
    let Some(containers) = Containers::start() else {
        return;
    };
    let worker = containers.worker();
    let limits = Limits {
        memory_bytes: 16 << 20,
        cpu_permille: 500,
        cpu_weight: 100,
        pids: 4,
    };
    containers.platform.send(Request::Limit { worker: 1, limits });
    // The spawner handles requests in order: once this has failed, the limit is set.
    let environment = containers.environment();
    containers.platform.send(Request::Spawn {
        worker: 1,
        environment,
        limits,
    });
    let event = containers.platform.event().unwrap().0;
    assert!(matches!(event, Event::Failed { worker: 1, .. }), "{event:?}");
    let threads: u32 = worker.ask("threads 100").parse().unwrap();
    assert!((3..LIMITS.pids).contains(&threads), "{threads}");
    assert_eq!(worker.ask("eat 64"), "");
    let event = containers.platform.event().unwrap().0;
    assert!(
        matches!(
            event,
            Event::Exited {
                worker: 1,
                oom: true,
                ..
            }
        ),
        "{event:?}"
    );
}

#[test]
fn containers_are_proven_at_their_first_use_and_every_doer_hears_of_it() {
    let Some(mut containers) = Containers::start() else {
        return;
    };
    let is_proven = |layers: &[LayerReport]| {
        let layer = layers.iter().find(|layer| layer.name == "apptainer").unwrap();
        layer.proven
    };
    assert!(!is_proven(&containers.platform.layers));
    // All of them wait for the proof.
    let environment = containers.environment();
    for worker in 1..=3 {
        containers.platform.send(Request::Spawn {
            worker,
            environment,
            limits: LIMITS,
        });
    }
    // Their channels stay open: without its control channel an executor ends.
    let mut spawned = Vec::new();
    for _ in 1..=3 {
        match containers.platform.event().unwrap() {
            (Event::Spawned { worker, .. }, channels) => spawned.push((worker, channels)),
            (event, _) => panic!("{event:?}"),
        }
    }
    let mut numbers: Vec<u64> = spawned.iter().map(|(worker, _)| *worker).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3]);
    assert!(is_proven(&containers.platform.layers_later.borrow()));
    containers.platform.replace_doer();
    assert!(is_proven(&containers.platform.layers));
}

#[test]
fn openings_are_there_when_granted_and_only_then() {
    let Some(containers) = Containers::start() else {
        return;
    };
    let platform = &containers.platform;
    let holes = Holes {
        devices: 1,
        directories: 1,
        network: false,
    };
    let granted = platform.spawn(1, environment(containers.image, holes), LIMITS);
    for (command, answer) in [
        (
            "list /dev",
            "fd full mqueue null random shm stderr stdin stdout tty urandom zero",
        ),
        ("read /dev/full", "ok"),
        ("write /dev/full", "ok"),
        ("create /dev/a", "EACCES"),
        ("create /dev/shm/a", "EROFS"),
        ("read /dev/kmsg", "ENOENT"),
        ("read /dev/loop0", "ENOENT"),
        ("list /data", "maps"),
        ("list /data/maps", "town"),
        ("create /data/maps/a", "EROFS"),
    ] {
        assert_eq!(granted.ask(command), answer, "{command}");
    }
    let plain = platform.spawn(2, containers.environment(), LIMITS);
    assert_eq!(plain.ask("read /dev/full"), "ENOENT");
    assert_eq!(plain.ask("list /data"), "ENOENT");
    // The host's node was copied, not changed.
    let node = fs::metadata("/dev/full").unwrap();
    assert_eq!(node.uid(), 0);
}

#[test]
fn openings_that_nobody_listed_are_refused() {
    let Some(containers) = Containers::start() else {
        return;
    };
    for (devices, directories) in [(1 << 63, 0), (0, 1 << 63), (4, 0)] {
        let holes = Holes {
            devices,
            directories,
            network: false,
        };
        let message = failure(&containers.platform, environment(containers.image, holes));
        assert!(message.starts_with("the administrator allows no "), "{message}");
    }
    let absent = Holes {
        devices: 2,
        ..NO_HOLES
    };
    let message = failure(&containers.platform, environment(containers.image, absent));
    assert!(
        message.starts_with("/dev/does-not-exist is no character device"),
        "{message}"
    );
}

#[test]
fn an_image_in_which_the_executor_cannot_start_is_told_what_it_lacks() {
    let Some(containers) = Containers::start() else {
        return;
    };
    let cannot = "the executor cannot start in this image: ";
    let without = |name: &str| {
        let image = Image::with_libraries(&containers.platform, &format!("without-{name}"));
        fs::remove_file(image.find(name)).unwrap();
        containers.refusal(&image.bytes(&[], Arch::HOST))
    };
    assert_eq!(
        without("libc.so.6"),
        format!("{cannot}the image lacks the shared library libc.so.6")
    );
    assert_eq!(
        without("ld-linux*"),
        format!(
            "{cannot}the image has no C library for it: its loader ld-linux is missing (glibc is needed)"
        )
    );
    let empty = Image::empty(&containers.platform, "empty");
    let message = containers.refusal(&empty.bytes(&[], Arch::HOST));
    assert!(message.starts_with(cannot), "{message}");
}

#[test]
fn an_image_whose_contents_are_damaged_is_refused() {
    let Some(containers) = Containers::start() else {
        return;
    };
    let image = Image::with_libraries(&containers.platform, "damaged");
    let mut image = image.bytes(&[], Arch::HOST);
    // Whole by its headers, garbage inside.
    let len = image.len();
    image[len / 2..].fill(0x5a);
    let message = containers.refusal(&image);
    assert!(message.contains("image"), "{message}");
    let message = containers.refusal(&image[..len / 2]);
    assert!(message.contains("truncated"), "{message}");
    let message = containers.refusal(b"#!/bin/sh");
    assert!(message.contains("not a SIF image"), "{message}");
    // And a good one starts after all of that.
    assert_eq!(containers.worker().ask("descriptors"), "0 1 2 3 4");
}

#[test]
fn what_an_image_does_before_the_executor_is_confined_as_well() {
    let Some(containers) = Containers::start() else {
        return;
    };
    let image = Image::with_libraries(&containers.platform, "hostile");
    // The runtime interprets this before it executes anything.
    image.write(
        ".singularity.d/env/99-attack.sh",
        "mkdir /tmp/by-script\n/isms/doee-executor\ncat < /etc/shadow > /tmp/shadow\n",
    );
    // Places where things get bound lead elsewhere.
    let root = containers.platform.directory.join("hostile");
    symlink("/proc/1/root/etc", root.join("tmp")).unwrap();
    symlink("/../../etc", root.join("isms")).unwrap();
    let hostile = image.publish(&containers.platform);
    let (request, platform) = (environment(hostile, NO_HOLES), &containers.platform);
    platform.send(Request::Spawn {
        worker: 5,
        environment: request,
        limits: LIMITS,
    });
    match platform.event().unwrap() {
        // It starts all the same, and then has what every other one has.
        (Event::Spawned { .. }, descriptors) => {
            let control = &descriptors[0];
            assert_eq!(receive(control.as_fd()), b"up");
            seqpacket::send(control.as_fd(), b"read /etc/shadow", &[]).unwrap();
            assert_eq!(receive(control.as_fd()), b"ENOENT");
        }
        (Event::Failed { message, .. }, _) => {
            assert!(
                message.starts_with("the executor cannot start in this image"),
                "{message}"
            );
        }
        (event, _) => panic!("{event:?}"),
    }
    assert!(
        !fs::read_dir("/etc")
            .unwrap()
            .flatten()
            .any(|entry| entry.file_name() == "doee-executor")
    );
}

#[test]
fn an_ordinary_user_s_platform_says_why_it_has_no_containers() {
    if effective_uid() != 0 {
        eprintln!("SKIPPED: only root can start a spawner as another user");
        return;
    }
    let Some(platform) = Platform::start_as(1000) else {
        return;
    };
    let layer = platform
        .layers
        .iter()
        .find(|layer| layer.name == "apptainer")
        .unwrap();
    assert!(!layer.proven);
    let image = ImageHash([7; 32]);
    let message = failure(&platform, environment(image, NO_HOLES));
    assert!(!message.is_empty());
    assert_eq!(platform.worker().ask("descriptors"), "0 1 2 3 4");
}
