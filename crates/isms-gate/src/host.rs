//! Which `Host` a request may name.
//!
//! A web page can let its own name point at 127.0.0.1 and then speak to this listener as its own
//! origin (DNS rebinding). It cannot make the browser send another `Host` than its own name.

use std::net::SocketAddr;

use http::{Request, StatusCode, header, uri::Authority};
use isms_http::Problem;

/// The port that a `Host` without one means.
const HTTP_PORT: u16 = 80;

/// The names and ports under which this listener is reached.
#[derive(Debug)]
pub(crate) struct HostPolicy {
    allowed: Vec<(String, u16)>,
}

impl HostPolicy {
    /// Allows loopback, the listener's own address, and the configured names.
    pub(crate) fn new(listener: SocketAddr, configured: &[String]) -> HostPolicy {
        let port = listener.port();
        let mut allowed: Vec<_> = ["127.0.0.1", "localhost", "[::1]"]
            .map(|name| (name.to_owned(), port))
            .into();
        if !listener.ip().is_unspecified() {
            let name = listener.to_string();
            allowed.extend(split(&name).map(|(name, _)| (name, port)));
        }
        allowed.extend(
            configured
                .iter()
                .filter_map(|name| split(name))
                .map(|(name, own)| (name, own.unwrap_or(port))),
        );
        HostPolicy { allowed }
    }

    /// Fails with 421 when a request is meant for another host.
    pub(crate) fn check<B>(&self, request: &Request<B>) -> Result<(), Problem> {
        let host = request
            .headers()
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        let authority = request.uri().authority().map(Authority::as_str);
        if host.is_some_and(|host| self.allows(host)) && authority.is_none_or(|host| self.allows(host)) {
            return Ok(());
        }
        let detail = "this host name is not served here; add it to `[gate] hosts` if it should be";
        Err(Problem::http(StatusCode::MISDIRECTED_REQUEST, detail))
    }

    fn allows(&self, host: &str) -> bool {
        let named = split(host).map(|(name, port)| (name, port.unwrap_or(HTTP_PORT)));
        named.is_some_and(|named| self.allowed.contains(&named))
    }
}

/// Splits `NAME[:PORT]` or `[IPV6][:PORT]`; the name in lower case.
fn split(host: &str) -> Option<(String, Option<u16>)> {
    let name_len = match host.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => host.find(':').unwrap_or(host.len()),
    };
    let (name, port) = host.split_at(name_len);
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        None => return None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
        Some(_) => return None,
    };
    (!name.is_empty()).then(|| (name.to_ascii_lowercase(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(listener: &str, allowed: &[&str], refused: &[&str]) {
        let configured = ["isms.example.com".to_owned(), "proxy.example.com:443".to_owned()];
        let policy = HostPolicy::new(listener.parse().expect("an address"), &configured);
        for host in allowed {
            assert!(policy.allows(host), "{host} is refused");
        }
        for host in refused {
            assert!(!policy.allows(host), "{host} is allowed");
        }
    }

    #[test]
    fn loopback_and_configured_names_are_allowed_at_the_listeners_port() {
        check(
            "127.0.0.1:7070",
            &[
                "127.0.0.1:7070",
                "localhost:7070",
                "LocalHost:7070",
                "[::1]:7070",
                "isms.example.com:7070",
                "proxy.example.com:443",
            ],
            &[
                "127.0.0.1",
                "localhost:8080",
                "evil.example:7070",
                "localhost.evil.example:7070",
                "127.0.0.1:7070:7070",
                "127.0.0.1:+7070",
                "127.0.0.1:77070",
                "[::1]7070",
                "[::1",
                "user@127.0.0.1:7070",
                "proxy.example.com:7070",
                "isms.example.com",
                ":7070",
                "",
            ],
        );
    }

    #[test]
    fn a_listener_on_port_80_needs_no_port() {
        check(
            "10.0.0.5:80",
            &["10.0.0.5", "localhost", "10.0.0.5:80"],
            &["10.0.0.6"],
        );
    }

    #[test]
    fn an_unspecified_address_is_no_name() {
        check(
            "0.0.0.0:7070",
            &["localhost:7070"],
            &["0.0.0.0:7070", "10.0.0.5:7070"],
        );
        check(
            "[2001:db8::1]:7070",
            &["[2001:db8::1]:7070"],
            &["[2001:db8::2]:7070"],
        );
    }
}
