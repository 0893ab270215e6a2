//! Traces: what the Kernel tells of processes that are traced, and the Doer of how it ran them.
//!
//! Both tell in bounded batches, unasked, and each in a clock of the machine's: Control Gate joins them by process and
//! attempt.

use serde::{Deserialize, Serialize};

use crate::{Class, DecodeError, DoeeVersion, ProcessId, ProjectId, Service, SpanId, TraceId};

/// Body of [`super::Operation::Spans`]: traced processes that have ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spans {
    /// At most [`crate::limits::SPANS_MAX`].
    pub spans: Vec<Span>,
    /// Those that the Kernel could not tell of, since it started.
    pub dropped: u64,
}

/// One attempt of one process, from its arrival to its end. Times other than the first count from that one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The process.
    pub process: ProcessId,
    /// Which of its attempts.
    pub attempt: u32,
    /// On whose behalf it ran; `NONE` for a call from outside.
    pub parent: ProcessId,
    /// In which attempt of that one.
    pub parent_attempt: u32,
    /// The call from outside that it all began with.
    pub root: ProcessId,
    /// The trace.
    pub trace: TraceId,
    /// The span of the client that called, if it said one; zero on what has a parent here.
    pub client: SpanId,
    /// Whose.
    pub project: ProjectId,
    /// Who was asked.
    pub target: Service,
    /// For what: a number of the target's.
    pub operation: u16,
    /// The Doee that was called, if one was.
    pub doee: DoeeVersion,
    /// Its class.
    pub class: Class,
    /// Nobody waited for it.
    pub asynchronous: bool,
    /// It survives the Kernel, and is tried again.
    pub durable: bool,
    /// Unix time in µs at which the Kernel received it, or at which an attempt that follows another came to be.
    pub at_us: u64,
    /// When it went into its queue.
    pub queued_us: u64,
    /// When it was sent to whom it was for; `None` if it never was.
    pub dispatched_us: Option<u64>,
    /// When it was known how it ended.
    pub replied_us: u64,
    /// When everything of it had ended, streams included.
    pub ended_us: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// On the call from outside: processes on its behalf that are not told of, since there were too many.
    pub omitted: u32,
}

/// Body of [`super::Operation::Runs`]: how the Doer ran traced calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runs {
    /// At most [`crate::limits::SPANS_MAX`].
    pub runs: Vec<Run>,
}

/// How one attempt of a call was run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The process.
    pub process: ProcessId,
    /// Which of its attempts.
    pub attempt: u32,
    /// The trace.
    pub trace: TraceId,
    /// Whose.
    pub project: ProjectId,
    /// The Doee.
    pub doee: DoeeVersion,
    /// Unix time in µs at which its worker began it.
    pub begun_at_us: u64,
    /// How long it ran.
    pub ran_us: u64,
    /// What its worker was for it.
    pub start: Start,
}

/// A small enum that is a number on the wire and has a name for people.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident, $field:literal: $($(#[$each:meta])* $variant:ident = $number:literal, $text:literal;)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "u8", try_from = "u8")]
        #[repr(u8)]
        pub enum $name { $($(#[$each])* $variant = $number,)* }

        impl $name {
            /// All, by number.
            pub const ALL: &[$name] = &[$($name::$variant,)*];

            /// The name that people see.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }

        impl From<$name> for u8 {
            fn from(value: $name) -> u8 {
                value as u8
            }
        }

        impl TryFrom<u8> for $name {
            type Error = DecodeError;
            fn try_from(value: u8) -> Result<$name, DecodeError> {
                match value {
                    $($number => Ok($name::$variant),)*
                    _ => Err(DecodeError::Field { field: $field, value: value.into() }),
                }
            }
        }
    };
}

named! {
    /// What a call's worker was for it.
    Start, "start":
    /// It was the first of one whose sandbox was started since calls waited.
    Cold = 0, "cold";
    /// It was the first of one that was empty and into which the Doee was loaded since calls waited.
    Pooled = 1, "pooled";
    /// It was another one's before, or ready before anybody waited.
    Warm = 2, "warm";
}

named! {
    /// How a process ended; what each means is in docs/metrics.md.
    Outcome, "outcome":
    /// It was answered.
    Done = 0, "done";
    /// It was answered with an error.
    Failed = 1, "failed";
    /// Who ran it was lost.
    Crashed = 2, "crashed";
    /// There was nobody to run it.
    Unavailable = 3, "unavailable";
    /// There was no room.
    Refused = 4, "refused";
    /// A limit of calls per second was reached.
    RateLimited = 5, "rate_limited";
    /// Nobody wanted it any more.
    Cancelled = 6, "cancelled";
    /// Its deadline passed in the queue.
    Expired = 7, "expired";
    /// Its deadline passed while it ran.
    TimedOut = 8, "timed_out";
}

impl SpanId {
    /// The span of one attempt of a process. Never zero, and as good as unique: a process id ends in random bits.
    pub fn of(process: ProcessId, attempt: u32) -> SpanId {
        let bytes = process.to_bytes();
        let mut span: [u8; 8] = bytes[8..].try_into().expect("eight of sixteen bytes");
        for (byte, of_attempt) in span[4..].iter_mut().zip(attempt.to_be_bytes()) {
            *byte ^= of_attempt;
        }
        // The variant of a UUID; bytes that are none might be zero.
        span[0] |= 0x80;
        SpanId(span)
    }

    /// True for the span that is none.
    pub fn is_none(self) -> bool {
        self == SpanId::default()
    }
}
