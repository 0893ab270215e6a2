//! Strangers on the Kernel's socket.

use std::{
    io::{ErrorKind, Write},
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::Path,
};

use isms_protocol::{
    Header, Incarnation, Kind, Message, Secret, Service, kernel::Register,
    limits::UNREGISTERED_CONNECTIONS_MAX,
};
use rustix::{
    process::{Gid, Uid, geteuid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use super::{Besieged, ENDLESS, HUGE_FRAME, endless_more, frames, garbage, greeting, hello, read_to_its_end};
use crate::harness::{Platform, Roles, SOON, register};

/// How far incarnations are guessed; a fresh platform has given out fewer.
const INCARNATIONS_GUESSED: u32 = 16;

/// Connects as the user that the Doer runs as: what the Kernel would hear of a Doer that was taken over and
/// has thrown its own connection away.
fn connect(platform: &Platform) -> UnixStream {
    let owner = std::fs::metadata(platform.data.path().join("doer")).unwrap();
    connect_as(platform, owner.uid(), owner.gid()).unwrap()
}

/// Connects on a thread of its own that has become another user, where the platform has several.
fn connect_as(platform: &Platform, uid: u32, gid: u32) -> std::io::Result<UnixStream> {
    let socket = platform.data.path().join("run/kernel.sock");
    let connect = || {
        if geteuid().is_root() {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            set_thread_groups(&[]).unwrap();
            set_thread_res_gid(gid, gid, gid).unwrap();
            set_thread_res_uid(uid, uid, uid).unwrap();
        }
        connect_here(&socket)
    };
    std::thread::scope(|scope| scope.spawn(connect).join().unwrap())
}

fn connect_here(socket: &Path) -> std::io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    Ok(stream)
}

/// Sends `opening`, then `piece` as often as it is taken, and expects to be cut off.
fn check_cut(mut stream: UnixStream, opening: &[u8], piece: &[u8], times: usize) {
    let pieces = std::iter::repeat_n(piece, times);
    for bytes in std::iter::once(opening).chain(pieces) {
        match stream.write_all(bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("neither taken nor cut off"),
            Err(_) => break,
        }
    }
    let said = read_to_its_end(&mut stream);
    let greeted = said.starts_with(&greeting()[..10]);
    assert!(greeted && said.len() < 256, "no more than a handshake: {said:?}");
}

#[test]
fn garbage_and_the_attacks_on_zeromq_end_at_the_kernel_s_door() {
    let Some(besieged) = Besieged::start() else { return };
    let stranger = || connect(&besieged.platform);
    besieged.serves_while(|| {
        check_cut(stranger(), &garbage(64 * 1024), b"", 0);
        check_cut(stranger(), &greeting(), &garbage(64 * 1024), 1);
        check_cut(stranger(), &hello(b""), &garbage(64 * 1024), 1);
        check_cut(stranger(), &greeting(), HUGE_FRAME, 1);
        check_cut(stranger(), &hello(b""), HUGE_FRAME, 1);
        check_cut(stranger(), &hello(b""), &endless_more(), ENDLESS);
    });
}

#[test]
fn an_identity_that_a_stranger_claims_brings_it_no_message_and_no_right() {
    let Some(besieged) = Besieged::start() else { return };
    besieged.serves_while(|| {
        for identity in [&b"doer"[..], b"kernel", b"\0\0\0\0\x01", b""] {
            // Whoever only listens, while calls pass to the Doer whose name it took, hears nothing of them.
            check_cut(connect(&besieged.platform), &hello(identity), b"", 0);
            let header = Header::new(Kind::Heartbeat, Service::Doer, Service::Kernel);
            check_cut(
                connect(&besieged.platform),
                &hello(identity),
                &frames(&Message::bare(header)),
                1,
            );
        }
    });
}

/// A first message that wants to be the Doer.
fn registration(incarnation: u32, secret: [u8; 32]) -> Vec<u8> {
    let register = Register {
        service: Service::Doer,
        incarnation: Incarnation(incarnation),
        secret: Secret(secret),
        concurrency: 8,
    };
    let header = Header::new(Kind::Register, Service::Doer, Service::Kernel);
    frames(&Message::with_body(header, &register))
}

#[test]
fn a_stranger_takes_the_place_of_no_role_that_lives() {
    let Some(besieged) = Besieged::start() else { return };
    besieged.serves_while(|| {
        for incarnation in 0..INCARNATIONS_GUESSED {
            let registration = registration(incarnation, garbage(32).try_into().unwrap());
            check_cut(connect(&besieged.platform), &hello(b""), &registration, 1);
        }
    });
}

#[tokio::test]
async fn nobody_takes_the_place_of_a_role_that_is_awaited_without_its_secret() {
    let Some(mut platform) = Platform::start() else {
        return;
    };
    platform.stop();
    let roles = Roles::start(&platform).await;
    roles.announce(Service::Doer);
    // Announcements are heard in order: once this one was used, the Doer's is known.
    let (edge, _edges_inbox) = roles.play(Service::Commserver).await;
    let Register {
        incarnation: Incarnation(incarnation),
        secret: Secret(secret),
        ..
    } = register(Service::Doer);
    let mut nearly = secret;
    nearly[31] ^= 1;
    for (incarnation, secret) in [
        (incarnation, [0; 32]),
        (incarnation, garbage(32).try_into().unwrap()),
        (incarnation, nearly),
        (incarnation - 1, secret),
        (incarnation + 1, secret),
    ] {
        let stranger = connect_here(&roles.socket()).unwrap();
        check_cut(stranger, &hello(b""), &registration(incarnation, secret), 1);
    }
    let (doer, _doers_inbox) = roles.play(Service::Doer).await;
    doer.close().await;
    edge.close().await;
    roles.stop();
}

#[test]
fn strangers_who_fill_the_kernel_s_door_are_shown_out() {
    let Some(besieged) = Besieged::start() else { return };
    besieged.serves_while(|| {
        let strangers: Vec<UnixStream> = (0..UNREGISTERED_CONNECTIONS_MAX + 8)
            .map(|_| connect(&besieged.platform))
            .collect();
        for mut stranger in strangers {
            read_to_its_end(&mut stranger);
        }
    });
}

#[test]
fn a_user_that_is_none_of_the_roles_is_not_even_greeted() {
    if !geteuid().is_root() {
        eprintln!("SKIPPED: only root gives the roles users of their own");
        return;
    }
    let Some(besieged) = Besieged::start() else { return };
    let group = std::fs::metadata(besieged.platform.data.path().join("run"))
        .unwrap()
        .gid();
    let nobody = 65_534;
    let mut stream = connect_as(&besieged.platform, nobody, group).unwrap();
    assert_eq!(read_to_its_end(&mut stream), b"");
    let refused = connect_as(&besieged.platform, nobody, nobody).unwrap_err();
    assert_eq!(
        refused.kind(),
        ErrorKind::PermissionDenied,
        "without the roles' group"
    );
    besieged.check_served();
}
