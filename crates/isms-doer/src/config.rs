//! Settings of the Doer.

use std::{path::PathBuf, time::Duration};

use isms_protocol::{Class, limits};
use isms_sandbox::native::Limits;
use serde::{Deserialize, Serialize};

use crate::worker_handler::{HandlerConfig, WORKER_CALLS_MAX};

/// Weight of a sandbox that nobody waits for, beside 100 of one that serves.
const IDLE_WEIGHT: u32 = 30;
/// Weight of a build beside calls.
const BUILD_WEIGHT: u32 = 10;

/// The Doer's settings, as the supervisor hands them over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Empty sandboxes kept ready.
    pub pool_size: usize,
    /// Workers in all.
    pub workers_max: usize,
    /// How long a worker above its Doee's minimum may idle, in s.
    pub idle_s: u32,
    /// Workers are sent short calls before they have answered those before.
    pub sent_ahead: bool,
    /// Share of one core that a worker may use, in thousandths.
    pub worker_cpu_permille: u32,
    /// Processes and threads of one worker.
    pub worker_pids: u32,
    /// Memory that a pooled sandbox may use before it has a Doee, in MB.
    pub pool_memory_mb: u32,
    /// Memory of one build, in MB.
    pub build_memory_mb: u32,
    /// Time of one build, in s.
    pub build_s: u32,
    /// Builds at the same time.
    pub builds_max: usize,
    /// Device nodes that workers may be given; the spawner knows each by its place in the same list.
    pub device_nodes: Vec<PathBuf>,
    /// Directories that workers may be given; the spawner knows each by its place in the same list.
    pub directories: Vec<PathBuf>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            pool_size: 2,
            workers_max: limits::WORKERS_DEFAULT,
            idle_s: 60,
            sent_ahead: true,
            worker_cpu_permille: 1000,
            worker_pids: 64,
            pool_memory_mb: 64,
            build_memory_mb: 1024,
            build_s: 120,
            builds_max: 1,
            device_nodes: Vec::new(),
            directories: Vec::new(),
        }
    }
}

impl Config {
    pub(crate) fn handler(&self) -> HandlerConfig {
        HandlerConfig {
            pool_size: self.pool_size,
            workers_max: self.workers_max,
            idle_ttl: Duration::from_secs(self.idle_s.into()),
            worker_calls_max: if self.sent_ahead { WORKER_CALLS_MAX } else { 1 },
        }
    }

    /// Calls that all workers together may have.
    pub(crate) fn calls_max(&self) -> usize {
        self.workers_max.saturating_mul(WORKER_CALLS_MAX as usize)
    }

    /// Limits of a worker whose Doee runs in this class.
    pub(crate) fn worker_limits(&self, memory_mb: u32, class: Class) -> Limits {
        Limits {
            memory_bytes: u64::from(memory_mb) << 20,
            cpu_permille: self.worker_cpu_permille,
            cpu_weight: class_weight(class),
            pids: self.worker_pids,
        }
    }

    /// Limits of a worker that has no Doee yet. One that starts because calls wait for it starts as they run.
    pub(crate) fn empty_limits(&self, is_awaited: bool) -> Limits {
        let limits = self.worker_limits(self.pool_memory_mb, Class::Normal);
        match is_awaited {
            true => limits,
            false => Limits {
                cpu_weight: IDLE_WEIGHT,
                ..limits
            },
        }
    }

    pub(crate) fn build_limits(&self) -> Limits {
        Limits {
            memory_bytes: u64::from(self.build_memory_mb) << 20,
            cpu_permille: 2000,
            cpu_weight: BUILD_WEIGHT,
            pids: 64,
        }
    }
}

/// What a class gets of the processors when all want them. What is sent to workers is in order already; this is for
/// calls that run for long.
fn class_weight(class: Class) -> u32 {
    match class {
        Class::Realtime => 1000,
        Class::High => 400,
        Class::Normal => 100,
        Class::Batch => 10,
    }
}
