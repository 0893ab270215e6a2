//! Machines that lack something: what is missing is named, what needs it is refused, and all else works.
#![allow(unsafe_code)] // a system call filter, to play a kernel without Landlock

use isms_sandbox::{
    linux::process::effective_uid,
    native::Profile,
    spawner::{Backend, Environment, Event, Holes, ImageHash, Request, SpawnerConfig},
};

use crate::platform::{Host, LIMITS, Lack, Platform};

const NOT_ENOUGH: &str = "this machine does not isolate workers enough; `isms doctor` names the layers";

fn start(lack: Lack, change: impl FnOnce(&mut SpawnerConfig)) -> Platform {
    let host = Host {
        lacks: Some(lack),
        ..Host::default()
    };
    Platform::start_in_any_case(&host, change)
}

fn is_root() -> bool {
    if effective_uid() != 0 {
        eprintln!("SKIPPED: only root can take this away from a spawner");
    }
    effective_uid() == 0
}

/// Makes `landlock_create_ruleset` unknown to this process and all that come of it.
pub(crate) fn hide_landlock() {
    const NUMBER: u32 = 444;
    let statement = |code: u32, jt: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf: 0,
        k,
    };
    let mut filter = [
        // The number of the call.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, NUMBER),
        statement(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
        statement(
            libc::BPF_RET | libc::BPF_K,
            0,
            libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
        ),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: a program of as many statements as it says, which the kernel copies and checks.
    let loaded = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            | libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            )
    };
    assert_eq!(loaded, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn without_user_namespaces_nothing_starts_and_every_required_layer_says_why() {
    let platform = start(Lack::UserNamespaces, |_| ());
    assert!(!platform.sufficient);
    for layer in platform.layers.iter().filter(|layer| layer.required) {
        assert!(
            !layer.proven && layer.detail.starts_with("no sandbox could be started: "),
            "{layer:?}"
        );
    }
    assert_eq!(platform.refusal(Environment::WORKER), NOT_ENOUGH);
    assert_eq!(platform.refusal(Environment::BUILDER), NOT_ENOUGH);
}

#[test]
fn without_landlock_the_other_walls_stand_and_whoever_requires_it_gets_no_worker() {
    let platform = start(Lack::Landlock, |_| ());
    let layer = platform.layer("landlock");
    assert!(
        !layer.proven && layer.detail.starts_with("this kernel has no landlock"),
        "{layer:?}"
    );
    let Some(platform) = platform.filter_sufficient() else {
        return;
    };
    let worker = platform.worker();
    for (command, answer) in [
        ("read /etc/passwd", "ENOENT"),
        ("create /a", "EROFS"),
        ("socket 2", "EPERM"),
        ("descriptors", "0 1 2 3 4"),
    ] {
        assert_eq!(worker.ask(command), answer, "{command}");
    }
    let platform = start(Lack::Landlock, |config| {
        config.required_layers = vec!["landlock".to_owned()];
    });
    assert!(!platform.sufficient && platform.layer("landlock").required);
    assert_eq!(platform.refusal(Environment::WORKER), NOT_ENOUGH);
}

#[test]
fn where_control_groups_cannot_be_written_their_layers_say_so_and_workers_run_within_the_other_limits() {
    if !is_root() {
        return;
    }
    let Some(platform) = start(Lack::WritableControlGroups, |_| ()).filter_sufficient() else {
        return;
    };
    for name in ["cgroup memory", "cgroup cpu", "cgroup pids"] {
        let layer = platform.layer(name);
        assert!(
            !layer.proven && !layer.required && !layer.detail.is_empty(),
            "{layer:?}"
        );
    }
    let worker = platform.worker();
    // Fewer than by its group: their stacks count as its memory.
    let threads: u32 = worker.ask("threads 100").parse().unwrap();
    assert!((1..LIMITS.pids).contains(&threads), "{threads}");
    assert_eq!(worker.ask("forks 1"), "0");
    let container = Environment {
        backend: Backend::Apptainer,
        image: Some(ImageHash([7; 32])),
        ..Environment::WORKER
    };
    assert!(!platform.refusal(container).is_empty());
}

#[test]
fn without_a_container_runtime_a_container_is_refused_with_the_reason_and_native_workers_start() {
    if !is_root() {
        return;
    }
    let Some(platform) = start(Lack::ContainerRuntime, |_| ()).filter_sufficient() else {
        return;
    };
    let absent = "neither apptainer nor singularity is installed in /usr/bin or /usr/local/bin";
    let layer = platform.layer("apptainer");
    assert!(!layer.proven && !layer.required, "{layer:?}");
    assert_eq!(layer.detail, absent);
    let image = crate::image::Image::empty(&platform, "empty");
    let image = image.publish(&platform);
    let container = Environment {
        profile: Profile::Worker,
        backend: Backend::Apptainer,
        image: Some(image),
        holes: Holes::default(),
    };
    assert_eq!(
        platform.refusal(container),
        format!("apptainer cannot be used: {absent}")
    );
    assert_eq!(platform.worker().ask("descriptors"), "0 1 2 3 4");
}

#[test]
fn when_all_uids_of_workers_are_in_use_one_more_is_refused_until_one_is_free() {
    if !is_root() {
        return;
    }
    let change = |config: &mut SpawnerConfig| config.uids.count = 2;
    let Some(platform) = Platform::start_with(&Host::default(), change) else {
        return;
    };
    let first = platform.spawn(1, Environment::WORKER, LIMITS);
    let _second = platform.spawn(2, Environment::WORKER, LIMITS);
    let exhausted = "all uids of workers are in use; one is free again when a worker has ended";
    assert_eq!(platform.refusal(Environment::WORKER), exhausted);
    platform.send(Request::Kill { worker: 1 });
    first.wait_for_death();
    let event = platform.event().unwrap().0;
    assert!(matches!(event, Event::Exited { worker: 1, .. }), "{event:?}");
    let third = platform.spawn(3, Environment::WORKER, LIMITS);
    assert_eq!(third.ask("descriptors"), "0 1 2 3 4");
}
