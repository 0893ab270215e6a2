//! Garbage, strangers and traitors on every socket inside the platform, while it serves its callers.
//!
//! A boundary holds when whoever crosses it is cut off, everybody else gets the answers that they would have
//! got, and no process of the platform dies or grows over it.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Instant,
};

use isms_ipc::{
    Side,
    zmtp::{Engine, put_message},
};
use isms_protocol::Message;

use crate::{
    harness::{Platform, Process, SOON, eventually},
    project::Project,
};

mod calls;
mod compromised_doer;
mod egress;
mod kernel_socket;
mod listeners;
mod supervisor_channel;
mod taken_over;
mod worker_channels;

/// The roles whose process must survive whatever is done here.
const ROLES: [&str; 7] = [
    "kernel",
    "doer",
    "dbriver",
    "resadmin",
    "commserver",
    "gate",
    "spawner",
];
/// What a role's memory may grow by while it is attacked: room for the calls that it serves meanwhile, none
/// for what an attacker sends or announces.
const GROWTH_MAX_KIB: u64 = 8 * 1024;
/// Calls that prove that the platform serves.
const CALLS: u32 = 50;

/// A ZMTP frame's head that announces 2^62 bytes.
const HUGE_FRAME: &[u8] = &[2, 0x40, 0, 0, 0, 0, 0, 0, 0];
/// How often a piece of something endless is sent: much more than a platform may take in.
const ENDLESS: usize = 1024;

/// A platform with an honest project, and what its processes were before the attack.
struct Besieged {
    platform: Platform,
    before: Vec<(Process, u64)>,
}

impl Besieged {
    fn start() -> Option<Besieged> {
        let platform = Platform::start()?;
        platform.deploy(Project::c("honest", "return say(call, \"fine\");").path());
        let mut besieged = Besieged {
            platform,
            before: Vec::new(),
        };
        // What serving costs is not what an attack costs.
        (0..CALLS).for_each(|_| besieged.check_served());
        let processes = ROLES.map(|role| besieged.platform.process(role).unwrap());
        besieged.before = processes
            .map(|process| (process.clone(), process.peak_kib()))
            .into();
        Some(besieged)
    }

    fn check_served(&self) {
        let answer = self.platform.get("/honest/");
        assert_eq!((answer.status, answer.text().as_str()), (200, "fine"));
    }

    /// Attacks while two clients call without a pause, each of whose calls must be served.
    fn serves_while<T>(&self, attack: impl FnOnce() -> T) -> T {
        let (over, served) = (AtomicBool::new(false), AtomicU32::new(0));
        let client = || {
            while !over.load(Ordering::Relaxed) {
                self.check_served();
                served.fetch_add(1, Ordering::Relaxed);
            }
        };
        let outcome = std::thread::scope(|scope| {
            let clients = [scope.spawn(client), scope.spawn(client)];
            // Ends the clients when the attack fails its own checks, too.
            let _stop = StopWhenDropped(&over);
            let outcome = attack();
            let so_far = served.load(Ordering::Relaxed);
            eventually("calls after the attack", || {
                let done = served.load(Ordering::Relaxed) >= so_far + CALLS;
                (done || clients.iter().any(|client| client.is_finished())).then_some(())
            });
            outcome
        });
        self.check_unharmed();
        outcome
    }

    /// No process of the platform has died or grown.
    fn check_unharmed(&self) {
        for (process, peak_kib) in &self.before {
            let name = &process.command[1];
            assert!(process.is_alive(), "{name} died");
            let growth_kib = process.peak_kib() - peak_kib;
            assert!(growth_kib < GROWTH_MAX_KIB, "{name} grew by {growth_kib} KiB");
        }
    }
}

struct StopWhenDropped<'a>(&'a AtomicBool);

impl Drop for StopWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A piece of a ZMTP message that has ever more frames, all of them empty.
fn endless_more() -> Vec<u8> {
    [1, 0].repeat(32 * 1024)
}

/// ZMTP's greeting.
fn greeting() -> Vec<u8> {
    Engine::new(Side::Connect).output()[..64].to_vec()
}

/// Greets as a ZeroMQ DEALER that claims an identity.
fn hello(identity: &[u8]) -> Vec<u8> {
    [greeting(), ready(identity)].concat()
}

/// ZMTP's READY command of a DEALER that claims an identity.
fn ready(identity: &[u8]) -> Vec<u8> {
    let name = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0";
    let body = [&name[..], &[identity.len() as u8], identity].concat();
    [&[4, body.len() as u8], &body[..]].concat()
}

/// A message as it stands on a connection.
fn frames(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_message(
        &mut bytes,
        &[&message.header.encode(), &message.body, &message.raw],
    );
    bytes
}

/// Bytes without any order, the same in each run.
fn garbage(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Reads until the other side ends the connection, which it must do soon; gives what it said before.
fn read_to_its_end(stream: &mut impl std::io::Read) -> Vec<u8> {
    let (until, mut said, mut buffer) = (Instant::now() + SOON, Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return said,
            Ok(len) => said.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("the connection was not ended, it said {said:?}")
            }
            Err(_) => return said,
        }
        assert!(Instant::now() < until, "the connection goes on and on");
    }
}
