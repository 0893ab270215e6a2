//! Why a host call is refused: the number and the text that the Doee sees.

use isms_doee_sys as sys;
use isms_protocol::{ErrorCode, WireError};

/// A refused host call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: sys::ResultCode,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(code: sys::ResultCode, message: impl Into<String>) -> Refusal {
        Refusal {
            code,
            message: message.into(),
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Refusal {
        Refusal::new(sys::INVALID, message)
    }

    pub(crate) fn limit(message: impl Into<String>) -> Refusal {
        Refusal::new(sys::LIMIT, message)
    }

    pub(crate) fn cancelled() -> Refusal {
        Refusal::new(sys::CANCELLED, "the call was cancelled")
    }

    pub(crate) fn deadline() -> Refusal {
        Refusal::new(sys::DEADLINE, "the call's deadline has passed")
    }
}

impl From<WireError> for Refusal {
    fn from(error: WireError) -> Refusal {
        let code = match error.code {
            ErrorCode::Cancelled | ErrorCode::Fenced => sys::CANCELLED,
            ErrorCode::Expired | ErrorCode::TimedOut => sys::DEADLINE,
            ErrorCode::Forbidden | ErrorCode::Unauthenticated => sys::FORBIDDEN,
            ErrorCode::ConditionFailed => sys::CONDITION_FAILED,
            ErrorCode::LimitReached | ErrorCode::TooLarge => sys::LIMIT,
            ErrorCode::Database => sys::DATABASE,
            ErrorCode::Invalid => sys::INVALID,
            ErrorCode::NotFound => sys::NOT_FOUND,
            ErrorCode::Busy | ErrorCode::Unavailable | ErrorCode::Crashed | ErrorCode::RateLimited => {
                sys::UNAVAILABLE
            }
            // Of a transaction: the Doee did not repeat itself.
            ErrorCode::DoeeFailed | ErrorCode::Conflict => sys::FAILED,
            ErrorCode::Internal | ErrorCode::BuildFailed => sys::INTERNAL,
        };
        Refusal {
            code,
            message: error.message,
        }
    }
}
