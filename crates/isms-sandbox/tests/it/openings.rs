//! Device nodes, directories and the network: there when they are granted, and not there otherwise.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::Path,
};

use isms_sandbox::{
    linux::process::effective_uid,
    spawner::{Environment, Holes, SpawnerConfig},
};

use crate::{
    image::{Image, can_mount_images, worker_in},
    platform::{Host, LIMITS, Platform},
};

const DEVICES: [&str; 3] = ["/dev/full", "/dev/zero", "/dev/ttyS0"];

fn list(config: &mut SpawnerConfig) {
    config.device_nodes = DEVICES.map(Into::into).into();
    config.directories = vec![
        config.data_directory.join("models"),
        config.data_directory.join("tables"),
    ];
    for directory in &config.directories {
        fs::create_dir(directory).unwrap();
        fs::write(
            directory.join("content"),
            directory.file_name().unwrap().as_encoded_bytes(),
        )
        .unwrap();
        fs::set_permissions(directory.join("content"), fs::Permissions::from_mode(0o644)).unwrap();
    }
}

fn platform() -> Option<Platform> {
    Platform::start_with(&Host::default(), list)
}

fn with(devices: u64, directories: u64) -> Environment {
    let mut environment = Environment::WORKER;
    environment.holes = Holes {
        devices,
        directories,
        network: false,
    };
    environment
}

#[test]
fn a_granted_device_works_for_its_worker_and_for_no_other() {
    let Some(platform) = platform() else { return };
    let before = fs::metadata("/dev/full").unwrap();
    let granted = [1, 2].map(|number| platform.spawn(number, with(0b1, 0), LIMITS));
    for worker in &granted {
        assert_eq!(worker.ask("list /dev"), "full");
        assert_eq!(worker.ask("put /dev/full"), "ENOSPC");
        assert_eq!(worker.ask("read /dev/zero"), "ENOENT");
        assert_eq!(worker.ask("create /dev/a"), "EROFS");
        assert_eq!(worker.ask("socket 2"), "EPERM");
    }
    let both = platform.spawn(3, with(0b11, 0), LIMITS);
    assert_eq!(both.ask("list /dev"), "full zero");
    assert_eq!(both.ask("put /dev/zero"), "ok");
    let without = platform.spawn(4, Environment::WORKER, LIMITS);
    assert_eq!(without.ask("list /dev"), "");
    assert_eq!(without.ask("put /dev/full"), "ENOENT");
    let after = fs::metadata("/dev/full").unwrap();
    assert_eq!(
        (before.uid(), before.gid(), before.mode()),
        (after.uid(), after.gid(), after.mode())
    );
}

#[test]
fn a_serial_line_can_be_set_up_and_not_typed_on() {
    if effective_uid() != 0 || !fs::metadata(DEVICES[2]).is_ok_and(|node| node.file_type().is_char_device()) {
        eprintln!("SKIPPED: there is no serial line that root could grant");
        return;
    }
    let Some(platform) = platform() else { return };
    let worker = platform.spawn(1, with(0b100, 0), LIMITS);
    let ask = |request: libc::Ioctl| worker.ask(&format!("ioctl {request} /dev/ttyS0"));
    if ask(libc::FIONREAD) == "EIO" {
        eprintln!("SKIPPED: the serial line answers nothing");
        return;
    }
    assert_eq!(ask(libc::TCGETS), "ok");
    assert_eq!(ask(libc::TIOCSTI), "ENOTTY");
    assert_eq!(ask(libc::TIOCSCTTY), "ENOTTY");
    let other = platform.spawn(2, Environment::WORKER, LIMITS);
    assert_eq!(other.ask("read /dev/ttyS0"), "ENOENT");
}

#[test]
fn a_granted_directory_can_be_read_and_not_written() {
    let Some(platform) = platform() else { return };
    let worker = platform.spawn(1, with(0, 0b10), LIMITS);
    assert_eq!(worker.ask("list /data"), "tables");
    assert_eq!(worker.ask("show /data/tables/content"), "tables");
    assert_eq!(worker.ask("read /data/models"), "ENOENT");
    assert_eq!(worker.ask("create /data/tables/a"), "EROFS");
    // Root's worker is another user than the file's; an ordinary user's worker is its owner, whom only the mount stops.
    let refusal = if effective_uid() == 0 { "EACCES" } else { "EROFS" };
    assert_eq!(worker.ask("write /data/tables/content"), refusal);
    assert_eq!(worker.ask("create /data/a"), "EROFS");
    assert_eq!(worker.ask("list /data/tables/.."), "tables");
    let without = platform.spawn(2, Environment::WORKER, LIMITS);
    assert_eq!(without.ask("list /data"), "");
    assert_eq!(without.ask("read /data/tables/content"), "ENOENT");
}

#[test]
fn what_is_not_on_the_lists_or_not_on_the_host_is_refused() {
    let Some(platform) = Platform::start_with(&Host::default(), |config| {
        list(config);
        config.device_nodes[1] = "/dev/isms-no-such-device".into();
        config.device_nodes[2] = "/etc/passwd".into();
        fs::remove_dir_all(&config.directories[1]).unwrap();
    }) else {
        return;
    };
    let refused = |environment, reason: &str| {
        let message = platform.refusal(environment);
        assert!(message.contains(reason), "{message}");
    };
    refused(with(0b1000, 0), "no device node number 3");
    refused(with(1 << 63, 0), "no device node number 63");
    refused(with(0b1001, 0), "no device node number 3");
    refused(with(0, 0b100), "no directory number 2");
    refused(with(0b10, 0), "cannot use /dev/isms-no-such-device");
    refused(with(0b100, 0), "/etc/passwd is no character device");
    refused(with(0, 0b10), "tables: No such file");
    assert_eq!(platform.worker().ask("list /dev"), "");
}

#[test]
fn an_ordinary_user_s_worker_gets_what_that_user_may_use() {
    if effective_uid() != 0 {
        eprintln!("SKIPPED: only root can start a spawner as another user");
        return;
    }
    let host = Host {
        user: Some(1000),
        ..Host::default()
    };
    let Some(platform) = Platform::start_with(&host, list) else {
        return;
    };
    let worker = platform.spawn(1, with(0b1, 0b1), LIMITS);
    assert_eq!(worker.ask("list /dev"), "full");
    assert_eq!(worker.ask("put /dev/full"), "ENOSPC");
    assert_eq!(worker.ask("create /dev/a"), "EROFS");
    assert_eq!(worker.ask("show /data/models/content"), "models");
    assert_eq!(worker.ask("create /data/models/a"), "EROFS");
}

#[test]
fn openings_of_a_worker_in_an_image_are_the_same() {
    if !can_mount_images() {
        return;
    }
    let Some(platform) = platform() else { return };
    let image = Image::with_libraries(&platform, "opened");
    image.write("data/own", "own");
    image.write("dev/own", "own");
    let hash = image.publish(&platform);
    let open = Environment {
        holes: with(0b1, 0b1).holes,
        ..worker_in(hash)
    };
    let worker = platform.spawn(1, open, LIMITS);
    assert_eq!(worker.ask("list /dev"), "full");
    assert_eq!(worker.ask("put /dev/full"), "ENOSPC");
    assert_eq!(worker.ask("list /data"), "models");
    assert_eq!(worker.ask("show /data/models/content"), "models");
    let closed = platform.spawn(2, worker_in(hash), LIMITS);
    assert_eq!(closed.ask("list /data"), "own");
    assert_eq!(closed.ask("put /dev/full"), "ENOENT");
}

fn network_builder() -> Environment {
    let mut environment = Environment::BUILDER;
    environment.holes.network = true;
    environment
}

#[test]
fn a_builder_reaches_out_only_where_the_administrator_and_the_request_say_so() {
    let allow = |config: &mut SpawnerConfig| config.builder_network = true;
    let Some(platform) = Platform::start_with(&Host::default(), allow) else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let reach = format!("reach {}", listener.local_addr().unwrap().port());
    let with = platform.spawn(1, network_builder(), LIMITS);
    assert_eq!(with.ask(&reach), "ok");
    assert_eq!(with.ask("serve 0"), "EPERM");
    assert_eq!(with.ask("socket 1"), "EPERM");
    assert_eq!(with.ask("socket 16"), "EPERM");
    assert_eq!(with.ask("read /etc/passwd"), "ENOENT");
    assert_eq!(with.ask("run /bin/sh"), "ok");
    for path in ["/etc/resolv.conf", "/etc/ssl/certs"]
        .iter()
        .filter(|path| Path::new(path).exists())
    {
        assert_eq!(with.ask(&format!("read {path}")), "ok", "{path}");
        assert_ne!(with.ask(&format!("create {path}")), "ok", "{path}");
    }
    let without = platform.spawn(2, Environment::BUILDER, LIMITS);
    assert_eq!(without.ask(&reach), "EPERM");
    assert_eq!(without.ask("read /etc/resolv.conf"), "ENOENT");
    drop((with, without, platform));
    let Some(platform) = Platform::start() else { return };
    let message = platform.refusal(network_builder());
    assert!(message.contains("builders have no network here"), "{message}");
}
