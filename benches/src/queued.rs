//! A flood of calls that nobody runs: what the Kernel's core keeps of each that it accepts, and that the others leave nothing.

use std::fs;

use anyhow::{Context, Result, ensure};
use isms_kernel::{Action, Config, Core, Event, Moment, PeerId};
use isms_protocol::{
    DoeeVersion, Flags, Header, Incarnation, Kind, Message, ProcessId, ProjectId, Secret, Service, doer,
    kernel::Register,
};
use sha2::{Digest, Sha256};

use crate::report;

const CALLS: u64 = 1_000_000;
/// Of so many projects, each with one Doee, so that the bound of all is reached before that of any.
const PROJECTS: u64 = 20;
/// What each call brings along.
const BODY_LEN: usize = 100;
const EDGE: PeerId = PeerId(1);
const PAGE_LEN: u64 = 4096;

pub(crate) fn measure() -> Result<()> {
    let mut core = registered()?;
    let before = resident_bytes()?;
    let mut held = 0;
    for call in 0..CALLS {
        let request = Message {
            raw: vec![0; BODY_LEN].into(),
            ..Message::bare(invoke(call))
        };
        core.handle(
            Moment(call),
            Event::PeerMessage {
                peer: EDGE,
                message: request,
            },
        );
        let accepted = |action: &Action| matches!(action, Action::Send { message, .. } if message.header.kind == Kind::Reply);
        held += core.drain_actions().filter(accepted).count();
    }
    ensure!(held > 0, "no call was accepted");
    let grown = resident_bytes()?.saturating_sub(before);
    report("queued_call_bytes", "B", grown as f64 / held as f64, held);
    report("flood_bytes", "B", grown as f64 / CALLS as f64, CALLS as usize);
    Ok(())
}

/// A core with an edge, and a Doer that takes no calls.
fn registered() -> Result<Core> {
    let mut core = Core::new(Config::default(), Box::new(ProcessId::generate), Moment(0))?;
    for (peer, service) in [(EDGE, Service::Commserver), (PeerId(2), Service::Doer)] {
        let register = Register {
            service,
            incarnation: Incarnation(1),
            secret: Secret([1; 32]),
            concurrency: 64,
        };
        let header = Header::new(Kind::Register, service, Service::Kernel);
        let message = Message::with_body(header, &register);
        let announce = Event::Announce {
            service,
            incarnation: Incarnation(1),
            secret_hash: Sha256::digest([1; 32]).into(),
        };
        for event in [
            announce,
            Event::PeerConnected { peer },
            Event::PeerMessage { peer, message },
        ] {
            core.handle(Moment(0), event);
        }
    }
    core.drain_actions();
    Ok(core)
}

fn invoke(call: u64) -> Header {
    let mut id = [0; 16];
    id[0] = (1 + call % PROJECTS) as u8;
    Header {
        operation: doer::Operation::Invoke as u16,
        flags: Flags::ASYNC,
        project: ProjectId::from_bytes(id),
        target_doee: DoeeVersion::from_bytes(id),
        remaining_us: 3_600_000_000,
        call: call + 1,
        ..Header::new(Kind::Request, Service::Commserver, Service::Doer)
    }
}

fn resident_bytes() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/statm").context("cannot read what this process takes")?;
    let pages = text.split(' ').nth(1).context("statm has no second number")?;
    Ok(pages.parse::<u64>()? * PAGE_LEN)
}
