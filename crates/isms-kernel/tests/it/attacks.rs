//! What hostile peers do to the Kernel's socket, while a good peer is served.

use std::{io::ErrorKind, time::Duration};

use isms_protocol::{Service, limits};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use crate::{
    harness::{Kernel, PATIENCE, register, secret},
    registration::check_served,
};

/// A ZMTP 3.1 greeting with the NULL mechanism.
fn greeting() -> [u8; 64] {
    let mut greeting = [0; 64];
    greeting[..12].copy_from_slice(&[0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 1]);
    greeting[12..16].copy_from_slice(b"NULL");
    greeting
}

/// A READY command of a DEALER that claims an identity.
fn ready(identity: &[u8]) -> Vec<u8> {
    let mut body = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity".to_vec();
    body.extend((identity.len() as u32).to_be_bytes());
    body.extend(identity);
    let mut command = vec![4, body.len() as u8];
    command.extend(body);
    command
}

/// Greets, then sends `piece` so many times; the Kernel must end the connection.
async fn check_cut(kernel: &Kernel, piece: &[u8], times: usize) {
    let mut stream = UnixStream::connect(kernel.socket()).await.unwrap();
    stream.write_all(&greeting()).await.unwrap();
    stream.write_all(&ready(b"")).await.unwrap();
    for _ in 0..times {
        match stream.write_all(piece).await {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                return;
            }
            Err(error) => panic!("cannot write: {error}"),
        }
    }
    let end = async {
        let mut buffer = [0; 1024];
        while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {}
    };
    timeout(PATIENCE, end)
        .await
        .expect("the Kernel cuts the attacker");
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_frame_that_announces_2_to_the_62_bytes_is_cut_and_reserves_nothing() {
    let mut kernel = Kernel::start();
    let mut good = kernel.service(Service::Gate).await;
    let before = resident_kib();
    let mut frame = vec![2];
    frame.extend((1u64 << 62).to_be_bytes());
    check_cut(&kernel, &frame, 1).await;
    check_served(&mut good).await;
    assert!(
        resident_kib() < before + 16 * 1024,
        "the Kernel reserved what was announced"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn endless_empty_more_frames_are_cut_and_grow_nothing() {
    let mut kernel = Kernel::start();
    let mut good = kernel.service(Service::Gate).await;
    let before = resident_kib();
    let frames = [1u8, 0].repeat(32 * 1024);
    check_cut(&kernel, &frames, 512).await;
    check_served(&mut good).await;
    assert!(
        resident_kib() < before + 16 * 1024,
        "the Kernel collected empty frames"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_identity_that_another_peer_holds_steals_nothing() {
    let mut kernel = Kernel::start();
    let mut good = kernel.service(Service::Gate).await;
    for identity in [&b"gate"[..], b"\0\0\0\0\x01", b""] {
        let mut thief = UnixStream::connect(kernel.socket()).await.unwrap();
        thief.write_all(&greeting()).await.unwrap();
        thief.write_all(&ready(identity)).await.unwrap();
        check_served(&mut good).await;
        let mut seen = Vec::new();
        let read = timeout(PATIENCE, thief.read_to_end(&mut seen))
            .await
            .expect("a thief is closed in time");
        assert!(read.is_ok());
        assert!(
            seen.len() < 256,
            "the thief received more than a handshake: {} bytes",
            seen.len()
        );
    }
    check_served(&mut good).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn garbage_instead_of_a_greeting_is_cut() {
    let mut kernel = Kernel::start();
    let mut good = kernel.service(Service::Gate).await;
    let mut stream = UnixStream::connect(kernel.socket()).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: kernel\r\n\r\n")
        .await
        .unwrap();
    let mut seen = Vec::new();
    // A reset is an end as well.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut seen))
        .await
        .expect("garbage is cut in time");
    check_served(&mut good).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn strangers_who_fill_the_door_do_not_disturb_who_is_inside_and_are_shown_out() {
    let mut kernel = Kernel::start();
    let mut good = kernel.service(Service::Gate).await;
    kernel.announce(Service::Doer, 1).await;
    let mut strangers = Vec::new();
    for _ in 0..limits::UNREGISTERED_CONNECTIONS_MAX + 8 {
        strangers.push(UnixStream::connect(kernel.socket()).await.unwrap());
    }
    check_served(&mut good).await;
    for mut stranger in strangers {
        let mut seen = Vec::new();
        let _ = timeout(PATIENCE, stranger.read_to_end(&mut seen))
            .await
            .expect("strangers are shown out");
    }
    let mut doer = kernel.connect().await;
    doer.send(register(Service::Doer, 1, secret(1)));
    assert!(
        timeout(Duration::from_secs(10), doer.next())
            .await
            .unwrap()
            .is_some()
    );
}
