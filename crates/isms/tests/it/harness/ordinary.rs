//! An ordinary user, which the thread of a test becomes for good; everything that it starts is that user's too.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
};

use rustix::{
    process::{Gid, Uid, geteuid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use super::binaries;

/// The first of the uids that the tests take; each process another, since a kernel counts processes by user.
const FIRST_UID: u32 = 60_000;
const UIDS: u32 = 4_000;

/// Runs `body` as an ordinary user with a folder of the platform's programs that this user reaches. Says that it skips
/// where there are no programs, or where the kernel gives such a user no sandbox.
pub(crate) fn as_ordinary_user(body: impl FnOnce(&Path) + Send) {
    let Some(built) = binaries() else { return };
    // Built below a home that others may not enter, as like as not.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    for name in ["isms", "doee-executor", "doee-builder"] {
        fs::copy(built.join(name), folder.path().join(name)).unwrap();
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            become_ordinary();
            if has_user_namespaces() {
                body(folder.path());
            } else {
                eprintln!("SKIPPED: an ordinary user may make no user namespace here");
            }
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn become_ordinary() {
    if geteuid().is_root() {
        let id = FIRST_UID + std::process::id() % UIDS;
        let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
        set_thread_groups(&[]).unwrap();
        set_thread_res_gid(gid, gid, gid).unwrap();
        set_thread_res_uid(uid, uid, uid).unwrap();
    }
}

fn has_user_namespaces() -> bool {
    let unshared = Command::new("unshare")
        .args(["--user", "--map-root-user", "true"])
        .output();
    unshared.is_ok_and(|output| output.status.success())
}
