//! From a server's name to a connection whose address was checked.
//!
//! A name is resolved once for each request, and what is connected to is the address that was checked:
//! a name whose owner changes its answer in between gains nothing.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket},
    sync::Arc,
    time::Duration,
};

use isms_protocol::{Host, HostPort};
use rustls::ClientConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsConnector;

use super::{
    address::{AddressRule, Verdict, judge},
    error::{FetchError, Stage},
    slots::Slot,
    target::Target,
    tls,
};

/// Time for the resolver.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a TCP connection, over all addresses that are tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a TLS handshake.
const TLS_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of one server that are tried.
const ADDRESSES_MAX: usize = 4;

/// Resolves a name; may block, and runs where that harms nobody.
pub type Resolver = Arc<dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// What the system knows of names.
pub(crate) fn system_resolver() -> Resolver {
    Arc::new(|name, port| Ok((name, port).to_socket_addrs()?.collect()))
}

/// Makes connections.
pub(crate) struct Dialer {
    pub(crate) resolver: Resolver,
    pub(crate) rules: Vec<AddressRule>,
    pub(crate) tls: Arc<ClientConfig>,
}

/// What HTTP is spoken over.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Dialer {
    /// Connects to where a URL points.
    pub(crate) async fn dial(
        &self,
        target: &Target,
        slot: &Arc<Slot>,
        until: Instant,
    ) -> Result<Box<dyn Stream>, FetchError> {
        let server = &target.server;
        let addresses = self.resolve(server, slot, until).await?;
        let addresses = self.permitted(server, addresses)?;
        let stream = connect(server, &addresses, until).await?;
        if !target.is_secure() {
            return Ok(Box::new(stream));
        }
        let handshake = TlsConnector::from(self.tls.clone()).connect(tls::server_name(server), stream);
        match timeout_at(until.min(Instant::now() + TLS_TIMEOUT), handshake).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(source)) => Err(FetchError::Tls {
                server: server.clone(),
                source,
            }),
            Err(_) => Err(timed_out(server, Stage::Tls)),
        }
    }

    async fn resolve(
        &self,
        server: &HostPort,
        slot: &Arc<Slot>,
        until: Instant,
    ) -> Result<Vec<SocketAddr>, FetchError> {
        let (name, port) = match &server.host {
            Host::Address(address) => return Ok(vec![SocketAddr::new(*address, server.port)]),
            Host::Name(name) => (name.clone(), server.port),
        };
        let (resolver, slot) = (self.resolver.clone(), slot.clone());
        let lookup = tokio::task::spawn_blocking(move || {
            // A lookup cannot be stopped. It keeps its project's place until it has ended, so that one
            // who asks for slow names in a row does not fill the threads.
            let _slot = slot;
            resolver(&name, port)
        });
        let failed = |source| FetchError::Resolve {
            server: server.clone(),
            source,
        };
        match timeout_at(until.min(Instant::now() + RESOLVE_TIMEOUT), lookup).await {
            Ok(Ok(Ok(addresses))) if addresses.is_empty() => Err(failed(io::Error::new(
                io::ErrorKind::NotFound,
                "it has no address",
            ))),
            Ok(Ok(resolved)) => resolved.map_err(failed),
            Ok(Err(panicked)) => Err(failed(io::Error::other(panicked))),
            Err(_) => Err(timed_out(server, Stage::Resolve)),
        }
    }

    /// The addresses that may be connected to; why the first may not be, when none may.
    fn permitted(
        &self,
        server: &HostPort,
        addresses: Vec<SocketAddr>,
    ) -> Result<Vec<SocketAddr>, FetchError> {
        let mut refused = None;
        let mut permitted = Vec::new();
        for address in addresses {
            // The port is the granted one, whatever a resolver makes of it.
            let address = SocketAddr::new(address.ip().to_canonical(), server.port);
            let what = match judge(&self.rules, address) {
                Verdict::Permitted => None,
                Verdict::Public => is_of_this_machine(address.ip()).then_some("this machine's own"),
                Verdict::Refused(what) => Some(what),
            };
            match what {
                None => permitted.push(address),
                Some(what) => refused = refused.or(Some((address.ip(), what))),
            }
        }
        permitted.truncate(ADDRESSES_MAX);
        match refused {
            Some((address, what)) if permitted.is_empty() => Err(FetchError::Address {
                server: server.clone(),
                address,
                what,
            }),
            _ => Ok(permitted),
        }
    }
}

/// True for an address of one of this machine's interfaces, where services may listen that a firewall
/// keeps from others: the route to it begins at itself. Sends nothing.
fn is_of_this_machine(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    // Without a route there is no connection either.
    source.is_ok_and(|source| source.ip() == address)
}

async fn connect(
    server: &HostPort,
    addresses: &[SocketAddr],
    until: Instant,
) -> Result<TcpStream, FetchError> {
    let tries = async {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return stream.set_nodelay(true).map(|()| stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    match timeout_at(until.min(Instant::now() + CONNECT_TIMEOUT), tries).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(source)) => Err(FetchError::Connect {
            server: server.clone(),
            source,
        }),
        Err(_) => Err(timed_out(server, Stage::Connect)),
    }
}

fn timed_out(server: &HostPort, stage: Stage) -> FetchError {
    FetchError::TimedOut {
        server: server.clone(),
        stage,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_this_machine_is_told_from_others() {
        assert!(is_of_this_machine(Ipv4Addr::LOCALHOST.into()));
        for foreign in ["192.0.2.1", "2001:db8::1"] {
            assert!(!is_of_this_machine(foreign.parse().expect(foreign)), "{foreign}");
        }
    }
}
