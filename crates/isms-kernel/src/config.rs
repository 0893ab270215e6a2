//! Settings of the Kernel. Each starts from a number of `isms_protocol::limits`, which is also its
//! maximum: an administrator may tighten, never widen.

use std::{path::PathBuf, time::Duration};

use isms_protocol::limits;
use serde::{Deserialize, Serialize};

/// How long queued calls wait for a service that is not registered.
pub const RECONNECT_GRACE: Duration = Duration::from_secs(2);

/// The most that the journal takes of the disk, unless the administrator says otherwise, in MiB.
pub const JOURNAL_MB_DEFAULT: u32 = 1024;
/// The least with which a journal works, in MiB.
pub const JOURNAL_MB_MIN: u32 = 64;
/// The most that an administrator may allow it, in MiB.
pub const JOURNAL_MB_MAX: u32 = 16 * 1024;

/// The Kernel's settings, as the supervisor hands them over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Requests that one service may have outstanding.
    pub request_credit: u32,
    /// Calls that wait in one queue.
    pub queue_len_max: usize,
    /// Calls that wait in all queues.
    pub queue_total_max: usize,
    /// Bytes of the calls that wait in all queues.
    pub queue_bytes_max: usize,
    /// Waiting time after which a call runs ahead of its class, in ms.
    pub aging_max_ms: u64,
    /// How long queued calls wait for a service that is not registered, in ms.
    pub reconnect_grace_ms: u64,
    /// Asynchronous calls that have not ended and results that are kept.
    pub results_max: usize,
    /// Bytes of them.
    pub results_bytes_max: usize,
    /// How long a result is kept, in s.
    pub results_keep_s: u32,
    /// How long a durable call that was given up is kept, in s.
    pub dead_keep_s: u32,
    /// The directory of the journal of durable calls; without one none are taken.
    pub journal: Option<PathBuf>,
    /// The most that the journal takes of the disk, in MiB.
    pub journal_mb_max: u32,
    /// Calls that are traced in a second as they come in, and as many more that end badly or slowly; 0 for none.
    pub traces_per_s: u32,
    /// How long a call takes that is slow, in ms.
    pub slow_ms: u32,
    /// Users whose processes may connect (`SO_PEERCRED`); empty where all roles share one.
    pub peer_uids: Vec<u32>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            request_credit: limits::REQUEST_CREDIT_MAX,
            queue_len_max: limits::QUEUE_LEN_MAX,
            queue_total_max: limits::QUEUE_TOTAL_MAX,
            queue_bytes_max: limits::QUEUE_BYTES_MAX,
            aging_max_ms: limits::AGING_MAX.as_millis() as u64,
            reconnect_grace_ms: RECONNECT_GRACE.as_millis() as u64,
            results_max: limits::RESULTS_MAX,
            results_bytes_max: limits::RESULTS_BYTES_MAX,
            results_keep_s: limits::RESULT_KEEP_S_DEFAULT,
            dead_keep_s: limits::DEAD_KEEP_S_DEFAULT,
            journal: None,
            journal_mb_max: JOURNAL_MB_DEFAULT,
            traces_per_s: 0,
            slow_ms: limits::SLOW_MS_DEFAULT,
            peer_uids: Vec::new(),
        }
    }
}

/// A setting lies outside its bounds.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("kernel setting {name} is {value}; set it to {min} to {max}")]
pub struct ConfigError {
    name: &'static str,
    value: u64,
    min: u64,
    max: u64,
}

impl Config {
    /// Checks every setting against its maximum.
    pub fn check(&self) -> Result<(), ConfigError> {
        let max = Config::default();
        let bounds = [
            (
                "request_credit",
                self.request_credit.into(),
                max.request_credit.into(),
            ),
            (
                "queue_len_max",
                self.queue_len_max as u64,
                max.queue_len_max as u64,
            ),
            (
                "queue_total_max",
                self.queue_total_max as u64,
                max.queue_total_max as u64,
            ),
            (
                "queue_bytes_max",
                self.queue_bytes_max as u64,
                max.queue_bytes_max as u64,
            ),
            ("aging_max_ms", self.aging_max_ms, max.aging_max_ms),
            (
                "reconnect_grace_ms",
                self.reconnect_grace_ms,
                max.reconnect_grace_ms,
            ),
            ("results_max", self.results_max as u64, max.results_max as u64),
            (
                "results_bytes_max",
                self.results_bytes_max as u64,
                max.results_bytes_max as u64,
            ),
            (
                "results_keep_s",
                self.results_keep_s.into(),
                limits::RESULT_KEEP_S_MAX.into(),
            ),
            (
                "dead_keep_s",
                self.dead_keep_s.into(),
                limits::DEAD_KEEP_S_MAX.into(),
            ),
            (
                "journal_mb_max",
                self.journal_mb_max.into(),
                JOURNAL_MB_MAX.into(),
            ),
            ("slow_ms", self.slow_ms.into(), limits::SLOW_MS_MAX.into()),
        ];
        if self.journal_mb_max < JOURNAL_MB_MIN {
            return Err(ConfigError {
                name: "journal_mb_max",
                value: self.journal_mb_max.into(),
                min: JOURNAL_MB_MIN.into(),
                max: JOURNAL_MB_MAX.into(),
            });
        }
        if self.traces_per_s > limits::TRACES_PER_S_MAX {
            return Err(ConfigError {
                name: "traces_per_s",
                value: self.traces_per_s.into(),
                min: 0,
                max: limits::TRACES_PER_S_MAX.into(),
            });
        }
        for (name, value, max) in bounds {
            if !(1..=max).contains(&value) {
                let min = 1;
                return Err(ConfigError {
                    name,
                    value,
                    min,
                    max,
                });
            }
        }
        Ok(())
    }

    pub(crate) fn aging_max_us(&self) -> u64 {
        self.aging_max_ms.saturating_mul(1000)
    }

    pub(crate) fn reconnect_grace_us(&self) -> u64 {
        self.reconnect_grace_ms.saturating_mul(1000)
    }
}
