//! A role that was taken over speaks to its supervisor.

use std::os::fd::OwnedFd;

use isms_protocol::{
    Incarnation, Service, encode,
    supervisor::{CHANNEL_FD, FromRole},
};
use rustix::{
    io::Errno,
    net::{SendFlags, send},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use super::{Besieged, garbage};
use crate::harness::{Process, eventually};

/// A role's own end of its channel; `None` where the test may not take it from a process that hides itself.
fn channel_of(role: &Process) -> Option<OwnedFd> {
    let pid = Pid::from_raw(role.pid as i32).unwrap();
    let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    match pidfd_getfd(process, CHANNEL_FD, PidfdGetfdFlags::empty()) {
        Err(Errno::PERM) => {
            eprintln!("SKIPPED: only a user with CAP_SYS_PTRACE can speak for a role");
            None
        }
        channel => Some(channel.unwrap()),
    }
}

#[test]
fn nonsense_and_forged_reports_of_a_role_do_not_move_its_supervisor() {
    let Some(besieged) = Besieged::start() else { return };
    let platform = &besieged.platform;
    let doer = platform.process("doer").unwrap();
    let Some(channel) = channel_of(&doer) else { return };
    let say = |datagram: &[u8]| {
        eventually("room for a datagram", || {
            match send(&channel, datagram, SendFlags::NOSIGNAL) {
                Err(Errno::AGAIN) => None,
                sent => Some(sent.unwrap()),
            }
        })
    };
    besieged.serves_while(|| {
        for kib in 1..=60 {
            say(&garbage(kib * 1024));
        }
        for incarnation in (1..=16).map(Incarnation) {
            for service in Service::REGISTERED {
                say(&encode(&FromRole::Lost { service, incarnation }));
                say(&encode(&FromRole::Registered { service, incarnation }));
            }
        }
        // Too long for a datagram of the channel, and the end of the channel while its process lives.
        say(&garbage(64 * 1024));
        say(b"");
    });
    // The supervisor still notices the role's end, and starts another one.
    doer.kill();
    let successor = eventually("another Doer", || {
        platform.process("doer").filter(|process| *process != doer)
    });
    eventually("service", || {
        (platform.get("/honest/").status == 200).then_some(())
    });
    assert!(successor.is_alive());
}
