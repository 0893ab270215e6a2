//! What aborts or bloats other endpoints.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream as StdStream,
};

use isms_ipc::{
    Connection, ConnectionError, Receiver, Sender, Side,
    zmtp::{Engine, ZmtpError},
};
use isms_protocol::{Header, Kind, Message, Service};
use tokio::net::{UnixListener, UnixStream};

use crate::kernel::soon;

/// Greeting and READY of a DEALER that claims an identity.
fn hello(identity: &[u8]) -> Vec<u8> {
    let mut bytes = Engine::new(Side::Connect).output()[..64].to_vec();
    let mut body = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0".to_vec();
    body.push(identity.len() as u8);
    body.extend_from_slice(identity);
    bytes.extend_from_slice(&[4, body.len() as u8]);
    bytes.extend_from_slice(&body);
    bytes
}

/// A stranger and the bound end that it speaks to.
async fn stranger(identity: &[u8]) -> (StdStream, Sender, Receiver) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut theirs = theirs.into_std().unwrap();
    theirs.set_nonblocking(false).unwrap();
    theirs.write_all(&hello(identity)).unwrap();
    let (sender, receiver) = Connection::establish(ours, Side::Bind).await.unwrap();
    (theirs, sender, receiver)
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_frame_that_announces_2_to_the_62_bytes_ends_the_connection() {
    let before = resident_kib();
    let (mut theirs, sender, mut receiver) = stranger(b"").await;
    theirs
        .write_all(&[&[2][..], &(1_u64 << 62).to_be_bytes()].concat())
        .unwrap();
    let error = soon(receiver.next()).await.unwrap_err();
    assert!(
        matches!(&error, ConnectionError::Zmtp(ZmtpError::MessageTooLong { len }) if *len == 1 << 62),
        "{error:?}"
    );
    assert!(sender.is_closed());
    assert!(resident_kib() - before < 8 * 1024);
}

#[tokio::test]
async fn a_frame_of_2_to_the_62_bytes_instead_of_ready_fails_the_handshake() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut theirs = theirs.into_std().unwrap();
    theirs
        .write_all(&[&hello(b"")[..64], &[6], &(1_u64 << 62).to_be_bytes()].concat())
        .unwrap();
    let error = soon(Connection::establish(ours, Side::Bind)).await.unwrap_err();
    assert!(
        matches!(error, ConnectionError::Zmtp(ZmtpError::CommandTooLong { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn endless_empty_more_frames_end_the_connection_and_take_no_memory() {
    let before = resident_kib();
    let (mut theirs, _sender, mut receiver) = stranger(b"").await;
    let flood = std::thread::spawn(move || {
        let frames = [1, 0].repeat(512 * 1024);
        (0..32).take_while(|_| theirs.write_all(&frames).is_ok()).count()
    });
    let error = soon(receiver.next()).await.unwrap_err();
    assert!(
        matches!(error, ConnectionError::Zmtp(ZmtpError::TooManyFrames)),
        "{error:?}"
    );
    receiver.shut_down().await;
    assert!(
        flood.join().unwrap() < 32,
        "the connection was cut before 32 MiB had been taken"
    );
    assert!(resident_kib() - before < 16 * 1024);
}

#[tokio::test]
async fn a_stolen_identity_takes_over_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bound.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut ends = Vec::new();
    for _ in 0..2 {
        let mut theirs = StdStream::connect(&path).unwrap();
        theirs.write_all(&hello(b"doer")).unwrap();
        let (ours, _) = listener.accept().await.unwrap();
        let (sender, receiver) = Connection::establish(ours, Side::Bind).await.unwrap();
        ends.push((theirs, sender, receiver));
    }
    for (number, (_, sender, _)) in ends.iter().enumerate() {
        let mut header = Header::new(Kind::Event, Service::Kernel, Service::Doer);
        header.call = number as u64;
        sender.send(&Message::bare(header)).unwrap();
    }
    for (number, (mut theirs, _sender, receiver)) in ends.into_iter().enumerate() {
        receiver.shut_down().await;
        let mut received = Vec::new();
        theirs.read_to_end(&mut received).unwrap();
        let header = Header::decode(&received[received.len() - 160..]).unwrap();
        assert_eq!(header.call, number as u64, "each connection got its own message");
    }
}

#[tokio::test]
async fn garbage_and_messages_of_another_kind_end_the_connection() {
    let (mut theirs, _sender, mut receiver) = stranger(b"").await;
    theirs.write_all(b"\0\x05hello").unwrap();
    let error = soon(receiver.next()).await.unwrap_err();
    assert!(matches!(error, ConnectionError::Message(_)), "{error:?}");
    assert!(
        matches!(soon(receiver.next()).await, Ok(None)),
        "an error is final"
    );
}
