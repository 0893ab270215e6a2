//! Who is let in, and who is not.

use std::time::Instant;

use isms_protocol::{Header, Incarnation, Kind, Message, Service, limits, supervisor::FromRole};

use crate::harness::{Kernel, Peer, register, secret};

/// Sends a first message to a Kernel that awaits the first incarnation of the Doer and has that of Gate; it must
/// be cut.
async fn check_refused(first: Message) {
    let mut kernel = Kernel::start();
    // Announcements are heard in order: once that of Gate was used, the Doer's is known.
    kernel.announce(Service::Doer, 1).await;
    let mut good = kernel.service(Service::Gate).await;
    let mut stranger = kernel.connect().await;
    stranger.send(first);
    stranger.expect_end().await;
    check_served(&mut good).await;
}

/// A good peer is still served.
pub(crate) async fn check_served(gate: &mut Peer) {
    let operation = isms_protocol::kernel::Operation::Status as u16;
    gate.send(Message::bare(crate::harness::request(
        Service::Gate,
        Service::Kernel,
        operation,
        99,
    )));
    let reply = gate.expect(Kind::Reply).await;
    assert_eq!(reply.header.call, 99);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_wrong_secret_is_refused() {
    check_refused(register(Service::Doer, 1, secret(7))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_incarnation_that_was_not_announced_is_refused() {
    check_refused(register(Service::Doer, 2, secret(1))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_service_that_was_not_announced_is_refused() {
    check_refused(register(Service::Dbriver, 1, secret(1))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_cannot_register() {
    check_refused(register(Service::Worker, 1, secret(1))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_second_connection_of_an_incarnation_is_refused_and_the_first_stays() {
    check_refused(register(Service::Gate, 1, secret(1))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_first_message_that_is_not_register_is_refused() {
    check_refused(Message::bare(Header::new(
        Kind::Heartbeat,
        Service::Gate,
        Service::Kernel,
    )))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_register_body_that_is_garbage_is_refused() {
    let header = Header::new(Kind::Register, Service::Gate, Service::Kernel);
    check_refused(Message {
        header,
        body: vec![0xff; 64].into(),
        raw: Vec::new().into(),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_connection_that_does_not_register_is_closed_in_time() {
    let kernel = Kernel::start();
    let begun = Instant::now();
    let mut silent = kernel.connect().await;
    silent.expect_end().await;
    assert!(begun.elapsed() >= limits::REGISTER_TIMEOUT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_newer_incarnation_takes_over_once_announced() {
    let mut kernel = Kernel::start();
    let mut old = kernel.service(Service::Gate).await;
    kernel.announce(Service::Gate, 2).await;
    let mut new = loop {
        let mut peer = kernel.connect().await;
        peer.send(register(Service::Gate, 2, secret(2)));
        if peer.next().await.is_some() {
            break peer;
        }
    };
    old.expect_end().await;
    kernel
        .wait_for(&FromRole::Lost {
            service: Service::Gate,
            incarnation: Incarnation(1),
        })
        .await;
    kernel
        .wait_for(&FromRole::Registered {
            service: Service::Gate,
            incarnation: Incarnation(2),
        })
        .await;
    check_served(&mut new).await;
    let mut late = kernel.connect().await;
    late.send(register(Service::Gate, 1, secret(1)));
    late.expect_end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_lost_service_is_reported_and_may_come_back() {
    let mut kernel = Kernel::start();
    drop(kernel.service(Service::Gate).await);
    kernel
        .wait_for(&FromRole::Lost {
            service: Service::Gate,
            incarnation: Incarnation(1),
        })
        .await;
    let mut again = kernel.service(Service::Gate).await;
    check_served(&mut again).await;
}
