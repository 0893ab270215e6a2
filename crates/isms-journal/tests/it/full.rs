//! A disk that is full: a small one, mounted for the test.

use std::{fs, path::Path};

use isms_journal::{AppendError, Lsn, Purpose};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::harness::{Log, payload};

/// A file system in memory, unmounted however the test ends.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<SmallDisk> {
        let directory = tempfile::tempdir().unwrap();
        let options = c"size=768k,mode=0700";
        let mounted = mount("tmpfs", directory.path(), "tmpfs", MountFlags::empty(), options);
        mounted.is_ok().then_some(SmallDisk(directory))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = unmount(self.path(), UnmountFlags::DETACH);
        assert!(unmounted.is_ok() || std::thread::panicking());
    }
}

#[test]
fn a_full_disk_refuses_new_work_completes_old_work_and_recovers_when_space_returns() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("SKIPPED: only root can mount a small disk");
        return;
    };
    // Leaves room for the reserve and little more.
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![1; 320 << 10]).unwrap();
    let mut log = Log::open(disk.path());
    let mut accepted = 0;
    let why = loop {
        let next = log.journal.next_lsn();
        match log.append(Purpose::New, &payload(next)) {
            Ok(_) => accepted += 1,
            Err(refused) => break refused.why,
        }
        log.wait_durable(Lsn(next.0 + 1));
    };
    assert_eq!(why, AppendError::DiskFull);
    assert!(accepted > 10, "{accepted}");

    // Work that was accepted can be completed.
    for _ in 0..accepted.min(60) {
        let next = log.append(Purpose::Completion, b"done").unwrap();
        log.wait_durable(Lsn(next.0 + 1));
    }

    fs::remove_file(ballast).unwrap();
    let next = loop {
        // The first refusal has the writer look again.
        match log.append(Purpose::New, b"after") {
            Ok(lsn) => break lsn,
            Err(refused) => assert!(matches!(refused.why, AppendError::DiskFull | AppendError::Busy)),
        }
        std::thread::yield_now();
    };
    log.wait_durable(Lsn(next.0 + 1));
    log.close();
    assert_eq!(Log::open(disk.path()).replayed.len() as u64, next.0);
}
