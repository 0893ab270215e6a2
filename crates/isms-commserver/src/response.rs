//! A Doee's reply as an HTTP response of the project's origin.
//!
//! All projects share one origin until they have host names of their own, so what a browser could
//! run is sandboxed, and nobody sets the platform's cookies.

use http::{HeaderMap, HeaderValue, Response, header};
use isms_http::{Body, Exchange, Problem, reply_head};
use isms_protocol::{ErrorCode, doer::InvocationReply};

use crate::invocation::is_platform_cookie;

/// Types whose documents can run scripts.
const ACTIVE_TYPES: [&str; 5] = [
    "text/html",
    "application/xhtml+xml",
    "image/svg+xml",
    "text/xml",
    "application/xml",
];

/// Makes the response of an answered call.
pub(crate) fn respond(exchange: Exchange) -> Result<Response<Body>, Problem> {
    let process = exchange.message().header.process;
    let reply: InvocationReply = exchange.message().decode_body().map_err(|error| {
        tracing::error!(%process, %error, "the doer gave a malformed reply");
        Problem::new(ErrorCode::Internal, "the call's reply is malformed").with_instance(process)
    })?;
    let (status, mut headers) = reply_head(&reply, process)?;
    secure(&mut headers);
    let (_, body) = exchange.into_body(reply.payload_len);
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

fn secure(headers: &mut HeaderMap) {
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    if headers.get(header::CONTENT_TYPE).is_some_and(is_active) {
        // Appended, for a browser obeys every policy that it is given.
        headers.append(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("sandbox"),
        );
    }
    if headers.contains_key(header::SET_COOKIE) {
        let cookies: Vec<HeaderValue> = headers.get_all(header::SET_COOKIE).iter().cloned().collect();
        headers.remove(header::SET_COOKIE);
        for cookie in cookies
            .into_iter()
            .filter(|cookie| !is_platform_cookie(cookie.as_bytes()))
        {
            headers.append(header::SET_COOKIE, cookie);
        }
    }
}

fn is_active(content_type: &HeaderValue) -> bool {
    let Ok(content_type) = content_type.to_str() else {
        return true;
    };
    let essence = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    ACTIVE_TYPES.contains(&&*essence) || essence.ends_with("+xml")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secured(fields: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        secure(&mut headers);
        headers
            .remove(header::X_CONTENT_TYPE_OPTIONS)
            .expect("nosniff is always there");
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect()
    }

    #[test]
    fn documents_that_can_run_scripts_are_sandboxed() {
        for active in [
            "text/html",
            "Text/HTML; charset=utf-8",
            "image/svg+xml",
            "application/atom+xml",
        ] {
            let secured = secured(&[("content-type", active)]);
            assert_eq!(
                secured[1],
                ("content-security-policy".into(), "sandbox".into()),
                "{active}"
            );
        }
        for passive in ["application/json", "text/plain", "image/png"] {
            assert_eq!(secured(&[("content-type", passive)]).len(), 1, "{passive}");
        }
    }

    #[test]
    fn a_projects_own_policy_is_kept_beside_the_sandbox() {
        let fields = [
            ("content-type", "text/html"),
            ("content-security-policy", "default-src 'self'"),
        ];
        let policies: Vec<_> = secured(&fields)
            .into_iter()
            .filter(|(name, _)| name == "content-security-policy")
            .collect();
        assert_eq!(policies.len(), 2);
        assert_eq!(policies[0].1, "default-src 'self'");
        assert_eq!(policies[1].1, "sandbox");
    }

    #[test]
    fn a_doee_sets_its_own_cookies_only() {
        let fields = [
            ("set-cookie", "a=1"),
            ("set-cookie", "isms=forged; Path=/"),
            ("set-cookie", "b=2"),
        ];
        let expected = [("set-cookie", "a=1"), ("set-cookie", "b=2")];
        assert_eq!(
            secured(&fields),
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }
}
