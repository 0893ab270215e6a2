//! Requests through the Kernel: round trip, authority, fencing, streams, loss.

use isms_protocol::{
    Class, DoeeVersion, ErrorCode, Flags, Header, Incarnation, Kind, Message, PrincipalId, ProcessId,
    ProjectId, Service, dbriver, doer, gate,
    kernel::{self, Demand, Processes, Slots, Status, StreamCredit},
    resadmin,
};

use crate::harness::{Kernel, Peer, request};

const DOEE: DoeeVersion = DoeeVersion::from_bytes([5; 16]);
const PROJECT: ProjectId = ProjectId::from_bytes([6; 16]);
const PRINCIPAL: PrincipalId = PrincipalId::from_bytes([7; 16]);

pub(crate) fn invoke(call: u64) -> Header {
    Header {
        target_doee: DOEE,
        project: PROJECT,
        principal: PRINCIPAL,
        class: Class::Normal,
        remaining_us: 60_000_000,
        ..request(
            Service::Commserver,
            Service::Doer,
            doer::Operation::Invoke as u16,
            call,
        )
    }
}

pub(crate) fn transaction(parent: &Header, call: u64) -> Header {
    let operation = dbriver::Operation::Transaction as u16;
    Header {
        parent: parent.process,
        attempt: parent.attempt,
        ..request(Service::Doer, Service::Dbriver, operation, call)
    }
}

pub(crate) fn slots(capacity: u32) -> Message {
    let header = Header {
        target_doee: DOEE,
        ..Header::new(Kind::Slots, Service::Doer, Service::Kernel)
    };
    Message::with_body(header, &Slots::all(capacity))
}

/// A Kernel with an edge and a Doer that works on one call.
pub(crate) async fn working() -> (Kernel, Peer, Peer, Header) {
    let mut kernel = Kernel::start();
    let edge = kernel.service(Service::Commserver).await;
    let mut doer = kernel.service(Service::Doer).await;
    doer.send(slots(1));
    edge.send(Message::bare(invoke(1)).with_raw(&b"question"[..]));
    let dispatched = doer.expect_request().await;
    assert_eq!(&dispatched.raw[..], b"question");
    (kernel, edge, doer, dispatched.header)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_request_travels_to_its_callee_and_the_reply_back() {
    let (_kernel, mut edge, doer, header) = working().await;
    assert_eq!(
        (header.sender, header.sender_generation),
        (Service::Commserver, Incarnation(1))
    );
    assert_eq!(
        (header.project, header.principal, header.attempt),
        (PROJECT, PRINCIPAL, 1)
    );
    assert!(!header.process.is_none());
    assert!(header.remaining_us > 0 && header.remaining_us <= 60_000_000);
    doer.send(Message::bare(header.answer(Kind::Reply)).with_raw(&b"answer"[..]));
    let reply = edge.expect(Kind::Reply).await;
    assert_eq!((reply.header.call, reply.header.process), (1, header.process));
    assert_eq!(&reply.raw[..], b"answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_child_inherits_project_principal_and_doee_and_never_outranks_its_parent() {
    let (mut kernel, _edge, doer, parent) = working().await;
    let mut dbriver = kernel.service(Service::Dbriver).await;
    let claim = Header {
        class: Class::Realtime,
        remaining_us: u64::MAX,
        ..transaction(&parent, 1)
    };
    doer.send(Message::bare(claim));
    let child = dbriver.expect(Kind::Request).await.header;
    assert_eq!(
        (child.project, child.principal, child.calling_doee),
        (PROJECT, PRINCIPAL, DOEE)
    );
    assert_eq!((child.parent, child.class), (parent.process, Class::Normal));
    assert_eq!(child.trace.trace, parent.trace.trace);
    assert!(child.remaining_us <= parent.remaining_us);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_service_that_claims_a_request_to_be_durable_is_not_heard() {
    let mut kernel = Kernel::start();
    let edge = kernel.service(Service::Commserver).await;
    let mut doer = kernel.service(Service::Doer).await;
    let mut dbriver = kernel.service(Service::Dbriver).await;
    doer.send(slots(1));
    let root = Header {
        flags: Flags::DURABLE,
        ..invoke(1)
    };
    edge.send(Message::bare(root));
    let parent = doer.expect_request().await.header;
    assert_eq!(parent.flags, Flags::NONE);
    let child = Header {
        flags: Flags::DURABLE,
        ..transaction(&parent, 1)
    };
    doer.send(Message::bare(child));
    assert_eq!(dbriver.expect(Kind::Request).await.header.flags, Flags::NONE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_child_that_claims_another_identity_is_forbidden() {
    let (mut kernel, _edge, mut doer, parent) = working().await;
    let _dbriver = kernel.service(Service::Dbriver).await;
    let other = [9; 16];
    let claims = [
        Header {
            project: ProjectId::from_bytes(other),
            ..transaction(&parent, 1)
        },
        Header {
            principal: PrincipalId::from_bytes(other),
            ..transaction(&parent, 2)
        },
        Header {
            calling_doee: DoeeVersion::from_bytes(other),
            ..transaction(&parent, 3)
        },
    ];
    for claim in claims {
        doer.send(Message::bare(claim));
        let error = doer.expect_error(ErrorCode::Forbidden).await;
        assert_eq!(error.header.call, claim.call);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_child_of_an_ended_process_or_of_another_attempt_is_fenced() {
    let (mut kernel, mut edge, mut doer, parent) = working().await;
    let _dbriver = kernel.service(Service::Dbriver).await;
    doer.send(Message::bare(Header {
        attempt: 2,
        ..transaction(&parent, 1)
    }));
    doer.expect_error(ErrorCode::Fenced).await;
    doer.send(Message::bare(Header {
        parent: ProcessId::generate(),
        ..transaction(&parent, 2)
    }));
    doer.expect_error(ErrorCode::Fenced).await;
    doer.send(Message::bare(parent.answer(Kind::Reply)));
    edge.expect(Kind::Reply).await;
    doer.send(Message::bare(transaction(&parent, 3)));
    doer.expect_error(ErrorCode::Fenced).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_the_rights_table_does_not_list_is_forbidden() {
    let (mut kernel, mut edge, mut doer, _) = working().await;
    let mut gate = kernel.service(Service::Gate).await;
    let transaction = dbriver::Operation::Transaction as u16;
    let of_edge = [
        request(Service::Commserver, Service::Dbriver, transaction, 11),
        request(
            Service::Commserver,
            Service::Resadmin,
            resadmin::Operation::Deploy as u16,
            12,
        ),
        request(
            Service::Commserver,
            Service::Kernel,
            kernel::Operation::Status as u16,
            13,
        ),
        request(Service::Commserver, Service::Worker, 1, 14),
        request(Service::Commserver, Service::Doer, 9_999, 15),
    ];
    for header in of_edge {
        edge.send(Message::bare(header));
        assert_eq!(
            edge.expect_error(ErrorCode::Forbidden).await.header.call,
            header.call
        );
    }
    doer.send(Message::bare(request(
        Service::Doer,
        Service::Dbriver,
        transaction,
        1,
    )));
    doer.expect_error(ErrorCode::Forbidden).await;
    // A sender field that lies does not help: the connection says who asks.
    let lie = Header {
        sender: Service::Doer,
        ..request(Service::Gate, Service::Dbriver, transaction, 1)
    };
    gate.send(Message::bare(lie));
    gate.expect_error(ErrorCode::Forbidden).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_call_without_slots_waits_and_the_doer_learns_of_it() {
    let mut kernel = Kernel::start();
    let mut edge = kernel.service(Service::Commserver).await;
    let mut doer = kernel.service(Service::Doer).await;
    edge.send(Message::bare(invoke(1)));
    let demand = doer.expect(Kind::Demand).await;
    assert_eq!(demand.header.target_doee, DOEE);
    assert_eq!(demand.decode_body::<Demand>().unwrap().queued, 1);
    doer.send(slots(1));
    let dispatched = doer.expect(Kind::Request).await.header;
    assert_eq!(
        doer.expect(Kind::Demand)
            .await
            .decode_body::<Demand>()
            .unwrap()
            .queued,
        0
    );
    edge.send(Message::bare(Header {
        kind: Kind::Cancel,
        ..invoke(1)
    }));
    assert_eq!(doer.expect(Kind::Cancel).await.header.call, dispatched.call);
    doer.send(Message::error_answer(&dispatched, &error(ErrorCode::Cancelled)));
    edge.expect_error(ErrorCode::Cancelled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_lost_doer_fails_what_it_ran_and_not_what_waits() {
    let (mut kernel, mut edge, doer, _) = working().await;
    edge.send(Message::bare(invoke(2)));
    drop(doer);
    assert_eq!(edge.expect_error(ErrorCode::Crashed).await.header.call, 1);
    let mut doer = kernel.service(Service::Doer).await;
    assert_eq!(
        doer.expect(Kind::Demand)
            .await
            .decode_body::<Demand>()
            .unwrap()
            .queued,
        1
    );
    doer.send(slots(1));
    let header = doer.expect(Kind::Request).await.header;
    doer.send(Message::bare(header.answer(Kind::Reply)));
    assert_eq!(edge.expect(Kind::Reply).await.header.call, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_service_that_stays_away_makes_calls_unavailable() {
    let mut kernel = Kernel::start();
    let mut edge = kernel.service(Service::Commserver).await;
    edge.send(Message::bare(invoke(1)));
    edge.expect_error(ErrorCode::Unavailable).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stream_flows_within_its_credit_and_one_that_does_not_is_cut() {
    let (_kernel, mut edge, mut doer, header) = working().await;
    doer.send(Message::bare(Header {
        flags: Flags::STREAM,
        ..header.answer(Kind::Reply)
    }));
    edge.expect(Kind::Reply).await;
    let credit = Header {
        kind: Kind::Credit,
        ..invoke(1)
    };
    edge.send(Message::with_body(credit, &StreamCredit { bytes: 10 }));
    let granted = doer.expect(Kind::Credit).await;
    assert_eq!(granted.header.call, header.call);
    let chunk = Header {
        kind: Kind::StreamChunk,
        flags: Flags::TO_CALLER,
        ..header
    };
    doer.send(Message::bare(chunk).with_raw(vec![1; 10]));
    assert_eq!(edge.expect(Kind::StreamChunk).await.raw.len(), 10);
    doer.send(Message::bare(chunk).with_raw(vec![1; 1]));
    doer.expect_end().await;
    let end = edge.expect(Kind::StreamEnd).await;
    assert!(end.header.flags.contains(Flags::TO_CALLER.with(Flags::ABORTED)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn events_reach_their_target_without_authority() {
    let (mut kernel, edge, doer, _) = working().await;
    let mut gate = kernel.service(Service::Gate).await;
    let operation = gate::Operation::Log as u16;
    let log = Header {
        operation,
        project: PROJECT,
        ..Header::new(Kind::Event, Service::Doer, Service::Gate)
    };
    edge.send(Message::bare(log));
    doer.send(Message::bare(log).with_raw(&b"line"[..]));
    let event = gate.expect(Kind::Event).await;
    assert_eq!(
        (event.header.sender, event.header.project),
        (Service::Doer, ProjectId::NONE)
    );
    assert_eq!(&event.raw[..], b"line");
    gate.send(Message::bare(request(
        Service::Gate,
        Service::Kernel,
        kernel::Operation::Status as u16,
        1,
    )));
    let status: Status = gate.expect(Kind::Reply).await.decode_body().unwrap();
    assert_eq!((status.events_dropped, status.running, status.ready), (1, 1, 0));
    gate.send(Message::bare(request(
        Service::Gate,
        Service::Kernel,
        kernel::Operation::Processes as u16,
        2,
    )));
    let processes: Processes = gate.expect(Kind::Reply).await.decode_body().unwrap();
    let [process] = &processes.processes[..] else {
        panic!("{processes:?}")
    };
    assert_eq!(
        (process.target, process.target_doee, process.queued),
        (Service::Doer, DOEE, false)
    );
}

pub(crate) fn error(code: ErrorCode) -> isms_protocol::WireError {
    isms_protocol::WireError::new(code, "as asked")
}
