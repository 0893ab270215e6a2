//! Reads the policy files `policy/seccomp-*.toml`: what a sandbox may call, and why.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    Arch, Filter, Test, Verdict,
    table::{self, UnknownCall},
};

const WORKER: &str = include_str!("../../../../policy/seccomp-worker.toml");
const WORKER_DEVICE: &str = include_str!("../../../../policy/seccomp-worker-device.toml");
const BUILDER: &str = include_str!("../../../../policy/seccomp-builder.toml");
const BUILDER_NETWORK: &str = include_str!("../../../../policy/seccomp-builder-network.toml");

/// Values of one test and tests of one entry; keeps every jump of the program within its 8 bits.
const VALUES_MAX: usize = 16;
const TESTS_MAX: usize = 4;
/// Arguments of a system call.
const ARGUMENTS: u8 = 6;

/// A policy that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyError {
    #[error("cannot read the policy")]
    Syntax(#[from] toml::de::Error),
    #[error("cannot use the policy")]
    Call(#[from] UnknownCall),
    #[error("unknown errno {0:?}; add it to the list of those that a policy may name")]
    Errno(String),
    #[error("the entry for {0:?} has no reason, a bad test or an answer and a test at once")]
    Entry(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    /// What a call that is not listed fails with.
    default: String,
    /// What a call fails with that is newer than the table of numbers.
    unknown: String,
    syscall: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    names: Vec<String>,
    /// The call is refused with this errno.
    answer: Option<String>,
    /// The call is allowed when all of these hold.
    #[serde(default)]
    when: Vec<RawTest>,
    /// Errno when they do not; the policy's default when absent.
    otherwise: Option<String>,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTest {
    arg: u8,
    one_of: Option<Vec<u32>>,
    without: Option<u32>,
    null: Option<bool>,
}

/// The filter of a worker.
pub(crate) fn worker(arch: Arch) -> Result<Filter, PolicyError> {
    build(arch, &[WORKER])
}

/// The filter of a worker that was granted a device node.
pub(crate) fn device_worker(arch: Arch) -> Result<Filter, PolicyError> {
    build(arch, &[WORKER, WORKER_DEVICE])
}

/// The filter of a builder that was granted the network.
pub(crate) fn network_builder(arch: Arch) -> Result<Filter, PolicyError> {
    build(arch, &[WORKER, BUILDER, BUILDER_NETWORK])
}

/// The filter of a builder: what a worker may do, and what compilers need.
pub(crate) fn builder(arch: Arch) -> Result<Filter, PolicyError> {
    build(arch, &[WORKER, BUILDER])
}

/// Later files add to earlier ones; their verdict wins, except that conditions are alternatives.
fn build(arch: Arch, files: &[&str]) -> Result<Filter, PolicyError> {
    let mut filter = Filter {
        arch,
        calls: BTreeMap::new(),
        default: Verdict::Kill,
        beyond: table::beyond(arch),
        unknown: Verdict::Kill,
    };
    for file in files {
        let policy: Policy = toml::from_str(file)?;
        let default = errno(&policy.default)?;
        filter.default = Verdict::Errno(default);
        filter.unknown = Verdict::Errno(errno(&policy.unknown)?);
        for entry in &policy.syscall {
            let verdict = entry.verdict(default)?;
            for name in &entry.names {
                if let Some(number) = table::number(arch, name)? {
                    add(&mut filter.calls, number, verdict.clone());
                }
            }
        }
    }
    Ok(filter)
}

fn add(calls: &mut BTreeMap<u32, Verdict>, number: u32, verdict: Verdict) {
    match (calls.get_mut(&number), verdict) {
        (
            Some(Verdict::AllowIf { alternatives, .. }),
            Verdict::AllowIf {
                alternatives: more, ..
            },
        ) => alternatives.extend(more),
        (_, verdict) => {
            calls.insert(number, verdict);
        }
    }
}

impl Entry {
    fn verdict(&self, default: u16) -> Result<Verdict, PolicyError> {
        let bad = || PolicyError::Entry(self.names.clone());
        if self.reason.trim().is_empty() || self.names.is_empty() || self.when.len() > TESTS_MAX {
            return Err(bad());
        }
        match (&self.answer, self.when.as_slice()) {
            (Some(answer), []) => Ok(Verdict::Errno(errno(answer)?)),
            (None, []) => Ok(Verdict::Allow),
            (None, tests) => {
                let tests = tests
                    .iter()
                    .map(|test| test.check().ok_or_else(bad))
                    .collect::<Result<_, _>>()?;
                let otherwise = self.otherwise.as_deref().map_or(Ok(default), errno)?;
                Ok(Verdict::AllowIf {
                    alternatives: vec![tests],
                    otherwise,
                })
            }
            (Some(_), _) => Err(bad()),
        }
    }
}

impl RawTest {
    fn check(&self) -> Option<Test> {
        let arg = self.arg;
        if arg >= ARGUMENTS {
            return None;
        }
        match (&self.one_of, self.without, self.null) {
            (Some(values), None, None) if (1..=VALUES_MAX).contains(&values.len()) => Some(Test::OneOf {
                arg,
                values: values.clone(),
            }),
            (None, Some(mask), None) => Some(Test::Without { arg, mask }),
            (None, None, Some(true)) => Some(Test::Null { arg }),
            _ => None,
        }
    }
}

fn errno(name: &str) -> Result<u16, PolicyError> {
    let number = match name {
        "EPERM" => libc::EPERM,
        "ENOSYS" => libc::ENOSYS,
        "EINVAL" => libc::EINVAL,
        "ENOTTY" => libc::ENOTTY,
        _ => return Err(PolicyError::Errno(name.to_owned())),
    };
    Ok(number as u16)
}
