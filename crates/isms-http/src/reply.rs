//! What a Doee may say in HTTP: status and header fields of its reply, checked.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use isms_protocol::{ErrorCode, ProcessId, doer::InvocationReply};

use crate::{Problem, limits::HEADERS_MAX};

/// Carries the id of the process that made a response.
pub(crate) const PROCESS: HeaderName = HeaderName::from_static("isms-process");

/// Carries the trace of a call that has failed.
pub(crate) const TRACE: HeaderName = HeaderName::from_static("isms-trace");

/// True for fields that concern one connection and are never passed on (RFC 9110 §7.6.1), in
/// either direction.
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Status and header fields of a Doee's reply, with the process that made it. Fields that belong to
/// the connection or to the platform are dropped; what HTTP cannot express fails the call.
pub fn reply_head(reply: &InvocationReply, process: ProcessId) -> Result<(StatusCode, HeaderMap), Problem> {
    let failed = |detail: String| Problem::new(ErrorCode::DoeeFailed, detail).with_instance(process);
    let status = StatusCode::from_u16(reply.status)
        .ok()
        .filter(|_| (200..=599).contains(&reply.status));
    let status =
        status.ok_or_else(|| failed(format!("the Doee answered with the status {}", reply.status)))?;
    if reply.headers.len() > HEADERS_MAX {
        let count = reply.headers.len();
        return Err(failed(format!(
            "the Doee answered with {count} header fields; at most {HEADERS_MAX} may be"
        )));
    }
    let mut headers = HeaderMap::with_capacity(reply.headers.len() + 4);
    for (name, value) in &reply.headers {
        let (Ok(field), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_bytes(value.as_bytes()),
        ) else {
            let name = name.escape_debug();
            return Err(failed(format!(
                "the Doee answered with the malformed header field `{name}`"
            )));
        };
        if !is_hop_by_hop(&field) && !is_ours(&field) {
            headers.append(field, value);
        }
    }
    if !process.is_none()
        && let Ok(value) = HeaderValue::from_str(&process.to_string())
    {
        headers.insert(PROCESS, value);
    }
    Ok((status, headers))
}

/// Fields that the server fills itself. The length is taken from the payload, which no claim can
/// contradict.
fn is_ours(name: &HeaderName) -> bool {
    *name == header::CONTENT_LENGTH || *name == header::DATE || *name == PROCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, headers: &[(&str, &str)]) -> InvocationReply {
        let headers = headers
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        InvocationReply {
            status,
            headers,
            payload_len: None,
        }
    }

    #[test]
    fn fields_of_the_connection_and_the_platform_are_dropped() {
        let forbidden = [
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("content-length", "7"),
            ("keep-alive", "1"),
            ("upgrade", "h2c"),
            ("date", "now"),
            ("isms-process", "forged"),
        ];
        let (status, headers) = reply_head(&reply(200, &forbidden), ProcessId::NONE).expect("valid");
        assert_eq!(status, 200);
        assert_eq!(headers.get("isms-process").map(HeaderValue::as_bytes), None);
        assert!(headers.is_empty());
    }

    #[test]
    fn the_process_is_named() {
        let process = ProcessId::generate();
        let (_, headers) = reply_head(&reply(204, &[("isms-process", "forged")]), process).expect("valid");
        let values: Vec<_> = headers.get_all("isms-process").iter().collect();
        assert_eq!(values, [process.to_string().as_str()]);
    }

    #[test]
    fn what_http_cannot_express_fails_the_call() {
        let many = vec![("a", "b"); HEADERS_MAX + 1];
        let cases: [(u16, &[(&str, &str)]); 7] = [
            (0, &[]),
            (101, &[]),
            (600, &[]),
            (200, &[("a b", "c")]),
            (200, &[("", "c")]),
            (200, &[("a", "b\r\nset-cookie: c")]),
            (200, &many),
        ];
        for (status, headers) in cases {
            let problem = reply_head(&reply(status, headers), ProcessId::NONE).expect_err("refused");
            assert_eq!(problem.status(), 500);
        }
    }
}
