//! `[traces]`: which calls are traced, and what becomes of that.

use anyhow::{Result, ensure};
use isms_protocol::limits;
use serde::Deserialize;

/// Which calls are traced, and how much is kept of them.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TracesSection {
    pub(crate) per_s: u32,
    pub(crate) slow_ms: u32,
    pub(crate) memory_mb_max: u32,
}

/// What `traces.memory_mb_max` may be at most.
const TRACES_MB_MAX: u32 = 1024;

impl Default for TracesSection {
    fn default() -> TracesSection {
        TracesSection {
            per_s: limits::TRACES_PER_S_DEFAULT,
            slow_ms: limits::SLOW_MS_DEFAULT,
            memory_mb_max: 16,
        }
    }
}

impl TracesSection {
    pub(super) fn check(&self) -> Result<()> {
        for (key, value, min, max) in [
            ("per_s", self.per_s, 0, limits::TRACES_PER_S_MAX),
            ("slow_ms", self.slow_ms, 1, limits::SLOW_MS_MAX),
            ("memory_mb_max", self.memory_mb_max, 1, TRACES_MB_MAX),
        ] {
            ensure!(
                (min..=max).contains(&value),
                "traces.{key} is {value}, allowed are {min} to {max}"
            );
        }
        Ok(())
    }
}
