//! Numbered errors: what crosses a process boundary when a call fails.

use serde::{Deserialize, Serialize};

use crate::limits::ERROR_MESSAGE_LEN_MAX;

/// Why received bytes are not a message.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than a header has.
    #[error("header is {len} bytes long, expected {expected}")]
    HeaderLen {
        /// Length received.
        len: usize,
        /// Length of a header.
        expected: usize,
    },
    /// No common protocol version.
    #[error("peer speaks protocol versions {min} to {max}, this process speaks {ours}")]
    Version {
        /// The peer's lowest version.
        min: u8,
        /// The peer's highest version.
        max: u8,
        /// This process's version.
        ours: u8,
    },
    /// A field holds a number that means nothing.
    #[error("{field} is {value}, which is not defined")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// What it held.
        value: u64,
    },
    /// A message with no frame, or with more than three.
    #[error("a message has 1 to 3 frames, received {count}")]
    FrameCount {
        /// Frames received.
        count: usize,
    },
    /// The body is not what its operation asks for.
    #[error("body cannot be decoded")]
    Body {
        /// What MessagePack said.
        #[source]
        source: rmp_serde::decode::Error,
    },
}

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $http:literal, $title:literal;)*) => {
        /// A numbered error; the number is stable, docs/errors.md has a paragraph for each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(into = "u16", from = "u16")]
        #[repr(u16)]
        pub enum ErrorCode { $($(#[$doc])* $name = $number,)* }

        impl ErrorCode {
            /// All codes, by number.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$name,)*];

            /// The HTTP status with which an edge answers.
            pub const fn http_status(self) -> u16 {
                match self { $(ErrorCode::$name => $http,)* }
            }

            /// A short title that does not vary between occurrences (RFC 9457).
            pub const fn title(self) -> &'static str {
                match self { $(ErrorCode::$name => $title,)* }
            }

            /// The code's name as documentation spells it.
            pub const fn name(self) -> &'static str {
                match self { $(ErrorCode::$name => stringify!($name),)* }
            }
        }

        impl From<u16> for ErrorCode {
            /// An unknown number, from a newer peer, reads as `Internal`.
            fn from(value: u16) -> ErrorCode {
                match value { $($number => ErrorCode::$name,)* _ => ErrorCode::Internal }
            }
        }
    };
}

error_codes! {
    /// A bug in the answering service.
    Internal = 1, 500, "internal error";
    /// The request's bytes or fields make no sense.
    Invalid = 2, 400, "invalid request";
    /// No or wrong credentials.
    Unauthenticated = 3, 401, "not authenticated";
    /// The caller has no right to this.
    Forbidden = 4, 403, "forbidden";
    /// What was asked for does not exist.
    NotFound = 5, 404, "not found";
    /// It exists already, or changed meanwhile.
    Conflict = 6, 409, "conflict";
    /// Over a size limit.
    TooLarge = 7, 413, "too large";
    /// A queue is full; try again later.
    Busy = 8, 503, "busy";
    /// The service that should answer is not there.
    Unavailable = 9, 503, "service unavailable";
    /// The deadline passed before the call ran.
    Expired = 10, 504, "expired in the queue";
    /// The call ran longer than its time limit.
    TimedOut = 11, 504, "timed out";
    /// The worker that ran the call died.
    Crashed = 12, 502, "worker crashed";
    /// The Doee itself reported an error.
    DoeeFailed = 13, 500, "function failed";
    /// The call was cancelled.
    Cancelled = 14, 499, "cancelled";
    /// A message of an attempt that has been given up.
    Fenced = 15, 409, "superseded attempt";
    /// A demanded row count or other precondition did not hold; nothing was changed.
    ConditionFailed = 16, 412, "condition failed";
    /// A row, byte, disk or time limit of the resource was reached; nothing was changed.
    LimitReached = 17, 507, "limit reached";
    /// The database refused the statement.
    Database = 18, 400, "database error";
    /// The source does not build, or the binary is not a Doee.
    BuildFailed = 19, 422, "build failed";
    /// The caller's project has had as many calls as it may have in this time.
    RateLimited = 20, 429, "too many calls";
}

impl From<ErrorCode> for u16 {
    fn from(code: ErrorCode) -> u16 {
        code as u16
    }
}

/// The body of an error message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct WireError {
    /// What kind of failure it is.
    pub code: ErrorCode,
    /// What failed, why, and what to do about it; at most [`ERROR_MESSAGE_LEN_MAX`] bytes.
    pub message: String,
}

impl WireError {
    /// Makes an error; an overlong message is cut at a character boundary.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> WireError {
        let mut message = message.into();
        if message.len() > ERROR_MESSAGE_LEN_MAX {
            message.truncate(message.floor_char_boundary(ERROR_MESSAGE_LEN_MAX));
        }
        WireError { code, message }
    }
}
