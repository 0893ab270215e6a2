//! What the platform takes, read from /proc and from the memory cgroup.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// Time after which a platform that was just started counts as idle.
const SETTLE: Duration = Duration::from_secs(2);

/// Waits until the platform's processes are no longer busy with their start.
pub(crate) fn settle(supervisor: u32) {
    let until = Instant::now() + SETTLE;
    while Instant::now() < until && !family(supervisor).is_empty() {
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Proportional set size of the supervisor and all its descendants, in MB (10^6 bytes).
pub(crate) fn pss_mb(supervisor: u32) -> Result<f64> {
    let kib: u64 = family(supervisor).into_iter().filter_map(pss_kib).sum();
    Ok(kib as f64 * 1024.0 / 1e6)
}

fn pss_kib(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find(|line| line.starts_with("Pss:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Median of what is charged to the workers that wait, in KiB.
pub(crate) fn worker_kib(supervisor: u32) -> Result<f64> {
    let mut charged: Vec<u64> = family(supervisor).into_iter().filter_map(charged_bytes).collect();
    charged.sort_unstable();
    let median = charged
        .get(charged.len() / 2)
        .context("no worker has a memory cgroup of its own")?;
    Ok(*median as f64 / 1024.0)
}

/// Workers whose program runs.
pub(crate) fn executors(supervisor: u32) -> usize {
    let family = family(supervisor).into_iter();
    family.filter(|pid| is_executor(*pid)).count()
}

fn is_executor(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with("doee-executor"))
}

/// Bytes charged to a worker's memory cgroup; `None` for a process that is no worker's init.
fn charged_bytes(pid: u32) -> Option<u64> {
    if !is_executor(pid) {
        return None;
    }
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let of = |prefix: &str, root: &str, file: &str| {
        let line = groups.lines().find(|line| line.contains(prefix))?;
        let path = line.rsplit_once(':')?.1;
        fs::read_to_string(format!("{root}{path}/{file}"))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    of(":memory:", "/sys/fs/cgroup/memory", "memory.usage_in_bytes")
        .or_else(|| of("0::", "/sys/fs/cgroup", "memory.current"))
}

/// A process and its descendants.
fn family(root: u32) -> Vec<u32> {
    let mut children: Vec<(u32, u32)> = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok) {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        let parent = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        children.extend(parent.map(|parent| (parent, pid)));
    }
    let mut family = vec![root];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        family.extend(
            children
                .iter()
                .filter(|(of, _)| *of == parent)
                .map(|(_, pid)| *pid),
        );
        next += 1;
    }
    family
}
