//! Which addresses a request may go to: public ones, and those that the administrator's rules name.
//!
//! What a name resolves to is its owner's choice, so the address decides and never the name. Version 6 is
//! closed by default: only global unicast without its special parts is public, and a form that carries an
//! address of version 4 (mapped, NAT64, 6to4) is as good as the address that it carries.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// Networks of version 4 that are not public: first address, length of the prefix, what it is.
const NOT_PUBLIC_V4: &[(Ipv4Addr, u8, &str)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8, "unspecified"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "shared by a carrier"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
    (Ipv4Addr::new(168, 63, 129, 16), 32, "a metadata service"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "reserved"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "for documentation"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "reserved"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "for benchmarks"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "for documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "for documentation"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved"),
];

/// The only part of version 6 that can be public, and what in it is not.
const GLOBAL_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
const NOT_PUBLIC_V6: &[(Ipv6Addr, u8, &str)] = &[
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, "reserved"),
    (
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0),
        32,
        "for documentation",
    ),
    (
        Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0),
        20,
        "for documentation",
    ),
];
/// NAT64 with its well-known prefix (RFC 6052): the last 32 bits are an address of version 4.
const NAT64: (Ipv6Addr, u8) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);
/// 6to4 (RFC 3056): bits 16 to 47 are an address of version 4.
const SIX_TO_FOUR: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16);

/// What the administrator permits beyond public addresses: `127.0.0.1:9000`, `10.0.0.0/8:*`,
/// `[fd00::/8]:443`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRule {
    network: IpAddr,
    prefix_len: u8,
    /// `None` for every port.
    port: Option<u16>,
}

/// Why a text is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no address rule; write ADDRESS:PORT, NETWORK/LENGTH:PORT or NETWORK/LENGTH:*, version 6 in brackets"
)]
pub struct AddressRuleError {
    text: String,
}

impl FromStr for AddressRule {
    type Err = AddressRuleError;

    fn from_str(text: &str) -> Result<AddressRule, AddressRuleError> {
        parse(text).ok_or_else(|| AddressRuleError {
            text: text.to_owned(),
        })
    }
}

fn parse(text: &str) -> Option<AddressRule> {
    let (network, port) = text.rsplit_once(':')?;
    let port = match port {
        "*" => None,
        port => Some(port.parse().ok().filter(|port| *port != 0)?),
    };
    let bracketed = network.strip_prefix('[').map(|rest| rest.strip_suffix(']'));
    let is_v6 = bracketed.is_some();
    let network = bracketed.unwrap_or(Some(network))?;
    let (address, prefix_len) = match network.split_once('/') {
        Some((address, len)) => (address, Some(len.parse().ok()?)),
        None => (network, None),
    };
    let network: IpAddr = address
        .parse()
        .ok()
        .filter(|address: &IpAddr| address.is_ipv6() == is_v6)?;
    let len_max = if is_v6 { 128 } else { 32 };
    let prefix_len = prefix_len.unwrap_or(len_max);
    let rule = AddressRule {
        network,
        prefix_len,
        port,
    };
    // A bit behind the prefix is a mistake: the rule would permit more than it seems to.
    (prefix_len <= len_max && rule.first() == network).then_some(rule)
}

impl fmt::Display for AddressRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.network {
            IpAddr::V4(network) => write!(formatter, "{network}/{}", self.prefix_len)?,
            IpAddr::V6(network) => write!(formatter, "[{network}/{}]", self.prefix_len)?,
        }
        match self.port {
            Some(port) => write!(formatter, ":{port}"),
            None => formatter.write_str(":*"),
        }
    }
}

impl TryFrom<String> for AddressRule {
    type Error = AddressRuleError;

    fn try_from(text: String) -> Result<AddressRule, AddressRuleError> {
        text.parse()
    }
}

impl From<AddressRule> for String {
    fn from(rule: AddressRule) -> String {
        rule.to_string()
    }
}

impl AddressRule {
    fn first(&self) -> IpAddr {
        match self.network {
            IpAddr::V4(network) => Ipv4Addr::from_bits(high_v4(network, self.prefix_len)).into(),
            IpAddr::V6(network) => Ipv6Addr::from_bits(high_v6(network, self.prefix_len)).into(),
        }
    }

    fn permits(&self, address: SocketAddr) -> bool {
        let inside = match (self.network, address.ip()) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => is_in_v4(ip, (network, self.prefix_len)),
            (IpAddr::V6(network), IpAddr::V6(ip)) => is_in_v6(ip, (network, self.prefix_len)),
            _ => false,
        };
        inside && self.port.is_none_or(|port| port == address.port())
    }
}

/// How an address may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A rule of the administrator names it.
    Permitted,
    /// It is public, unless it belongs to this machine.
    Public,
    /// It is not public, and this is what it is.
    Refused(&'static str),
}

/// Decides about an address without looking at the machine.
pub(crate) fn judge(rules: &[AddressRule], address: SocketAddr) -> Verdict {
    let ip = address.ip().to_canonical();
    let canonical = SocketAddr::new(ip, address.port());
    if rules.iter().any(|rule| rule.permits(canonical)) {
        return Verdict::Permitted;
    }
    let what = match ip {
        IpAddr::V4(ip) => not_public_v4(ip),
        IpAddr::V6(ip) => not_public_v6(ip),
    };
    what.map_or(Verdict::Public, Verdict::Refused)
}

fn not_public_v4(ip: Ipv4Addr) -> Option<&'static str> {
    let mut networks = NOT_PUBLIC_V4.iter();
    let found = networks.find(|(network, len, _)| is_in_v4(ip, (*network, *len)));
    found.map(|(_, _, what)| *what)
}

fn not_public_v6(ip: Ipv6Addr) -> Option<&'static str> {
    let bits = ip.to_bits();
    if is_in_v6(ip, NAT64) {
        return not_public_v4(Ipv4Addr::from_bits(bits as u32));
    }
    if is_in_v6(ip, SIX_TO_FOUR) {
        return not_public_v4(Ipv4Addr::from_bits((bits >> 80) as u32));
    }
    if ip.is_loopback() {
        return Some("loopback");
    }
    if !is_in_v6(ip, GLOBAL_V6) {
        return Some("not global unicast");
    }
    let mut networks = NOT_PUBLIC_V6.iter();
    let found = networks.find(|(network, len, _)| is_in_v6(ip, (*network, *len)));
    found.map(|(_, _, what)| *what)
}

fn is_in_v4(ip: Ipv4Addr, (network, len): (Ipv4Addr, u8)) -> bool {
    high_v4(ip, len) == high_v4(network, len)
}

fn is_in_v6(ip: Ipv6Addr, (network, len): (Ipv6Addr, u8)) -> bool {
    high_v6(ip, len) == high_v6(network, len)
}

fn high_v4(ip: Ipv4Addr, len: u8) -> u32 {
    ip.to_bits()
        & u32::MAX
            .checked_shl(32_u32.saturating_sub(len.into()))
            .unwrap_or(0)
}

fn high_v6(ip: Ipv6Addr, len: u8) -> u128 {
    ip.to_bits()
        & u128::MAX
            .checked_shl(128_u32.saturating_sub(len.into()))
            .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(rules: &[&str], address: &str) -> Verdict {
        let rules: Vec<_> = rules.iter().map(|rule| rule.parse().expect(rule)).collect();
        judge(&rules, address.parse().expect(address))
    }

    #[test]
    fn only_public_addresses_pass_without_a_rule() {
        for public in [
            "1.1.1.1:443",
            "9.255.255.255:1",
            "11.0.0.0:1",
            "100.63.255.255:1",
            "100.128.0.0:1",
            "126.255.255.255:1",
            "168.63.129.15:80",
            "172.15.255.255:1",
            "172.32.0.0:1",
            "192.0.1.0:1",
            "223.255.255.255:1",
            "[2606:4700::1111]:443",
            "[2a00::1]:1",
            "[64:ff9b::101:101]:443",
            "[2002:101:101::1]:443",
            "[::ffff:1.1.1.1]:443",
        ] {
            assert_eq!(verdict(&[], public), Verdict::Public, "{public}");
        }
        for (refused, what) in [
            ("0.0.0.0:80", "unspecified"),
            ("0.255.0.1:80", "unspecified"),
            ("10.0.0.1:80", "private"),
            ("100.64.0.1:80", "shared by a carrier"),
            ("100.100.100.200:80", "shared by a carrier"),
            ("127.0.0.1:80", "loopback"),
            ("127.255.255.255:80", "loopback"),
            ("168.63.129.16:80", "a metadata service"),
            ("169.254.169.254:80", "link-local"),
            ("172.16.0.1:80", "private"),
            ("172.31.255.255:80", "private"),
            ("192.0.0.192:80", "reserved"),
            ("192.0.2.1:80", "for documentation"),
            ("192.168.1.1:80", "private"),
            ("198.19.255.255:80", "for benchmarks"),
            ("203.0.113.1:80", "for documentation"),
            ("224.0.0.1:80", "multicast"),
            ("239.255.255.255:80", "multicast"),
            ("255.255.255.255:80", "reserved"),
            ("[::]:80", "not global unicast"),
            ("[::1]:80", "loopback"),
            ("[::7f00:1]:80", "not global unicast"),
            ("[::ffff:127.0.0.1]:80", "loopback"),
            ("[::ffff:169.254.169.254]:80", "link-local"),
            ("[64:ff9b::7f00:1]:80", "loopback"),
            ("[64:ff9b::a9fe:a9fe]:80", "link-local"),
            ("[64:ff9b:1::101:101]:80", "not global unicast"),
            ("[100::1]:80", "not global unicast"),
            ("[2001::1]:80", "reserved"),
            ("[2001:1ff::1]:80", "reserved"),
            ("[2001:db8::1]:80", "for documentation"),
            ("[2002:7f00:1::1]:80", "loopback"),
            ("[2002:a9fe:a9fe::1]:80", "link-local"),
            ("[3fff::1]:80", "for documentation"),
            ("[4000::1]:80", "not global unicast"),
            ("[5f00::1]:80", "not global unicast"),
            ("[fc00::1]:80", "not global unicast"),
            ("[fd00:ec2::254]:80", "not global unicast"),
            ("[fe80::1]:80", "not global unicast"),
            ("[fec0::1]:80", "not global unicast"),
            ("[ff02::1]:80", "not global unicast"),
        ] {
            assert_eq!(verdict(&[], refused), Verdict::Refused(what), "{refused}");
        }
    }

    #[test]
    fn a_rule_permits_its_network_and_port_and_nothing_beside() {
        let rules = ["127.0.0.1:9000", "10.1.0.0/16:*", "[fd00::/8]:443"];
        for permitted in [
            "127.0.0.1:9000",
            "[::ffff:127.0.0.1]:9000",
            "10.1.255.255:1",
            "[fd12::1]:443",
        ] {
            assert_eq!(verdict(&rules, permitted), Verdict::Permitted, "{permitted}");
        }
        for refused in [
            "127.0.0.1:9001",
            "127.0.0.2:9000",
            "10.2.0.1:1",
            "[fd12::1]:80",
            "[fe80::1]:443",
            "[64:ff9b::7f00:1]:9000",
        ] {
            assert!(
                matches!(verdict(&rules, refused), Verdict::Refused(_)),
                "{refused}"
            );
        }
        assert_eq!(verdict(&["0.0.0.0/0:80"], "127.0.0.1:80"), Verdict::Permitted);
        assert!(matches!(
            verdict(&["0.0.0.0/0:80"], "[::1]:80"),
            Verdict::Refused(_)
        ));
    }

    #[test]
    fn a_rule_that_makes_no_sense_is_refused() {
        for text in [
            "",
            "127.0.0.1",
            "127.0.0.1:0",
            "127.0.0.1:65536",
            "localhost:80",
            "10.0.0.0/33:80",
            "10.0.0.1/8:80",
            "10.0.0.0/-1:80",
            "::1:80",
            "[::1:80",
            "[127.0.0.1]:80",
            "[::1/129]:80",
            "*:*",
        ] {
            assert!(text.parse::<AddressRule>().is_err(), "{text}");
        }
        for text in ["10.0.0.0/8:*", "[::1/128]:80"] {
            assert_eq!(text.parse::<AddressRule>().map(String::from), Ok(text.to_owned()));
        }
    }
}
