//! What a request and its reply cost in the pure core: no sockets, no encoding of headers.
//!
//! `cargo bench -p isms-kernel`; prints ns per round trip. "at once" finds a free slot, "queued" waits
//! in the tree behind others first.

use std::{hint::black_box, time::Instant};

use isms_kernel::{Action, Config, Core, Event, Moment, PeerId};
use isms_protocol::{
    DoeeVersion, Header, Incarnation, Kind, Message, ProcessId, Secret, Service, doer,
    kernel::{Register, Slots},
};
use sha2::{Digest, Sha256};

const CALLS: u64 = 400_000;
const EDGE: PeerId = PeerId(1);
const DOER: PeerId = PeerId(2);
const DOEE: DoeeVersion = DoeeVersion::from_bytes([5; 16]);

fn main() {
    for (name, in_flight, slots) in [
        ("at once", 1, 64),
        ("at once, 64 in flight", 64, 64),
        ("queued, 256 in flight", 256, 8),
    ] {
        let mut rounds: Vec<u64> = (0..5).map(|_| round(in_flight, slots)).collect();
        rounds.sort_unstable();
        println!(
            "core {name}: {} ns per request and reply (median of 5)",
            rounds[2]
        );
    }
}

/// Runs many calls, so many at a time; ns per call.
fn round(in_flight: u64, slots: u32) -> u64 {
    let mut core = ready(slots);
    let mut at_doer: Vec<Header> = Vec::new();
    let mut next_call = 0;
    let mut answered = 0;
    let begun = Instant::now();
    while answered < CALLS {
        while next_call < answered + in_flight && next_call < CALLS {
            next_call += 1;
            core.handle(Moment(next_call), message(EDGE, Message::bare(invoke(next_call))));
        }
        take(&mut core, &mut at_doer, &mut answered);
        for header in std::mem::take(&mut at_doer) {
            core.handle(
                Moment(next_call),
                message(DOER, Message::bare(header.answer(Kind::Reply))),
            );
        }
        take(&mut core, &mut at_doer, &mut answered);
        core.handle(Moment(next_call), Event::Tick);
    }
    begun.elapsed().as_nanos() as u64 / CALLS
}

fn take(core: &mut Core, at_doer: &mut Vec<Header>, answered: &mut u64) {
    for action in core.drain_actions() {
        match black_box(action) {
            Action::Send { message, .. } if message.header.kind == Kind::Request => {
                at_doer.push(message.header)
            }
            Action::Send { message, .. } if message.header.kind == Kind::Reply => *answered += 1,
            _ => {}
        }
    }
}

fn ready(capacity: u32) -> Core {
    let core = Core::new(Config::default(), Box::new(ProcessId::generate), Moment(0));
    let mut core = core.expect("the built-in rights table is valid");
    for (peer, service) in [(EDGE, Service::Commserver), (DOER, Service::Doer)] {
        let (incarnation, secret) = (Incarnation(1), Secret([1; 32]));
        let secret_hash = Sha256::digest(secret.0).into();
        core.handle(
            Moment(0),
            Event::Announce {
                service,
                incarnation,
                secret_hash,
            },
        );
        core.handle(Moment(0), Event::PeerConnected { peer });
        let register = Register {
            service,
            incarnation,
            secret,
            concurrency: 64,
        };
        let header = Header::new(Kind::Register, service, Service::Kernel);
        core.handle(Moment(0), message(peer, Message::with_body(header, &register)));
    }
    let header = Header {
        target_doee: DOEE,
        ..Header::new(Kind::Slots, Service::Doer, Service::Kernel)
    };
    core.handle(
        Moment(0),
        message(DOER, Message::with_body(header, &Slots::all(capacity))),
    );
    core.drain_actions();
    core
}

fn invoke(call: u64) -> Header {
    Header {
        operation: doer::Operation::Invoke as u16,
        target_doee: DOEE,
        remaining_us: 30_000_000,
        call,
        ..Header::new(Kind::Request, Service::Commserver, Service::Doer)
    }
}

fn message(peer: PeerId, message: Message) -> Event {
    Event::PeerMessage { peer, message }
}
