//! Yardstick: 128 bytes to another process over a Unix socket, and back.

use std::{
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result};

use crate::report_us;

const LEN: usize = 128;
const WARM_UP: usize = 100;

pub(crate) fn measure(count: usize) -> Result<()> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let mut peer = Command::new(std::env::current_exe()?)
        .arg("echo-peer")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .context("cannot start the peer")?;
    let mut samples = Vec::with_capacity(count);
    let mut buffer = [7; LEN];
    for _ in 0..WARM_UP + count {
        let started = Instant::now();
        ours.write_all(&buffer)?;
        ours.read_exact(&mut buffer)?;
        samples.push(started.elapsed());
    }
    drop(ours);
    peer.wait()?;
    report_us("uds_echo_c1_p50", &mut samples[WARM_UP..]);
    Ok(())
}

/// The other process: its stdin is the socket.
pub(crate) fn peer() -> Result<()> {
    let socket = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned()?;
    let mut socket = UnixStream::from(socket);
    let mut buffer = [0; LEN];
    while socket.read_exact(&mut buffer).is_ok() {
        socket.write_all(&buffer)?;
    }
    Ok(())
}
