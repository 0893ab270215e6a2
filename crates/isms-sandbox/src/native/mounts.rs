//! Reads `policy/mounts.toml`: what is mounted where in a sandbox, and why.

use std::{ffi::CString, fmt::Write};

use serde::Deserialize;

use super::Limits;

const POLICY: &str = include_str!("../../../../policy/mounts.toml");

// Of mount_setattr, and of fsmount.
pub(crate) const READ_ONLY: u64 = 1;
pub(crate) const NO_SUID: u64 = 2;
pub(crate) const NO_DEV: u64 = 4;
pub(crate) const NO_EXEC: u64 = 8;

/// Sandboxes that differ in what is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Shape {
    Worker,
    Builder,
    NetworkBuilder,
}

/// What an entry mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum What {
    Root,
    Tmpfs,
    Proc,
    Host,
    Device,
    Devices,
    Directories,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Flag {
    Ro,
    NoSuid,
    NoDev,
    NoExec,
}

/// One entry.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    #[serde(rename = "in")]
    shapes: Vec<Shape>,
    /// An absolute path.
    at: String,
    pub(super) what: What,
    flags: Vec<Flag>,
    bytes: Option<u64>,
    files: Option<u32>,
    options: Option<String>,
    reason: String,
}

/// All entries, checked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Policy {
    mount: Vec<Entry>,
}

/// A policy that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyError {
    #[error("cannot read the policy")]
    Syntax(#[from] toml::de::Error),
    #[error("the mount at {at:?} {problem}")]
    Entry { at: String, problem: &'static str },
}

impl Policy {
    /// The one that was built in.
    pub(super) fn built_in() -> Result<Self, PolicyError> {
        let policy = Self::parse(POLICY);
        #[cfg(feature = "ablation")]
        let policy = policy.map(Self::without_layers);
        policy
    }

    fn parse(text: &str) -> Result<Self, PolicyError> {
        let policy: Self = toml::from_str(text)?;
        for entry in &policy.mount {
            if let Some(problem) = entry.problem() {
                let at = entry.at.clone();
                return Err(PolicyError::Entry { at, problem });
            }
        }
        Ok(policy)
    }

    /// What a sandbox of this shape has, in order.
    pub(super) fn of(&self, shape: Shape) -> impl Iterator<Item = &Entry> {
        self.mount
            .iter()
            .filter(move |entry| entry.shapes.contains(&shape))
    }
}

#[cfg(feature = "ablation")]
impl Policy {
    fn without_layers(mut self) -> Self {
        use crate::ablation::{Layer, leaves_out};
        for entry in &mut self.mount {
            match entry.what {
                What::Root if leaves_out(Layer::ReadOnlyRoot) => entry.flags.retain(|flag| *flag != Flag::Ro),
                // Neither a size nor a number of files is no limit.
                What::Tmpfs if leaves_out(Layer::TmpLimits) => (entry.bytes, entry.files) = (None, None),
                // Only the owner of the pid namespace may mount another.
                What::Proc if leaves_out(Layer::PidNamespace) => entry.what = What::Host,
                What::Proc if leaves_out(Layer::ProcSubset) => entry.options = None,
                _ => {}
            }
        }
        self
    }
}

impl Entry {
    fn problem(&self) -> Option<&'static str> {
        let is_plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        let has_room = self.bytes.is_some_and(|bytes| bytes > 0) && self.files.is_some_and(|files| files > 0);
        let has_any_room = self.bytes.is_some() || self.files.is_some();
        let is_device = matches!(self.what, What::Device | What::Devices);
        match self.at.strip_prefix('/') {
            None => Some("is not absolute"),
            Some("") if self.what != What::Root => Some("hides the root"),
            Some(path) if !path.is_empty() && !path.split('/').all(is_plain) => Some("is no plain path"),
            Some(_) if self.shapes.is_empty() || self.reason.trim().is_empty() => {
                Some("has no sandbox or no reason")
            }
            Some(_) if !self.flags.contains(&Flag::NoSuid) => Some("lets set-uid files work"),
            Some(_) if !is_device && !self.flags.contains(&Flag::NoDev) => Some("lets device nodes work"),
            Some(_)
                if !matches!(self.what, What::Tmpfs | What::Proc | What::Device)
                    && !self.flags.contains(&Flag::Ro) =>
            {
                Some("can be written")
            }
            Some(_) if (self.what == What::Tmpfs) != has_room || has_room != has_any_room => {
                Some("is memory without limits, or has limits and is no memory")
            }
            Some(_) if self.options.is_some() && self.what != What::Proc => Some("has options of /proc"),
            Some(_) => None,
        }
    }

    /// Its place, relative to the root.
    pub(super) fn target(&self) -> &str {
        self.at.strip_prefix('/').unwrap_or(&self.at)
    }

    /// Its place, which for a part of the host is also the source.
    pub(super) fn path(&self) -> &str {
        &self.at
    }

    /// Its flags as attributes of a mount.
    pub(super) fn attributes(&self) -> u64 {
        self.flags.iter().fold(0, |attributes, flag| {
            attributes
                | match flag {
                    Flag::Ro => READ_ONLY,
                    Flag::NoSuid => NO_SUID,
                    Flag::NoDev => NO_DEV,
                    Flag::NoExec => NO_EXEC,
                }
        })
    }

    /// Its flags as of the older mount call.
    pub(super) fn mount_flags(&self) -> libc::c_ulong {
        // The first four are numbered as the attributes are.
        const _: () = assert!(
            libc::MS_RDONLY == READ_ONLY as libc::c_ulong
                && libc::MS_NOSUID == NO_SUID as libc::c_ulong
                && libc::MS_NODEV == NO_DEV as libc::c_ulong
                && libc::MS_NOEXEC == NO_EXEC as libc::c_ulong
        );
        self.attributes() as libc::c_ulong
    }

    /// Bytes of a tmpfs for sandboxes of these limits; 0 for anything else.
    pub(super) fn bytes(&self, maxima: &Limits) -> u64 {
        self.bytes.unwrap_or(0).min(maxima.memory_bytes / 2)
    }

    /// Files of a tmpfs; 0 for anything else.
    pub(super) fn files(&self) -> u32 {
        self.files.unwrap_or(0)
    }

    /// Options of the file system.
    pub(super) fn options(&self, maxima: &Limits) -> CString {
        let mut options = self.options.clone().unwrap_or_default();
        if self.what == What::Tmpfs {
            let (bytes, files) = (self.bytes(maxima), self.files());
            // Writing to a string cannot fail.
            let _ = write!(options, "size={bytes},nr_inodes={files},mode=0700");
        }
        CString::new(options).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        memory_bytes: 64 << 20,
        cpu_permille: 1000,
        cpu_weight: 100,
        pids: 16,
    };

    fn problem(entry: &str) -> String {
        let text = format!("[[mount]]\nin = [\"worker\"]\nreason = \"test\"\n{entry}");
        Policy::parse(&text).unwrap_err().to_string()
    }

    #[test]
    fn the_built_in_policy_gives_each_sandbox_its_root_first_and_one_private_tmp() {
        let policy = Policy::built_in().unwrap();
        for shape in [Shape::Worker, Shape::Builder, Shape::NetworkBuilder] {
            let entries: Vec<&Entry> = policy.of(shape).collect();
            assert_eq!(entries[0].what, What::Root);
            assert_eq!(entries[0].attributes(), READ_ONLY | NO_SUID | NO_DEV);
            let count = |at: &str| entries.iter().filter(|entry| entry.path() == at).count();
            assert_eq!(
                (count("/"), count("/tmp"), count("/proc")),
                (1, 1, 1),
                "{shape:?}"
            );
        }
    }

    #[test]
    fn a_worker_has_nothing_of_the_host_and_no_network_builder_files_reach_another() {
        let policy = Policy::built_in().unwrap();
        assert!(
            policy
                .of(Shape::Worker)
                .all(|entry| !matches!(entry.what, What::Host | What::Device))
        );
        assert!(
            policy
                .of(Shape::Builder)
                .all(|entry| !entry.path().contains("resolv"))
        );
        assert!(
            policy
                .of(Shape::NetworkBuilder)
                .any(|entry| entry.path() == "/etc/resolv.conf")
        );
    }

    #[test]
    fn a_tmp_has_its_bytes_or_half_of_the_sandbox_s_memory_and_its_files() {
        let policy = Policy::built_in().unwrap();
        let tmp = |shape| policy.of(shape).find(|entry| entry.path() == "/tmp").unwrap();
        assert_eq!(
            tmp(Shape::Worker).options(&LIMITS),
            CString::from(c"size=16777216,nr_inodes=4096,mode=0700")
        );
        assert_eq!(
            tmp(Shape::Builder).options(&LIMITS),
            CString::from(c"size=33554432,nr_inodes=65536,mode=0700")
        );
    }

    #[test]
    fn entries_that_would_open_a_sandbox_are_refused() {
        assert!(problem("at = \"tmp\"\nwhat = \"host\"\nflags = []").contains("not absolute"));
        assert!(problem("at = \"/../x\"\nwhat = \"host\"\nflags = []").contains("no plain path"));
        assert!(problem("at = \"/\"\nwhat = \"host\"\nflags = []").contains("hides the root"));
        assert!(problem("at = \"/x\"\nwhat = \"host\"\nflags = [\"ro\"]").contains("set-uid"));
        assert!(
            problem("at = \"/x\"\nwhat = \"host\"\nflags = [\"ro\", \"nosuid\"]").contains("device nodes")
        );
        assert!(problem("at = \"/x\"\nwhat = \"host\"\nflags = [\"nosuid\", \"nodev\"]").contains("written"));
        let memory = "at = \"/x\"\nwhat = \"tmpfs\"\nflags = [\"nosuid\", \"nodev\"]\n";
        assert!(problem(memory).contains("without limits"));
        assert!(problem(&format!("{memory}bytes = 1")).contains("without limits"));
        assert!(problem(&format!("{memory}bytes = 0\nfiles = 1")).contains("without limits"));
        assert!(problem("at = \"/x\"\nwhat = \"magic\"\nflags = []").contains("cannot read"));
        assert!(problem("at = \"/x\"\nwhat = \"host\"\nflags = []\nfrom = 1").contains("cannot read"));
    }
}
