//! An HTTP request as the body of a call: encoded from borrowed parts, field by field as
//! [`isms_protocol::doer::Invocation`] decodes it (a test holds the two together).

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, header};
use isms_http::is_hop_by_hop;
use isms_protocol::doer::Trigger;
use serde::{Serialize, Serializer};

/// The body of a call.
#[derive(Debug, Serialize)]
pub(crate) struct InvocationRef<'a> {
    pub(crate) trigger: Trigger,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) route: &'a str,
    pub(crate) parameters: Vec<(&'a str, &'a str)>,
    pub(crate) query: &'a str,
    pub(crate) headers: Vec<(&'a str, Value<'a>)>,
    pub(crate) principal: &'a str,
    pub(crate) payload_len: Option<u64>,
}

/// The value of a header field.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Value<'a>(Cow<'a, [u8]>);

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

/// What happens to the `Authorization` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authorization {
    /// It is the project's own business.
    PassOn,
    /// It was a token of the platform, which no Doee gets to see.
    Strip,
}

/// The header fields that a Doee sees: none of the connection, no `isms*` cookie, nothing that only
/// the platform may say.
pub(crate) fn visible_fields(headers: &HeaderMap, authorization: Authorization) -> Vec<(&str, Value<'_>)> {
    let nominated = nominated_by_connection(headers);
    let mut fields = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        let hidden = is_hop_by_hop(name)
            || nominated.contains(name)
            || *name == header::EXPECT
            || name.as_str().starts_with("isms-")
            || (*name == header::AUTHORIZATION && authorization == Authorization::Strip);
        if hidden {
            continue;
        }
        let value = if *name == header::COOKIE {
            match strip_cookies(value.as_bytes()) {
                Some(value) => value,
                None => continue,
            }
        } else {
            Cow::Borrowed(value.as_bytes())
        };
        fields.push((name.as_str(), Value(value)));
    }
    fields
}

/// Fields that the `Connection` field declares to be of this connection only.
fn nominated_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(',')).map(str::trim);
    // What everybody sends names no field.
    let names =
        names.filter(|name| !name.eq_ignore_ascii_case("keep-alive") && !name.eq_ignore_ascii_case("close"));
    names
        .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        .collect()
}

/// A `Cookie` field without the platform's cookies; `None` when nothing is left.
fn strip_cookies(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !value.split(|&byte| byte == b';').any(is_platform_cookie) {
        return Some(Cow::Borrowed(value));
    }
    let mut kept = Vec::with_capacity(value.len());
    for pair in value
        .split(|&byte| byte == b';')
        .filter(|pair| !is_platform_cookie(pair))
    {
        if !kept.is_empty() {
            kept.extend_from_slice(b"; ");
        }
        kept.extend_from_slice(pair.trim_ascii());
    }
    (!kept.is_empty()).then_some(Cow::Owned(kept))
}

/// True for a cookie whose name starts with `isms`, in any case, with or without a name prefix.
pub(crate) fn is_platform_cookie(pair: &[u8]) -> bool {
    let name = pair.trim_ascii_start().to_ascii_lowercase();
    let name = [&b"__host-"[..], b"__secure-"]
        .iter()
        .find_map(|prefix| name.strip_prefix(*prefix))
        .unwrap_or(&name);
    name.starts_with(b"isms")
}

#[cfg(test)]
mod tests {
    use isms_protocol::{decode, doer::Invocation, encode};
    use serde_bytes::ByteBuf;

    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().expect("a header value"));
        }
        headers
    }

    fn visible(fields: &[(&'static str, &str)], authorization: Authorization) -> Vec<(String, String)> {
        let headers = headers(fields);
        let fields = visible_fields(&headers, authorization).into_iter();
        fields
            .map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(&value.0).into_owned()))
            .collect()
    }

    fn owned(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn the_borrowed_form_decodes_as_the_protocols_invocation() {
        let headers = headers(&[("accept", "a"), ("accept", "b"), ("x", "\u{e9}")]);
        let invocation = InvocationRef {
            trigger: Trigger::Http,
            method: "GET",
            path: "/m/1",
            route: "/m/{id}",
            parameters: vec![("id", "1")],
            query: "a=b",
            headers: visible_fields(&headers, Authorization::PassOn),
            principal: "me",
            payload_len: Some(3),
        };
        let field = |name: &str, value: &[u8]| (name.to_owned(), ByteBuf::from(value));
        let expected = Invocation {
            trigger: Trigger::Http,
            method: "GET".into(),
            path: "/m/1".into(),
            route: "/m/{id}".into(),
            parameters: vec![("id".into(), "1".into())],
            query: "a=b".into(),
            headers: vec![
                field("accept", b"a"),
                field("accept", b"b"),
                field("x", "\u{e9}".as_bytes()),
            ],
            principal: "me".into(),
            payload_len: Some(3),
        };
        assert_eq!(
            decode::<Invocation>(&encode(&invocation)).expect("decodes"),
            expected
        );
        assert_eq!(encode(&invocation), encode(&expected));
    }

    #[test]
    fn fields_of_the_connection_are_hidden() {
        let fields = [
            ("host", "h"),
            ("connection", "keep-alive, X-Mine"),
            ("x-mine", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
            ("isms-process", "forged"),
            ("x-other", "2"),
        ];
        assert_eq!(
            visible(&fields, Authorization::PassOn),
            owned(&[("host", "h"), ("x-other", "2")])
        );
    }

    #[test]
    fn the_platforms_cookies_are_stripped() {
        let cases = [
            ("a=1; isms_session=x; b=2", Some("a=1; b=2")),
            ("ISMS=x", None),
            (" isms=x;__Host-isms-a=y", None),
            ("a=isms; xisms=1", Some("a=isms; xisms=1")),
        ];
        for (sent, expected) in cases {
            let expected: Vec<_> = expected.into_iter().map(|value| ("cookie", value)).collect();
            assert_eq!(
                visible(&[("cookie", sent)], Authorization::PassOn),
                owned(&expected),
                "{sent}"
            );
        }
    }

    #[test]
    fn a_platform_token_is_hidden_and_a_projects_own_credentials_are_not() {
        let fields = [("authorization", "Bearer t")];
        assert_eq!(visible(&fields, Authorization::Strip), owned(&[]));
        assert_eq!(visible(&fields, Authorization::PassOn), owned(&fields));
    }
}
