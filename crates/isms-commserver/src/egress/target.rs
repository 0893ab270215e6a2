//! A URL as the place that a request goes to.

use isms_protocol::{HostPort, limits::FETCH_HEAD_LEN_MAX};
use url::Url;

use super::error::FetchError;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    url: Url,
    /// The server, as grants spell it.
    pub(crate) server: HostPort,
}

impl Target {
    /// Reads an absolute URL.
    pub(crate) fn parse(text: &str) -> Result<Target, FetchError> {
        check_text(text)?;
        let url = Url::parse(text).map_err(|_| FetchError::Url {
            why: "it is no absolute URL",
        })?;
        Target::new(url)
    }

    /// The place that a `location` of this one's answer leads to.
    pub(crate) fn join(&self, location: &[u8]) -> Result<Target, FetchError> {
        let text = str::from_utf8(location).map_err(|_| FetchError::Url {
            why: "the location of a redirect is no text",
        })?;
        check_text(text)?;
        let url = self.url.join(text).map_err(|_| FetchError::Url {
            why: "the location of a redirect is no URL",
        })?;
        Target::new(url)
    }

    fn new(mut url: Url) -> Result<Target, FetchError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(FetchError::Url {
                why: "its scheme is neither http nor https",
            });
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(FetchError::Url {
                why: "it holds a user or a password; send an authorization field",
            });
        }
        url.set_fragment(None);
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(FetchError::Url {
                why: "it has no host",
            });
        };
        let server = format!("{host}:{port}").parse().map_err(|_| FetchError::Url {
            why: "its host is neither an address nor a name of letters, digits, - and .",
        })?;
        Ok(Target { url, server })
    }

    /// True for `https`.
    pub(crate) fn is_secure(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// True when both are the same scheme, host and port.
    pub(crate) fn has_origin_of(&self, other: &Target) -> bool {
        self.is_secure() == other.is_secure() && self.server == other.server
    }

    /// What stands in the request line.
    pub(crate) fn path_and_query(&self) -> String {
        match self.url.query() {
            Some(query) => format!("{}?{query}", self.url.path()),
            None => self.url.path().to_owned(),
        }
    }

    /// What stands in the `host` field: the port only where it is not the scheme's.
    pub(crate) fn authority(&self) -> String {
        match self.url.port() {
            Some(_) => self.server.to_string(),
            None => self.server.host.to_string(),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        self.url.as_str()
    }
}

/// Refuses what a lenient reader of URLs would repair, for instance by leaving out line breaks.
fn check_text(text: &str) -> Result<(), FetchError> {
    if text.len() > FETCH_HEAD_LEN_MAX {
        return Err(FetchError::Url {
            why: "it is too long",
        });
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
        return Err(FetchError::Url {
            why: "it holds a blank, a control character, a backslash or what is not ASCII: encode it",
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> Result<(String, String, String), String> {
        let target = Target::parse(text).map_err(|error| error.to_string())?;
        let server = target.server.to_string();
        Ok((server, target.authority(), target.path_and_query()))
    }

    #[test]
    fn a_url_says_server_host_field_and_request_line() {
        let cases = [
            ("http://a.b", "a.b:80", "a.b", "/"),
            ("HTTPS://A.b/x?y=1#z", "a.b:443", "a.b", "/x?y=1"),
            ("https://a.b:443/", "a.b:443", "a.b", "/"),
            ("http://a.b:8080/a/../b", "a.b:8080", "a.b:8080", "/b"),
            (
                "http://[2001:DB8::1]:81/",
                "[2001:db8::1]:81",
                "[2001:db8::1]:81",
                "/",
            ),
            ("http://0x7f.1/", "127.0.0.1:80", "127.0.0.1", "/"),
            ("http://%61.b/", "a.b:80", "a.b", "/"),
        ];
        for (text, server, authority, line) in cases {
            assert_eq!(
                shape(text),
                Ok((server.to_owned(), authority.to_owned(), line.to_owned())),
                "{text}"
            );
        }
    }

    #[test]
    fn urls_that_could_be_read_in_two_ways_are_refused() {
        for text in [
            "",
            "/a",
            "a.b",
            "ftp://a.b/",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "http://",
            "http://user@a.b/",
            "http://:secret@a.b/",
            "http://a.b@c.d/",
            "http://a.b\\@c.d/",
            "http://a.b/\r\nx: y",
            "http://a.b/\tx",
            "http://a.b/ x",
            "http://bücher.example/",
            "http://a_b.c/",
            "http://a.b./",
            "http://a..b/",
            "http://a.b:0/",
            "http://a.b:99999/",
            "http://[::1%25eth0]/",
            &format!("http://a.b/{}", "x".repeat(FETCH_HEAD_LEN_MAX)),
        ] {
            assert!(shape(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_location_is_read_against_where_it_came_from() {
        let from = Target::parse("https://a.b/x/y?z=1").expect("a URL");
        for (location, expected) in [
            ("/c", "https://a.b/c"),
            ("c", "https://a.b/x/c"),
            ("?q", "https://a.b/x/y?q"),
            ("//c.d/e#f", "https://c.d/e"),
            ("http://c.d", "http://c.d/"),
        ] {
            let target = from.join(location.as_bytes()).expect(location);
            assert_eq!(target.as_str(), expected, "{location}");
        }
        for location in [
            &b"gopher://a.b/"[..],
            b"http://u:p@a.b/",
            b"http://a.b/\xff",
            b"/a b",
            b"\\\\c.d/",
        ] {
            assert!(from.join(location).is_err(), "{location:?}");
        }
    }
}
