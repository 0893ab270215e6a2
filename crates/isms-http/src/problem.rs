//! Errors as HTTP shows them: `application/problem+json` (RFC 9457).
//!
//! A failure inside the platform has a numbered [`ErrorCode`], and its `type` leads to the code's
//! paragraph in docs/errors.md. What is plain HTTP (405, 421 …) has the type `about:blank`.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use isms_protocol::{ErrorCode, ProcessId, TraceId, WireError};
use serde::Serialize;

use crate::{Body, reply::TRACE};

/// What `type` starts with; the code's name follows.
const TYPE_BASE: &str = "https://isms.invalid/errors/";
/// When to come back after `Busy`, `Unavailable` and `RateLimited`, in s. A rate is counted by the second, so that
/// something is accepted again by then.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("1");

/// An error response in the making.
#[derive(Debug)]
pub struct Problem {
    code: Option<ErrorCode>,
    status: StatusCode,
    detail: String,
    instance: Option<ProcessId>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A numbered error of the platform.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Problem {
        let status = StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut problem = Problem::http(status, detail);
        problem.code = Some(code);
        if matches!(
            code,
            ErrorCode::Busy | ErrorCode::Unavailable | ErrorCode::RateLimited
        ) {
            return problem.with_header(header::RETRY_AFTER, RETRY_AFTER_S);
        }
        problem
    }

    /// An error of HTTP itself, which the platform has no number for.
    pub fn http(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem {
            code: None,
            status,
            detail: detail.into(),
            instance: None,
            headers: Vec::new(),
        }
    }

    /// Names the process that failed.
    pub fn with_instance(mut self, process: ProcessId) -> Problem {
        self.instance = (!process.is_none()).then_some(process);
        self
    }

    /// Adds a header field to the response.
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Problem {
        self.headers.push((name, value));
        self
    }

    /// Names the trace of the call that has failed, by which it can be looked up: `isms-trace`.
    pub fn in_trace(self, trace: TraceId) -> Problem {
        match HeaderValue::from_str(&trace.to_string()) {
            Ok(value) => self.with_header(TRACE, value),
            Err(_) => self,
        }
    }

    /// The response's status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What went wrong this time.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The response.
    pub fn into_response(self) -> Response<Body> {
        let body = ProblemBody {
            r#type: self.code.map_or_else(
                || "about:blank".to_owned(),
                |code| format!("{TYPE_BASE}{}", code.name()),
            ),
            title: self.code.map_or_else(
                || self.status.canonical_reason().unwrap_or("error"),
                ErrorCode::title,
            ),
            status: self.status.as_u16(),
            detail: &self.detail,
            instance: self.instance.map(|process| process.to_string()),
        };
        let json = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = Response::new(Body::full(Bytes::from(json)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(self.headers);
        response
    }
}

impl From<WireError> for Problem {
    fn from(error: WireError) -> Problem {
        Problem::new(error.code, error.message)
    }
}

#[derive(Serialize)]
struct ProblemBody<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
}
