//! What projects get where they share: who may say so, and what makes no sense.

use isms_protocol::{
    Class, DoeeVersion, ErrorCode, Header, Kind, Message, ProjectId, Service,
    kernel::{CallRate, DoeeRate, DoeeRates, Operation, ProjectSettings},
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

#[tokio::test]
async fn calls_beyond_what_a_project_may_run_at_the_same_time_wait_and_run_one_after_another() {
    let mut kernel = Kernel::start();
    let mut resadmin = kernel.service(Service::Resadmin).await;
    let mut edge = kernel.service(Service::Commserver).await;
    let mut doer = kernel.service(Service::Doer).await;
    let other = DoeeVersion::from_bytes([4; 16]);
    for doee in [invoke(0).target_doee, other] {
        let mut slots = slots(100);
        slots.header.target_doee = doee;
        doer.send(slots);
    }
    let mut narrow = set(Service::Resadmin, 1, 100);
    let settings = ProjectSettings {
        concurrency_max: 1,
        ..ProjectSettings::default()
    };
    narrow.body = isms_protocol::encode(&settings).into();
    resadmin.send(narrow);
    resadmin.expect(Kind::Reply).await;
    edge.send(Message::bare(invoke(1)));
    let mut running = doer.expect_request().await.header;
    // Both Doees of the project wait; what is more urgent of them is first, whichever Doee it is.
    edge.send(Message::bare(invoke(2)));
    edge.send(Message::bare(Header {
        target_doee: other,
        class: Class::High,
        ..invoke(3)
    }));
    edge.send(Message::bare(Header {
        class: Class::Batch,
        ..invoke(4)
    }));
    // Another project is not held up, and its call shows that those before it were not dispatched.
    let theirs = ProjectId::from_bytes([8; 16]);
    let free = DoeeVersion::from_bytes([3; 16]);
    let mut slots = slots(1);
    slots.header.target_doee = free;
    doer.send(slots);
    edge.send(Message::bare(Header {
        project: theirs,
        target_doee: free,
        ..invoke(5)
    }));
    assert_eq!(doer.expect_request().await.header.project, theirs);
    for next in [Class::High, Class::Normal, Class::Batch] {
        doer.send(Message::bare(running.answer(Kind::Reply)));
        running = doer.expect_request().await.header;
        edge.expect(Kind::Reply).await;
        assert_eq!(running.class, next);
    }
    // Without the limit all run.
    for call in 6..9 {
        edge.send(Message::bare(invoke(call)));
    }
    let mut freed = set(Service::Resadmin, 2, 100);
    freed.body = isms_protocol::encode(&ProjectSettings::default()).into();
    resadmin.send(freed);
    for _ in 6..9 {
        doer.expect_request().await;
    }
}

fn set_rates(call: u64, doees: &[(DoeeVersion, u32, u32)]) -> Message {
    let header = Header {
        project: PROJECT,
        ..request(
            Service::Resadmin,
            Service::Kernel,
            Operation::SetRates as u16,
            call,
        )
    };
    let rate = |&(doee, per_s, burst)| DoeeRate {
        doee,
        rate: CallRate { per_s, burst },
    };
    let doees = doees.iter().map(rate).collect();
    Message::with_body(header, &DoeeRates { doees })
}

#[tokio::test]
async fn calls_beyond_a_doees_rate_are_refused_and_those_of_the_projects_others_are_not() {
    let mut kernel = Kernel::start();
    let mut resadmin = kernel.service(Service::Resadmin).await;
    let mut edge = kernel.service(Service::Commserver).await;
    let mut doer = kernel.service(Service::Doer).await;
    doer.send(slots(100));
    let doee = invoke(0).target_doee;
    for (call, per_s, burst) in [(1, 0, 1), (2, 1, 0), (3, 1_000_001, 1)] {
        resadmin.send(set_rates(call, &[(doee, per_s, burst)]));
        resadmin.expect_error(ErrorCode::Invalid).await;
    }
    resadmin.send(set_rates(4, &[(doee, 1, 3)]));
    resadmin.expect(Kind::Reply).await;
    edge.send(set_rates(99, &[]));
    edge.expect_error(ErrorCode::Forbidden).await;
    for call in 1..=20 {
        edge.send(Message::bare(invoke(call)));
    }
    for _ in 0..3 {
        doer.expect_request().await;
    }
    let refused = edge.expect_error(ErrorCode::RateLimited).await;
    assert!(refused.header.call > 3);
    let other = DoeeVersion::from_bytes([4; 16]);
    let mut slots = slots(1);
    slots.header.target_doee = other;
    doer.send(slots);
    edge.send(Message::bare(Header {
        target_doee: other,
        ..invoke(21)
    }));
    while doer.expect_request().await.header.target_doee != other {}
}
