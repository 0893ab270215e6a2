//! Projects that are deleted: what becomes of their calls.

use isms_protocol::{
    Class, ErrorCode, Flags, Header, Kind, Message, ProjectId, Service, WireError,
    kernel::{Calls, CallsAfter, Operation, Outcomes, Progress},
};

use crate::{
    asynchronous::{asynchronous, question, roles, state},
    calls::{error, invoke},
    harness::{Kernel, Peer, request},
};

fn forget(sender: Service, project: ProjectId, call: u64) -> Message {
    Message::bare(Header {
        project,
        ..request(sender, Service::Kernel, Operation::ForgetProject as u16, call)
    })
}

async fn accepted(edge: &mut Peer, header: Header) -> isms_protocol::ProcessId {
    edge.send(Message::bare(header));
    edge.expect(Kind::Reply).await.header.process
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_calls_of_a_deleted_project_are_stopped_and_its_results_forgotten() {
    let (mut kernel, mut edge, mut doer) = roles().await;
    let mut resadmin = kernel.service(Service::Resadmin).await;
    let project = invoke(0).project;
    let kept = accepted(&mut edge, asynchronous(1)).await;
    let call = doer.expect_request().await.header;
    doer.send(Message::bare(call.answer(Kind::Reply)));
    let ended = question(Operation::Process, kept, 60_000, 2);
    assert_eq!(state(&mut edge, ended).await, Progress::Done);
    let running = accepted(&mut edge, asynchronous(3)).await;
    let call = doer.expect_request().await.header;
    let queued = accepted(&mut edge, asynchronous(4)).await;
    edge.send(Message::bare(invoke(5)));
    let other = Header {
        project: ProjectId::from_bytes([9; 16]),
        ..asynchronous(6)
    };
    let others = accepted(&mut edge, other).await;
    edge.send(question(Operation::Process, running, 60_000, 7));

    resadmin.send(forget(Service::Resadmin, project, 1));
    // Who waited is told that it has ended: the call that was waited for, and the one that was waited with.
    let mut waited = [edge.next().await.unwrap(), edge.next().await.unwrap()];
    waited.sort_by_key(|message| message.header.call);
    let [called, asked] = waited;
    assert_eq!((called.header.call, asked.header.call), (5, 7));
    assert_eq!(
        called.decode_body::<WireError>().unwrap().code,
        ErrorCode::NotFound
    );
    let told: isms_protocol::kernel::ProcessState = asked.decode_body().unwrap();
    assert_eq!(told.progress, Progress::Cancelled);
    resadmin.expect(Kind::Reply).await;
    while doer.next().await.expect("a cancel").header.kind != Kind::Cancel {}
    for (call, process) in (8..).zip([kept, running, queued]) {
        edge.send(question(Operation::Process, process, 0, call));
        edge.expect_error(ErrorCode::NotFound).await;
    }

    // What still runs there is not heard any more, whatever it says, and its place is the other project's.
    let streams = Header {
        flags: Flags::STREAM,
        ..call.answer(Kind::Reply)
    };
    doer.send(Message::bare(streams));
    doer.send(Message::bare(Header {
        kind: Kind::StreamEnd,
        flags: Flags::TO_CALLER.with(Flags::ABORTED),
        ..streams
    }));
    assert_eq!(doer.expect_request().await.header.process, others);
    let mut gate = kernel.service(Service::Gate).await;
    let calls = request(Service::Gate, Service::Kernel, Operation::Calls as u16, 1);
    gate.send(Message::with_body(calls, &CallsAfter::default()));
    let calls: Calls = gate.expect(Kind::Reply).await.decode_body().unwrap();
    let normal = &calls.doees[0].classes[0];
    let outcomes = Outcomes {
        done: 1,
        cancelled: 3,
        ..Outcomes::default()
    };
    assert_eq!((normal.class, normal.outcomes), (Class::Normal, outcomes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_call_whose_project_is_deleted_and_that_does_not_stop_is_answered_in_its_place() {
    let (mut kernel, mut edge, mut doer) = roles().await;
    let mut resadmin = kernel.service(Service::Resadmin).await;
    edge.send(Message::bare(invoke(1)));
    let call = doer.expect_request().await.header;
    for told in 1..3 {
        resadmin.send(forget(Service::Resadmin, invoke(0).project, told));
        resadmin.expect(Kind::Reply).await;
    }
    edge.expect_error(ErrorCode::NotFound).await;
    doer.send(Message::error_answer(&call, &error(ErrorCode::Cancelled)));
}

#[tokio::test]
async fn only_resadmin_says_that_a_project_was_deleted() {
    let mut kernel = Kernel::start();
    for sender in [
        Service::Gate,
        Service::Commserver,
        Service::Doer,
        Service::Dbriver,
    ] {
        let mut peer = kernel.service(sender).await;
        peer.send(forget(sender, invoke(0).project, 1));
        peer.expect_error(ErrorCode::Forbidden).await;
    }
    let mut resadmin = kernel.service(Service::Resadmin).await;
    resadmin.send(forget(Service::Resadmin, ProjectId::NONE, 1));
    resadmin.expect_error(ErrorCode::Invalid).await;
}
