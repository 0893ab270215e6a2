//! What is worth attacking on the machine of the platform, and how it was before: files, a process, listeners, names
//! and settings of the host, the platform's own processes, a neighbour.
//!
//! Everything is looked at from outside after each probe. What is checked belongs to the suite or to its platform, or
//! is a setting that nobody changes in passing, so other work on the machine is no harm.

mod listeners;
mod outside;
mod processes;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, ensure};
use toml::Table;

use self::{listeners::Listeners, processes::Roles};
use crate::{Target, suite};

/// How far the clock may drift from the monotonic one in a run.
const CLOCK_DRIFT_MAX: Duration = Duration::from_secs(60);

/// Settings of the host that a probe tries to change. One that is not there stays so.
const SETTINGS: [&str; 6] = [
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/domainname",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/vm/overcommit_memory",
    "/proc/swaps",
];

/// Where a machine that is thrown away puts core dumps; others have no such folder.
const CORES: &str = "/cores";

/// Where a mount or its loss would be noticed.
const MOUNT_POINTS: [&str; 5] = ["/", "/proc", "/sys", "/dev", "/tmp"];

/// The planted things. Dropped, they are gone.
pub(crate) struct World {
    target: Target,
    folder: PathBuf,
    secret: String,
    victim: Child,
    listeners: Listeners,
    roles: Roles,
    neighbour: u32,
    throwaway: bool,
    clock: (SystemTime, Instant),
    before: BTreeMap<String, String>,
    /// Something is not as it was and cannot be mended.
    spoilt: bool,
}

impl World {
    /// Plants everything beside a platform.
    pub(crate) fn plant(target: &Target, throwaway: bool) -> Result<Self> {
        // Several may be planted by one process, one after another or at the same time.
        static PLANTED: AtomicU32 = AtomicU32::new(0);
        let (process, number) = (std::process::id(), PLANTED.fetch_add(1, Relaxed));
        let folder = std::env::temp_dir().join(format!("isms-hostile-{process}-{number}"));
        let mut secret = [0; 16];
        fs::File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut secret))
            .context("cannot read random numbers")?;
        let secret = secret.map(|byte| format!("{byte:02x}")).concat();
        make_folder(&folder, 0o755)?;
        make_folder(&folder.join("open"), 0o777)?;
        make_folder(&folder.join("scratch"), 0o700)?;
        plant_files(&folder, &secret)?;
        let victim = Command::new("sleep")
            .arg("100000")
            .env("ISMS_SECRET", &secret)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start a process to be attacked")?;
        Ok(Self {
            target: target.clone(),
            listeners: Listeners::open(&folder, throwaway)?,
            roles: Roles::of(target.supervisor)?,
            folder,
            secret,
            victim,
            neighbour: 0,
            throwaway,
            clock: (SystemTime::now(), Instant::now()),
            before: BTreeMap::new(),
            spoilt: false,
        })
    }

    /// Folder for the projects in the making.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.folder.join("scratch")
    }

    /// What nobody may get to know.
    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }

    /// Finds the neighbour, which must be deployed and answer.
    pub(crate) fn meet_neighbour(&mut self, target: &Target) -> Result<()> {
        let asked = suite::ask_neighbour(target);
        ensure!(asked.is_ok(), "{asked:?}");
        self.neighbour = suite::neighbour(target)?;
        Ok(())
    }

    /// Remembers how everything is.
    pub(crate) fn settle(&mut self) {
        self.before = self.look();
    }

    /// What the probes are told.
    pub(crate) fn targets(&self, target: &Target) -> Table {
        let path = |name: &str| self.folder.join(name).to_string_lossy().into_owned();
        let port = |address: &str| {
            let (_, port) = address.rsplit_once(':').unwrap_or_default();
            port.parse::<i64>().unwrap_or_default()
        };
        let mut targets = Table::new();
        let mut text = |name: &str, value: String| targets.insert(name.to_owned(), value.into());
        text("secret", path("secret"));
        text("planted", path("planted"));
        text("directory", path("open"));
        text("socket", path("socket"));
        text("data", target.data.to_string_lossy().into_owned());
        text(
            "token",
            target.data.join("admin.token").to_string_lossy().into_owned(),
        );
        text("abstract", self.listeners.abstract_name.clone());
        let mut number = |name: &str, value: i64| targets.insert(name.to_owned(), value.into());
        number("victim", self.victim.id().into());
        number("neighbour", self.neighbour.into());
        number("supervisor", target.supervisor.into());
        number("doer", self.roles.pid("doer").into());
        number("port", self.listeners.port.into());
        number("port6", self.listeners.port6.into());
        number("udp_port", self.listeners.udp_port.into());
        number("http", port(&target.http));
        number("gate", port(&target.gate));
        number("throwaway", self.throwaway.into());
        targets
    }

    /// Looks for harm.
    pub(crate) fn check(&mut self) -> Vec<String> {
        let now = self.look();
        let mut harm: Vec<String> = Vec::new();
        let changed = |name: &&String| self.before.get(*name) != now.get(*name);
        let names: BTreeSet<&String> = self.before.keys().chain(now.keys()).filter(changed).collect();
        for name in &names {
            harm.push(match (self.before.get(*name), now.get(*name)) {
                (Some(before), Some(now)) => format!("{name} was {before:?} and is {now:?}"),
                (Some(_), None) => format!("{name} is gone"),
                _ => format!("{name} is new"),
            });
        }
        let planted = self.folder.to_string_lossy();
        let mendable = |name: &String| name.starts_with(&*planted) || name.starts_with(CORES);
        self.spoilt |= names.iter().any(|name| !mendable(name));
        // What has changed is told once.
        self.before = now;
        harm.extend(self.listeners.heard());
        let harmed_elsewhere = harm.len();
        harm.extend(self.roles.check(self.target.supervisor));
        harm.extend(self.check_clock());
        harm.extend(suite::ask_neighbour(&self.target).err());
        self.spoilt |= harm.len() > harmed_elsewhere;
        harm
    }

    /// Plants anew what was harmed; false when that was something else.
    pub(crate) fn mend(&mut self) -> bool {
        for entry in list(&self.folder.join("open")) {
            let _ = fs::remove_dir(&entry).or_else(|_| fs::remove_file(&entry));
        }
        let planted = plant_files(&self.folder, &self.secret).is_ok();
        self.settle();
        planted && !self.spoilt
    }

    fn check_clock(&mut self) -> Option<String> {
        let (then, since) = self.clock;
        let wall = SystemTime::now().duration_since(then).unwrap_or_default();
        let drift = wall.abs_diff(since.elapsed());
        if drift < CLOCK_DRIFT_MAX {
            return None;
        }
        self.clock = (SystemTime::now(), Instant::now());
        Some(format!("the clock moved by {} s", drift.as_secs()))
    }

    /// Everything that must stay as it is, by name.
    fn look(&self) -> BTreeMap<String, String> {
        let mut seen = BTreeMap::new();
        for path in SETTINGS {
            let value = fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
            seen.insert(path.to_owned(), value);
        }
        look_at_mounts("/proc/self/mountinfo", "mount", &mut seen);
        // It has mounts of its own, those of images among them.
        let spawner = format!("/proc/{}/mountinfo", self.roles.pid("spawner"));
        look_at_mounts(&spawner, "the spawner's mount", &mut seen);
        for file in ["secret", "planted", "open", "socket"] {
            describe(&self.folder.join(file), &mut seen);
        }
        for entry in list(&self.folder.join("open")) {
            describe(&entry, &mut seen);
        }
        self.look_at_templates(&mut seen);
        for entry in list(Path::new(CORES)) {
            describe(&entry, &mut seen);
        }
        seen.insert("the victim".to_owned(), processes::state(self.victim.id()));
        seen.insert("queues and memory by key".to_owned(), keyed_objects());
        seen
    }

    /// The roots that workers share; a core dump of one would lie there, too.
    fn look_at_templates(&self, seen: &mut BTreeMap<String, String>) {
        let mut open = vec![self.target.data.join("run/templates")];
        while let Some(folder) = open.pop() {
            for entry in list(&folder) {
                describe(&entry, seen);
                if entry.is_dir() && !entry.is_symlink() {
                    open.push(entry);
                }
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn look_at_mounts(table: &str, what: &str, seen: &mut BTreeMap<String, String>) {
    let mounts = fs::read_to_string(table).unwrap_or_default();
    for line in mounts.lines() {
        let point = line.split(' ').nth(4).unwrap_or_default();
        if MOUNT_POINTS.contains(&point) {
            seen.insert(format!("{what} {point}"), line.to_owned());
        }
    }
}

fn plant_files(folder: &Path, secret: &str) -> Result<()> {
    make_file(&folder.join("secret"), secret, 0o644)?;
    make_file(&folder.join("planted"), "untouched", 0o666)
}

fn make_folder(path: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("cannot make {}", path.display()))
}

fn make_file(path: &Path, text: &str, mode: u32) -> Result<()> {
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("cannot make {}", path.display()))
}

fn list(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// What would change if a file were touched. A directory's times change with every project that is staged.
fn describe(path: &Path, seen: &mut BTreeMap<String, String>) {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return;
    };
    let text = if metadata.is_dir() {
        format!("directory {:o} of {}", metadata.mode(), metadata.uid())
    } else {
        format!(
            "{:o} of {}, {} bytes, written {}.{}",
            metadata.mode(),
            metadata.uid(),
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec()
        )
    };
    seen.insert(path.display().to_string(), text);
}

/// System V objects under the key that the probes use.
fn keyed_objects() -> String {
    let key = 0x15c5.to_string();
    let mut found = Vec::new();
    for kind in ["shm", "msg", "sem"] {
        let table = fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap_or_default();
        let is_ours = |line: &&str| line.split_whitespace().next() == Some(&key);
        found.extend(table.lines().filter(is_ours).map(|_| kind));
    }
    found.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_written_opened_up_or_gone_is_not_as_it_was() {
        let folder = std::env::temp_dir().join(format!("isms-hostile-files-{}", std::process::id()));
        let look = || {
            let mut seen = BTreeMap::new();
            list(&folder).iter().for_each(|path| describe(path, &mut seen));
            seen
        };
        make_folder(&folder, 0o755).unwrap();
        plant_files(&folder, "secret").unwrap();
        let mut seen = vec![look()];
        make_file(&folder.join("planted"), "hostile", 0o666).unwrap();
        seen.push(look());
        make_file(&folder.join("secret"), "secret", 0o666).unwrap();
        seen.push(look());
        make_folder(&folder.join("new"), 0o755).unwrap();
        seen.push(look());
        fs::remove_file(folder.join("planted")).unwrap();
        seen.push(look());
        assert!(seen.windows(2).all(|pair| pair[0] != pair[1]), "{seen:?}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
