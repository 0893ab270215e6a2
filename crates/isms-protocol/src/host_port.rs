//! `host:port`: how a grant names a server outside, and what a URL is compared with.
//!
//! One server has one spelling: a name in lower case, an address as RFC 5952 writes it, a port without
//! leading zeros. So a grant equals a URL's host and port exactly when their texts are equal.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// Bytes of a host's name (RFC 1035).
const NAME_LEN_MAX: usize = 253;
/// Bytes of one of its labels.
const LABEL_LEN_MAX: usize = 63;

/// A server: `api.example.com:443`, `192.168.1.20:8080`, `[2001:db8::1]:443`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Which machine.
    pub host: Host,
    /// Which port; never 0.
    pub port: u16,
}

/// A machine, by name or by address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name of the DNS in lower case; another script than Latin in its ASCII form (`xn--…`).
    Name(String),
    /// An address.
    Address(IpAddr),
}

/// Why a text is no `host:port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostPortError {
    /// There is no port, or one that does not exist.
    #[error("its port is missing or not 1 to 65535")]
    Port,
    /// The host in brackets is no address.
    #[error("what stands in brackets is not an IPv6 address")]
    Address,
    /// The host is no name.
    #[error("its host is neither an address nor a name of letters, digits, - and . in lower case")]
    Name,
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<HostPort, HostPortError> {
        let (host, port) = text.rsplit_once(':').ok_or(HostPortError::Port)?;
        let plain = !port.starts_with('0') && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| plain).ok_or(HostPortError::Port)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let address = rest.strip_suffix(']').and_then(|address| address.parse().ok());
                let address: Ipv6Addr = address.ok_or(HostPortError::Address)?;
                Host::Address(address.into())
            }
            None => match host.parse::<Ipv4Addr>() {
                Ok(address) => Host::Address(address.into()),
                Err(_) if is_name(host) => Host::Name(host.to_owned()),
                Err(_) => return Err(HostPortError::Name),
            },
        };
        Ok(HostPort { host, port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.host, self.port)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => formatter.write_str(name),
            Host::Address(IpAddr::V4(address)) => write!(formatter, "{address}"),
            Host::Address(IpAddr::V6(address)) => write!(formatter, "[{address}]"),
        }
    }
}

/// True for a name of the DNS that no resolver takes for an address, such as `127.1` or `0x7f000001`.
fn is_name(name: &str) -> bool {
    let label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=LABEL_LEN_MAX).contains(&label.len())
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    let number = last.starts_with("0x") || last.bytes().all(|byte| byte.is_ascii_digit());
    name.len() <= NAME_LEN_MAX && name.split('.').all(label) && !number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_one_spelling() {
        for text in [
            "api.example.com:443",
            "localhost:80",
            "xn--bcher-kva.example:8443",
            "192.168.1.20:8080",
            "[2001:db8::1]:65535",
            "[::ffff:127.0.0.1]:1",
        ] {
            let parsed: HostPort = text.parse().expect(text);
            assert_eq!(parsed.to_string(), text);
        }
        let long: HostPort = "[2001:DB8:0::1]:1".parse().expect("an address");
        assert_eq!(long.to_string(), "[2001:db8::1]:1");
    }

    #[test]
    fn what_is_no_server_is_refused_by_its_part() {
        let cases = [
            ("example.com", HostPortError::Port),
            ("example.com:", HostPortError::Port),
            ("example.com:0", HostPortError::Port),
            ("example.com:080", HostPortError::Port),
            ("example.com:+80", HostPortError::Port),
            ("example.com:65536", HostPortError::Port),
            ("[::1]", HostPortError::Port),
            ("[::1%eth0]:80", HostPortError::Address),
            ("[127.0.0.1]:80", HostPortError::Address),
            ("::1:80", HostPortError::Name),
            (":80", HostPortError::Name),
            ("Example.com:80", HostPortError::Name),
            ("*.example.com:80", HostPortError::Name),
            ("example.com.:80", HostPortError::Name),
            ("a..b:80", HostPortError::Name),
            ("-a.b:80", HostPortError::Name),
            ("a_b.c:80", HostPortError::Name),
            ("user@a.b:80", HostPortError::Name),
            ("http://a.b:80", HostPortError::Name),
            ("bücher.example:80", HostPortError::Name),
            ("127.1:80", HostPortError::Name),
            ("0177.0.0.1:80", HostPortError::Name),
            ("2130706433:80", HostPortError::Name),
            ("0x7f000001:80", HostPortError::Name),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<HostPort>(), Err(expected), "{text}");
        }
        let long = format!("{}:80", ["a"; 127].join("."));
        assert!(long.parse::<HostPort>().is_ok());
        assert_eq!(format!("a.{long}").parse::<HostPort>(), Err(HostPortError::Name));
    }
}
