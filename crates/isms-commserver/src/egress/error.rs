//! Why a request to a server outside was not answered.

use std::{fmt, io};

use isms_protocol::{ErrorCode, HostPort, WireError, commserver::FETCH_METHODS, limits};

/// Why there is no answer of the server's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("the request cannot be decoded")]
    Undecodable,
    #[error("{method:?} is no method that may be sent; allowed: {}", FETCH_METHODS.join(", "))]
    Method { method: String },
    #[error("the URL is not usable: {why}")]
    Url { why: &'static str },
    #[error("the header field {name:?} may not be sent, or its value has control characters")]
    HeaderField { name: String },
    #[error("the request is over a limit: {limit}")]
    RequestTooLarge { limit: &'static str },
    #[error("the function was not granted {server}; add it to allow.http")]
    NotGranted { server: HostPort },
    #[error("only a Doee of a project may reach a server outside")]
    Nobody,
    #[error("the function's grants cannot be asked for now: {0}")]
    Grants(WireError),
    #[error("{server} redirects from https to http, which is not followed")]
    Downgrade { server: HostPort },
    #[error(
        "{server} is at {address}, which is {what}; an administrator permits such addresses in [egress] allow"
    )]
    Address {
        server: HostPort,
        address: std::net::IpAddr,
        what: &'static str,
    },
    #[error("the name of {server} cannot be resolved: {source}")]
    Resolve { server: HostPort, source: io::Error },
    #[error("{server} cannot be connected to: {source}")]
    Connect { server: HostPort, source: io::Error },
    #[error("no trusted connection to {server}: {source}")]
    Tls { server: HostPort, source: io::Error },
    #[error("{server} did not {stage} in time")]
    TimedOut { server: HostPort, stage: Stage },
    #[error("{server} does not speak HTTP/1.1 as it should, or broke off: {}", Chain(.source))]
    Exchange { server: HostPort, source: hyper::Error },
    #[error("{server} answered with the status {status}, which is no answer")]
    Status { server: HostPort, status: u16 },
    #[error("the answer of {server} is over a limit: {limit}")]
    AnswerTooLarge { server: HostPort, limit: &'static str },
    #[error("{0}")]
    Busy(&'static str),
}

/// What a server was given time for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Resolve,
    Connect,
    Tls,
    Answer,
}

impl fmt::Display for Stage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Stage::Resolve => "resolve",
            Stage::Connect => "accept a connection",
            Stage::Tls => "agree on TLS",
            Stage::Answer => "answer",
        })
    }
}

/// An error with its causes: hyper's own text leaves out what happened.
struct Chain<'a>(&'a hyper::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)?;
        let mut cause = std::error::Error::source(self.0);
        while let Some(error) = cause {
            write!(formatter, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl From<FetchError> for WireError {
    fn from(error: FetchError) -> WireError {
        let code = match &error {
            FetchError::Undecodable
            | FetchError::Method { .. }
            | FetchError::Url { .. }
            | FetchError::HeaderField { .. } => ErrorCode::Invalid,
            FetchError::RequestTooLarge { .. } => ErrorCode::TooLarge,
            FetchError::NotGranted { .. }
            | FetchError::Nobody
            | FetchError::Downgrade { .. }
            | FetchError::Address { .. } => ErrorCode::Forbidden,
            FetchError::Grants(cause) => cause.code,
            // Not `TimedOut`: that is the call's own time, of which there may be plenty.
            FetchError::Resolve { .. }
            | FetchError::Connect { .. }
            | FetchError::Tls { .. }
            | FetchError::TimedOut { .. }
            | FetchError::Exchange { .. }
            | FetchError::Status { .. } => ErrorCode::Unavailable,
            FetchError::AnswerTooLarge { .. } => ErrorCode::LimitReached,
            FetchError::Busy(_) => ErrorCode::Busy,
        };
        WireError::new(code, error.to_string())
    }
}

/// A body over [`limits::FETCH_BODY_LEN_MAX`].
pub(crate) const BODY_LIMIT: &str = "a body has at most 16 MiB";
const _: () = assert!(limits::FETCH_BODY_LEN_MAX == 16 << 20);
/// A head over [`limits::FETCH_HEAD_LEN_MAX`] or [`limits::FETCH_HEADERS_MAX`].
pub(crate) const HEAD_LIMIT: &str =
    "URL and header fields have at most 12 KiB, and the fields are at most 128";
const _: () = assert!(limits::FETCH_HEAD_LEN_MAX == 12 << 10 && limits::FETCH_HEADERS_MAX == 128);
