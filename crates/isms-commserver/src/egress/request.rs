//! One request on its way, and what a redirect makes of it. Pure: nothing here connects.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use isms_http::is_hop_by_hop;
use isms_protocol::{
    commserver::{FETCH_METHODS, Fetch},
    limits::{FETCH_BODY_LEN_MAX, FETCH_HEAD_LEN_MAX, FETCH_HEADERS_MAX},
};

use super::{
    error::{BODY_LIMIT, FetchError, HEAD_LIMIT},
    target::Target,
};

/// What is sent to which server.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    pub(crate) target: Target,
    /// What the Doee set; none of the connection.
    pub(crate) headers: HeaderMap,
    pub(crate) body_len: u64,
}

impl Outgoing {
    /// Checks what a Doee asked for.
    pub(crate) fn new(fetch: &Fetch) -> Result<Outgoing, FetchError> {
        let head_len = fetch.headers.iter().map(|(name, value)| name.len() + value.len());
        if fetch.headers.len() > FETCH_HEADERS_MAX
            || head_len.sum::<usize>() + fetch.url.len() > FETCH_HEAD_LEN_MAX
        {
            return Err(FetchError::RequestTooLarge { limit: HEAD_LIMIT });
        }
        if fetch.body_len > FETCH_BODY_LEN_MAX {
            return Err(FetchError::RequestTooLarge { limit: BODY_LIMIT });
        }
        let method = Method::from_bytes(fetch.method.as_bytes()).ok();
        let method = method.filter(|method| FETCH_METHODS.contains(&method.as_str()));
        let method = method.ok_or_else(|| FetchError::Method {
            method: fetch.method.clone(),
        })?;
        Ok(Outgoing {
            method,
            target: Target::parse(&fetch.url)?,
            headers: headers(fetch)?,
            body_len: fetch.body_len,
        })
    }

    /// The request that follows an answer: `None` when the answer is the last one. A redirect that wants
    /// the body once more is the last one, too: the body has been passed on and is not kept.
    pub(crate) fn redirected(
        &self,
        status: StatusCode,
        answer: &HeaderMap,
    ) -> Result<Option<Outgoing>, FetchError> {
        let Some(location) = answer.get(header::LOCATION) else {
            return Ok(None);
        };
        let to_get = match status {
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => self.method == Method::POST,
            StatusCode::SEE_OTHER => self.method != Method::HEAD,
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => false,
            _ => return Ok(None),
        };
        if !to_get && self.body_len > 0 {
            return Ok(None);
        }
        let target = self.target.join(location.as_bytes())?;
        if self.target.is_secure() && !target.is_secure() {
            let server = self.target.server.clone();
            return Err(FetchError::Downgrade { server });
        }
        let mut headers = self.headers.clone();
        if to_get {
            for name in [
                header::CONTENT_TYPE,
                header::CONTENT_ENCODING,
                header::CONTENT_LANGUAGE,
                header::CONTENT_LOCATION,
            ] {
                headers.remove(name);
            }
        }
        if !target.has_origin_of(&self.target) {
            headers.remove(header::AUTHORIZATION);
            headers.remove(header::COOKIE);
        }
        Ok(Some(Outgoing {
            method: if to_get { Method::GET } else { self.method.clone() },
            target,
            headers,
            body_len: 0,
        }))
    }
}

/// The header fields of a request. What frames the message or names its receiver is ours.
fn headers(fetch: &Fetch) -> Result<HeaderMap, FetchError> {
    let mut headers = HeaderMap::with_capacity(fetch.headers.len());
    for (name, value) in &fetch.headers {
        let refused = || FetchError::HeaderField { name: name.clone() };
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refused())?;
        let ours = [
            header::HOST,
            header::CONTENT_LENGTH,
            header::EXPECT,
            header::UPGRADE,
        ];
        if ours.contains(&name) || is_hop_by_hop(&name) {
            return Err(refused());
        }
        headers.append(name, HeaderValue::from_bytes(value).map_err(|_| refused())?);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use serde_bytes::ByteBuf;

    use super::*;

    fn fetch(method: &str, url: &str, headers: &[(&str, &[u8])], body_len: u64) -> Fetch {
        let field = |(name, value): &(&str, &[u8])| ((*name).to_owned(), ByteBuf::from(*value));
        Fetch {
            method: method.to_owned(),
            url: url.to_owned(),
            headers: headers.iter().map(field).collect(),
            body_len,
            timeout_ms: 0,
            redirects_max: 5,
        }
    }

    #[test]
    fn what_a_doee_may_not_say_is_refused() {
        for method in ["get", "CONNECT", "TRACE", "", "GET /", "GET\r\n"] {
            let error = Outgoing::new(&fetch(method, "http://a.b/", &[], 0)).expect_err(method);
            assert!(matches!(error, FetchError::Method { .. }), "{method:?}: {error}");
        }
        let fields: [(&str, &[u8]); 16] = [
            ("host", b"c.d"),
            ("Host", b"c.d"),
            ("content-length", b"1"),
            ("transfer-encoding", b"chunked"),
            ("connection", b"x"),
            ("keep-alive", b"x"),
            ("te", b"trailers"),
            ("trailer", b"x"),
            ("upgrade", b"h2c"),
            ("expect", b"100-continue"),
            ("proxy-authorization", b"x"),
            ("x y", b"z"),
            ("", b"z"),
            ("x", b"a\r\nhost: c.d"),
            ("x", b"a\nb"),
            ("x\r\nhost", b"c.d"),
        ];
        for (name, value) in fields {
            let error = Outgoing::new(&fetch("GET", "http://a.b/", &[(name, value)], 0)).expect_err(name);
            assert!(
                matches!(error, FetchError::HeaderField { .. }),
                "{name:?}: {error}"
            );
        }
        let long = vec![b'x'; FETCH_HEAD_LEN_MAX];
        for too_large in [
            fetch("GET", "http://a.b/", &[("x", &long)], 0),
            fetch("GET", "http://a.b/", &[("x", &b""[..]); FETCH_HEADERS_MAX + 1], 0),
            fetch("PUT", "http://a.b/", &[], FETCH_BODY_LEN_MAX + 1),
        ] {
            let error = Outgoing::new(&too_large).expect_err("over a limit");
            assert!(matches!(error, FetchError::RequestTooLarge { .. }), "{error}");
        }
    }

    /// What a redirect makes of a request with credentials: method, URL, names of the fields.
    fn follow(method: &str, url: &str, body_len: u64, status: u16, location: &str) -> Option<String> {
        let fields: [(&str, &[u8]); 4] = [
            ("accept", b"*/*"),
            ("authorization", b"secret"),
            ("content-type", b"text/plain"),
            ("cookie", b"a=1"),
        ];
        let outgoing = Outgoing::new(&fetch(method, url, &fields, body_len)).expect("a request");
        let mut answer = HeaderMap::new();
        answer.insert(header::LOCATION, location.parse().expect("a field"));
        let status = StatusCode::from_u16(status).expect("a status");
        match outgoing.redirected(status, &answer) {
            Ok(next) => next.map(|next| {
                let mut names: Vec<_> = next.headers.keys().map(HeaderName::as_str).collect();
                names.sort_unstable();
                assert_eq!(next.body_len, 0);
                format!("{} {} {}", next.method, next.target.as_str(), names.join(","))
            }),
            Err(error) => Some(error.to_string()),
        }
    }

    #[test]
    fn a_redirect_keeps_or_changes_the_method_as_http_says() {
        let same = |method| {
            Some(format!(
                "{method} http://a.b/2 accept,authorization,content-type,cookie"
            ))
        };
        let get = Some("GET http://a.b/2 accept,authorization,cookie".to_owned());
        let cases = [
            ("GET", 0, 301, same("GET")),
            ("POST", 3, 301, get.clone()),
            ("POST", 3, 302, get.clone()),
            ("PUT", 0, 302, same("PUT")),
            ("PUT", 3, 302, None),
            ("PUT", 3, 303, get.clone()),
            ("HEAD", 0, 303, same("HEAD")),
            ("POST", 0, 307, same("POST")),
            ("POST", 3, 307, None),
            ("DELETE", 0, 308, same("DELETE")),
            ("GET", 0, 300, None),
            ("GET", 0, 304, None),
            ("GET", 0, 200, None),
        ];
        for (method, body_len, status, expected) in cases {
            let followed = follow(method, "http://a.b/1", body_len, status, "/2");
            assert_eq!(followed, expected, "{method} {status}");
        }
    }

    #[test]
    fn credentials_stay_with_their_origin_and_https_stays_https() {
        let without = |url: &str| Some(format!("GET {url} accept,content-type"));
        for (from, location) in [
            ("http://a.b/", "http://c.d/"),
            ("http://a.b/", "http://a.b:81/"),
            ("http://a.b/", "https://a.b/"),
            ("http://a.b/", "//x.a.b/"),
        ] {
            let to = location.replacen("//x", "http://x", usize::from(location.starts_with("//")));
            assert_eq!(follow("GET", from, 0, 302, location), without(&to), "{location}");
        }
        let refused = "a.b:443 redirects from https to http, which is not followed";
        assert_eq!(
            follow("GET", "https://a.b/", 0, 302, "http://a.b:443/"),
            Some(refused.to_owned())
        );
        let scheme = "the URL is not usable: its scheme is neither http nor https";
        assert_eq!(
            follow("GET", "https://a.b/", 0, 302, "file:///etc/passwd"),
            Some(scheme.to_owned())
        );
    }
}
