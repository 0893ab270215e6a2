//! What the Kernel receives, and its answers.

mod calls;
mod durable;
mod rates;

pub use calls::{BUCKETS_US, Calls, CallsAfter, ClassCalls, DoeeCalls, Histogram, Outcomes};
pub use durable::{
    DeadAfter, DeadLetter, DeadLetters, DeadQuestion, DoeeRetries, DoeeRetry, Durability, Resume, Resumed,
    ResumedCall, Retry,
};
pub use rates::{CallRate, DoeeRate, DoeeRates};
use serde::{Deserialize, Serialize};

use crate::{Class, DoeeVersion, Generation, Incarnation, ProcessId, ProjectId, Secret, Service, limits};

crate::service::operations! {
    /// [`Status`] of the Kernel and of the services registered with it. No request body.
    Status = 1, "status";
    /// The [`Processes`] that have not ended. No request body.
    Processes = 2, "processes";
    /// What the header's project gets, instead of what was said of it before: [`ProjectSettings`] → empty. The
    /// Kernel keeps it until it ends, and forgets a project that has nothing but defaults.
    SetProject = 3, "set-project";
    /// The [`ProcessState`] of an asynchronous call, at once or when it ends. Body: [`ProcessQuestion`]. Answered
    /// to its project and principal only, or to who administers the project; a principal without a project asks with
    /// none.
    Process = 4, "process";
    /// The result of an asynchronous call: its own reply or error, streamed if it streamed. `Conflict` while it
    /// has not ended, `Forbidden` to an administrator who did not make the call. Body: [`ProcessQuestion`]; nobody waits.
    Result = 5, "result";
    /// Cancels an asynchronous call; the answer is its [`ProcessState`] then. Body: [`ProcessQuestion`]; nobody
    /// waits.
    Cancel = 6, "cancel";
    /// How the calls of Doees went: [`CallsAfter`] → [`Calls`].
    Calls = 16, "calls";
    /// How many calls of the Doees of the header's project are accepted in a second, instead of what was said of it
    /// before: [`DoeeRates`] → empty.
    SetRates = 17, "set-rates";
    /// The header's project was deleted: the calls of its Doees are stopped, and nothing is kept of them. Empty →
    /// empty; may be told again.
    ForgetProject = 18, "forget-project";
    /// Whether asynchronous calls of the Doees of the header's project are durable, and how often they are tried, instead
    /// of what was said of it before: [`DoeeRetries`] → empty. It counts for calls that are accepted from then on.
    SetRetries = 20, "set-retries";
    /// The Doer says which durable calls it still has, first thing after it has registered: [`Resume`] →
    /// [`Resumed`]. Until the last list no durable call that may run there is dispatched again.
    Resume = 21, "resume";
    /// Durable calls that were given up: [`DeadAfter`] → [`DeadLetters`].
    Dead = 22, "dead";
    /// Runs a dead letter again, under its old id: [`DeadQuestion`] → [`ProcessState`], when that is durable.
    Replay = 23, "replay";
    /// Forgets a dead letter: [`DeadQuestion`] → empty, when that is durable.
    Discard = 24, "discard";
}

/// What a project gets where it shares the platform with others; an administrator decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProjectSettings {
    /// Its part of what projects share, in proportion to the weights of the others; 1 to [`limits::WEIGHT_MAX`].
    pub weight: u32,
    /// Calls of its Doees that are accepted in a second, at most [`limits::RATE_MAX`]; 0 for no limit. As many as
    /// that may come at once.
    pub rate_max: u32,
    /// Calls of its Doees that run at the same time, at most [`limits::CONCURRENCY_MAX`]; 0 for no limit. The others
    /// wait.
    pub concurrency_max: u32,
}

impl Default for ProjectSettings {
    fn default() -> ProjectSettings {
        ProjectSettings {
            weight: limits::WEIGHT_DEFAULT,
            rate_max: 0,
            concurrency_max: 0,
        }
    }
}

impl ProjectSettings {
    /// Checks every number against its bounds.
    pub fn check(&self) -> Result<(), SettingsError> {
        let ProjectSettings {
            weight,
            rate_max,
            concurrency_max,
        } = *self;
        if !(1..=limits::WEIGHT_MAX).contains(&weight) {
            return Err(SettingsError::Weight { weight });
        }
        if rate_max > limits::RATE_MAX {
            return Err(SettingsError::Rate { rate_max });
        }
        if concurrency_max > limits::CONCURRENCY_MAX {
            return Err(SettingsError::Concurrency { concurrency_max });
        }
        Ok(())
    }
}

/// Why a project cannot have these settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The weight is out of bounds.
    #[error("`weight` is {weight}; it is 1 to {max}", max = limits::WEIGHT_MAX)]
    Weight {
        /// What was asked for.
        weight: u32,
    },
    /// The rate is out of bounds.
    #[error("`rate_max` is {rate_max}; it is 0 (no limit) to {max}", max = limits::RATE_MAX)]
    Rate {
        /// What was asked for.
        rate_max: u32,
    },
    /// The number of calls at the same time is out of bounds.
    #[error("`concurrency_max` is {concurrency_max}; it is 0 (no limit) to {max}", max = limits::CONCURRENCY_MAX)]
    Concurrency {
        /// What was asked for.
        concurrency_max: u32,
    },
}

/// First message of a connection (`Kind::Register`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// The role that connects.
    pub service: Service,
    /// Its incarnation, as the supervisor named it.
    pub incarnation: Incarnation,
    /// The secret that the supervisor gave this incarnation.
    pub secret: Secret,
    /// Requests that the service takes at the same time; waiting happens in the Kernel. The Doer
    /// says 0 for calls of Doees, which are dispatched against slots instead.
    pub concurrency: u32,
}

/// The Kernel's answer (`Kind::Register`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The service's generation.
    pub generation: Generation,
    /// Requests that the service may have outstanding at the Kernel.
    pub request_credit: u32,
}

/// Doer → Kernel (`Kind::Slots`, version in `target_doee`): how many calls of this version the Doer
/// takes in all, those it is working on included. An absolute number, so that a repeated or late
/// message does no harm; the Kernel subtracts what it has dispatched and not seen answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// Calls in all.
    pub capacity: u32,
    /// Of these at most so many of class high and below, normal and below, batch. The rest is kept for what is more
    /// urgent.
    #[serde(default = "whatever_class")]
    pub lower: [u32; 3],
}

const fn whatever_class() -> [u32; 3] {
    [u32::MAX; 3]
}

impl Slots {
    /// So many calls, whatever their classes.
    pub const fn all(capacity: u32) -> Slots {
        Slots {
            capacity,
            lower: whatever_class(),
        }
    }
}

/// Kernel → Doer (`Kind::Demand`, version in `target_doee`): what waits for slots. Sent when it
/// rises from nothing, when it has doubled, and when it is nothing again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// Calls that wait.
    pub queued: u32,
    /// How long the oldest has waited, in µs.
    pub oldest_us: u64,
}

/// Body of `Kind::Credit`: allows the peer to send more bytes of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamCredit {
    /// Bytes more.
    pub bytes: u32,
}

/// Answer of [`Operation::Status`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Every service that has ever registered with this Kernel.
    pub services: Vec<ServiceStatus>,
    /// Processes that wait in a queue.
    pub ready: u64,
    /// Processes that a service works on.
    pub running: u64,
    /// Processes ended since the Kernel started, by outcome: done, failed, cancelled, expired.
    pub ended: [u64; 4],
    /// Events dropped because their target was full or absent.
    pub events_dropped: u64,
}

/// One service, as the Kernel sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Which.
    pub service: Service,
    /// Its last generation.
    pub generation: Generation,
    /// Registered now.
    pub up: bool,
    /// Requests that it works on.
    pub running: u32,
    /// Requests that wait for it.
    pub queued: u32,
}

/// Answer of [`Operation::Processes`], as many as fit a message, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processes {
    /// The processes.
    pub processes: Vec<ProcessStatus>,
    /// How many more there are.
    pub omitted: u64,
}

/// One process that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Which.
    pub process: ProcessId,
    /// On whose behalf; `NONE` for a root.
    pub parent: ProcessId,
    /// Whose.
    pub project: ProjectId,
    /// Which service is asked.
    pub target: Service,
    /// Which Doee version, if the target is the Doer.
    pub target_doee: DoeeVersion,
    /// Its class.
    pub class: Class,
    /// True while it waits in a queue.
    pub queued: bool,
    /// Age in µs.
    pub age_us: u64,
}

/// Which asynchronous call is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessQuestion {
    /// The process.
    pub process: ProcessId,
    /// How long to wait for its end, in ms; 0 for not at all.
    pub wait_ms: u32,
    /// Asked with the right to administer the header's project, or all of them if it names none: whoever made the
    /// call, its state is told and it is cancelled. Its result is not told. Only Gate says so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub any_principal: bool,
}

/// How far an asynchronous call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Progress {
    /// It waits in its queue.
    Queued,
    /// Its callee has it.
    Running,
    /// It ended with a reply.
    Done,
    /// It ended with an error.
    Failed,
    /// It was cancelled.
    Cancelled,
    /// Its time was over, in the queue or while it ran.
    Expired,
    /// A durable call that was given up after its last attempt; it can be run again.
    Dead,
}

impl Progress {
    /// True when nothing more comes.
    pub const fn has_ended(self) -> bool {
        !matches!(self, Progress::Queued | Progress::Running)
    }
}

/// Answer of [`Operation::Process`] and [`Operation::Cancel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessState {
    /// Which.
    pub process: ProcessId,
    /// How far it is.
    pub progress: Progress,
    /// How long ago it was accepted, in µs.
    pub age_us: u64,
    /// How long it waited in its queue, so far or in all, in µs.
    pub queued_us: u64,
    /// How long it ran, so far or in all, in µs.
    pub ran_us: u64,
    /// How long its result will be kept yet, in µs; 0 until it has ended.
    pub kept_us: u64,
    /// Attempts of a durable call that have failed.
    #[serde(default)]
    pub failures: u32,
    /// In how long a durable call that waits for its next attempt gets it, in µs; 0 when it does not wait for that.
    #[serde(default)]
    pub retry_us: u64,
}
