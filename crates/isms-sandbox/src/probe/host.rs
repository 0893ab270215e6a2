//! The probes as seen from outside: starts the probing sandboxes and looks at them.
#![allow(unsafe_code)] // fork, System V queues, pidfd_open

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    time::Duration,
};

use super::{
    inside::{self, FINDINGS_LEN, Findings, Inside},
    neighbour::{self, Neighbour},
};
use crate::{
    linux::{check, check_long, descriptor, poll},
    native::{
        Cgroups, Checkpoint, Ends, Entry, Exit, Group, Ids, Limits, Native, Openings, Profile, Sandbox,
        Start, StartError,
    },
    seccomp,
};

/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a sandbox may take to use up its memory, with little processor time on a slow machine.
const HUNGER_TIMEOUT: Duration = Duration::from_secs(10);
/// Limits of a probing sandbox: the least that a start needs, so that it hits them soon.
const LIMITS: Limits = Limits {
    memory_bytes: 16 * 1024 * 1024,
    cpu_permille: 1000,
    pids: 64,
};
/// Processor time of the sandbox that uses more: little enough to hit, enough to be done soon.
const HUNGRY_CPU_PERMILLE: u32 = 200;
/// Names of the probes' groups, which no worker has.
const GROUP: u64 = u64::MAX;

/// What can be seen from outside.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) uid: Option<u32>,
    pub(super) host_name_kept: bool,
    pub(super) cgroup_namespace_differs: bool,
}

/// How a sandbox fared that used more than its limits.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hunger {
    pub(super) killed: bool,
    pub(super) throttled: bool,
}

/// What a sandbox could do to a process outside of its Landlock domain, and how its crash was seen.
#[derive(Debug)]
pub(super) struct Crash {
    pub(super) findings: neighbour::Findings,
    pub(super) exit: Exit,
}

/// Why a probe has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    #[error("{0}")]
    Start(#[from] StartError),
    #[error("{0}")]
    System(#[from] io::Error),
    #[error("the probe did not answer")]
    Silent,
    #[error("the sandbox outlived its spawner")]
    Outlived,
}

/// Starts a sandbox that tries what it must not do, and looks at it meanwhile.
pub(super) fn inspect(
    native: &Native,
    cgroups: &Cgroups,
    ids: Ids,
    host_file: &Path,
) -> Result<(Findings, Facts), ProbeError> {
    let host_file = CString::new(host_file.as_os_str().as_bytes()).map_err(io::Error::from)?;
    let (queue, filter) = (Queue::new(), seccomp::start_up_over());
    let inside = Inside::new(
        &host_file,
        std::process::id() as libc::pid_t,
        queue.0,
        &filter,
        native.worker_temporary(),
    );
    let host_name = host_name();
    let limits = Limits {
        // One process only: the fork that is tried inside must hit this group's limit, not another one.
        pids: 1,
        // More than fits into /tmp, so that what fills it hits that limit and not this one.
        memory_bytes: LIMITS.memory_bytes + 2 * native.worker_temporary().0,
        ..LIMITS
    };
    let probing = Probing::start(native, cgroups, ids, &limits, &|at| inside.probe(at))?;
    let mut found = [0; FINDINGS_LEN];
    probing.read(&mut found)?;
    let pid = probing.sandbox.pid();
    let groups_of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/cgroup")).ok();
    // What cannot be read proves nothing.
    let groups = groups_of("self").zip(groups_of(&pid.to_string()));
    let facts = Facts {
        uid: uid_of(pid),
        host_name_kept: host_name == self::host_name()
            && host_name.is_some_and(|name| name.trim() != "worker"),
        cgroup_namespace_differs: groups.is_some_and(|(own, inner)| own != inner),
    };
    Ok((Findings::from_bytes(&found), facts))
}

/// Starts a sandbox that reaches out for a second process in it, and then crashes.
pub(super) fn crash(native: &Native, ids: Ids) -> Result<Crash, ProbeError> {
    let neighbour = Neighbour::new();
    let mut sandbox = start(native, ids, None, &|at| neighbour.probe(at))?;
    let ends = sandbox.take_ends().ok_or(ProbeError::Silent)?;
    let mut found = [0; neighbour::FINDINGS_LEN];
    read_all(ends.output, &mut found)?;
    if !poll::wait_for(sandbox.pidfd(), PROBE_TIMEOUT)? {
        return Err(ProbeError::Silent);
    }
    Ok(Crash {
        findings: neighbour::Findings::from_bytes(found),
        exit: sandbox.try_reap()?.ok_or(ProbeError::Silent)?,
    })
}

/// Starts a sandbox that uses more than it has.
pub(super) fn starve(native: &Native, cgroups: &Cgroups, ids: Ids) -> Hunger {
    let limits = Limits {
        cpu_permille: HUNGRY_CPU_PERMILLE,
        ..LIMITS
    };
    let Ok(probing) = Probing::start(native, cgroups, ids, &limits, &inside::hunger) else {
        return Hunger::default();
    };
    let _ = poll::wait_for(probing.sandbox.pidfd(), HUNGER_TIMEOUT);
    probing
        .group
        .as_ref()
        .map_or_else(Hunger::default, |group| Hunger {
            killed: group.out_of_memory(),
            throttled: group.throttled() > 0,
        })
}

/// Starts a sandbox from a process that then dies, and checks that it dies too.
pub(super) fn orphan(native: &Native, ids: Ids) -> Result<(), ProbeError> {
    let _subreaper = Subreaper::begin()?;
    let (ours, theirs) = descriptor::stream_pair()?;
    // SAFETY: this process has one thread, so the child may do all that the parent may; it leaves by _exit.
    let child = check(unsafe { libc::fork() })?;
    if child == 0 {
        drop(ours);
        let _ = play_spawner(native, ids, File::from(theirs));
        // SAFETY: leaves without running destructors of the parent's copies, the sandbox's included.
        unsafe { libc::_exit(0) };
    }
    drop(theirs);
    let result = watch_orphan(File::from(ours));
    // SAFETY: plain numbers; the child leaves as soon as our end of the pair is closed, at the latest.
    check(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) })?;
    let sandbox = result?;
    let died = poll::wait_for(sandbox.as_fd(), PROBE_TIMEOUT)?;
    if !died {
        crate::linux::process::kill_pidfd(sandbox.as_fd())?;
    }
    // SAFETY: an all-zero siginfo is valid; the process was given to us as its subreaper.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        check(libc::waitid(
            libc::P_PIDFD,
            sandbox.as_raw_fd() as _,
            &raw mut info,
            libc::WEXITED,
        ))?;
    }
    if died { Ok(()) } else { Err(ProbeError::Outlived) }
}

/// In the process that is to die: starts a sandbox, tells its pid, waits to be told to go.
fn play_spawner(native: &Native, ids: Ids, mut channel: File) -> Result<(), ProbeError> {
    let sandbox = start(native, ids, None, &inside::linger);
    // Its drop would kill it; the question is whether it dies by itself.
    let mut sandbox = std::mem::ManuallyDrop::new(sandbox?);
    let ends = sandbox.take_ends().ok_or(ProbeError::Silent)?;
    read_all(ends.output, &mut [0])?;
    channel.write_all(&sandbox.pid().to_le_bytes())?;
    channel.read_exact(&mut [0])?;
    Ok(())
}

fn watch_orphan(mut channel: File) -> Result<OwnedFd, ProbeError> {
    let mut pid = [0; 4];
    if !poll::wait_for(channel.as_fd(), PROBE_TIMEOUT)? {
        return Err(ProbeError::Silent);
    }
    channel.read_exact(&mut pid)?;
    // SAFETY: plain numbers; a descriptor that the kernel gives is ours.
    unsafe {
        let pidfd = check_long(libc::syscall(libc::SYS_pidfd_open, u32::from_le_bytes(pid), 0))?;
        let pidfd = OwnedFd::from_raw_fd(pidfd as libc::c_int);
        channel.write_all(&[0])?;
        Ok(pidfd)
    }
}

/// A probing sandbox; dropped, nothing is left of it.
struct Probing {
    // Before the group: a group can only be removed once its processes are reaped.
    sandbox: Sandbox,
    ends: Ends,
    group: Option<Group>,
}

impl Probing {
    fn start(
        native: &Native,
        cgroups: &Cgroups,
        ids: Ids,
        limits: &Limits,
        probe: &dyn Fn(Checkpoint),
    ) -> Result<Self, ProbeError> {
        let mut group = cgroups.create(GROUP, limits)?;
        // As resource limits the probe gets more, so that the group is what it hits.
        let started = start(native, ids, group.as_ref(), probe);
        let parts = started.map_err(ProbeError::from).and_then(|mut sandbox| {
            let ends = sandbox.take_ends().ok_or(ProbeError::Silent)?;
            Ok((sandbox, ends))
        });
        match parts {
            Ok((sandbox, ends)) => Ok(Self { sandbox, ends, group }),
            Err(error) => {
                if let Some(group) = &mut group {
                    group.remove();
                }
                Err(error)
            }
        }
    }

    fn read(&self, buffer: &mut [u8]) -> Result<(), ProbeError> {
        read_all(self.ends.output.try_clone()?, buffer)
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        let _ = self.sandbox.kill().and_then(|()| self.sandbox.reap());
        if let Some(group) = &mut self.group {
            group.remove();
        }
    }
}

fn start(
    native: &Native,
    ids: Ids,
    group: Option<&Group>,
    probe: &dyn Fn(Checkpoint),
) -> Result<Sandbox, StartError> {
    native.start(&Start {
        profile: Profile::Worker,
        limits: &LIMITS,
        ids,
        group,
        image: None,
        openings: &Openings::default(),
        entry: &Entry::Probe(probe),
    })
}

fn read_all(output: OwnedFd, buffer: &mut [u8]) -> Result<(), ProbeError> {
    if !poll::wait_for(output.as_fd(), PROBE_TIMEOUT)? {
        return Err(ProbeError::Silent);
    }
    File::from(output)
        .read_exact(buffer)
        .map_err(|_| ProbeError::Silent)
}

/// A System V message queue of the host.
struct Queue(libc::c_int);

impl Queue {
    fn new() -> Self {
        // SAFETY: plain numbers. Where the kernel has no such queues, the check inside finds none either.
        Self(unsafe { libc::msgget(libc::IPC_PRIVATE, 0o600) })
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: removes the queue made above.
        unsafe { libc::msgctl(self.0, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}

/// While it lives, orphaned descendants become children of this process.
struct Subreaper;

impl Subreaper {
    fn begin() -> io::Result<Self> {
        // SAFETY: plain numbers.
        check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(|_| Self)
    }
}

impl Drop for Subreaper {
    fn drop(&mut self) {
        // SAFETY: plain numbers.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) };
    }
}

fn host_name() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/hostname").ok()
}

/// Real uid of a process, as the host sees it.
fn uid_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}
