//! Between the clone and the end of a container: the init of its outer namespaces.
//!
//! Invariant: nothing here allocates, locks or panics. No foreign code runs in this process: it arranges mounts and
//! limits, starts the runtime as its child, and from then on only waits. So nothing inside can take away the signal by
//! which it dies with the spawner, and the kernel ends everything in its pid namespace with it.

use std::{
    ffi::{CStr, CString, c_char},
    io,
    os::fd::RawFd,
    ptr,
};

use crate::{
    linux::{check, check_long, process},
    native::{
        SIGNAL_BASE,
        shared::{
            Failure, HANDSHAKE, NO_DEV, NO_EXEC, NO_SUID, Never, READ_ONLY, ResourceLimit, Step,
            attach_mount, await_go_ahead, clone_mount, die_with_spawner, hide_host_name, lay_out_descriptors,
            mount, report_failure, reset_session, set_limits,
        },
    },
};

/// Mounts that one container can have bound: the directory of all, executor, image, and every directory there may be.
pub(super) const BINDS_MAX: usize = 72;

/// Capabilities that the runtime needs as root: owners and ids, mounts, its own end, loop devices. The others are gone for
/// good before it starts.
const KEPT_CAPABILITIES: [libc::c_int; 10] = [
    0,  // CAP_CHOWN
    1,  // CAP_DAC_OVERRIDE
    3,  // CAP_FOWNER
    5,  // CAP_KILL
    6,  // CAP_SETGID
    7,  // CAP_SETUID
    8,  // CAP_SETPCAP
    18, // CAP_SYS_CHROOT
    21, // CAP_SYS_ADMIN
    27, // CAP_MKNOD
];

/// Everything that the new process needs, prepared before it exists.
pub(super) struct Plan<'a> {
    /// Become 0 to 4.
    pub(super) descriptors: [RawFd; 5],
    pub(super) handshake: RawFd,
    /// Mounted read-only. The first is the directory that becomes `/run`; at most [`BINDS_MAX`].
    pub(super) binds: &'a [Bind],
    /// The container's `/tmp`: where, and its options.
    pub(super) temporary: (&'a CStr, &'a CStr),
    /// The runtime's own scratch.
    pub(super) state: (&'a CStr, &'a CStr),
    /// Where copies of device nodes are made, when there are any, and its options.
    pub(super) devices: (&'a CStr, &'a CStr),
    pub(super) nodes: &'a [Node],
    /// Owner of the copies.
    pub(super) id: u32,
    pub(super) limits: &'a [ResourceLimit],
    pub(super) program: &'a CStr,
    /// Each ended by null.
    pub(super) arguments: &'a [*const c_char],
    pub(super) environment: &'a [*const c_char],
}

/// Something of the host's, and where the runtime finds it.
#[derive(Debug)]
pub(super) struct Bind {
    pub(super) source: CString,
    pub(super) target: CString,
}

/// A device node, of which the worker gets a copy.
#[derive(Debug)]
pub(super) struct Node {
    /// The host's, in `/dev`.
    pub(super) path: CString,
    pub(super) copy: CString,
    pub(super) number: libc::dev_t,
}

/// Runs the init. Returns only by exit.
pub(super) fn run(plan: &Plan<'_>) -> Never {
    let laid_out = lay_out_descriptors(&plan.descriptors, plan.handshake, None);
    if let Err(failure) = Failure::of(Step::Descriptors, laid_out) {
        report_failure(plan.handshake, failure);
    }
    match start_runtime(plan) {
        Ok(runtime) => wait_for(runtime),
        Err(failure) => report_failure(HANDSHAKE, failure),
    }
}

/// Returns the pid of the runtime.
fn start_runtime(plan: &Plan<'_>) -> Result<libc::pid_t, Failure> {
    Failure::of(Step::ParentDeath, die_with_spawner())?;
    Failure::of(Step::Session, reset_session())?;
    Failure::of(Step::HostName, hide_host_name())?;
    arrange_mounts(plan)?;
    await_go_ahead(Step::Cgroup)?;
    Failure::of(Step::ResourceLimits, set_limits(plan.limits))?;
    Failure::of(Step::Capabilities, bound_capabilities())?;
    Failure::of(Step::Execute, fork_and_execute(plan))
}

fn arrange_mounts(plan: &Plan<'_>) -> Result<(), Failure> {
    Failure::of(
        Step::Template,
        mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None),
    )?;
    // All sources are opened before anything is covered: they may lie below what gets covered.
    let mut trees = [-1; BINDS_MAX];
    let flags = READ_ONLY | NO_SUID | NO_DEV;
    for (bind, tree) in plan.binds.iter().zip(&mut trees) {
        *tree = Failure::of(Step::Bind, clone_mount(&bind.source, flags))?;
    }
    for (bind, tree) in plan.binds.iter().zip(trees) {
        Failure::of(Step::Bind, attach_mount(tree, &bind.target))?;
    }
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    for (target, options) in [plan.temporary, plan.state] {
        let mounted = mount(Some(c"tmpfs"), target, Some(c"tmpfs"), flags, Some(options));
        Failure::of(Step::Temporary, mounted)?;
    }
    // The host's shows the host's processes, among which the runtime would look for its own.
    let mounted = mount(Some(c"proc"), c"/proc", Some(c"proc"), flags, None);
    Failure::of(Step::Proc, mounted)?;
    Failure::of(Step::Granted, cover_devices(plan))
}

/// Covers each granted node, for the runtime and the container only, by a copy that belongs to the worker. The rest of
/// `/dev` stays the host's: the runtime makes loop devices, and finds them there when the kernel has made them.
fn cover_devices(plan: &Plan<'_>) -> io::Result<()> {
    if plan.nodes.is_empty() {
        return Ok(());
    }
    let (target, options) = plan.devices;
    let flags = libc::MS_NOSUID | libc::MS_NOEXEC;
    mount(Some(c"tmpfs"), target, Some(c"tmpfs"), flags, Some(options))?;
    for node in plan.nodes {
        // SAFETY: C strings and plain numbers.
        unsafe {
            check(libc::mknod(
                node.copy.as_ptr(),
                libc::S_IFCHR | 0o600,
                node.number,
            ))?;
            check(libc::chown(node.copy.as_ptr(), plan.id, plan.id))?;
        }
        let copy = clone_mount(&node.copy, NO_SUID | NO_EXEC)?;
        attach_mount(copy, &node.path)?;
    }
    Ok(())
}

/// What is not kept in the bounding set, root does not get at exec either.
fn bound_capabilities() -> io::Result<()> {
    for capability in (0..64).filter(|capability| !KEPT_CAPABILITIES.contains(capability)) {
        // SAFETY: plain numbers.
        match check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }) {
            Ok(_) => {}
            // Beyond the last that this kernel knows.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn fork_and_execute(plan: &Plan<'_>) -> io::Result<libc::pid_t> {
    // SAFETY: without CLONE_VM the child has its own copy of everything; the raw call, because that of the C library
    // would run handlers of the spawner's.
    let pid = check_long(unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) })?;
    if pid == 0 {
        // SAFETY: static strings, a C string and two lists of such, each ended by null.
        let error = unsafe {
            libc::chdir(c"/".as_ptr());
            libc::execve(
                plan.program.as_ptr(),
                plan.arguments.as_ptr(),
                plan.environment.as_ptr(),
            );
            io::Error::last_os_error()
        };
        match Failure::of::<Never>(Step::Execute, Err(error)) {
            Ok(never) => match never {},
            Err(failure) => report_failure(HANDSHAKE, failure),
        }
    }
    Ok(pid as libc::pid_t)
}

/// Reaps whatever ends in this namespace, and ends as the runtime does.
fn wait_for(runtime: libc::pid_t) -> Never {
    // The worker's channels are not this process's business; its end of the handshake would hide that exec closed the
    // other one.
    // SAFETY: nothing of this process owns a descriptor any more.
    let _ = unsafe { process::close_from(0) };
    loop {
        let mut status = 0;
        // SAFETY: `status` is writable.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        let code = if libc::WIFSIGNALED(status) {
            SIGNAL_BASE + libc::WTERMSIG(status)
        } else {
            libc::WEXITSTATUS(status)
        };
        let interrupted = pid < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINTR);
        if pid == runtime || (pid < 0 && !interrupted) {
            // SAFETY: leaves without running anything of the spawner's.
            unsafe { libc::_exit(code) };
        }
    }
}

/// Pointers to `texts`, ended by null.
pub(super) fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts
        .iter()
        .map(|text| text.as_ptr())
        .chain([ptr::null()])
        .collect()
}
