//! Calls that calls make: identity, class, depth, limits, and those that outlive their caller.

use isms_protocol::{
    Class, DoeeVersion, ErrorCode, Flags, Header, Kind, Message, ProcessId, ProjectId, Service, WireError,
    doer,
    kernel::{CallRate, DoeeRate, DoeeRates, Operation, ProjectSettings, Resume, Resumed},
    limits::{CALL_DEPTH_MAX, KEY_LEN},
};

use crate::{
    calls::{invoke, slots, transaction, working},
    harness::{Kernel, Peer, request},
};

const PROJECT: ProjectId = ProjectId::from_bytes([6; 16]);

/// A call on behalf of one that runs at the Doer.
fn inner(parent: &Header, call: u64) -> Header {
    Header {
        parent: parent.process,
        attempt: parent.attempt,
        target_doee: parent.target_doee,
        class: Class::Realtime,
        ..request(Service::Doer, Service::Doer, doer::Operation::Invoke as u16, call)
    }
}

fn durable(header: Header) -> Header {
    Header {
        flags: Flags::ASYNC.with(Flags::DURABLE),
        ..header
    }
}

/// The next message that is no demand.
async fn next(peer: &mut Peer) -> Message {
    loop {
        let message = peer.next().await.expect("closed instead of a message");
        if message.header.kind != Kind::Demand {
            return message;
        }
    }
}

async fn refused(peer: &mut Peer, code: ErrorCode) {
    let message = next(peer).await;
    assert_eq!(message.header.kind, Kind::Error);
    assert_eq!(message.decode_body::<WireError>().unwrap().code, code);
}

async fn tell(resadmin: &mut Peer, operation: Operation, call: u64, body: impl serde::Serialize) {
    let header = Header {
        project: PROJECT,
        ..request(Service::Resadmin, Service::Kernel, operation as u16, call)
    };
    resadmin.send(Message::with_body(header, &body));
    resadmin.expect(Kind::Reply).await;
}

#[tokio::test]
async fn a_call_of_a_call_is_its_callers_and_ends_with_it() {
    let (_kernel, mut edge, mut doer, outer) = working().await;
    doer.send(slots(8));
    doer.send(Message::bare(inner(&outer, 1)).with_raw(&b"inner"[..]));
    let child = next(&mut doer).await;
    assert_eq!(&child.raw[..], b"inner");
    let header = child.header;
    assert_eq!(
        (
            header.project,
            header.principal,
            header.calling_doee,
            header.class
        ),
        (outer.project, outer.principal, outer.target_doee, Class::Normal)
    );
    assert!(header.remaining_us > 0 && header.remaining_us <= 60_000_000);
    assert_ne!(header.process, outer.process);
    edge.send(Message::bare(Header {
        kind: Kind::Cancel,
        ..invoke(1)
    }));
    let mut cancelled = [next(&mut doer).await, next(&mut doer).await];
    cancelled.sort_by_key(|message| message.header.call != outer.call);
    for (message, of) in cancelled.iter().zip([&outer, &header]) {
        assert_eq!(
            (message.header.kind, message.header.call),
            (Kind::Cancel, of.call)
        );
    }
    doer.send(Message::bare(header.answer(Kind::Reply)));
    assert_eq!(next(&mut doer).await.header.kind, Kind::Reply);
    doer.send(Message::bare(outer.answer(Kind::Reply)));
    edge.expect(Kind::Reply).await;
}

#[tokio::test]
async fn another_project_or_a_call_that_does_not_run_there_is_refused() {
    let (_kernel, _edge, mut doer, outer) = working().await;
    let foreign = Header {
        project: ProjectId::from_bytes([9; 16]),
        ..inner(&outer, 1)
    };
    doer.send(Message::bare(foreign));
    refused(&mut doer, ErrorCode::Forbidden).await;
    doer.send(Message::bare(Header {
        parent: ProcessId::NONE,
        ..inner(&outer, 2)
    }));
    refused(&mut doer, ErrorCode::Forbidden).await;
    doer.send(Message::bare(Header {
        attempt: 2,
        ..inner(&outer, 3)
    }));
    refused(&mut doer, ErrorCode::Fenced).await;
}

#[tokio::test]
async fn a_chain_ends_at_its_depth_and_its_last_call_may_still_ask_others() {
    let (mut kernel, _edge, mut doer, mut last) = working().await;
    let mut dbriver = kernel.service(Service::Dbriver).await;
    doer.send(slots(64));
    for depth in 1..CALL_DEPTH_MAX {
        doer.send(Message::bare(inner(&last, depth.into())));
        last = next(&mut doer).await.header;
        assert_eq!(last.kind, Kind::Request);
    }
    doer.send(Message::bare(inner(&last, 100)));
    refused(&mut doer, ErrorCode::LimitReached).await;
    doer.send(Message::bare(durable(inner(&last, 101))));
    refused(&mut doer, ErrorCode::LimitReached).await;
    doer.send(Message::bare(transaction(&last, 102)));
    dbriver.expect(Kind::Request).await;
}

#[tokio::test]
async fn a_project_that_may_run_one_call_does_not_wait_for_itself() {
    let (mut kernel, edge, mut doer, outer) = working().await;
    let mut resadmin = kernel.service(Service::Resadmin).await;
    let settings = ProjectSettings {
        concurrency_max: 1,
        ..ProjectSettings::default()
    };
    doer.send(Message::bare(outer.answer(Kind::Reply)));
    tell(&mut resadmin, Operation::SetProject, 1, settings).await;
    doer.send(slots(8));
    edge.send(Message::bare(invoke(2)));
    let outer = doer.expect_request().await.header;
    // More urgent, and held up by the limit.
    edge.send(Message::bare(Header {
        class: Class::Realtime,
        ..invoke(3)
    }));
    assert_eq!(
        doer.expect(Kind::Demand).await.header.target_doee,
        outer.target_doee
    );
    doer.send(Message::bare(inner(&outer, 1)));
    let child = doer.expect_request().await.header;
    assert_eq!(child.parent, outer.process);
    // What was not waited for has to wait for the limit like a call from outside.
    let later = Header {
        flags: Flags::ASYNC,
        ..inner(&outer, 2)
    };
    doer.send(Message::bare(later));
    let accepted = next(&mut doer).await.header;
    assert_eq!((accepted.kind, accepted.call), (Kind::Reply, 2));
    doer.send(Message::bare(child.answer(Kind::Reply)));
    assert_eq!(next(&mut doer).await.header.kind, Kind::Reply);
    doer.send(Message::bare(outer.answer(Kind::Reply)));
    let held_up = doer.expect_request().await.header;
    assert_eq!(held_up.class, Class::Realtime);
    doer.send(Message::bare(held_up.answer(Kind::Reply)));
    assert_eq!(doer.expect_request().await.header.process, accepted.process);
}

#[tokio::test]
async fn what_a_call_causes_does_not_count_in_rates() {
    let (mut kernel, _edge, mut doer, outer) = working().await;
    let mut resadmin = kernel.service(Service::Resadmin).await;
    let rates = DoeeRates {
        doees: vec![DoeeRate {
            doee: outer.target_doee,
            rate: CallRate { per_s: 1, burst: 1 },
        }],
    };
    tell(&mut resadmin, Operation::SetRates, 1, rates).await;
    doer.send(slots(64));
    for call in 1..20 {
        doer.send(Message::bare(inner(&outer, call)));
        assert_eq!(next(&mut doer).await.header.kind, Kind::Request);
    }
}

#[tokio::test]
async fn an_asynchronous_call_outlives_its_caller_and_repeated_with_its_key_is_one_call() {
    let mut kernel = Kernel::start_durable(tempfile::tempdir().unwrap());
    let mut edge = kernel.service(Service::Commserver).await;
    let mut doer = resumed(&mut kernel, 1).await;
    doer.send(slots(1));
    edge.send(Message::bare(invoke(1)));
    let outer = doer.expect_request().await.header;
    let keyed = Header {
        flags: Flags::ASYNC.with(Flags::DURABLE).with(Flags::KEYED),
        remaining_us: 0,
        ..inner(&outer, 1)
    };
    let raw = [&[7; KEY_LEN][..], b"later"].concat();
    doer.send(Message::bare(keyed).with_raw(raw.clone()));
    let accepted = next(&mut doer).await.header;
    assert_eq!((accepted.kind, accepted.call), (Kind::Reply, 1));
    doer.send(Message::bare(Header { call: 2, ..keyed }).with_raw(raw));
    let again = next(&mut doer).await.header;
    assert_eq!((again.kind, again.process), (Kind::Reply, accepted.process));
    let other = [&[7; KEY_LEN][..], b"other"].concat();
    doer.send(Message::bare(Header { call: 3, ..keyed }).with_raw(other));
    refused(&mut doer, ErrorCode::Conflict).await;

    doer.send(Message::bare(outer.answer(Kind::Reply)));
    edge.expect(Kind::Reply).await;
    let child = doer.expect_request().await;
    assert_eq!(&child.raw[..], b"later");
    let header = child.header;
    assert_eq!(header.process, accepted.process);
    assert_eq!(
        (header.project, header.principal, header.class),
        (outer.project, outer.principal, Class::Normal)
    );
    assert!(header.flags.contains(Flags::DURABLE));
    // What it has called in turn is no attempt of a durable call: it has an id of its own each time.
    doer.send(slots(2));
    doer.send(Message::bare(inner(&header, 4)));
    let grandchild = next(&mut doer).await.header;
    assert!(!grandchild.flags.contains(Flags::DURABLE));
}

/// A Doer that has said that it has nothing.
async fn resumed(kernel: &mut Kernel, incarnation: u32) -> Peer {
    let mut doer = kernel.incarnation(Service::Doer, incarnation).await;
    let header = request(Service::Doer, Service::Kernel, Operation::Resume as u16, 1 << 40);
    let nothing = Resume {
        calls: Vec::new(),
        more: false,
    };
    doer.send(Message::with_body(header, &nothing));
    let answer = loop {
        let message = next(&mut doer).await;
        if message.header.kind == Kind::Reply {
            break message;
        }
    };
    answer.decode_body::<Resumed>().unwrap();
    doer
}

#[tokio::test]
async fn the_depth_of_an_asynchronous_chain_survives_the_kernel() {
    let mut kernel = Kernel::start_durable(tempfile::tempdir().unwrap());
    let edge = kernel.service(Service::Commserver).await;
    let mut doer = resumed(&mut kernel, 1).await;
    doer.send(slots(1));
    edge.send(Message::bare(invoke(1)));
    let mut last = doer.expect_request().await.header;
    for depth in 1..CALL_DEPTH_MAX {
        doer.send(Message::bare(durable(inner(&last, depth.into()))));
        assert_eq!(next(&mut doer).await.header.kind, Kind::Reply);
        doer.send(Message::bare(last.answer(Kind::Reply)));
        last = doer.expect_request().await.header;
        assert_eq!(last.target_doee, DoeeVersion::from_bytes([5; 16]));
    }
    drop((edge, doer));
    let mut kernel = kernel.restart();
    let mut doer = resumed(&mut kernel, 1).await;
    doer.send(slots(1));
    let again = doer.expect_request().await.header;
    assert_eq!((again.process, again.attempt), (last.process, last.attempt + 1));
    doer.send(Message::bare(durable(inner(&again, 1))));
    refused(&mut doer, ErrorCode::LimitReached).await;
}
