//! Where traces are sent, and what says that they may.

use std::fmt;

use http::{HeaderName, HeaderValue, Uri, uri::Scheme};
use isms_http::{CaError, tls_client};
use serde::{Deserialize, Serialize};

/// Header fields of the file.
const HEADERS_MAX: usize = 32;
/// What is asked for below the collector's URL.
const PATH: &str = "/v1/traces";

/// A collector of OpenTelemetry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtlpConfig {
    /// Its URL, such as `http://127.0.0.1:4318`.
    pub url: String,
    /// Lines `NAME: VALUE`, each a field of every request. They may hold secrets.
    pub headers: String,
    /// Certificates that are trusted beside the public ones, as PEM.
    pub ca_pem: String,
}

/// Why a collector cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// It is no URL, or one that says more than where.
    #[error("it is no `http://HOST[:PORT][/PATH]`, nor the same with https")]
    Url,
    /// A line is no header field. What it says is not repeated.
    #[error("line {line} of its header fields is no `NAME: VALUE`")]
    Header {
        /// Which, from 1.
        line: usize,
    },
    /// There are too many.
    #[error("it has more than {HEADERS_MAX} header fields")]
    Headers,
    /// The certificates cannot be used.
    #[error("its certificates cannot be used")]
    Ca(#[from] CaError),
}

/// The same, checked.
#[derive(Clone, Debug)]
pub(crate) struct Collector {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) secure: bool,
    /// Of the `host` field.
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

impl fmt::Debug for OtlpConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("OtlpConfig")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl OtlpConfig {
    /// Checks all of it.
    pub fn check(&self) -> Result<(), OtlpError> {
        self.collector()?;
        tls_client(&self.ca_pem)?;
        Ok(())
    }

    pub(crate) fn collector(&self) -> Result<Collector, OtlpError> {
        let uri: Uri = self.url.parse().map_err(|_| OtlpError::Url)?;
        let secure = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(OtlpError::Url),
        };
        let authority = uri.authority().ok_or(OtlpError::Url)?;
        let has_more = uri.query().is_some() || authority.as_str().contains('@') || self.url.contains('#');
        if has_more || authority.host().is_empty() {
            return Err(OtlpError::Url);
        }
        let host = authority.host();
        // A port that is none reads as if there were none.
        if authority.port_u16().is_none() && authority.as_str() != host {
            return Err(OtlpError::Url);
        }
        let unbracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        Ok(Collector {
            host: unbracketed.unwrap_or(host).to_owned(),
            port: authority.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            secure,
            authority: authority.as_str().to_owned(),
            path: format!("{}{PATH}", uri.path().trim_end_matches('/')),
            headers: self.headers()?,
        })
    }

    fn headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, OtlpError> {
        let mut headers = Vec::new();
        for (index, line) in self.headers.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let refused = || OtlpError::Header { line: index + 1 };
            let (name, value) = line.split_once(':').ok_or_else(refused)?;
            let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| refused())?;
            let mut value = HeaderValue::from_str(value.trim()).map_err(|_| refused())?;
            value.set_sensitive(true);
            headers.push((name, value));
        }
        if headers.len() > HEADERS_MAX {
            return Err(OtlpError::Headers);
        }
        Ok(headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str, headers: &str) -> OtlpConfig {
        OtlpConfig {
            url: url.into(),
            headers: headers.into(),
            ca_pem: String::new(),
        }
    }

    #[test]
    fn a_url_says_where_and_nothing_else() {
        let cases = [
            ("http://127.0.0.1:4318", ("127.0.0.1", 4318, false, "/v1/traces")),
            ("http://collector/", ("collector", 80, false, "/v1/traces")),
            (
                "https://otlp.example.com/otlp/",
                ("otlp.example.com", 443, true, "/otlp/v1/traces"),
            ),
            ("http://[::1]:4318", ("::1", 4318, false, "/v1/traces")),
        ];
        for (url, expected) in cases {
            let found = config(url, "").collector().expect(url);
            let found = (&*found.host, found.port, found.secure, &*found.path);
            assert_eq!(found, expected, "{url}");
        }
        for url in [
            "",
            "127.0.0.1:4318",
            "/v1/traces",
            "grpc://a:4317",
            "http://",
            "http://a:99999",
            "http://user:secret@a",
            "http://a/?key=secret",
            "http://a/#x",
        ] {
            let refused = config(url, "").check().map_err(|error| error.to_string());
            assert!(refused.is_err_and(|error| !error.contains("secret")), "{url}");
        }
    }

    #[test]
    fn header_fields_are_lines_and_never_shown() {
        let text = "# of the vendor\n\nAuthorization: Bearer hidden\nx-tenant:7\n";
        let config = config("http://a", text);
        let headers = config.collector().expect("fine").headers;
        let names: Vec<_> = headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["authorization", "x-tenant"]);
        assert!(!format!("{config:?} {headers:?}").contains("hidden"));
        for text in ["x", "\u{e4}: 1", "a b: 1", "x: a\u{1}hidden"] {
            let error = super::tests::config("http://a", text).check().expect_err(text);
            assert_eq!(
                error.to_string(),
                "line 1 of its header fields is no `NAME: VALUE`"
            );
        }
        let many = "x: 1\n".repeat(HEADERS_MAX + 1);
        assert!(matches!(
            super::tests::config("http://a", &many).check(),
            Err(OtlpError::Headers)
        ));
    }
}
