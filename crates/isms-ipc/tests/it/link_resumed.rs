//! Requests that outlive the connection by which they came.

use bytes::Bytes;
use isms_ipc::{Inbound, Inbox, Link, Responder};
use isms_protocol::{
    ErrorCode, Flags, Header, Kind, Message, ProcessId, Service, WireError,
    kernel::{Operation, Resume, Resumed, ResumedCall, StreamCredit},
};

use crate::kernel::{FakeKernel, Peer, next_request, soon};

fn process(number: u8) -> ProcessId {
    ProcessId::from_bytes([number; 16])
}

/// A request of the Kernel's.
fn asked(call: u64) -> Message {
    let header = Header::new(Kind::Request, Service::Kernel, Service::Doer);
    Message::bare(Header {
        call,
        process: process(call as u8),
        attempt: call as u32,
        ..header
    })
}

fn about(kind: Kind, call: u64) -> Message {
    let header = Header::new(kind, Service::Kernel, Service::Doer);
    Message::bare(Header { call, ..header })
}

/// A role that has been asked things by a Kernel which is gone, and the next Kernel.
struct Orphan {
    _kernel: FakeKernel,
    link: Link,
    inbox: Inbox,
    peer: Peer,
    /// What it was asked, under the calls 1, 2 and so on.
    asked: Vec<Responder>,
}

impl Orphan {
    async fn of(calls: u64) -> Orphan {
        let kernel = FakeKernel::start();
        let (link, mut inbox, peer) = kernel.link(Service::Doer, 10).await;
        let mut responders = Vec::new();
        for call in 1..=calls {
            peer.send(&asked(call));
            responders.push(next_request(&mut inbox).await.responder);
        }
        let before = link.registration().unwrap();
        drop(peer);
        assert!(matches!(soon(inbox.next()).await, Some(Inbound::Lost)));
        assert!(before.is_lost() && responders.iter().all(Responder::is_lost));
        assert_eq!(
            before.resume(&[], false).await.unwrap_err().code,
            ErrorCode::Unavailable
        );
        let kernel = kernel.restart();
        let peer = kernel.register(10).await;
        assert!(matches!(soon(inbox.next()).await, Some(Inbound::Registered(_))));
        Orphan {
            _kernel: kernel,
            link,
            inbox,
            peer,
            asked: responders,
        }
    }

    /// Resumes everything; the Kernel answers with `body`, and says what follows in the same breath.
    async fn resume<T: serde::Serialize>(
        &mut self,
        body: &T,
        then: &[Message],
    ) -> Result<Vec<Option<Responder>>, WireError> {
        let headers: Vec<Header> = self.asked.iter().map(|asked| *asked.header()).collect();
        let registration = self.link.registration().unwrap();
        let kernel = async {
            let question = self.peer.next().await;
            let header = Header {
                sender_generation: isms_protocol::Incarnation(70),
                target_generation: isms_protocol::Incarnation(7),
                ..question.header.answer(Kind::Reply)
            };
            self.peer.send(&Message::with_body(header, body));
            then.iter().for_each(|message| self.peer.send(message));
            question
        };
        let (resumed, question) = tokio::join!(soon(registration.resume(&headers, true)), kernel);
        assert_eq!(
            (question.header.target, question.header.operation),
            (Service::Kernel, Operation::Resume as u16)
        );
        assert_eq!(
            (question.header.process, question.header.project),
            (ProcessId::NONE, isms_protocol::ProjectId::NONE)
        );
        let calls = (1..=headers.len() as u8).map(|number| ResumedCall {
            process: process(number),
            attempt: number.into(),
        });
        assert_eq!(
            question.decode_body::<Resume>().unwrap(),
            Resume {
                calls: calls.collect(),
                more: true
            }
        );
        resumed
    }
}

#[tokio::test]
async fn a_request_is_answered_under_the_id_by_which_the_next_kernel_knows_it() {
    let mut orphan = Orphan::of(2).await;
    let resumed = orphan.resume(&Resumed { calls: vec![0, 900] }, &[]).await;
    let [None, Some(responder)] = <[_; 2]>::try_from(resumed.unwrap()).unwrap() else {
        panic!("the second is wanted and the first is not");
    };
    assert!(!responder.is_lost() && !responder.is_cancelled());
    // Neither does what was said by the old connection reach anybody.
    orphan.asked.drain(..).for_each(Responder::reply_empty);
    responder.reply(&7_u8, Bytes::from_static(b"raw"));
    let reply = orphan.peer.next().await;
    let header = reply.header;
    assert_eq!((header.kind, header.call), (Kind::Reply, 900));
    assert_eq!((header.process, header.attempt), (process(2), 2));
    assert_eq!((header.sender_generation.0, header.target_generation.0), (7, 70));
    assert_eq!(reply.raw, b"raw"[..]);
}

#[tokio::test]
async fn what_comes_right_behind_the_answer_is_about_the_resumed_request_already() {
    let mut orphan = Orphan::of(2).await;
    let body = Resumed { calls: vec![5, 6] };
    let resumed = orphan.resume(&body, &[about(Kind::Cancel, 6)]).await.unwrap();
    let [Some(wanted), Some(cancelled)] = &resumed[..] else {
        panic!("both are wanted");
    };
    soon(cancelled.cancelled()).await;
    assert!(!cancelled.is_lost() && !wanted.is_cancelled());
}

#[tokio::test]
async fn a_resumed_request_is_answered_with_a_stream_as_any_other() {
    let mut orphan = Orphan::of(1).await;
    let mut resumed = orphan.resume(&Resumed { calls: vec![9] }, &[]).await.unwrap();
    let mut stream = resumed.remove(0).unwrap().reply_stream(&());
    let credit = Message::with_body(about(Kind::Credit, 9).header, &StreamCredit { bytes: 10 });
    orphan.peer.send(&credit);
    soon(stream.send(Bytes::from_static(b"chunk"))).await.unwrap();
    stream.finish();
    for (kind, flags) in [
        (Kind::Reply, Flags::STREAM),
        (Kind::StreamChunk, Flags::TO_CALLER),
        (Kind::StreamEnd, Flags::TO_CALLER),
    ] {
        let header = orphan.peer.next().await.header;
        assert_eq!((header.kind, header.flags, header.call), (kind, flags, 9));
    }
}

#[tokio::test]
async fn an_answer_of_another_length_or_kind_resumes_nothing() {
    for calls in [vec![], vec![3], vec![3, 4, 5]] {
        let mut orphan = Orphan::of(2).await;
        let error = orphan.resume(&Resumed { calls }, &[]).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Internal);
        // Neither id is in use.
        for call in [3, 4] {
            orphan.peer.send(&asked(call));
            assert_eq!(
                next_request(&mut orphan.inbox).await.responder.header().call,
                call
            );
        }
    }
    let mut orphan = Orphan::of(1).await;
    let error = orphan.resume(&"no list", &[]).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Internal);
}

#[tokio::test]
async fn a_kernel_that_gives_one_id_to_two_requests_is_cut_off() {
    let mut orphan = Orphan::of(2).await;
    let error = orphan
        .resume(&Resumed { calls: vec![3, 3] }, &[])
        .await
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::Unavailable);
    assert!(matches!(soon(orphan.inbox.next()).await, Some(Inbound::Lost)));
}

#[tokio::test]
async fn a_stream_that_came_whole_is_told_from_one_that_was_cut_off() {
    let kernel = FakeKernel::start();
    let (_link, mut inbox, peer) = kernel.link(Service::Doer, 10).await;
    let mut streams = Vec::new();
    for call in [1, 2] {
        let mut request = asked(call);
        request.header.flags = Flags::STREAM;
        peer.send(&request);
        streams.push(next_request(&mut inbox).await.stream.unwrap());
    }
    let arrivals: Vec<_> = streams.iter().map(|stream| stream.arrival()).collect();
    assert!(!arrivals[0].is_whole());
    peer.send(&about(Kind::StreamEnd, 1));
    assert!(soon(streams[0].next()).await.is_none());
    drop(peer);
    assert!(matches!(soon(inbox.next()).await, Some(Inbound::Lost)));
    assert!(soon(streams[1].next()).await.unwrap().is_err() && soon(streams[1].next()).await.is_none());
    assert!(arrivals[0].is_whole() && !arrivals[1].is_whole());
}
