//! What a sandbox is like without some of its layers. Compiled with the feature `ablation` only.
//!
//! Between clone and exec it keeps to the rule of `native::child`: no allocation, no lock.
#![allow(unsafe_code)] // as in `native::child`, of which this takes steps away

use std::{
    ffi::{CStr, CString, c_char, c_int},
    io,
    os::fd::RawFd,
    ptr,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use super::Layer;
use crate::{
    linux::{check, check_long, process},
    native::{INNER_ID, Ids, shared::HANDSHAKE},
};

/// Names of layers, separated by commas.
const VARIABLE: &str = "ISMS_WITHOUT_LAYERS";

const NAMES: [&str; 22] = [
    "user-namespace",
    "sub-uid",
    "mount-namespace",
    "read-only-root",
    "tmp-limits",
    "proc-subset",
    "pid-namespace",
    "network-namespace",
    "ipc-namespace",
    "uts-namespace",
    "cgroup-namespace",
    "capabilities",
    "no-new-privileges",
    "landlock",
    "resource-limits",
    "seccomp",
    "second-seccomp",
    "descriptors",
    "cgroup-memory",
    "cgroup-cpu",
    "cgroup-pids",
    "parent-death",
];

/// One more than any descriptor that the spawner has open.
const DESCRIPTORS_MAX: RawFd = 1024;
/// One more than any capability that a kernel may know.
const CAPABILITIES_MAX: c_int = 64;

/// A bit for each, by its number.
static LEFT_OUT: AtomicU32 = AtomicU32::new(0);
static HANDED_ON: OnceLock<CString> = OnceLock::new();

/// Reads the environment. A name that is none ends the process: what is measured without it would be wrong.
pub(crate) fn read() {
    let names = std::env::var(VARIABLE).unwrap_or_default();
    for name in names.split(',').filter(|name| !name.is_empty()) {
        let at = NAMES.iter().position(|known| *known == name);
        let at = at.unwrap_or_else(|| panic!("{VARIABLE}: there is no layer {name:?}"));
        LEFT_OUT.fetch_or(1 << at, Ordering::Relaxed);
    }
    let _ = HANDED_ON.set(CString::new(format!("{VARIABLE}={names}")).unwrap_or_default());
}

/// Whether this layer is left out.
pub(crate) fn leaves_out(layer: Layer) -> bool {
    LEFT_OUT.load(Ordering::Relaxed) & (1 << layer as u32) != 0
}

/// Whether any is.
pub(crate) fn any() -> bool {
    LEFT_OUT.load(Ordering::Relaxed) != 0
}

/// The clone flags of those that remain.
pub(crate) fn namespaces(all: c_int) -> c_int {
    [
        (Layer::UserNamespace, libc::CLONE_NEWUSER),
        (Layer::MountNamespace, libc::CLONE_NEWNS),
        (Layer::PidNamespace, libc::CLONE_NEWPID),
        (Layer::IpcNamespace, libc::CLONE_NEWIPC),
        (Layer::UtsNamespace, libc::CLONE_NEWUTS),
        (Layer::CgroupNamespace, libc::CLONE_NEWCGROUP),
    ]
    .into_iter()
    .filter(|(layer, _)| leaves_out(*layer))
    .fold(all, |flags, (_, flag)| flags & !flag)
}

/// Who a sandbox is on the host: without a uid of its own, root.
pub(crate) fn ids(ids: Ids) -> Ids {
    match ids {
        Ids::Distinct(_) if leaves_out(Layer::SubUid) => Ids::Distinct(0),
        ids => ids,
    }
}

/// The id that it takes: a mapped one, or where nothing is mapped its id on the host.
pub(crate) fn inner_id(ids: Ids) -> u32 {
    match ids {
        _ if !leaves_out(Layer::UserNamespace) => INNER_ID,
        Ids::Distinct(id) => id,
        Ids::Own => process::effective_uid(),
    }
}

/// Keeps root's capabilities from going with its uid before they are needed.
pub(crate) fn prepare_identity() -> io::Result<()> {
    const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = 4;
    if leaves_out(Layer::UserNamespace) {
        // SAFETY: plain numbers.
        check(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) })?;
    }
    Ok(())
}

/// Drops all, or keeps what a missing layer leaves.
pub(crate) fn drop_capabilities(drop_all: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if leaves_out(Layer::Capabilities) {
        return keep_capabilities();
    }
    if !leaves_out(Layer::NoNewPrivileges) {
        return drop_all();
    }
    for capability in 0..CAPABILITIES_MAX {
        // SAFETY: plain numbers. Fails for those beyond the last that this kernel knows.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
    // Filters are then for the privileged only. Exec takes the last capability away.
    const ADMIN: u32 = 1 << 21;
    set_capabilities([ADMIN, ADMIN, 0, 0, 0, 0])
}

/// Effective, permitted, inheritable; the first 32, then the rest.
type CapabilitySets = [u32; 6];
const CAPABILITY_HEADER: [u32; 2] = [0x2008_0522, 0];

fn set_capabilities(sets: CapabilitySets) -> io::Result<()> {
    // SAFETY: laid out as the kernel's header and its two data structs.
    check_long(unsafe { libc::syscall(libc::SYS_capset, CAPABILITY_HEADER.as_ptr(), sets.as_ptr()) })
        .map(drop)
}

/// Raises all as ambient ones, which is how they outlive exec.
fn keep_capabilities() -> io::Result<()> {
    let mut sets: CapabilitySets = [0; 6];
    // SAFETY: as in `set_capabilities`.
    check_long(unsafe { libc::syscall(libc::SYS_capget, CAPABILITY_HEADER.as_ptr(), sets.as_mut_ptr()) })?;
    set_capabilities([sets[1], sets[1], sets[1], sets[4], sets[4], sets[4]])?;
    for capability in 0..CAPABILITIES_MAX {
        // SAFETY: plain numbers. Fails for those beyond the last that this kernel knows.
        unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0) };
    }
    Ok(())
}

/// What to execute: below the working directory, where that did not become the root, with the environment that tells
/// the executor which layers are left out; and all descriptors where they stay.
pub(crate) fn program(executable: &CStr, handshake: RawFd) -> (*const c_char, [*const c_char; 2]) {
    if leaves_out(Layer::Descriptors) {
        // SAFETY: only clears flags, which fails where nothing is open, and closes what nobody uses any more: the end
        // of the handshake tells the host that the program runs.
        unsafe {
            libc::close(handshake);
            for descriptor in HANDSHAKE + 1..DESCRIPTORS_MAX {
                libc::fcntl(descriptor, libc::F_SETFD, 0);
            }
        }
    }
    let skipped = usize::from(leaves_out(Layer::MountNamespace));
    // The path begins with a slash, so the second byte is part of the string.
    let executable = executable.as_ptr().wrapping_add(skipped);
    let environment = HANDED_ON.get().map_or(ptr::null(), |variable| variable.as_ptr());
    (executable, [environment, ptr::null()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_policy_in_its_order() {
        let policy: toml::Table = toml::from_str(include_str!("../../../../policy/layers.toml")).unwrap();
        let layers = policy["layer"].as_array().unwrap();
        let names: Vec<_> = layers
            .iter()
            .map(|layer| layer["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, NAMES);
        assert_eq!(Layer::ParentDeath as usize, NAMES.len() - 1);
    }
}
