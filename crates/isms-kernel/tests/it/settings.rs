//! What projects get where they share: who may say so, and what makes no sense.

use isms_protocol::{
    ErrorCode, Header, Kind, Message, ProjectId, Service,
    kernel::{Operation, ProjectSettings},
};

use crate::{
    calls::{invoke, slots},
    harness::{Kernel, request},
};

const PROJECT: ProjectId = ProjectId::from_bytes([6; 16]);

fn set(sender: Service, call: u64, weight: u32) -> Message {
    let header = Header {
        project: PROJECT,
        ..request(sender, Service::Kernel, Operation::SetProject as u16, call)
    };
    Message::with_body(
        header,
        &ProjectSettings {
            weight,
            ..ProjectSettings::default()
        },
    )
}

#[tokio::test]
async fn only_resadmin_sets_what_a_project_gets() {
    let mut kernel = Kernel::start();
    for sender in [
        Service::Gate,
        Service::Commserver,
        Service::Doer,
        Service::Dbriver,
    ] {
        let mut peer = kernel.service(sender).await;
        peer.send(set(sender, 1, 300));
        peer.expect_error(ErrorCode::Forbidden).await;
    }
    let mut resadmin = kernel.service(Service::Resadmin).await;
    resadmin.send(set(Service::Resadmin, 1, 300));
    resadmin.expect(Kind::Reply).await;
}

#[tokio::test]
async fn settings_that_make_no_sense_are_refused() {
    let mut kernel = Kernel::start();
    let mut resadmin = kernel.service(Service::Resadmin).await;
    resadmin.send(set(Service::Resadmin, 1, 0));
    resadmin.expect_error(ErrorCode::Invalid).await;
    resadmin.send(set(Service::Resadmin, 2, 10_001));
    resadmin.expect_error(ErrorCode::Invalid).await;
    let mut of_nobody = set(Service::Resadmin, 3, 300);
    of_nobody.header.project = ProjectId::NONE;
    resadmin.send(of_nobody);
    resadmin.expect_error(ErrorCode::Invalid).await;
    let mut nonsense = set(Service::Resadmin, 4, 300);
    nonsense.body = b"\xc1".to_vec().into();
    resadmin.send(nonsense);
    resadmin.expect_error(ErrorCode::Invalid).await;
}

#[tokio::test]
async fn calls_beyond_a_projects_rate_are_refused_and_those_of_others_are_not() {
    let mut kernel = Kernel::start();
    let mut resadmin = kernel.service(Service::Resadmin).await;
    let mut edge = kernel.service(Service::Commserver).await;
    let mut doer = kernel.service(Service::Doer).await;
    doer.send(slots(100));
    let mut slow = set(Service::Resadmin, 1, 100);
    let settings = ProjectSettings {
        rate_max: 1,
        ..ProjectSettings::default()
    };
    slow.body = isms_protocol::encode(&settings).into();
    resadmin.send(slow);
    resadmin.expect(Kind::Reply).await;
    // They come faster than one a second, so most of them are refused.
    for call in 1..=20 {
        edge.send(Message::bare(invoke(call)));
    }
    doer.expect_request().await;
    let refused = edge.expect_error(ErrorCode::RateLimited).await;
    assert!(refused.header.call > 1);
    edge.send(Message::bare(Header {
        project: ProjectId::from_bytes([8; 16]),
        ..invoke(21)
    }));
    while doer.expect_request().await.header.project == PROJECT {}
}
