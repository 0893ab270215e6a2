//! Inside: from clone to exec.
//!
//! Invariant: nothing here allocates, locks or panics; it makes system calls with what `start` prepared. Until exec no
//! byte of foreign code runs, so the order of steps is one of convenience: what needs capabilities first, then the
//! capabilities go, then the filters that would forbid the earlier steps.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::RawFd,
    ptr,
};

use super::{landlock::Ruleset, rlimit::ResourceLimit, root, steps::Step};
use crate::{
    ablation::{self, Layer},
    linux::{check, check_long},
    seccomp::{self, Instruction},
};

/// Number of the handshake socket, above those that the program inherits.
pub(crate) const HANDSHAKE: RawFd = 5;

/// The id that a sandbox's processes have inside, whoever they are outside.
pub(crate) const INNER_ID: u32 = 1000;

/// Everything that the new process needs, prepared before it exists.
pub(super) struct Plan<'a> {
    /// Become 0 to 4. Numbers of at least [`super::start::LOWEST_SOURCE`].
    pub(super) descriptors: [RawFd; 5],
    pub(super) handshake: RawFd,
    /// Supplementary groups can be dropped: the spawner is privileged.
    pub(super) drop_groups: bool,
    /// The uid and gid to take.
    pub(super) id: u32,
    /// Becomes [`root::HANDED`]: what the spawner mounted for this sandbox. A number as of `descriptors`.
    pub(super) handed: Option<RawFd>,
    pub(super) root: root::Plan<'a>,
    /// The device nodes inside.
    pub(super) devices: &'a [CString],
    /// It is in the host's network.
    pub(super) network: bool,
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
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) errno: i32,
}

impl Failure {
    pub(crate) fn of<T>(step: Step, result: io::Result<T>) -> Result<T, Self> {
        result.map_err(|error| Self {
            step,
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        })
    }
}

/// Runs the new process. Returns only by exec or exit.
pub(super) fn run(plan: &Plan<'_>) -> ! {
    let laid_out = lay_out_descriptors(&plan.descriptors, plan.handshake, plan.handed);
    match Failure::of(Step::Descriptors, laid_out) {
        Ok(()) => confine_and_execute(plan).map_or_else(
            |failure| report_failure(HANDSHAKE, failure),
            |never| match never {},
        ),
        Err(failure) => report_failure(plan.handshake, failure),
    }
}

/// Tells the host over the handshake which step failed, and ends.
pub(crate) fn report_failure(socket: RawFd, failure: Failure) -> ! {
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
pub(crate) enum Never {}

fn confine_and_execute(plan: &Plan<'_>) -> Result<Never, Failure> {
    await_go_ahead(Step::Identity)?;
    Failure::of(Step::Identity, take_identity(plan))?;
    Failure::of(Step::Session, reset_session())?;
    ablation::unless(Layer::MountNamespace, || root::enter(&plan.root))?;
    Failure::of(
        Step::HostName,
        ablation::unless(Layer::UtsNamespace, hide_host_name),
    )?;
    at_checkpoint(plan, Checkpoint::Privileged);
    Failure::of(Step::ResourceLimits, set_limits(plan.limits))?;
    let no_new_privs = ablation::unless(Layer::NoNewPrivileges, crate::linux::process::set_no_new_privs);
    Failure::of(Step::NoNewPrivileges, no_new_privs)?;
    Failure::of(Step::Capabilities, ablation::drop_capabilities(drop_capabilities))?;
    at_checkpoint(plan, Checkpoint::Unprivileged);
    if let Some(ruleset) = plan.landlock {
        ruleset.restrict_self(plan.devices, plan.network)?;
    }
    await_go_ahead(Step::Cgroup)?;
    at_checkpoint(plan, Checkpoint::Confined);
    Failure::of(
        Step::ParentDeath,
        ablation::unless(Layer::ParentDeath, die_with_spawner),
    )?;
    let filtered = ablation::unless(Layer::Seccomp, || seccomp::load(plan.filter));
    Failure::of(Step::Seccomp, filtered)?;
    at_checkpoint(plan, Checkpoint::Filtered);
    Failure::of(Step::Execute, execute(plan))
}

fn at_checkpoint(plan: &Plan<'_>, checkpoint: Checkpoint) {
    if let Entry::Probe(probe) = plan.entry {
        probe(checkpoint);
    }
}

pub(crate) fn hide_host_name() -> io::Result<()> {
    const NAME: &CStr = c"worker";
    // SAFETY: a static string with its length.
    check(unsafe { libc::sethostname(NAME.as_ptr(), NAME.count_bytes()) }).map(drop)
}

/// Puts the inherited descriptors in place and closes all others: also the far ends of other starts, whose hang-up
/// tells those that the spawner is gone.
pub(crate) fn lay_out_descriptors(
    descriptors: &[RawFd; 5],
    handshake: RawFd,
    handed: Option<RawFd>,
) -> io::Result<()> {
    // SAFETY: plain numbers. The sources lie above all destinations; what gets closed belongs to the parent's copy of
    // this memory, of which nothing runs here any more.
    unsafe {
        for (target, source) in (0..).zip(descriptors) {
            check(libc::dup2(*source, target))?;
        }
        check(libc::dup3(handshake, HANDSHAKE, libc::O_CLOEXEC))?;
        let mut first_surplus = root::HANDED;
        if let Some(mount) = handed {
            check(libc::dup3(mount, root::HANDED, libc::O_CLOEXEC))?;
            first_surplus += 1;
        }
        ablation::unless(Layer::Descriptors, || {
            crate::linux::process::close_from(first_surplus)
        })
    }
}

/// Waits for the host's next byte; its end means that the start was given up.
pub(crate) fn await_go_ahead(step: Step) -> Result<(), Failure> {
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
    ablation::prepare_identity()?;
    // SAFETY: plain numbers and an empty list.
    unsafe {
        if plan.drop_groups {
            check(libc::setgroups(0, ptr::null()))?;
        }
        check(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0))?;
        // The raw calls: those of the C library would signal threads that this process does not have.
        check_long(libc::syscall(libc::SYS_setresgid, plan.id, plan.id, plan.id))?;
        check_long(libc::syscall(libc::SYS_setresuid, plan.id, plan.id, plan.id))?;
        check(libc::prctl(libc::PR_SET_KEEPCAPS, 0, 0, 0, 0))?;
    }
    Ok(())
}

/// A session of its own, no blocked or ignored signal left over from the spawner, a private umask.
pub(crate) fn reset_session() -> io::Result<()> {
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

pub(crate) fn set_limits(limits: &[ResourceLimit]) -> io::Result<()> {
    limits.iter().try_for_each(|(resource, limit)| {
        // SAFETY: `limit` is valid.
        check(unsafe { libc::setrlimit64(*resource as _, limit) }).map(drop)
    })
}

/// Empties every capability set, the bounding set first, which needs one.
fn drop_capabilities() -> io::Result<()> {
    const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
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
    let sets = [0_u32; 6];
    // SAFETY: laid out as the kernel's header and its two data structs.
    check_long(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) })?;
    // SAFETY: plain numbers.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) }).map(drop)
}

/// After the last change of identity, which would clear it. A spawner that died before has closed its end of the
/// handshake before the kernel looked for children to signal, so one of the two always sees it.
pub(crate) fn die_with_spawner() -> io::Result<()> {
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
    let (executable, environment) = ablation::program(plan.executable, plan.handshake);
    // SAFETY: a C string and two lists of such, each ended by null.
    unsafe { libc::execve(executable, arguments.as_ptr(), environment.as_ptr()) };
    Err(io::Error::last_os_error())
}
