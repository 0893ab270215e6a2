//! Control groups, v1 and v2: one group per sandbox below a parent named after the data directory.
//!
//! Each controller is used where the system has it: in its v1 hierarchy, else in v2. The parent lies at the top of a v1
//! hierarchy, and in v2 in the own, delegated group or at the top. What an earlier run left below it is killed and
//! removed first. A controller that is missing or may not be written is reported, and the sandbox starts without it.

mod place;

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use self::place::Places;
use super::{Limits, limits::CPU_PERMILLE_MIN};
use crate::ablation::{self, Layer};

/// Accounting period of processor time. Shorter than the kernel's default, so that a throttled call waits less.
const CPU_PERIOD_US: u64 = 20_000;
/// How long the processes of an earlier run may take to die.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(2);

/// The parent groups of all sandboxes of this data directory.
#[derive(Debug)]
pub(crate) struct Cgroups {
    places: Places,
}

/// What a group can control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Controller {
    Memory,
    Cpu,
    Pids,
}

/// The group of one sandbox.
#[derive(Debug)]
pub(crate) struct Group {
    directories: Vec<Directory>,
    unified: Option<OwnedFd>,
}

#[derive(Debug)]
struct Directory {
    path: PathBuf,
    controllers: Vec<Controller>,
    unified: bool,
}

impl Controller {
    const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Pids];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }

    fn layer(self) -> Layer {
        match self {
            Self::Memory => Layer::CgroupMemory,
            Self::Cpu => Layer::CgroupCpu,
            Self::Pids => Layer::CgroupPids,
        }
    }
}

impl Cgroups {
    /// Finds the hierarchies, sweeps what an earlier run left, and makes the parent groups.
    pub(crate) fn open(data_directory: &Path) -> Self {
        Self {
            places: Places::find(data_directory),
        }
    }

    /// Whether sandboxes are controlled by this.
    pub(crate) fn has(&self, controller: Controller) -> bool {
        self.places
            .parents
            .iter()
            .any(|parent| parent.controllers.contains(&controller))
    }

    /// Why a controller is missing.
    pub(crate) fn missing(&self, controller: Controller) -> &str {
        let reason = self
            .places
            .missing
            .iter()
            .find(|(missing, _)| *missing == controller);
        reason.map_or(
            "no cgroup hierarchy with this controller is mounted",
            |(_, reason)| reason,
        )
    }

    /// Makes a sandbox's group; `None` when there is no controller.
    pub(crate) fn create(&self, worker: u64, limits: &Limits) -> io::Result<Option<Group>> {
        if self.places.parents.is_empty() {
            return Ok(None);
        }
        let mut group = Group {
            directories: Vec::new(),
            unified: None,
        };
        for parent in &self.places.parents {
            let path = parent.path.join(worker.to_string());
            if let Err(error) = fs::create_dir(&path) {
                group.remove();
                return Err(error);
            }
            if parent.unified {
                group.unified = Some(File::open(&path)?.into());
            }
            group.directories.push(Directory {
                path,
                controllers: parent.controllers.clone(),
                unified: parent.unified,
            });
        }
        match group.limit(limits) {
            Ok(()) => Ok(Some(group)),
            Err(error) => {
                group.remove();
                Err(error)
            }
        }
    }

    /// Removes the parent groups, which must be empty by now.
    pub(crate) fn close(&self) {
        for parent in &self.places.parents {
            sweep(&parent.path);
        }
    }
}

impl Group {
    /// The v2 directory, to be cloned into.
    pub(super) fn unified(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(AsFd::as_fd)
    }

    /// Moves a process into the v1 groups. Slow at times (it waits for every processor), so not on a request's path.
    pub(crate) fn attach(&self, pid: u32) -> io::Result<()> {
        let separate = self.directories.iter().filter(|directory| !directory.unified);
        separate
            .into_iter()
            .try_for_each(|directory| directory.write("cgroup.procs", pid.into()))
    }

    /// Processes in it, as seen from here; those of its memory controller, when the hierarchies are separate.
    pub(crate) fn processes(&self) -> io::Result<Vec<u32>> {
        let Some(directory) = self.directories.first() else {
            return Ok(Vec::new());
        };
        let text = fs::read_to_string(directory.path.join("cgroup.procs"))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Sets its limits.
    pub(crate) fn limit(&self, limits: &Limits) -> io::Result<()> {
        self.directories
            .iter()
            .try_for_each(|directory| directory.limit(limits))
    }

    /// Whether the kernel killed something in it for its memory.
    pub(crate) fn out_of_memory(&self) -> bool {
        self.count(
            Controller::Memory,
            ["memory.oom_control", "memory.events"],
            "oom_kill ",
        ) > 0
    }

    /// How many periods it was held back for its processor time.
    pub(crate) fn throttled(&self) -> u64 {
        self.count(Controller::Cpu, ["cpu.stat", "cpu.stat"], "nr_throttled ")
    }

    fn count(&self, controller: Controller, [separate, unified]: [&str; 2], key: &str) -> u64 {
        let Some(directory) = self
            .directories
            .iter()
            .find(|at| at.controllers.contains(&controller))
        else {
            return 0;
        };
        let file = directory
            .path
            .join(if directory.unified { unified } else { separate });
        let Ok(text) = fs::read_to_string(file) else {
            return 0;
        };
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
            .unwrap_or(0)
    }

    /// Removes it; false when something in it still lives.
    pub(crate) fn remove(&mut self) -> bool {
        self.directories.retain(|directory| !removed(&directory.path));
        self.directories.is_empty()
    }
}

impl Directory {
    fn write(&self, file: &str, value: u64) -> io::Result<()> {
        self.write_text(file, &value.to_string())
    }

    fn write_text(&self, file: &str, text: &str) -> io::Result<()> {
        fs::write(self.path.join(file), text).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("{}: {error}", self.path.join(file).display()),
            )
        })
    }

    fn limit(&self, limits: &Limits) -> io::Result<()> {
        let quota = u64::from(limits.cpu_permille.max(CPU_PERMILLE_MIN)) * CPU_PERIOD_US / 1000;
        for controller in &self.controllers {
            if ablation::leaves_out(controller.layer()) {
                continue;
            }
            match (controller, self.unified) {
                (Controller::Memory, true) => {
                    self.write("memory.max", limits.memory_bytes)?;
                    // Absent where the kernel has no swap accounting.
                    let _ = self.write("memory.swap.max", 0);
                    self.write("memory.oom.group", 1)?;
                }
                (Controller::Memory, false) => self.limit_memory_separately(limits.memory_bytes)?,
                (Controller::Cpu, true) => {
                    self.write("cpu.weight", limits.cpu_weight.into())?;
                    self.write_text("cpu.max", &format!("{quota} {CPU_PERIOD_US}"))?;
                }
                (Controller::Cpu, false) => {
                    self.write("cpu.shares", shares(limits.cpu_weight))?;
                    self.write("cpu.cfs_period_us", CPU_PERIOD_US)?;
                    self.write("cpu.cfs_quota_us", quota)?;
                }
                (Controller::Pids, _) => self.write("pids.max", limits.pids.into())?,
            }
        }
        Ok(())
    }

    /// Memory and swap together may never be below memory alone, so the order depends on the direction.
    fn limit_memory_separately(&self, bytes: u64) -> io::Result<()> {
        let with_swap = "memory.memsw.limit_in_bytes";
        if !self.path.join(with_swap).exists() {
            return self.write("memory.limit_in_bytes", bytes);
        }
        if self.write("memory.limit_in_bytes", bytes).is_ok() {
            return self.write(with_swap, bytes);
        }
        self.write(with_swap, bytes)?;
        self.write("memory.limit_in_bytes", bytes)
    }
}

/// A weight in the unit of cgroup v1, where 1024 are usual.
fn shares(weight: u32) -> u64 {
    (u64::from(weight) * 1024 / 100).max(2)
}

/// Removes a group; one that is gone already counts as removed.
fn removed(path: &Path) -> bool {
    match fs::remove_dir(path) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Kills whatever is in the groups below `parent`, then removes them and it.
fn sweep(parent: &Path) {
    let deadline = Instant::now() + SWEEP_TIMEOUT;
    while !try_sweep(parent) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
}

fn try_sweep(parent: &Path) -> bool {
    let Ok(entries) = fs::read_dir(parent) else {
        return true;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !removed(&entry.path()) {
            kill_all(&entry.path());
            removed(&entry.path());
        }
    }
    removed(parent)
}

fn kill_all(group: &Path) {
    let Ok(processes) = fs::read_to_string(group.join("cgroup.procs")) else {
        return;
    };
    for pid in processes
        .lines()
        .filter_map(|line| line.parse::<libc::pid_t>().ok())
        .filter(|pid| *pid > 1)
    {
        // SAFETY: plain numbers. The group is ours alone, so whatever is in it is a leftover sandbox.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
}
