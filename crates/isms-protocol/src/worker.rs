//! What passes between the Doer and a Doee Executor.
//!
//! Two inherited channels, no names. **Control** (SEQPACKET, one MessagePack value a datagram):
//! [`Control`] down, [`Report`] up. **Data** (ZMTP stream), ordinary messages:
//! down `Request` (`doer::Operation::Invoke`), `Cancel`, stream kinds, and the answers to host calls;
//! up `Reply`, `Error`, stream kinds, `Event` (a [`LogLine`]), and host calls: `Request` with
//! the target service and its operation (of this module where that is the Doer), `parent` = the process being run, a call id of the worker's.
//! Requests have their ids, host calls theirs: the same number may be in use in both directions. Beside them
//! lies the [`StatusPage`], which tells what has begun.
//!
//! The Doer takes nothing that a worker says for granted.

mod status_page;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{Class, DoeeVersion, ProcessId, doer::Parameter};

pub use status_page::{STATUS_SLOTS, STATUS_WORDS, StatusPage, share_a_slot};

crate::service::operations! {
    /// Event of a worker to the Doer: a [`LogLine`] of the call in `process`.
    Log = 1, "log";
    /// Host call to the Doer: calls another Doee of the project. Body [`DoeeCall`], the callee's body raw or as a stream. The
    /// reply's body is a `doer::InvocationReply`, its payload raw or a stream; of an asynchronous call [`CallAccepted`].
    Call = 2, "call";
}

/// Descriptor of the control channel in a new executor.
pub const CONTROL_FD: i32 = 3;
/// Descriptor of the data channel in a new executor.
pub const DATA_FD: i32 = 4;
/// Exit code of an executor whose Doee called `abort`. The first process of a pid namespace cannot die of a signal that
/// it sends to itself.
pub const EXIT_ABORTED: i32 = 134;
/// Longest datagram on the control channel.
pub const CONTROL_LEN_MAX: usize = 60 * 1024;

/// Doer → executor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Control {
    /// Become a worker of this Doee. With it come (`SCM_RIGHTS`) the binary, a sealed memfd, and the memory of
    /// the status page.
    Assign(Assignment),
    /// Take no more calls: terminate the Doee and exit.
    Drain,
}

/// What a worker is to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// Name of the project.
    pub project: String,
    /// Name of the Doee.
    pub doee: String,
    /// Its version.
    pub version: DoeeVersion,
    /// Given to `initialize`.
    pub params: Vec<(String, Parameter)>,
}

/// Executor → Doer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// Started, locked down, empty: "my binary?".
    Empty {
        /// The ABI that the executor speaks.
        abi: u32,
    },
    /// The Doee is loaded and initialized.
    Initialized,
    /// It could not be; the executor exits.
    Failed {
        /// The step that failed.
        stage: Stage,
        /// Why; at most 4 KiB.
        message: String,
    },
    /// `terminate` has returned; the executor exits.
    Terminated,
}

/// Steps from binary to worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// `dlopen`, constructors included.
    Load,
    /// The ABI symbol or its table.
    Abi,
    /// `create`.
    Create,
    /// `initialize`.
    Initialize,
}

/// A call of another Doee of the project, as a Doee asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoeeCall {
    /// Its name.
    pub doee: String,
    /// Header fields for it: name in lower case, value. None of the connection, and none that begins with `isms-`.
    pub headers: Vec<(String, ByteBuf)>,
    /// Length of the body.
    pub body_len: u64,
    /// The class, where it is to be lower than the callee's and the call's.
    pub class: Option<Class>,
    /// The time, waiting included; 0 for what the callee has.
    pub deadline_ms: u32,
    /// It is accepted and goes on by itself.
    pub is_async: bool,
}

/// What answers an asynchronous [`DoeeCall`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallAccepted {
    /// The process that was made.
    pub process: ProcessId,
}

/// A line of a Doee's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// How urgent.
    pub level: LogLevel,
    /// The text, without a line end.
    pub text: String,
}

/// Levels of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// For the developer.
    Debug,
    /// Life.
    Info,
    /// Handled, but look.
    Warn,
    /// A person must act.
    Error,
}
