//! Inside: from clone to exec.
//!
//! Invariant: nothing here allocates, locks or panics; it makes system calls with what `start` prepared. Until exec no
//! byte of foreign code runs, so the order of steps is one of convenience: what needs capabilities first, then the
//! capabilities go, then the filters that would forbid the earlier steps.

use std::{ffi::CStr, io, os::fd::RawFd, ptr};

use super::{landlock::Ruleset, rlimit::ResourceLimit, steps::Step, template::Bind};
use crate::{
    ablation::{self, Layer},
    linux::{check, check_long},
    seccomp::{self, Instruction},
};

/// Number of the handshake socket, above those that the program inherits.
const HANDSHAKE: RawFd = 5;
/// The first that nothing inside needs.
const FIRST_SURPLUS: RawFd = 6;

/// The id that a sandbox's processes have inside, whoever they are outside.
pub(super) const INNER_ID: u32 = 1000;

/// Everything that the new process needs, prepared before it exists.
pub(super) struct Plan<'a> {
    /// Become 0 to 4. Numbers of at least [`super::start::LOWEST_SOURCE`].
    pub(super) descriptors: [RawFd; 5],
    pub(super) handshake: RawFd,
    /// Supplementary groups can be dropped: the spawner is privileged.
    pub(super) drop_groups: bool,
    /// The uid and gid to take.
    pub(super) id: u32,
    pub(super) binds: &'a [Bind],
    /// Options of the tmpfs on `/tmp`.
    pub(super) temporary: &'a CStr,
    /// Programs may be executed from `/tmp`.
    pub(super) temporary_executable: bool,
    pub(super) limits: &'a [ResourceLimit],
    pub(super) landlock: Option<&'a Ruleset>,
    pub(super) filter: &'a [Instruction],
    pub(super) executable: &'a CStr,
    pub(super) argument: &'a CStr,
    pub(super) entry: &'a Entry<'a>,
}

/// What runs once the sandbox is closed.
pub(crate) enum Entry<'a> {
    /// The template's program.
    Program,
    /// A function in place of it, called at every checkpoint. It must keep to this module's invariant.
    Probe(&'a dyn Fn(Checkpoint)),
}

/// How far the confinement has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checkpoint {
    /// In its namespaces and its root, with all capabilities over them.
    Privileged,
    /// Without capabilities.
    Unprivileged,
    /// Under Landlock, in its cgroup.
    Confined,
    /// Under seccomp.
    Filtered,
}

/// Which step failed, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) step: Step,
    pub(super) errno: i32,
}

impl Failure {
    pub(super) fn of<T>(step: Step, result: io::Result<T>) -> Result<T, Self> {
        result.map_err(|error| Self {
            step,
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        })
    }
}

/// Runs the new process. Returns only by exec or exit.
pub(super) fn run(plan: &Plan<'_>) -> ! {
    let handshake = match Failure::of(Step::Descriptors, lay_out_descriptors(plan)) {
        Ok(()) => {
            confine_and_execute(plan).map_or_else(|failure| (HANDSHAKE, failure), |never| match never {})
        }
        Err(failure) => (plan.handshake, failure),
    };
    let (socket, failure) = handshake;
    let mut report = [0; 5];
    report[0] = failure.step as u8;
    report[1..].copy_from_slice(&failure.errno.to_le_bytes());
    // SAFETY: writes a local array and leaves without running anything of the parent's.
    unsafe {
        libc::write(socket, report.as_ptr().cast(), report.len());
        libc::_exit(127)
    }
}

/// Nobody: the process ends in its program.
enum Never {}

fn confine_and_execute(plan: &Plan<'_>) -> Result<Never, Failure> {
    await_go_ahead(Step::Identity)?;
    Failure::of(Step::Identity, take_identity(plan))?;
    Failure::of(Step::Session, reset_session())?;
    if !ablation::leaves_out(Layer::MountNamespace) {
        enter_root(plan)?;
    }
    if !ablation::leaves_out(Layer::UtsNamespace) {
        Failure::of(Step::HostName, hide_host_name())?;
    }
    at_checkpoint(plan, Checkpoint::Privileged);
    Failure::of(Step::ResourceLimits, set_limits(plan.limits))?;
    if !ablation::leaves_out(Layer::NoNewPrivileges) {
        Failure::of(Step::NoNewPrivileges, crate::linux::process::set_no_new_privs())?;
    }
    Failure::of(Step::Capabilities, drop_capabilities())?;
    at_checkpoint(plan, Checkpoint::Unprivileged);
    if let Some(ruleset) = plan.landlock {
        ruleset.restrict_self(!plan.binds.is_empty())?;
    }
    await_go_ahead(Step::Cgroup)?;
    at_checkpoint(plan, Checkpoint::Confined);
    if !ablation::leaves_out(Layer::ParentDeath) {
        Failure::of(Step::ParentDeath, die_with_spawner())?;
    }
    if !ablation::leaves_out(Layer::Seccomp) {
        Failure::of(Step::Seccomp, seccomp::load(plan.filter))?;
    }
    at_checkpoint(plan, Checkpoint::Filtered);
    Failure::of(Step::Execute, execute(plan))
}

fn at_checkpoint(plan: &Plan<'_>, checkpoint: Checkpoint) {
    if let Entry::Probe(probe) = plan.entry {
        probe(checkpoint);
    }
}

fn hide_host_name() -> io::Result<()> {
    const NAME: &CStr = c"worker";
    // SAFETY: a static string with its length.
    check(unsafe { libc::sethostname(NAME.as_ptr(), NAME.count_bytes()) }).map(drop)
}

/// Puts the inherited descriptors in place and closes all others: also the far ends of other starts, whose hang-up
/// tells those that the spawner is gone.
fn lay_out_descriptors(plan: &Plan<'_>) -> io::Result<()> {
    // SAFETY: plain numbers. The sources lie above all destinations; what gets closed belongs to the parent's copy of
    // this memory, of which nothing runs here any more.
    unsafe {
        for (target, source) in (0..).zip(plan.descriptors) {
            check(libc::dup2(source, target))?;
        }
        check(libc::dup3(plan.handshake, HANDSHAKE, libc::O_CLOEXEC))?;
        #[cfg(feature = "ablation")]
        if ablation::leaves_out(Layer::Descriptors) {
            // Its end tells the host that the program runs.
            return check(libc::close(plan.handshake)).map(drop);
        }
        crate::linux::process::close_from(FIRST_SURPLUS)
    }
}

/// Waits for the host's next byte; its end means that the start was given up.
fn await_go_ahead(step: Step) -> Result<(), Failure> {
    loop {
        let mut byte = 0_u8;
        // SAFETY: reads one byte into a local.
        let len = unsafe { libc::read(HANDSHAKE, (&raw mut byte).cast(), 1) };
        match Failure::of(step, check_long(len as libc::c_long)) {
            Ok(1..) => return Ok(()),
            Ok(_) => return Failure::of(step, Err(io::Error::from_raw_os_error(libc::ECANCELED))),
            Err(failure) if failure.errno == libc::EINTR => {}
            Err(failure) => return Err(failure),
        }
    }
}

/// Before any file is made: a tmpfs cannot hold files of an id that is not mapped.
fn take_identity(plan: &Plan<'_>) -> io::Result<()> {
    // SAFETY: plain numbers and an empty list.
    unsafe {
        if plan.drop_groups {
            check(libc::setgroups(0, ptr::null()))?;
        }
        check(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0))?;
        // The raw calls: those of the C library would signal threads that this process does not have.
        #[cfg(feature = "ablation")]
        if ablation::leaves_out(Layer::UserNamespace) {
            // Else root's capabilities would go with its uid, before they are needed.
            const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = 4;
            check(libc::prctl(
                libc::PR_SET_SECUREBITS,
                SECBIT_NO_SETUID_FIXUP,
                0,
                0,
                0,
            ))?;
        }
        check_long(libc::syscall(libc::SYS_setresgid, plan.id, plan.id, plan.id))?;
        check_long(libc::syscall(libc::SYS_setresuid, plan.id, plan.id, plan.id))?;
        check(libc::prctl(libc::PR_SET_KEEPCAPS, 0, 0, 0, 0))?;
    }
    Ok(())
}

/// A session of its own, no blocked or ignored signal left over from the spawner, a private umask.
fn reset_session() -> io::Result<()> {
    // SAFETY: an all-zero set is an empty one; the rest are plain numbers.
    unsafe {
        check(libc::setsid())?;
        libc::umask(0o077);
        for signal in [
            libc::SIGPIPE,
            libc::SIGINT,
            libc::SIGHUP,
            libc::SIGTERM,
            libc::SIGQUIT,
        ] {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        check(libc::sigprocmask(
            libc::SIG_SETMASK,
            &raw const none,
            ptr::null_mut(),
        ))?;
    }
    Ok(())
}

// Of mount_setattr.
const READ_ONLY: u64 = 1;
const NO_SUID: u64 = 2;
const NO_DEV: u64 = 4;
const NO_EXEC: u64 = 8;

/// Turns the template, which is the working directory, into the root; nothing of the host's tree remains.
fn enter_root(plan: &Plan<'_>) -> Result<(), Failure> {
    Failure::of(
        Step::Template,
        mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None),
    )?;
    let read_only = if ablation::leaves_out(Layer::ReadOnlyRoot) {
        0
    } else {
        READ_ONLY
    };
    let root = Failure::of(Step::Template, clone_mount(c".", read_only | NO_SUID | NO_DEV))?;
    Failure::of(Step::Template, attach_mount(root, c"."))?;
    // SAFETY: the mount's descriptor is open.
    Failure::of(Step::Template, check(unsafe { libc::fchdir(root) }))?;
    for bind in plan.binds {
        let flags = if bind.device {
            NO_SUID | NO_EXEC
        } else {
            READ_ONLY | NO_SUID | NO_DEV
        };
        let mounted = clone_mount(&bind.source, flags).and_then(|tree| attach_mount(tree, &bind.target));
        Failure::of(Step::Bind, mounted)?;
    }
    let mut flags = libc::MS_NOSUID | libc::MS_NODEV;
    if !plan.temporary_executable {
        flags |= libc::MS_NOEXEC;
    }
    Failure::of(
        Step::Temporary,
        mount(
            Some(c"tmpfs"),
            c"tmp",
            Some(c"tmpfs"),
            flags,
            Some(plan.temporary),
        ),
    )?;
    Failure::of(Step::Proc, mount_proc())?;
    Failure::of(Step::PivotRoot, pivot_root())
}

fn mount_proc() -> io::Result<()> {
    if ablation::leaves_out(Layer::PidNamespace) {
        // Only the namespace's owner may mount another.
        return attach_mount(clone_mount(c"/proc", NO_SUID | NO_DEV | NO_EXEC)?, c"proc");
    }
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let options = if ablation::leaves_out(Layer::ProcSubset) {
        None
    } else {
        Some(c"subset=pid,hidepid=invisible")
    };
    mount(Some(c"proc"), c"proc", Some(c"proc"), flags, options)
}

/// Stacks the new root on the old one, then takes the old one, now on top, away.
fn pivot_root() -> io::Result<()> {
    // SAFETY: static strings and plain numbers. Mount descriptors are closed with the rest at exec.
    unsafe {
        check_long(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()))?;
        check(libc::umount2(c".".as_ptr(), libc::MNT_DETACH))?;
        check(libc::chdir(c"/".as_ptr()))?;
    }
    if ablation::leaves_out(Layer::Descriptors) {
        return Ok(());
    }
    crate::linux::process::close_on_exec_from(FIRST_SURPLUS)
}

fn mount(
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

/// Clones the mounts at and below `source`, with `attributes` on each, not attached anywhere yet.
fn clone_mount(source: &CStr, attributes: u64) -> io::Result<RawFd> {
    const OPEN_TREE_CLONE: libc::c_uint = 1;
    const AT_RECURSIVE: libc::c_int = 0x8000;
    let attributes: [u64; 4] = [attributes, 0, 0, 0];
    // SAFETY: C strings, and an array laid out as the kernel's `struct mount_attr`.
    unsafe {
        let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint | AT_RECURSIVE as libc::c_uint;
        let tree = check_long(libc::syscall(
            libc::SYS_open_tree,
            libc::AT_FDCWD,
            source.as_ptr(),
            flags,
        ))? as RawFd;
        let flags = libc::AT_EMPTY_PATH | AT_RECURSIVE;
        check_long(libc::syscall(
            libc::SYS_mount_setattr,
            tree,
            c"".as_ptr(),
            flags,
            attributes.as_ptr(),
            size_of_val(&attributes),
        ))?;
        Ok(tree)
    }
}

fn attach_mount(tree: RawFd, target: &CStr) -> io::Result<()> {
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

fn set_limits(limits: &[ResourceLimit]) -> io::Result<()> {
    limits.iter().try_for_each(|(resource, limit)| {
        // SAFETY: `limit` is valid.
        check(unsafe { libc::setrlimit64(*resource as _, limit) }).map(drop)
    })
}

/// Empties every capability set, the bounding set first, which needs one.
fn drop_capabilities() -> io::Result<()> {
    const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
    #[cfg(feature = "ablation")]
    if ablation::leaves_out(Layer::Capabilities) {
        return keep_capabilities();
    }
    for capability in 0..64 {
        // SAFETY: plain numbers.
        match check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }) {
            Ok(_) => {}
            // Beyond the last that this kernel knows.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    let header = [CAPABILITY_VERSION_3, 0];
    #[cfg_attr(not(feature = "ablation"), expect(unused_mut, reason = "the sets are empty"))]
    let mut sets = [0_u32; 6];
    #[cfg(feature = "ablation")]
    if ablation::leaves_out(Layer::NoNewPrivileges) {
        // The kernel takes filters from the privileged then. Exec takes this one away.
        const ADMIN: u32 = 1 << 21;
        sets[..2].copy_from_slice(&[ADMIN, ADMIN]);
    }
    // SAFETY: laid out as the kernel's header and its two data structs.
    check_long(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) })?;
    // SAFETY: plain numbers.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) }).map(drop)
}

/// After the last change of identity, which would clear it. A spawner that died before has closed its end of the
/// handshake before the kernel looked for children to signal, so one of the two always sees it.
fn die_with_spawner() -> io::Result<()> {
    let mut handshake = libc::pollfd {
        fd: HANDSHAKE,
        events: 0,
        revents: 0,
    };
    // SAFETY: plain numbers, and one pollfd.
    unsafe {
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
        check(libc::poll(&raw mut handshake, 1, 0))?;
    }
    if handshake.revents & libc::POLLHUP == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ESRCH))
    }
}

fn execute(plan: &Plan<'_>) -> io::Result<Never> {
    if matches!(plan.entry, Entry::Probe(_)) {
        // SAFETY: leaves without running anything of the parent's.
        unsafe { libc::_exit(0) };
    }
    let arguments = [plan.argument.as_ptr(), ptr::null()];
    #[cfg(not(feature = "ablation"))]
    let (executable, environment) = (plan.executable.as_ptr(), [ptr::null()]);
    #[cfg(feature = "ablation")]
    let (executable, environment) = without_layers(plan);
    // SAFETY: a C string and two lists of such, each ended by null.
    unsafe { libc::execve(executable, arguments.as_ptr(), environment.as_ptr()) };
    Err(io::Error::last_os_error())
}

/// Raises all capabilities as ambient ones, which is how they outlive exec.
#[cfg(feature = "ablation")]
fn keep_capabilities() -> io::Result<()> {
    const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
    let header = [CAPABILITY_VERSION_3, 0];
    let mut sets = [0_u32; 6];
    // SAFETY: laid out as the kernel's header and its two data structs; the rest are plain numbers.
    unsafe {
        check_long(libc::syscall(
            libc::SYS_capget,
            header.as_ptr(),
            sets.as_mut_ptr(),
        ))?;
        // Effective, permitted, inheritable; twice.
        sets = [sets[1], sets[1], sets[1], sets[4], sets[4], sets[4]];
        check_long(libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()))?;
        for capability in 0..64 {
            // Fails for those beyond the last that this kernel knows.
            libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0);
        }
    }
    Ok(())
}

/// What to execute: below the working directory, where that did not become the root, with the environment that tells
/// the executor which layers are left out; and all descriptors where they stay.
#[cfg(feature = "ablation")]
fn without_layers(plan: &Plan<'_>) -> (*const libc::c_char, [*const libc::c_char; 2]) {
    const DESCRIPTORS_MAX: RawFd = 1024;
    if ablation::leaves_out(Layer::Descriptors) {
        for descriptor in FIRST_SURPLUS..DESCRIPTORS_MAX {
            // SAFETY: only clears a flag; fails where nothing is open.
            unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) };
        }
    }
    let skipped = usize::from(ablation::leaves_out(Layer::MountNamespace));
    // SAFETY: the path begins with a slash, so the second byte is part of the string.
    let executable = unsafe { plan.executable.as_ptr().add(skipped) };
    (executable, [ablation::handed_on().as_ptr(), ptr::null()])
}
