//! Asynchronous calls as HTTP shows them: `Prefer: respond-async` (RFC 7240), 202 with the process's URL, and the
//! questions that are asked under that URL.
//!
//! The Kernel decides who may know of a process. What it does not tell looks like what does not exist, and so
//! does here what is no id at all.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use isms_ipc::Link;
use isms_protocol::{
    ErrorCode, Header, Message, ProcessId, Service,
    kernel::{Operation, ProcessQuestion, ProcessState, Progress},
    limits::RESULT_WAIT_MAX,
};
use serde_json::json;

use crate::{Body, Exchange, Problem, reply::PROCESS};

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// When to ask again about a call that has not ended, in s.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("1");
/// How long the Kernel may take beside the wait that it was asked for.
const ANSWER_TIMEOUT_MS: u64 = 5_000;

/// What a request prefers, as far as it is understood here. Of a preference that is there twice, the first counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Preferences {
    /// The call should be accepted, and go on without its client.
    pub respond_async: bool,
    /// How long to wait for the end of a call, in s.
    pub wait_s: Option<u32>,
}

/// Asks the Kernel about one asynchronous call.
pub struct Questions<'a> {
    /// The way to it.
    pub link: &'a Link,
    /// Who asks: project, principal and trace count.
    pub header: Header,
    /// Which call.
    pub process: ProcessId,
    /// Who asks administers the header's project, or all of them if it names none.
    pub any_principal: bool,
}

impl Preferences {
    /// Reads the `Prefer` fields; what makes no sense in them is ignored, as RFC 7240 wants it.
    pub fn of(headers: &HeaderMap) -> Preferences {
        let mut preferences = Preferences::default();
        let fields = headers.get_all(PREFER).iter();
        for preference in fields
            .filter_map(|field| field.to_str().ok())
            .flat_map(split_list)
        {
            let first = preference.split(';').next().unwrap_or_default();
            let (name, value) = first.split_once('=').unwrap_or((first, ""));
            let value = unquoted(value.trim());
            match name.trim().to_ascii_lowercase().as_str() {
                // It has no value, and an empty one is none; with another it is something else.
                "respond-async" if value.is_empty() => preferences.respond_async = true,
                "wait" if preferences.wait_s.is_none() => preferences.wait_s = seconds(value),
                _ => {}
            }
        }
        preferences
    }
}

/// A value without the quotes around it, if there are some.
fn unquoted(value: &str) -> &str {
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.unwrap_or(value)
}

/// A number of seconds: digits and nothing else, a sign neither.
fn seconds(text: &str) -> Option<u32> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// The elements of a list; a comma in a quoted string is none between two.
fn split_list(list: &str) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    let separates = |letter: char| {
        let separates = letter == ',' && !quoted;
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        separates
    };
    list.split(separates).collect()
}

/// Reads a process's id as it stands in a URL, which is in one way only.
pub fn parse_process(text: &str) -> Result<ProcessId, Problem> {
    let process = text.parse::<ProcessId>().ok();
    let process = process.filter(|process| !process.is_none() && process.to_string() == text);
    process.ok_or_else(|| {
        Problem::new(
            ErrorCode::NotFound,
            "there is no such process, or its result is no longer kept",
        )
    })
}

/// How long a question waits, in s: what the query says, else what is preferred, else not at all. No question waits
/// for longer than [`RESULT_WAIT_MAX`].
pub fn wait_s(query: Option<&str>, preferences: Preferences) -> Result<u32, Problem> {
    let max = RESULT_WAIT_MAX.as_secs() as u32;
    let mut asked = None;
    for pair in query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
    {
        let value = pair.strip_prefix("wait=").filter(|_| asked.is_none());
        let wait = value.and_then(seconds).filter(|&seconds| seconds <= max);
        asked = Some(wait.ok_or_else(|| {
            let detail = format!("`{}` is not `wait=0..{max}`, in seconds", pair.escape_debug());
            Problem::new(ErrorCode::Invalid, detail)
        })?);
    }
    Ok(asked.or(preferences.wait_s).unwrap_or(0).min(max))
}

/// 202: a call was accepted, and `location` is where it is asked about.
pub fn accepted(process: ProcessId, location: &str) -> Response<Body> {
    let body = json!({ "process": process, "url": location });
    let mut response = json_response(StatusCode::ACCEPTED, process, &body);
    let headers = response.headers_mut();
    headers.insert(PREFERENCE_APPLIED, HeaderValue::from_static("respond-async"));
    if let Ok(location) = HeaderValue::from_str(location) {
        headers.insert(header::LOCATION, location);
    }
    response
}

/// How far a call is; `location` is its URL.
pub fn show_state(status: StatusCode, state: &ProcessState, location: &str) -> Response<Body> {
    let mut body = json!({
        "process": state.process,
        "state": state.progress,
        "age_us": state.age_us,
        "queued_us": state.queued_us,
        "ran_us": state.ran_us,
    });
    // Only durable calls have these, and of those only some.
    for (name, value) in [
        ("failures", u64::from(state.failures)),
        ("retry_us", state.retry_us),
    ] {
        if value != 0 {
            body[name] = value.into();
        }
    }
    if state.progress.has_ended() {
        body["kept_us"] = state.kept_us.into();
        body["result"] = format!("{location}/result").into();
    }
    let mut response = json_response(status, state.process, &body);
    if !state.progress.has_ended() {
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER_S);
    }
    response
}

fn json_response(status: StatusCode, process: ProcessId, body: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::full(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "application/json"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(value) = HeaderValue::from_str(&process.to_string()) {
        headers.insert(PROCESS, value);
    }
    response
}

impl Questions<'_> {
    /// How far the call is, at once or when it has ended within `wait_s`. Dropping the future ends the wait.
    pub async fn state(&self, wait_s: u32) -> Result<ProcessState, Problem> {
        self.decoded(Operation::Process, wait_s).await
    }

    /// Cancels the call. 202 when its worker has been asked to stop, 200 when it has ended.
    pub async fn cancel(&self) -> Result<(StatusCode, ProcessState), Problem> {
        let state = self.decoded(Operation::Cancel, 0).await?;
        let status = match state.progress {
            Progress::Running => StatusCode::ACCEPTED,
            _ => StatusCode::OK,
        };
        Ok((status, state))
    }

    /// The call's own reply, or its own error; `Conflict`, and when to ask again, when it has not ended within
    /// `wait_s`.
    pub async fn result(&self, wait_s: u32) -> Result<Exchange, Problem> {
        if wait_s > 0 {
            self.state(wait_s).await?;
        }
        let result = self.ask(Operation::Result, 0).await;
        result.map_err(|problem| match problem.status() {
            StatusCode::CONFLICT => problem.with_header(header::RETRY_AFTER, RETRY_AFTER_S),
            _ => problem,
        })
    }

    async fn decoded(&self, operation: Operation, wait_s: u32) -> Result<ProcessState, Problem> {
        let exchange = self.ask(operation, wait_s).await?;
        exchange.message().decode_body().map_err(|error| {
            tracing::error!(%error, "the kernel gave a malformed state");
            Problem::new(ErrorCode::Internal, "the kernel gave a malformed answer")
        })
    }

    async fn ask(&self, operation: Operation, wait_s: u32) -> Result<Exchange, Problem> {
        let wait_ms = wait_s.saturating_mul(1000);
        let header = Header {
            operation: operation as u16,
            target: Service::Kernel,
            remaining_us: (u64::from(wait_ms) + ANSWER_TIMEOUT_MS) * 1000,
            ..self.header
        };
        let question = ProcessQuestion {
            process: self.process,
            wait_ms,
            any_principal: self.any_principal,
        };
        let answer = self.link.call(Message::with_body(header, &question)).await;
        let answer = answer.map_err(|error| Problem::from(error).with_instance(self.process))?;
        Ok(Exchange::from(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preferences(fields: &[&str]) -> (bool, Option<u32>) {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(PREFER, field.parse().expect("a header value"));
        }
        let Preferences {
            respond_async,
            wait_s,
        } = Preferences::of(&headers);
        (respond_async, wait_s)
    }

    #[test]
    fn preferences_are_read_as_rfc_7240_writes_them() {
        assert_eq!(preferences(&[]), (false, None));
        assert_eq!(preferences(&["respond-async, wait=10"]), (true, Some(10)));
        assert_eq!(
            preferences(&["Wait = \"7\"; x=y", "handling=lenient,Respond-Async"]),
            (true, Some(7))
        );
        assert_eq!(preferences(&["wait=1, wait=2"]), (false, Some(1)));
        assert_eq!(preferences(&["respond-async=\"\"; x=y"]), (true, None));
        for senseless in [
            "wait",
            "wait=-1",
            "wait=99999999999",
            "wait=+5",
            "wait=\"5",
            "wait= 5 6",
            "respond",
            "respond-async=false",
            "respond-async = true",
            "respond-async=\"0\"",
            "x=\"a, respond-async\"",
            "x=\"\\\", respond-async\"",
            ",,;",
        ] {
            assert_eq!(preferences(&[senseless]), (false, None), "{senseless}");
        }
    }

    #[test]
    fn a_wait_is_bounded_and_the_query_wins() {
        let prefers = |wait_s| Preferences {
            respond_async: false,
            wait_s,
        };
        let wait = |query, preferred| wait_s(query, prefers(preferred)).ok();
        assert_eq!(wait(None, None), Some(0));
        assert_eq!(wait(None, Some(9)), Some(9));
        assert_eq!(
            wait(None, Some(3600)),
            Some(60),
            "a preference is met as far as possible"
        );
        assert_eq!(wait(Some("wait=3"), Some(9)), Some(3));
        assert_eq!(wait(Some("wait=60"), None), Some(60));
        for query in [
            "wait=61",
            "wait=-1",
            "wait=+5",
            "wait=%35",
            "wait=",
            "wait",
            "wait=1&wait=1",
            "x=1",
            "wait=1&x",
        ] {
            assert_eq!(wait(Some(query), None), None, "{query}");
        }
    }

    #[test]
    fn an_id_is_written_in_one_way() {
        let id = ProcessId::generate().to_string();
        assert!(parse_process(&id).is_ok());
        let simple = id.replace('-', "");
        let upper = id.to_uppercase();
        let braced = format!("{{{id}}}");
        let nil = ProcessId::NONE.to_string();
        for text in ["", "1", &simple, &upper, &braced, &nil] {
            let problem = parse_process(text).expect_err("refused");
            assert_eq!(problem.status(), StatusCode::NOT_FOUND, "{text}");
        }
    }
}
