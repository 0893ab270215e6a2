//! What is encoded decodes to itself.

use bytes::Bytes;
use isms_protocol::{
    Class, DoeeVersion, ErrorCode, Flags, Header, Incarnation, Kind, Message, PrincipalId, ProcessId,
    ProjectId, Service, SpanId, TraceContext, TraceId, WireError, dbriver, decode, doer, encode,
};
use proptest::{collection::vec, prelude::*};
use serde::Serialize;

use crate::samples;

#[test]
fn every_body_decodes_to_the_value_that_was_encoded() {
    for sample in samples::all() {
        assert_eq!(
            (sample.recode)(&sample.bytes).unwrap(),
            sample.bytes,
            "{}",
            sample.name
        );
    }
}

/// A body as it was before its last field was appended: an array of one element less.
fn without_last(body: &impl Serialize, last: &impl Serialize) -> Vec<u8> {
    let (mut before, last) = (encode(body), encode(last));
    assert!(before.ends_with(&last));
    before[0] -= 1;
    before.truncate(before.len() - last.len());
    before
}

#[test]
fn bodies_from_before_images_are_read_as_asking_for_none() {
    let spec = doer::DoeeSpec {
        concurrency: 0,
        reserved: [0; 3],
        ..samples::doee_spec()
    };
    let unreserved = without_last(&spec, &spec.reserved);
    assert_eq!(decode::<doer::DoeeSpec>(&unreserved).unwrap(), spec);
    let mut unlimited = unreserved[..unreserved.len() - encode(&spec.concurrency).len()].to_vec();
    unlimited[0] -= 1;
    assert_eq!(decode::<doer::DoeeSpec>(&unlimited).unwrap(), spec);
    let environment = encode(&spec.environment);
    let mut older = unlimited[..unlimited.len() - environment.len()].to_vec();
    older[0] -= 1;
    let read: doer::DoeeSpec = decode(&older).unwrap();
    let environment = doer::Environment::default();
    assert_eq!(read, doer::DoeeSpec { environment, ..spec });
    let build = doer::Build {
        doee: "echo".to_owned(),
        language: doer::Language::C,
        folder: "doees/echo".to_owned(),
        network: false,
    };
    let read: doer::Build = decode(&without_last(&build, &false)).unwrap();
    assert_eq!(read, build);
}

#[test]
fn a_message_has_as_many_frames_as_it_needs() {
    let bare = Message::bare(samples::header(Kind::Heartbeat));
    let body = Message::with_body(
        samples::header(Kind::Error),
        &WireError::new(ErrorCode::Busy, "full"),
    );
    let raw = bare.clone().with_raw(vec![1, 2, 3]);
    for (message, frames) in [(bare, 1), (body, 2), (raw, 3)] {
        assert_eq!(message.to_frames().len(), frames);
        assert_eq!(
            message.to_frames().iter().map(Bytes::len).sum::<usize>(),
            message.len()
        );
        assert_eq!(Message::from_frames(message.to_frames()).unwrap(), message);
    }
}

#[test]
fn an_answer_goes_back_to_who_asked_about_the_same_call() {
    let request = samples::header(Kind::Request);
    let answer = request.answer(Kind::Reply);
    assert_eq!((answer.sender, answer.target), (Service::Doer, Service::Gate));
    assert_eq!(answer.sender_generation, request.target_generation);
    assert_eq!(answer.target_generation, request.sender_generation);
    assert_eq!(
        (answer.call, answer.process, answer.attempt),
        (request.call, request.process, request.attempt)
    );
    assert_eq!(answer.flags, Flags::NONE);
}

fn any_header() -> impl Strategy<Value = Header> {
    let small = (1..=13_u8, 0..=127_u8, 0..=3_u8, 0..=6_u8, 0..=6_u8);
    let numbers = any::<(u16, u32, u32, u32, u64, u64)>();
    let ids = any::<([[u8; 16]; 6], [u8; 16], [u8; 8])>();
    (small, numbers, ids).prop_map(|(small, numbers, (ids, trace, span))| Header {
        kind: Kind::from_u8(small.0).unwrap(),
        flags: Flags(small.1),
        class: Class::from_u8(small.2).unwrap(),
        sender: Service::from_u8(small.3).unwrap(),
        target: Service::from_u8(small.4).unwrap(),
        operation: numbers.0,
        attempt: numbers.1,
        sender_generation: Incarnation(numbers.2),
        target_generation: Incarnation(numbers.3),
        call: numbers.4,
        remaining_us: numbers.5,
        process: ProcessId::from_bytes(ids[0]),
        parent: ProcessId::from_bytes(ids[1]),
        project: ProjectId::from_bytes(ids[2]),
        calling_doee: DoeeVersion::from_bytes(ids[3]),
        target_doee: DoeeVersion::from_bytes(ids[4]),
        principal: PrincipalId::from_bytes(ids[5]),
        trace: TraceContext {
            trace: TraceId(trace),
            span: SpanId(span),
        },
    })
}

fn any_value() -> impl Strategy<Value = dbriver::Value> {
    prop_oneof![
        Just(dbriver::Value::Null),
        any::<i64>().prop_map(dbriver::Value::Integer),
        prop::num::f64::NORMAL.prop_map(dbriver::Value::Real),
        ".{0,40}".prop_map(dbriver::Value::Text),
        vec(any::<u8>(), 0..300).prop_map(dbriver::Value::Blob),
    ]
}

proptest! {
    #[test]
    fn any_header_survives_the_wire(header in any_header()) {
        prop_assert_eq!(Header::decode(&header.encode()).unwrap(), header);
    }

    #[test]
    fn any_message_survives_the_wire(
        header in any_header(), body in vec(any::<u8>(), 0..64), raw in vec(any::<u8>(), 0..64),
    ) {
        let message = Message { header, body: body.into(), raw: raw.into() };
        prop_assert_eq!(Message::from_frames(message.to_frames()).unwrap(), message);
    }

    #[test]
    fn any_transaction_survives_the_wire(sql in ".{0,80}", parameters in vec(any_value(), 0..20), demanded: Option<u64>) {
        let statement = dbriver::Statement { sql, parameters, rows_demanded: demanded };
        let sent = dbriver::Transaction { database: "db".into(), statements: vec![statement] };
        let received: dbriver::Transaction = decode(&encode(&sent)).unwrap();
        prop_assert_eq!(received, sent);
    }
}
