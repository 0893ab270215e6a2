//! Durable calls: how often they are tried, what the Doer still has of them, those that were given up.

use serde::{Deserialize, Serialize};

use crate::{DecodeError, DoeeVersion, ErrorCode, ProcessId, limits};

/// How often a durable call of a Doee is tried, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retry {
    /// Attempts that may fail; 1 to [`limits::ATTEMPTS_MAX`].
    pub attempts: u32,
    /// Pause after the first attempt that failed, in ms; doubled after each one. At most
    /// [`limits::BACKOFF_MS_MAX`].
    pub backoff_ms: u32,
    /// The longest pause, in ms; at least `backoff_ms`, at most [`limits::BACKOFF_MS_MAX`].
    pub backoff_max_ms: u32,
    /// How long after it was accepted it may begin to run, in s; 1 to [`limits::RETRY_WITHIN_S_MAX`].
    pub within_s: u32,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry {
            attempts: 5,
            backoff_ms: 1_000,
            backoff_max_ms: 300_000,
            within_s: 24 * 60 * 60,
        }
    }
}

impl Retry {
    /// How long it may begin to run, in µs.
    pub fn within_us(&self) -> u64 {
        u64::from(self.within_s) * 1_000_000
    }

    /// True when every number is within its bounds.
    pub fn is_valid(&self) -> bool {
        (1..=limits::ATTEMPTS_MAX).contains(&self.attempts)
            && self.backoff_ms <= self.backoff_max_ms
            && self.backoff_max_ms <= limits::BACKOFF_MS_MAX
            && (1..=limits::RETRY_WITHIN_S_MAX).contains(&self.within_s)
    }
}

/// What becomes of an asynchronous call of a Doee when an attempt fails, or the Kernel ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Durability {
    /// It fails; it is lost.
    Volatile,
    /// It is tried again; it survives.
    Durable(Retry),
}

impl Default for Durability {
    fn default() -> Durability {
        Durability::Durable(Retry::default())
    }
}

/// Body of [`super::Operation::SetRetries`]: the Doees of a project whose calls are not of the default
/// [`Durability`], at most [`limits::DOEES_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoeeRetries {
    /// The versions that serve.
    pub doees: Vec<DoeeRetry>,
}

/// What becomes of calls of one version of a Doee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoeeRetry {
    /// Which.
    pub doee: DoeeVersion,
    /// What.
    pub durability: Durability,
}

impl DoeeRetries {
    /// True when every number is within its bounds.
    pub fn is_valid(&self) -> bool {
        let is_valid = |doee: &DoeeRetry| match doee.durability {
            Durability::Volatile => true,
            Durability::Durable(retry) => retry.is_valid(),
        };
        self.doees.len() <= limits::DOEES_MAX && self.doees.iter().all(is_valid)
    }
}

/// Body of [`super::Operation::Resume`]: durable calls that a Doer still runs, or has answers of, when it
/// registers. What a list after which no more comes does not name runs nowhere any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The calls, at most [`limits::RESUMED_MAX`] in one list.
    pub calls: Vec<ResumedCall>,
    /// Another list follows.
    pub more: bool,
}

/// A call that the Doer still has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumedCall {
    /// Which.
    pub process: ProcessId,
    /// Its attempt.
    pub attempt: u32,
}

/// Answer of [`super::Operation::Resume`]: for each call of the list, in order, the call id by which the Kernel knows
/// it from now on, or 0 where it is not wanted any more and is to be stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    /// Call ids.
    pub calls: Vec<u64>,
}

/// Body of [`super::Operation::Dead`]: which dead letters are asked for, of the header's project or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadAfter {
    /// Those after this one, in the order of their ids; `NONE` for the first.
    pub process: ProcessId,
    /// At most so many; the Kernel tells no more than [`limits::DEAD_LISTED_MAX`].
    pub count: u32,
}

/// Answer of [`super::Operation::Dead`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetters {
    /// By id, and so by when they were accepted.
    pub letters: Vec<DeadLetter>,
    /// There are more.
    pub more: bool,
}

/// A durable call that was given up, and is kept to be looked at and run again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Which.
    pub process: ProcessId,
    /// Whose.
    pub project: crate::ProjectId,
    /// Of which Doee version.
    pub doee: DoeeVersion,
    /// How long ago it was accepted, in µs.
    pub age_us: u64,
    /// How long ago it was given up, in µs.
    pub dead_us: u64,
    /// How long it will be kept yet, in µs.
    pub kept_us: u64,
    /// Attempts that have failed.
    pub failures: u32,
    /// Bytes of its request.
    pub request_len: u64,
    /// Why the last attempt failed.
    pub code: ErrorCode,
    /// The same in words, cut at [`limits::DEAD_REASON_LEN_MAX`] bytes.
    pub reason: String,
}

/// Body of [`super::Operation::Replay`] and [`super::Operation::Discard`]: which dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadQuestion {
    /// Which.
    pub process: ProcessId,
    /// For a replay: the Doee version that runs it; `NONE` for the one that failed.
    pub doee: DoeeVersion,
}

impl Resume {
    /// Checks what cannot be trusted to be bounded.
    pub fn check(&self) -> Result<(), DecodeError> {
        match self.calls.len() <= limits::RESUMED_MAX {
            true => Ok(()),
            false => Err(DecodeError::Field {
                field: "resumed calls",
                value: self.calls.len() as u64,
            }),
        }
    }
}
