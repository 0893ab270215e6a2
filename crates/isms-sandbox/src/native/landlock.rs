//! Landlock: what a sandbox may do with files even where its mounts and ids would let it, plus TCP and scopes.
//!
//! Read and execute below the root, write below `/tmp` and to granted devices only, no TCP (a builder with network may
//! connect, not bind), no abstract sockets or signals outward, as far as the running kernel knows these rights.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::RawFd,
};

use super::child::Failure;
use crate::linux::check_long;

// Rights on files, from the kernel's ABI.
const EXECUTE: u64 = 1 << 0;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const REMOVE_DIR: u64 = 1 << 4;
const REMOVE_FILE: u64 = 1 << 5;
const MAKE_DIR: u64 = 1 << 7;
const MAKE_REG: u64 = 1 << 8;
const MAKE_SYM: u64 = 1 << 12;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEV: u64 = 1 << 15;

// Rights on the network.
const CONNECT_TCP: u64 = 1 << 1;

const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;

/// All rights that this kernel can withhold.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ruleset {
    files: u64,
    network: u64,
    scopes: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: RawFd,
}

impl Ruleset {
    /// What this kernel supports; `None` without Landlock.
    pub(super) fn supported() -> Option<Self> {
        // SAFETY: with this flag the call only reports a version.
        let version = unsafe {
            libc::syscall(
                libc::SYS_landlock_create_ruleset,
                std::ptr::null::<Self>(),
                0_usize,
                CREATE_RULESET_VERSION,
            )
        };
        Self::of_version(version)
    }

    pub(super) fn has_scopes(&self) -> bool {
        self.scopes != 0
    }

    fn of_version(version: libc::c_long) -> Option<Self> {
        let file_rights = match version {
            ..=0 => return None,
            1 => 13,
            2 => 14,
            3 | 4 => 15,
            5.. => 16,
        };
        let network = if version >= 4 { 0b11 } else { 0 };
        let scopes = if version >= 6 { 0b11 } else { 0 };
        Some(Self {
            files: (1 << file_rights) - 1,
            network,
            scopes,
        })
    }

    /// Restricts this process, which may use `devices` and, with `network`, connect to others. Runs in the new process:
    /// no allocation.
    pub(super) fn restrict_self(&self, devices: &[CString], network: bool) -> Result<(), Failure> {
        let mut withheld = *self;
        if network {
            withheld.network &= !CONNECT_TCP;
        }
        let ruleset = Failure::of(super::steps::Step::Landlock, withheld.create())?;
        let rules = self.add_rules(ruleset, devices);
        // SAFETY: plain numbers; the ruleset is ours to close.
        let restricted = rules.and_then(|()| unsafe {
            check_long(libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0)).map(drop)
        });
        // SAFETY: opened above, used by nobody else.
        unsafe { libc::close(ruleset) };
        Failure::of(super::steps::Step::Landlock, restricted)
    }

    fn create(&self) -> io::Result<RawFd> {
        // An older kernel takes a longer struct as long as what it does not know is zero.
        // SAFETY: `self` is valid for its size.
        check_long(unsafe {
            libc::syscall(
                libc::SYS_landlock_create_ruleset,
                &raw const *self,
                size_of::<Self>(),
                0_u32,
            )
        })
        .map(|fd| fd as RawFd)
    }

    fn add_rules(&self, ruleset: RawFd, devices: &[CString]) -> io::Result<()> {
        let read = EXECUTE | READ_FILE | READ_DIR;
        let write = WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SYM | REFER | TRUNCATE;
        self.allow(ruleset, c"/", read)?;
        self.allow(ruleset, c"/tmp", read | write)?;
        devices
            .iter()
            .try_for_each(|device| self.allow(ruleset, device, READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV))
    }

    fn allow(&self, ruleset: RawFd, path: &CStr, rights: u64) -> io::Result<()> {
        // SAFETY: a C string and plain numbers.
        let parent =
            crate::linux::check(unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) })?;
        let rule = PathBeneath {
            allowed: rights & self.files,
            parent,
        };
        // SAFETY: `rule` is laid out as the kernel's packed struct; `parent` is open and closed once.
        unsafe {
            let added = check_long(libc::syscall(
                libc::SYS_landlock_add_rule,
                ruleset,
                RULE_PATH_BENEATH,
                &raw const rule,
                0_u32,
            ));
            libc::close(parent);
            added.map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_withholds_what_it_knows() {
        assert_eq!(Ruleset::of_version(-1), None);
        assert_eq!(
            Ruleset::of_version(1),
            Some(Ruleset {
                files: 0x1fff,
                network: 0,
                scopes: 0
            })
        );
        assert_eq!(
            Ruleset::of_version(4),
            Some(Ruleset {
                files: 0x7fff,
                network: 3,
                scopes: 0
            })
        );
        assert_eq!(
            Ruleset::of_version(7),
            Some(Ruleset {
                files: 0xffff,
                network: 3,
                scopes: 3
            })
        );
    }
}
