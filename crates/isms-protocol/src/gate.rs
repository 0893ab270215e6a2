//! What Control Gate receives.

mod traces;

use serde::{Deserialize, Serialize};

use crate::{DoeeVersion, ProcessId, ProjectId, worker::LogLevel};

pub use traces::{Outcome, Run, Runs, Span, Spans, Start};

crate::service::operations! {
    /// Event: [`LogRecords`] of Doees.
    Log = 1, "log";
    /// Event of the Kernel: [`Spans`] of traced processes.
    Spans = 2, "spans";
    /// Event of the Doer: [`Runs`] of traced calls.
    Runs = 3, "runs";
}

/// Lines of logs, several in one event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecords {
    /// The lines.
    pub records: Vec<LogRecord>,
}

/// One line of a Doee's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// Whose.
    pub project: ProjectId,
    /// Name of the project.
    pub project_name: String,
    /// Name of the Doee.
    pub doee: String,
    /// Its version.
    pub version: DoeeVersion,
    /// The call; `NONE` for what a worker says outside of one.
    pub process: ProcessId,
    /// Unix time in µs.
    pub at_us: u64,
    /// How urgent.
    pub level: LogLevel,
    /// The text.
    pub text: String,
}
