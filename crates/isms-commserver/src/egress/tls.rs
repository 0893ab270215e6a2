//! By which name a server must prove over TLS who it is.

use isms_protocol::{Host, HostPort};
use rustls::pki_types::ServerName;

/// The name that a server's certificate must hold: the granted one.
pub(crate) fn server_name(server: &HostPort) -> ServerName<'static> {
    match &server.host {
        Host::Address(address) => ServerName::IpAddress((*address).into()),
        Host::Name(name) => {
            let name = ServerName::try_from(name.clone());
            name.expect("a host's name is a DNS name, by its parser")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_that_may_be_granted_is_a_name_for_tls() {
        for server in [
            "a.b:1",
            "localhost:1",
            "xn--bcher-kva.example:1",
            "1a.b:1",
            "127.0.0.1:1",
            "[::1]:1",
            "a--b.c:1",
        ] {
            server_name(&server.parse().expect(server));
        }
    }
}
