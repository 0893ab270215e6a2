//! What projects get where they share: who may say so, and what makes no sense.

use isms_protocol::{
    ErrorCode, Header, Kind, Message, ProjectId, Service,
    kernel::{Operation, ProjectSettings},
};

use crate::harness::{Kernel, request};

const PROJECT: ProjectId = ProjectId::from_bytes([6; 16]);

fn set(sender: Service, call: u64, weight: u32) -> Message {
    let header = Header {
        project: PROJECT,
        ..request(sender, Service::Kernel, Operation::SetProject as u16, call)
    };
    Message::with_body(header, &ProjectSettings { weight })
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
