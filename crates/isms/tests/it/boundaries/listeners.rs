//! Bytes that are no HTTP, and connections that never finish a request, on the listeners of both edges.

use std::{
    io::Write,
    net::{SocketAddr, TcpStream},
};

use super::{Besieged, frames, garbage, greeting, read_to_its_end};
use crate::harness::SOON;

use isms_protocol::{Header, Kind, Message, Service};

/// Connections of each kind that stay unfinished, at each edge.
const UNFINISHED: usize = 64;

fn connect(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    // Whoever is cut off early has been refused already.
    let _ = stream.write_all(bytes);
    stream
}

/// The first message of a TLS 1.2 client, as a browser sends it to a port that it takes for HTTPS.
fn tls_client_hello() -> Vec<u8> {
    let random = garbage(32);
    let hello = [&[3, 3], &random[..], &[0, 0, 2, 0x13, 1, 1, 0]].concat();
    let handshake = [&[1, 0, 0, hello.len() as u8], &hello[..]].concat();
    [&[0x16, 3, 1, 0, handshake.len() as u8], &handshake[..]].concat()
}

#[test]
fn other_protocols_and_garbage_are_refused_by_both_edges() {
    let Some(besieged) = Besieged::start() else { return };
    let platform = &besieged.platform;
    let register = Message::bare(Header::new(Kind::Register, Service::Gate, Service::Kernel));
    let strange = [
        tls_client_hello(),
        garbage(64 * 1024),
        vec![0; 64 * 1024],
        [greeting(), frames(&register)].concat(),
        b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        [
            &b"GET /honest/ HTTP/1.1\r\nhost: x\r\nx: "[..],
            &garbage(1024),
            b"\r\n\r\n",
        ]
        .concat(),
    ];
    let refused = |address, bytes: &[u8]| {
        let said = read_to_its_end(&mut connect(address, bytes));
        let said = String::from_utf8_lossy(&said);
        let start = bytes[..bytes.len().min(16)].escape_ascii();
        // Closed without a word is a refusal, too.
        assert!(
            said.is_empty() || said.starts_with("HTTP/1.1 4"),
            "{start}...: {said}"
        );
    };
    besieged.serves_while(|| {
        std::thread::scope(|scope| {
            for address in [platform.http, platform.gate] {
                for bytes in &strange {
                    scope.spawn(move || refused(address, bytes));
                }
            }
        });
    });
}

#[test]
fn connections_that_never_finish_a_request_take_nothing_from_the_others() {
    let Some(besieged) = Besieged::start() else { return };
    let platform = &besieged.platform;
    let unfinished: [&[u8]; 3] = [
        b"",
        b"GET /honest/ HTTP/1.1\r\nhost: x\r\nx: ",
        b"POST /nowhere/ HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nhalf",
    ];
    besieged.serves_while(|| {
        let mut held = Vec::new();
        for address in [platform.http, platform.gate] {
            for bytes in unfinished {
                held.extend((0..UNFINISHED).map(|_| connect(address, bytes)));
            }
        }
        // Beside them a caller and an administrator come through.
        besieged.check_served();
        assert!(platform.isms(&["status"]).status.success());
        held
    });
}
