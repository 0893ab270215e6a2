//! Workers whose root is an image, images that are none, and what is left of them.

use std::{
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use isms_sandbox::{
    sif::Arch,
    spawner::{Environment, Event, ImageHash, Request},
};

use crate::{
    image::{Image, can_mount_images, publish, published, worker_in},
    platform::{Host, IMAGE_LEN_MAX, LIMITS, Platform, WORKERS_MAX},
};

/// A platform on which images can be roots.
fn platform() -> Option<Platform> {
    can_mount_images().then(Platform::start).flatten()
}

/// Loop devices on files of this platform.
pub(crate) fn loop_devices(platform: &Platform) -> Vec<String> {
    let directory = platform.directory.to_string_lossy().into_owned();
    let devices = fs::read_dir("/sys/block").unwrap().flatten();
    let backing =
        devices.filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
    backing.filter(|path| path.starts_with(&directory)).collect()
}

/// Waits until the kernel has let go of the last loop device.
pub(crate) fn wait_for_no_loop_device(platform: &Platform) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !loop_devices(platform).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", loop_devices(platform));
        std::thread::yield_now();
    }
}

/// Directories of staged images, by the number of what is in them.
fn staged(platform: &Platform) -> Vec<PathBuf> {
    let entries = fs::read_dir(platform.directory.join("run/images"));
    entries.unwrap().flatten().map(|entry| entry.path()).collect()
}

#[test]
fn a_worker_s_root_is_its_image_with_the_executor_over_it() {
    let Some(platform) = platform() else { return };
    let image = Image::with_libraries(&platform, "debian");
    image.write("etc/passwd", "image");
    image.write("usr/share/model.bin", "weights");
    let hash = image.publish(&platform);
    let worker = platform.spawn(1, worker_in(hash), LIMITS);
    assert_eq!(worker.ask("descriptors"), "0 1 2 3 4");
    assert_eq!(worker.ask("show /opt/marker"), "debian");
    assert_eq!(worker.ask("show /etc/passwd"), "image");
    assert_eq!(worker.ask("show /usr/share/model.bin"), "weights");
    assert_eq!(worker.ask("list /isms"), "doee-executor");
    assert_eq!(worker.ask("list /dev"), "");
    assert_eq!(worker.ask("create /tmp/a"), "ok");
    assert_eq!(worker.ask("create /opt/a"), "EROFS");
    assert_eq!(worker.ask("write /opt/marker"), "EROFS");
    assert_eq!(worker.ask("read /proc/sys/kernel/core_pattern"), "ENOENT");
    assert_eq!(
        worker.ask("identity"),
        "pid 1 uid 1000 gid 1000 session 1 groups 0 environment empty"
    );
    assert_eq!(worker.ask("socket 2"), "EPERM");
    let plain = platform.spawn(2, Environment::WORKER, LIMITS);
    assert_eq!(plain.ask("read /opt/marker"), "ENOENT");
}

#[test]
fn nodes_set_uid_files_and_links_out_of_an_image_lead_nowhere() {
    let Some(platform) = platform() else { return };
    let image = Image::with_libraries(&platform, "hostile");
    symlink(
        "/proc/1/root/etc/passwd",
        platform.directory.join("hostile/escape"),
    )
    .unwrap();
    symlink("/../../../../etc/passwd", platform.directory.join("hostile/up")).unwrap();
    // What lies where the executor and the mount points are.
    symlink("/opt", platform.directory.join("hostile/isms")).unwrap();
    symlink("/opt", platform.directory.join("hostile/dev")).unwrap();
    image.write("tmp", "no directory");
    let nodes = ["-p", "null c 666 0 0 1 3", "-p", "disk b 666 0 0 7 0"];
    let hash = publish(&platform, &image.bytes(&nodes, Arch::HOST));
    let worker = platform.spawn(1, worker_in(hash), LIMITS);
    assert_eq!(worker.ask("show /opt/marker"), "hostile");
    for (command, answer) in [
        ("read /null", "EACCES"),
        ("read /disk", "EACCES"),
        ("read /escape", "ENOENT"),
        ("read /up", "ENOENT"),
        ("list /isms", "doee-executor"),
        ("list /dev", ""),
        ("create /tmp/a", "ok"),
    ] {
        assert_eq!(worker.ask(command), answer, "{command}");
    }
}

#[test]
fn workers_share_a_staged_image_and_nothing_of_it_is_left_after_the_spawner() {
    let Some(mut platform) = platform() else { return };
    let hash = Image::with_libraries(&platform, "shared").publish(&platform);
    let workers = [1, 2].map(|number| platform.spawn(number, worker_in(hash), LIMITS));
    assert_eq!(loop_devices(&platform).len(), 1);
    assert_eq!(staged(&platform).len(), 1);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains("run/images"), "seen by the host: {mounts}");
    // Who holds the source can do what he likes with it now.
    fs::write(published(&platform, hash), "changed").unwrap();
    assert_eq!(workers[1].ask("show /opt/marker"), "shared");
    platform.stop();
    workers.iter().for_each(|worker| worker.wait_for_death());
    assert!(!platform.directory.join("run/images").exists());
    wait_for_no_loop_device(&platform);
}

#[test]
fn a_killed_spawner_leaves_no_mount_and_no_loop_device_and_the_next_one_no_file() {
    let Some(mut platform) = platform() else { return };
    let hash = Image::with_libraries(&platform, "orphan").publish(&platform);
    let worker = platform.spawn(1, worker_in(hash), LIMITS);
    platform.spawner.kill().unwrap();
    platform.spawner.wait().unwrap();
    worker.wait_for_death();
    wait_for_no_loop_device(&platform);
    platform.restart_spawner();
    assert_eq!(staged(&platform), [] as [PathBuf; 0]);
    let worker = platform.spawn(1, worker_in(hash), LIMITS);
    assert_eq!(worker.ask("show /opt/marker"), "orphan");
}

#[test]
fn what_is_no_image_is_refused_by_name_and_leaves_nothing() {
    let Some(platform) = platform() else { return };
    let image = Image::with_libraries(&platform, "good");
    let bytes = image.bytes(&[], Arch::HOST);
    let good = image.publish(&platform);
    let refused = |hash: ImageHash, reason: &str| {
        let message = platform.refusal(worker_in(hash));
        assert!(
            message.contains(reason) && message.contains(&hash.to_string()),
            "{message}"
        );
        assert_eq!(staged(&platform), [] as [PathBuf; 0], "{reason}");
    };
    refused(ImageHash([1; 32]), "it is not there");
    symlink(
        published(&platform, good),
        published(&platform, ImageHash([2; 32])),
    )
    .unwrap();
    refused(ImageHash([2; 32]), "no regular file");
    fs::create_dir(published(&platform, ImageHash([3; 32]))).unwrap();
    refused(ImageHash([3; 32]), "no regular file");
    let pipe = published(&platform, ImageHash([4; 32]));
    assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
    refused(ImageHash([4; 32]), "no regular file");
    fs::copy(
        published(&platform, good),
        published(&platform, ImageHash([5; 32])),
    )
    .unwrap();
    refused(ImageHash([5; 32]), "its content is not what its name says");
    refused(publish(&platform, b""), "not a SIF image");
    refused(publish(&platform, b"#!/bin/sh\n"), "not a SIF image");
    refused(publish(&platform, &bytes[..bytes.len() / 2]), "truncated");
    let other = match Arch::HOST {
        Arch::X86_64 => Arch::Aarch64,
        _ => Arch::X86_64,
    };
    refused(publish(&platform, &image.bytes(&[], other)), "made for");
    let long = fs::File::create(published(&platform, ImageHash([6; 32]))).unwrap();
    long.set_len(IMAGE_LEN_MAX + 1).unwrap();
    refused(ImageHash([6; 32]), "the administrator allows");
    let worker = platform.spawn(1, worker_in(good), LIMITS);
    assert_eq!(worker.ask("show /opt/marker"), "good");
}

#[test]
fn an_image_in_which_the_executor_cannot_start_is_told_what_is_missing() {
    let Some(platform) = platform() else { return };
    let refused = |hash: ImageHash, reason: &str| {
        let message = platform.refusal(worker_in(hash));
        assert!(message.contains(reason), "{message}");
        assert_eq!(loop_devices(&platform), [] as [String; 0], "{reason}");
    };
    let empty = Image::empty(&platform, "empty");
    empty.write("opt/marker", "");
    refused(empty.publish(&platform), "it lacks the loader /lib");
    let musl = Image::empty(&platform, "musl");
    musl.write(&format!("lib/ld-musl-{}.so.1", std::env::consts::ARCH), "");
    refused(musl.publish(&platform), "musl");
    let without = Image::with_libraries(&platform, "without");
    fs::remove_file(without.find("libc.so.6")).unwrap();
    refused(
        without.publish(&platform),
        "it lacks the shared library libc.so.6 that the executor needs",
    );
    let foreign = Image::with_libraries(&platform, "foreign");
    let loader = foreign.find("ld-linux*");
    fs::write(&loader, "#!/bin/sh\n").unwrap();
    refused(foreign.publish(&platform), "is not a program for this machine");
    let old = Image::with_libraries(&platform, "old");
    let libc = old.find("libc.so.6");
    let mut bytes = fs::read(&libc).unwrap();
    while let Some(at) = bytes.windows(11).position(|window| window == b"GLIBC_2.34\0") {
        bytes[at..at + 10].copy_from_slice(b"GLIBC_9.99");
    }
    fs::write(&libc, bytes).unwrap();
    refused(
        old.publish(&platform),
        "libc.so.6 is too old: it lacks the version GLIBC_2.34",
    );
    // A squashfs by its header, which is all that a reader of SIF can see.
    let mut damaged = Image::with_libraries(&platform, "damaged").bytes(&[], Arch::HOST);
    damaged[32768 + 100..].fill(0xff);
    refused(publish(&platform, &damaged), "the kernel refuses its squashfs");
}

#[test]
fn a_full_disk_refuses_an_image_and_what_is_there_goes_on() {
    if !can_mount_images() {
        return;
    }
    let host = Host {
        run_bytes: Some(24 << 20),
        ..Host::default()
    };
    let Some(platform) = Platform::start_with(&host, |_| ()) else {
        return;
    };
    let worker = platform.worker();
    let large = fs::File::create(published(&platform, ImageHash([7; 32]))).unwrap();
    large.set_len(48 << 20).unwrap();
    let message = platform.refusal(worker_in(ImageHash([7; 32])));
    assert!(
        message.contains("there is no room for its 50331648 bytes"),
        "{message}"
    );
    assert_eq!(worker.ask("create /tmp/a"), "ok");
    let small = Image::with_libraries(&platform, "small").publish(&platform);
    let worker = platform.spawn(2, worker_in(small), LIMITS);
    assert_eq!(worker.ask("show /opt/marker"), "small");
}

#[test]
fn a_worker_that_is_given_up_while_its_image_is_staged_is_never_started() {
    let Some(platform) = platform() else { return };
    let hash = Image::with_libraries(&platform, "late").publish(&platform);
    // Both requests lie there when the spawner looks.
    platform.pause_spawner(|| {
        platform.send(Request::Spawn {
            worker: 1,
            environment: worker_in(hash),
            limits: LIMITS,
        });
        platform.send(Request::Spawn {
            worker: 1,
            environment: Environment::WORKER,
            limits: LIMITS,
        });
        platform.send(Request::Kill { worker: 1 });
    });
    let Event::Failed { message, .. } = platform.event().unwrap().0 else {
        panic!("started")
    };
    assert_eq!(message, "worker 1 exists already");
    let Event::Failed { message, .. } = platform.event().unwrap().0 else {
        panic!("started")
    };
    assert!(message.contains("given up"), "{message}");
    let worker = platform.spawn(1, worker_in(hash), LIMITS);
    assert_eq!(worker.ask("show /opt/marker"), "late");
}

#[test]
fn no_more_may_wait_for_an_image_than_may_run() {
    let Some(platform) = platform() else { return };
    let hash = Image::with_libraries(&platform, "wanted").publish(&platform);
    platform.pause_spawner(|| {
        for worker in 0..=WORKERS_MAX.into() {
            platform.send(Request::Spawn {
                worker,
                environment: worker_in(hash),
                limits: LIMITS,
            });
        }
    });
    let Event::Failed { worker, message } = platform.event().unwrap().0 else {
        panic!("one too many")
    };
    assert_eq!(u32::try_from(worker), Ok(WORKERS_MAX));
    assert_eq!(message, "there are 4 workers, which is the most");
    let started = (0..WORKERS_MAX).map(|_| platform.event().unwrap());
    // Whose ends are dropped, it ends.
    for (event, _ends) in started.collect::<Vec<_>>() {
        assert!(matches!(event, Event::Spawned { .. }), "{event:?}");
    }
    assert_eq!(staged(&platform).len(), 1);
}

#[test]
fn an_ordinary_user_is_told_that_only_root_makes_roots_of_images() {
    if !can_mount_images() {
        return;
    }
    let Some(platform) = Platform::start_as(1000) else {
        return;
    };
    let hash = Image::with_libraries(&platform, "users").publish(&platform);
    let message = platform.refusal(worker_in(hash));
    assert!(
        message.contains("only root can make a root of an image"),
        "{message}"
    );
}

#[test]
fn apptainer_takes_what_we_write_for_an_image() {
    let Some(platform) = platform() else { return };
    if Command::new("apptainer").arg("--version").output().is_err() {
        eprintln!("SKIPPED: apptainer is missing");
        return;
    }
    let hash = Image::with_libraries(&platform, "listed").publish(&platform);
    let listed = Command::new("apptainer")
        .args(["sif", "list"])
        .arg(published(&platform, hash))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(
        listed.status.success() && text.contains("FS (Squashfs/*System/"),
        "{listed:?}"
    );
}
