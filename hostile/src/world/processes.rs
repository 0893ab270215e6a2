//! The victim and the platform's own processes, read from /proc.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

/// Processes and threads of the platform, its workers' included; a bomb that is not contained has more.
const TASKS_MAX: usize = 2000;
/// Descriptors of one role; a flood of them that is not dropped is more.
const DESCRIPTORS_MAX: usize = 2048;
/// Memory of one role; a message that is not bounded takes more.
const MEMORY_KIB_MAX: u64 = 256 * 1024;
/// For the start of the roles.
const START: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// For the end of a worker that is being killed.
const SETTLE: Duration = Duration::from_secs(2);

const ROLES: [&str; 7] = [
    "kernel",
    "doer",
    "dbriver",
    "commserver",
    "resadmin",
    "gate",
    "spawner",
];

/// The platform's roles as they were found: pid and start time.
pub(super) struct Roles(BTreeMap<&'static str, (u32, String)>);

impl Roles {
    /// Waits until all are there; the platform is ready for its clients a little earlier.
    pub(super) fn of(supervisor: u32) -> Result<Self> {
        let until = Instant::now() + START;
        loop {
            let found = find(supervisor);
            let Some(missing) = ROLES.iter().find(|role| !found.contains_key(**role)) else {
                return Ok(Self(found));
            };
            ensure!(Instant::now() < until, "the platform has no {missing}");
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    pub(super) fn pid(&self, role: &str) -> u32 {
        self.0.get(role).map_or(0, |(pid, _)| *pid)
    }

    /// Whether all are alive, the same as before, and of a decent size.
    pub(super) fn check(&mut self, supervisor: u32) -> Vec<String> {
        let mut harm = Vec::new();
        let now = find(supervisor);
        for (role, before) in &self.0 {
            if now.get(role) != Some(before) {
                harm.push(format!("{role} has died"));
            }
        }
        for (role, (pid, _)) in &now {
            let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
            if descriptors > DESCRIPTORS_MAX {
                harm.push(format!("{role} has {descriptors} descriptors"));
            }
            let memory = field(*pid, "VmRSS:").and_then(|text| text.split(' ').next()?.parse().ok());
            if memory > Some(MEMORY_KIB_MAX) {
                harm.push(format!("{role} has {memory:?} KiB of memory"));
            }
        }
        let until = Instant::now() + SETTLE;
        let mut tasks = count_tasks(supervisor);
        while tasks > TASKS_MAX && Instant::now() < until {
            std::thread::sleep(LOOK_INTERVAL);
            tasks = count_tasks(supervisor);
        }
        if tasks > TASKS_MAX {
            harm.push(format!("the platform has {tasks} tasks"));
        }
        if !now.is_empty() {
            self.0 = now;
        }
        harm
    }
}

/// What others could do to a process, in one line: end, stop, trace, slow down, limit.
pub(super) fn state(pid: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit_once(") ")
        .map_or(Vec::new(), |(_, fields)| fields.split(' ').collect());
    let of_stat = |at: usize| fields.get(at).copied().unwrap_or("gone").to_owned();
    // Awake or asleep is its own affair.
    let life = match of_stat(0).as_str() {
        "R" | "S" | "D" => "alive".to_owned(),
        other => other.to_owned(),
    };
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap_or_default();
    let traced = field(pid, "TracerPid:").unwrap_or_default();
    let cores = field(pid, "Cpus_allowed:").unwrap_or_default();
    format!(
        "{life}, tracer {traced}, nice {}, cores {cores}, {}",
        of_stat(16),
        files.split_whitespace().collect::<Vec<_>>().join(" ")
    )
}

fn field(pid: u32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().to_owned())
}

fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|text| {
            let pids: Vec<u32> = text
                .split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect();
            pids
        })
        .collect()
}

/// Roles below a supervisor, by the word behind `isms` in their command line.
fn find(supervisor: u32) -> BTreeMap<&'static str, (u32, String)> {
    let mut found = BTreeMap::new();
    for pid in children(supervisor) {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let word = command.split('\0').nth(1).unwrap_or_default();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let started = stat
            .rsplit_once(") ")
            .and_then(|(_, fields)| fields.split(' ').nth(19))
            .unwrap_or_default();
        if let Some(role) = ROLES.into_iter().find(|role| *role == word) {
            found.insert(role, (pid, started.to_owned()));
        }
    }
    found
}

/// Threads of all processes below one.
fn count_tasks(supervisor: u32) -> usize {
    let (mut open, mut tasks) = (vec![supervisor], 0);
    while let Some(pid) = open.pop() {
        tasks += fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        open.extend(children(pid));
    }
    tasks
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_that_is_killed_slowed_down_or_limited_is_not_as_it_was() {
        let mut victim = Command::new("sleep").arg("100000").spawn().unwrap();
        let pid = victim.id().to_string();
        let run = |program: &str, arguments: &[&str]| {
            let status = Command::new(program).args(arguments).arg(&pid).status().unwrap();
            assert!(status.success(), "{program}");
        };
        let mut seen = vec![state(victim.id())];
        run("renice", &["-n", "19", "-p"]);
        seen.push(state(victim.id()));
        run("prlimit", &["--nofile=16:16", "--pid"]);
        seen.push(state(victim.id()));
        victim.kill().unwrap();
        victim.wait().unwrap();
        seen.push(state(victim.id()));
        assert!(seen[0].starts_with("alive, tracer 0, nice "), "{seen:?}");
        assert!(seen.windows(2).all(|pair| pair[0] != pair[1]), "{seen:?}");
    }
}
