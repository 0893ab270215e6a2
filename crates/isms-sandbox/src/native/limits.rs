//! What a sandbox is for and what it may use.

use serde::{Deserialize, Serialize};

/// The least memory with which an executor starts.
pub(super) const MEMORY_MIN: u64 = 8 * 1024 * 1024;
/// The least share of a core that the kernel can account.
pub(super) const CPU_PERMILLE_MIN: u32 = 50;

/// What runs in a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Profile {
    /// `doee-executor`: one Doee.
    Worker,
    /// `doee-builder`: a compiler, with the host's toolchain read-only.
    Builder,
}

/// What a sandbox may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory, its files in `/tmp` included.
    pub memory_bytes: u64,
    /// Processor time in thousandths of one core.
    pub cpu_permille: u32,
    /// What it gets of the processors when all want them, in proportion to other sandboxes: 1 to 10,000, usually 100.
    pub cpu_weight: u32,
    /// Processes and threads.
    pub pids: u32,
}

/// Limits outside what is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} of {asked} is outside {least}..={most}; lower the Doee's limit or raise the administrator's")]
pub struct LimitError {
    what: &'static str,
    asked: u64,
    least: u64,
    most: u64,
}

impl Profile {
    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Self::Worker => 0,
            Self::Builder => 1,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Worker),
            1 => Some(Self::Builder),
            _ => None,
        }
    }
}

impl Limits {
    /// Checks against the administrator's maxima, and the minima with which anything works at all.
    pub fn check(&self, maxima: &Limits) -> Result<(), LimitError> {
        within("memory", self.memory_bytes, MEMORY_MIN, maxima.memory_bytes)?;
        within(
            "cpu",
            self.cpu_permille.into(),
            CPU_PERMILLE_MIN.into(),
            maxima.cpu_permille.into(),
        )?;
        within("cpu weight", self.cpu_weight.into(), 1, maxima.cpu_weight.into())?;
        within("pids", self.pids.into(), 1, maxima.pids.into())
    }
}

fn within(what: &'static str, asked: u64, least: u64, most: u64) -> Result<(), LimitError> {
    if (least..=most).contains(&asked) {
        Ok(())
    } else {
        Err(LimitError {
            what,
            asked,
            least,
            most,
        })
    }
}
