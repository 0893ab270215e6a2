//! Listeners on the host that must not hear from a worker.

use std::{
    io,
    net::{TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::PermissionsExt,
            net::{SocketAddr, UnixListener},
        },
    },
    path::Path,
};

use anyhow::{Context, Result};

use super::outside::Outside;

pub(super) struct Listeners {
    pub(super) port: u16,
    pub(super) port6: u16,
    pub(super) udp_port: u16,
    pub(super) abstract_name: String,
    tcp: Vec<TcpListener>,
    udp: UdpSocket,
    unix: Vec<UnixListener>,
    _outside: Option<Outside>,
}

impl Listeners {
    /// `throwaway`: the machine may be given a neighbour, with a cloud's metadata service on it.
    pub(super) fn open(folder: &Path, throwaway: bool) -> Result<Self> {
        let v4 = TcpListener::bind("127.0.0.1:0").context("cannot listen on loopback")?;
        let port = v4.local_addr().context("a listener without an address")?.port();
        let mut tcp = vec![v4];
        let mut port6 = port;
        // A machine without IPv6 has nothing there to be attacked.
        if let Ok(v6) = TcpListener::bind("[::1]:0") {
            port6 = v6.local_addr().context("a listener without an address")?.port();
            tcp.push(v6);
        }
        let mut outside = None;
        if throwaway {
            let (made, listener) = Outside::make()?;
            outside = Some(made);
            tcp.push(listener);
        }
        let udp = UdpSocket::bind("127.0.0.1:0").context("cannot listen on loopback")?;
        let path = folder.join("socket");
        let by_path = UnixListener::bind(&path).context("cannot listen on a Unix socket")?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))
            .context("cannot open a Unix socket to everybody")?;
        let abstract_name = folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let address = SocketAddr::from_abstract_name(&abstract_name).context("an abstract name")?;
        let by_name = UnixListener::bind_addr(&address).context("cannot listen on an abstract socket")?;
        let listeners = Self {
            port,
            port6,
            udp_port: udp.local_addr().context("a socket without an address")?.port(),
            abstract_name,
            tcp,
            udp,
            unix: vec![by_path, by_name],
            _outside: outside,
        };
        listeners.set_nonblocking().context("cannot poll the listeners")?;
        Ok(listeners)
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        self.tcp.iter().try_for_each(|it| it.set_nonblocking(true))?;
        self.udp.set_nonblocking(true)?;
        self.unix.iter().try_for_each(|it| it.set_nonblocking(true))
    }

    /// Who was reached since the last time.
    pub(super) fn heard(&self) -> Vec<String> {
        let mut heard = Vec::new();
        for listener in &self.tcp {
            while listener.accept().is_ok() {
                heard.push(format!("a connection reached {:?}", listener.local_addr()));
            }
        }
        for listener in &self.unix {
            while listener.accept().is_ok() {
                heard.push(format!("a connection reached {:?}", listener.local_addr()));
            }
        }
        let mut datagram = [0; 64];
        while self.udp.recv_from(&mut datagram).is_ok() {
            heard.push("a datagram reached the host's loopback".to_owned());
        }
        heard
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpStream, os::unix::net::UnixStream};

    use super::*;

    #[test]
    fn each_contact_is_heard_once() {
        let folder = std::env::temp_dir().join(format!("isms-hostile-listeners-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let listeners = Listeners::open(&folder, false).unwrap();
        assert_eq!(listeners.heard(), [] as [String; 0]);
        TcpStream::connect(("127.0.0.1", listeners.port)).unwrap();
        UnixStream::connect(folder.join("socket")).unwrap();
        let name = SocketAddr::from_abstract_name(&listeners.abstract_name).unwrap();
        UnixStream::connect_addr(&name).unwrap();
        let datagram = UdpSocket::bind("127.0.0.1:0").unwrap();
        datagram.send_to(b"x", ("127.0.0.1", listeners.udp_port)).unwrap();
        assert_eq!(listeners.heard().len(), 4);
        assert_eq!(listeners.heard(), [] as [String; 0]);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
