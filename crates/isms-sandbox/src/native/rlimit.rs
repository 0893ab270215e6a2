//! Resource limits of a sandbox: the second line behind the cgroup, the only one without it.

use std::{io, os::fd::RawFd};

use super::{Limits, Profile};
use crate::{
    ablation::{self, Layer},
    linux::check,
};

/// Descriptors that a sandbox may have open.
pub(crate) const DESCRIPTORS_MAX: RawFd = 256;
/// Descriptors of a builder.
const BUILDER_DESCRIPTORS_MAX: RawFd = 1024;
/// A stack, of which every thread of a Doee gets one by default.
const STACK_LEN: u64 = 8 * 1024 * 1024;
const BUILDER_STACK_LEN_MAX: u64 = 64 * 1024 * 1024;

/// Resource, soft limit, hard limit.
pub(crate) type ResourceLimit = (libc::c_int, libc::rlimit64);

/// The limits of a new sandbox, within what this process may give. `memory_by_cgroup`: no limit on data is
/// needed, which counts what is mapped, not what is used. Soft limits can be set anew up to `maxima`.
pub(crate) fn of(
    profile: Profile,
    limits: &Limits,
    maxima: &Limits,
    memory_by_cgroup: bool,
) -> io::Result<Vec<ResourceLimit>> {
    if ablation::leaves_out(Layer::ResourceLimits) {
        return Ok(Vec::new());
    }
    let (descriptors, stack_max) = match profile {
        Profile::Worker => (DESCRIPTORS_MAX, STACK_LEN),
        Profile::Builder => (BUILDER_DESCRIPTORS_MAX, BUILDER_STACK_LEN_MAX),
    };
    let mut wanted = vec![
        (libc::RLIMIT_NOFILE, descriptors as u64, descriptors as u64),
        (libc::RLIMIT_NPROC, limits.pids.into(), maxima.pids.into()),
        (libc::RLIMIT_FSIZE, maxima.memory_bytes, maxima.memory_bytes),
        (libc::RLIMIT_STACK, STACK_LEN, stack_max),
        // Not 0: a host that hands cores to a program does so whatever the limit is, unless it is 1, and a file with a
        // core is longer than that.
        (libc::RLIMIT_CORE, 1, 1),
        (libc::RLIMIT_MEMLOCK, 0, 0),
        (libc::RLIMIT_MSGQUEUE, 0, 0),
        (libc::RLIMIT_RTPRIO, 0, 0),
        (libc::RLIMIT_SIGPENDING, 64, 64),
    ];
    if !memory_by_cgroup {
        wanted.push((libc::RLIMIT_DATA, limits.memory_bytes, maxima.memory_bytes));
    }
    wanted
        .into_iter()
        .map(|(resource, soft, hard)| clamp(resource as libc::c_int, soft, hard))
        .collect()
}

/// A hard limit can only be lowered here.
fn clamp(resource: libc::c_int, soft: u64, hard: u64) -> io::Result<ResourceLimit> {
    let mut current = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `current` is writable; the kernel rejects an unknown resource.
    check(unsafe { libc::prlimit64(0, resource as _, std::ptr::null(), &raw mut current) })?;
    let hard = hard.min(current.rlim_max);
    Ok((
        resource,
        libc::rlimit64 {
            rlim_cur: soft.min(hard),
            rlim_max: hard,
        },
    ))
}

/// Lowers or restores the soft limits of a running sandbox's init. Its hard limits stay.
pub(super) fn adjust(pid: u32, limits: &Limits, memory_by_cgroup: bool) -> io::Result<()> {
    if ablation::leaves_out(Layer::ResourceLimits) {
        return Ok(());
    }
    let pid = pid as libc::pid_t;
    set_soft(pid, libc::RLIMIT_NPROC as libc::c_int, limits.pids.into())?;
    if memory_by_cgroup {
        return Ok(());
    }
    set_soft(pid, libc::RLIMIT_DATA as libc::c_int, limits.memory_bytes)
}

fn set_soft(pid: libc::pid_t, resource: libc::c_int, soft: u64) -> io::Result<()> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both pointers are null or to a valid limit.
    unsafe {
        check(libc::prlimit64(
            pid,
            resource as _,
            std::ptr::null(),
            &raw mut limit,
        ))?;
        limit.rlim_cur = soft.min(limit.rlim_max);
        check(libc::prlimit64(
            pid,
            resource as _,
            &raw const limit,
            std::ptr::null_mut(),
        ))?;
    }
    Ok(())
}
