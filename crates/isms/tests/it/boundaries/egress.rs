//! A Doer that was taken over wants to reach the servers of a project whose call it does not hold. Kernel, Resadmin
//! and CommServer are real processes, and so are the servers.

use std::net::SocketAddr;

use isms_ipc::Link;
use isms_protocol::{
    DoeeVersion, ErrorCode, Header, Kind, Message, ProcessId, ProjectId, Service,
    commserver::{Fetch, FetchReply, Operation},
    resadmin::{self, DescribeProject, Project as Described},
};

use super::compromised_doer::{child_of, dispatched, invoke, slots};
use crate::{
    egress::Outside,
    harness::{Platform, Roles},
    project::Project,
};

/// The id of a project and the version of its only Doee, as Control Gate learns them.
async fn find(gate: &Link, name: &str) -> (ProjectId, DoeeVersion) {
    let header = Header {
        operation: resadmin::Operation::DescribeProject as u16,
        ..Header::new(Kind::Request, Service::Gate, Service::Resadmin)
    };
    let asked = DescribeProject {
        name: name.to_owned(),
    };
    let answer = gate.call(Message::with_body(header, &asked)).await.unwrap();
    let project: Described = answer.message.decode_body().unwrap();
    (project.id, project.doees[0].version)
}

async fn fetch(doer: &Link, header: Header, server: SocketAddr) -> Result<u16, ErrorCode> {
    let fetch = Fetch {
        method: "GET".to_owned(),
        url: format!("http://{server}/"),
        ..Fetch::default()
    };
    let answer = doer.call(Message::with_body(header, &fetch)).await;
    let answer = answer.map_err(|error| error.code)?;
    Ok(answer.message.decode_body::<FetchReply>().unwrap().status)
}

#[tokio::test]
async fn a_doer_that_was_taken_over_reaches_only_what_the_call_that_it_holds_was_granted() {
    let (own, foreign) = (Outside::echo(), Outside::echo());
    let Some(mut platform) = Platform::start() else {
        return;
    };
    for (name, server) in [("alpha", &own), ("beta", &foreign)] {
        let keys = format!("allow = {{ http = [\"{}\"] }}", server.address);
        platform.deploy(Project::c_with(name, &keys, "return say(call, \"ok\");").path());
    }
    platform.stop();

    let mut roles = Roles::start(&platform).await;
    roles.start_commserver(&[own.address, foreign.address]).await;
    let (gate, _gates_inbox) = roles.play(Service::Gate).await;
    let (doer, mut inbox) = roles.play(Service::Doer).await;
    let (alpha, beta) = (find(&gate, "alpha").await, find(&gate, "beta").await);
    doer.send(slots(alpha.1)).unwrap();
    let answer = gate.start(invoke(alpha));
    let call = dispatched(&mut inbox).await;
    let held = child_of(&call.message.header, Service::Commserver, Operation::Fetch as u16);

    assert_eq!(fetch(&doer, held, own.address).await, Ok(200));
    let refused = [
        // Another project's server, as itself and in that project's name.
        (held, ErrorCode::Forbidden),
        (
            Header {
                project: beta.0,
                ..held
            },
            ErrorCode::Forbidden,
        ),
        (
            Header {
                calling_doee: beta.1,
                ..held
            },
            ErrorCode::Forbidden,
        ),
        (
            Header {
                project: beta.0,
                calling_doee: beta.1,
                ..held
            },
            ErrorCode::Forbidden,
        ),
        // On behalf of nobody, of a process that is not there, of another attempt.
        (
            Header {
                parent: ProcessId::NONE,
                project: beta.0,
                ..held
            },
            ErrorCode::Forbidden,
        ),
        (
            Header {
                parent: ProcessId::generate(),
                ..held
            },
            ErrorCode::Fenced,
        ),
        (
            Header {
                attempt: held.attempt + 1,
                ..held
            },
            ErrorCode::Fenced,
        ),
        // Routes instead of a request.
        (
            Header {
                operation: Operation::SetRoutes as u16,
                ..held
            },
            ErrorCode::Forbidden,
        ),
    ];
    for (header, expected) in refused {
        assert_eq!(
            fetch(&doer, header, foreign.address).await,
            Err(expected),
            "{header:?}"
        );
    }
    call.responder.reply_empty();
    answer.await.unwrap();
    assert_eq!(
        fetch(&doer, held, own.address).await,
        Err(ErrorCode::Fenced),
        "it has ended"
    );
    assert_eq!((own.connections(), foreign.connections()), (1, 0));
    doer.close().await;
    gate.close().await;
    roles.stop();
}
