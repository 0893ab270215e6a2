//! Inside: turns the template into the root, with what belongs into it mounted, and the host's tree away.
//!
//! As all that runs between clone and exec: system calls with what was prepared, no allocation.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::RawFd,
    ptr,
};

use super::{child::Failure, steps::Step};
use crate::linux::{check, check_long};

/// Number of the mount that the spawner made for this sandbox alone.
pub(super) const HANDED: RawFd = 6;

/// What the root is made of, besides the template, which is the working directory.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    /// Attributes of the template's mount.
    pub(super) attributes: u64,
    /// What every sandbox of its kind has.
    pub(super) mounts: &'a [Mount],
    /// What this one was granted.
    pub(super) granted: &'a [Mount],
}

/// One step, with targets relative to the root.
#[derive(Debug)]
pub(super) enum Mount {
    /// Shows what the host has, with all that is mounted below it.
    Host {
        source: CString,
        target: CString,
        attributes: u64,
    },
    /// Mounts a file system that exists nowhere else.
    New {
        kind: &'static CStr,
        target: CString,
        flags: libc::c_ulong,
        options: CString,
        step: Step,
    },
    /// Makes a place for a mount in the file system mounted before.
    Directory { target: CString },
    /// The same for a device node.
    File { target: CString },
    /// Nothing more may be made in the file system mounted there.
    Seal { target: CString, attributes: u64 },
    /// Attaches the mount [`HANDED`].
    Handed { target: CString },
}

impl Mount {
    fn perform(&self) -> Result<(), Failure> {
        match self {
            Self::Host {
                source,
                target,
                attributes,
            } => {
                let mounted = clone_mount(source, *attributes).and_then(|tree| attach_mount(tree, target));
                Failure::of(Step::Bind, mounted)
            }
            Self::New {
                kind,
                target,
                flags,
                options,
                step,
            } => Failure::of(
                *step,
                mount(Some(kind), target, Some(kind), *flags, Some(options)),
            ),
            Self::Directory { target } => Failure::of(Step::Granted, make_directory(target)),
            Self::File { target } => Failure::of(Step::Granted, make_file(target)),
            Self::Seal { target, attributes } => Failure::of(
                Step::Granted,
                set_attributes(libc::AT_FDCWD, target, 0, *attributes),
            ),
            Self::Handed { target } => Failure::of(Step::Granted, attach_mount(HANDED, target)),
        }
    }
}

/// Turns the template, which is the working directory, into the root; nothing of the host's tree remains.
pub(super) fn enter(plan: &Plan<'_>) -> Result<(), Failure> {
    Failure::of(
        Step::Template,
        mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None),
    )?;
    let root = Failure::of(Step::Template, clone_mount(c".", plan.attributes))?;
    Failure::of(Step::Template, attach_mount(root, c"."))?;
    // SAFETY: the mount's descriptor is open.
    Failure::of(Step::Template, check(unsafe { libc::fchdir(root) }))?;
    plan.mounts
        .iter()
        .chain(plan.granted)
        .try_for_each(Mount::perform)?;
    Failure::of(Step::PivotRoot, pivot_root())
}

/// Stacks the new root on the old one, then takes the old one, now on top, away.
fn pivot_root() -> io::Result<()> {
    // SAFETY: static strings and plain numbers. Mount descriptors are closed with the rest at exec.
    unsafe {
        check_long(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()))?;
        check(libc::umount2(c".".as_ptr(), libc::MNT_DETACH))?;
        check(libc::chdir(c"/".as_ptr()))?;
    }
    crate::linux::process::close_on_exec_from(HANDED)
}

pub(crate) fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    options: Option<&CStr>,
) -> io::Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: each pointer is null or to a C string.
    check(unsafe {
        libc::mount(
            pointer(source),
            target.as_ptr(),
            pointer(kind),
            flags,
            pointer(options).cast(),
        )
    })
    .map(drop)
}

const AT_RECURSIVE: libc::c_int = 0x8000;

/// Clones the mounts at and below `source`, with `attributes` on each, not attached anywhere yet.
pub(crate) fn clone_mount(source: &CStr, attributes: u64) -> io::Result<RawFd> {
    const OPEN_TREE_CLONE: libc::c_uint = 1;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint | AT_RECURSIVE as libc::c_uint;
    // SAFETY: a C string and plain numbers.
    let tree =
        check_long(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, source.as_ptr(), flags) })?
            as RawFd;
    set_attributes(tree, c"", libc::AT_EMPTY_PATH | AT_RECURSIVE, attributes)?;
    Ok(tree)
}

/// Adds attributes to a mount.
pub(super) fn set_attributes(
    directory: RawFd,
    path: &CStr,
    flags: libc::c_int,
    attributes: u64,
) -> io::Result<()> {
    let attributes: [u64; 4] = [attributes, 0, 0, 0];
    // SAFETY: a C string, and an array laid out as the kernel's `struct mount_attr`.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory,
            path.as_ptr(),
            flags,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    })
    .map(drop)
}

fn make_directory(target: &CStr) -> io::Result<()> {
    // SAFETY: a C string and a plain number.
    check(unsafe { libc::mkdir(target.as_ptr(), 0o700) }).map(drop)
}

fn make_file(target: &CStr) -> io::Result<()> {
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_CLOEXEC;
    // SAFETY: a C string and plain numbers; the descriptor is closed once.
    unsafe { check(libc::close(check(libc::open(target.as_ptr(), flags, 0o600))?)) }.map(drop)
}

pub(crate) fn attach_mount(tree: RawFd, target: &CStr) -> io::Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
    // SAFETY: C strings and plain numbers.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree,
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    })
    .map(drop)
}
