//! What runs, read from /proc.

use std::fs;

/// What the supervisor starts, each as a process of its own.
pub(crate) const ROLES: [&str; 7] = [
    "kernel",
    "doer",
    "dbriver",
    "commserver",
    "resadmin",
    "gate",
    "spawner",
];

/// A process as it was when it was found; its start time tells it from a later one of the same number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) command: Vec<String>,
    started: u64,
}

impl Process {
    fn read(pid: u32) -> Option<(Process, u32)> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything; the fields count from behind it.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        if fields.first() == Some(&"Z") {
            return None;
        }
        let parent = fields.get(1)?.parse().ok()?;
        let started = fields.get(19)?.parse().ok()?;
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let command = command
            .split('\0')
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect();
        Some((
            Process {
                pid,
                command,
                started,
            },
            parent,
        ))
    }

    /// True for `isms ROLE`.
    pub(crate) fn is_role(&self, role: &str) -> bool {
        self.command.get(1).is_some_and(|word| word == role)
    }

    pub(crate) fn is_alive(&self) -> bool {
        Process::read(self.pid).is_some_and(|(process, _)| process.started == self.started)
    }

    /// The most memory that it has had so far.
    pub(crate) fn peak_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak.unwrap().trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub(crate) fn kill(&self) {
        super::signal(self.pid, rustix::process::Signal::KILL);
    }
}

/// All living descendants of a process.
pub(crate) fn descendants(root: u32) -> Vec<Process> {
    let pids = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let all: Vec<(Process, u32)> = pids.filter_map(Process::read).collect();
    let mut found = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for (process, _) in all.iter().filter(|(_, of)| *of == parent) {
            parents.push(process.pid);
            found.push(process.clone());
        }
    }
    found
}
