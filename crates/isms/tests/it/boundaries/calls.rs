//! A Doer that was taken over wants to call what the call that it holds may not. Kernel and Resadmin are real
//! processes.

use isms_ipc::Link;
use isms_protocol::{
    Class, DoeeVersion, ErrorCode, Header, Kind, Message, ProcessId, ProjectId, Service, doer,
    resadmin::{Callee, DescribeProject, FindCallee, Operation, Project as Described},
};

use super::compromised_doer::{child_of, dispatched, invoke, slots};
use crate::{
    harness::{Platform, Roles},
    project::Project,
};

/// The id of a project and the version of its only Doee, as Control Gate learns them.
async fn describe(gate: &Link, name: &str) -> (ProjectId, DoeeVersion) {
    let header = Header {
        operation: Operation::DescribeProject as u16,
        ..Header::new(Kind::Request, Service::Gate, Service::Resadmin)
    };
    let name = name.to_owned();
    let answer = gate.call(Message::with_body(header, &DescribeProject { name }));
    let project: Described = answer.await.unwrap().message.decode_body().unwrap();
    (project.id, project.doees[0].version)
}

async fn find(doer: &Link, header: Header, doee: &str) -> Result<DoeeVersion, ErrorCode> {
    let find = FindCallee {
        doee: doee.to_owned(),
    };
    let answer = doer.call(Message::with_body(header, &find)).await;
    let answer = answer.map_err(|error| error.code)?;
    Ok(answer.message.decode_body::<Callee>().unwrap().version)
}

#[tokio::test]
async fn a_doer_that_was_taken_over_finds_and_calls_only_what_the_call_that_it_holds_may() {
    let Some(mut platform) = Platform::start() else {
        return;
    };
    for (name, keys) in [("alpha", "allow = { call = [\"main\"] }"), ("beta", "")] {
        platform.deploy(Project::c_with(name, keys, "return say(call, \"ok\");").path());
    }
    platform.stop();

    let roles = Roles::start(&platform).await;
    let (gate, _gates_inbox) = roles.play(Service::Gate).await;
    let (doer, mut inbox) = roles.play(Service::Doer).await;
    let (alpha, beta) = (describe(&gate, "alpha").await, describe(&gate, "beta").await);
    doer.send(slots(alpha.1)).unwrap();
    let answer = gate.start(invoke(alpha));
    let call = dispatched(&mut inbox).await;
    let held = child_of(&call.message.header, Service::Resadmin, Operation::Callee as u16);
    assert_eq!(find(&doer, held, "main").await, Ok(alpha.1));
    assert_eq!(find(&doer, held, "other").await, Err(ErrorCode::Forbidden));
    let as_beta = [(beta.0, held.calling_doee), (held.project, beta.1), beta];
    for (project, calling_doee) in as_beta {
        let header = Header {
            project,
            calling_doee,
            ..held
        };
        assert_eq!(find(&doer, header, "main").await, Err(ErrorCode::Forbidden));
    }
    let strangers = [
        (ProcessId::NONE, ErrorCode::Forbidden),
        (ProcessId::generate(), ErrorCode::Fenced),
    ];
    for (parent, expected) in strangers {
        let header = Header { parent, ..held };
        assert_eq!(find(&doer, header, "main").await, Err(expected));
    }

    // Nor does a call get another project, or more than the one that makes it.
    let invoke = Header {
        target_doee: alpha.1,
        class: Class::Realtime,
        ..child_of(
            &call.message.header,
            Service::Doer,
            doer::Operation::Invoke as u16,
        )
    };
    let foreign = Header {
        project: beta.0,
        ..invoke
    };
    let refused = doer.call(Message::bare(foreign)).await;
    assert_eq!(refused.map(drop).unwrap_err().code, ErrorCode::Forbidden);
    let alone = Header {
        parent: ProcessId::NONE,
        ..invoke
    };
    let refused = doer.call(Message::bare(alone)).await;
    assert_eq!(refused.map(drop).unwrap_err().code, ErrorCode::Forbidden);
    call.responder.reply_empty();
    answer.await.unwrap();

    doer.send(slots(alpha.1)).unwrap();
    let answer = gate.start(super::compromised_doer::invoke(alpha));
    let outer = dispatched(&mut inbox).await;
    // Of two places the outer call has one.
    let mut more = slots(alpha.1);
    more.body = isms_protocol::encode(&isms_protocol::kernel::Slots::all(2)).into();
    doer.send(more).unwrap();
    let inner = doer.start(Message::bare(Header {
        parent: outer.message.header.process,
        ..invoke
    }));
    let child = dispatched(&mut inbox).await;
    let header = child.message.header;
    assert_eq!((header.project, header.class), (alpha.0, Class::Normal));
    assert_eq!(header.parent, outer.message.header.process);
    child.responder.reply_empty();
    inner.await.unwrap();
    outer.responder.reply_empty();
    answer.await.unwrap();
    roles.stop();
}
