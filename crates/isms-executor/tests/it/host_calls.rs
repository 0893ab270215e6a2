//! Host calls, with the test as DBriver.

use isms_protocol::dbriver::{Operation, Results, Sequence, Statement, StatementResult, Transaction, Value};
use isms_protocol::kernel::StreamCredit;
use isms_protocol::limits::{CHUNK_LEN_MAX, STREAM_WINDOW};
use isms_protocol::{ErrorCode, Flags, Header, Kind, Message, Service, WireError, decode, encode};

use crate::worker::{Worker, kitchen};

fn results(rows: Vec<Vec<Value>>) -> StatementResult {
    StatementResult {
        columns: vec!["a".into(), "b".into()],
        rows,
        rows_changed: 0,
    }
}

fn one_result() -> Vec<u8> {
    encode(&Results {
        results: vec![results(Vec::new())],
    })
}

fn host_call(worker: &mut Worker) -> Message {
    let message = worker.receive_answer();
    assert_eq!(message.header.kind, Kind::Request);
    message
}

fn answer(worker: &mut Worker, request: &Header, results: Vec<u8>) {
    worker.send(&Message::bare(request.answer(Kind::Reply)).with_raw(results));
}

#[test]
fn a_transaction_goes_to_dbriver_and_its_rows_come_back() {
    let mut worker = Worker::start(&kitchen());
    let header = Header {
        remaining_us: 5_000_000,
        ..worker.request(1)
    };
    worker.begin_with(header, "/sql", b"");
    let request = host_call(&mut worker);
    assert_eq!(request.header.target, Service::Dbriver);
    assert_eq!(request.header.operation, Operation::Transaction as u16);
    assert_eq!(
        (request.header.parent, request.header.attempt),
        (header.process, 1)
    );
    assert!((1..=5_000_000).contains(&request.header.remaining_us));
    let parameters = vec![
        Value::Null,
        Value::Integer(-7),
        Value::Real(0.5),
        Value::Text("text".into()),
        Value::Blob(vec![0, 255]),
    ];
    let insert = Statement {
        sql: "insert into t values (?, ?, ?, ?, ?)".into(),
        parameters,
        rows_demanded: Some(1),
    };
    let select = Statement {
        sql: "select a, b from t".into(),
        parameters: Vec::new(),
        rows_demanded: None,
    };
    let expected = Transaction {
        database: "readings".into(),
        statements: vec![insert, select],
    };
    assert_eq!(decode::<Transaction>(&request.raw).unwrap(), expected);
    let row = |number, text: &str| vec![Value::Integer(number), Value::Text(text.into())];
    let rows = encode(&Results {
        results: vec![results(Vec::new()), results(vec![row(1, "x"), row(2, "yz")])],
    });
    answer(&mut worker, &request.header, rows);
    assert_eq!(worker.text(), "2 rows, a=2, b=yz");
}

#[test]
fn a_large_transaction_and_large_results_are_streams() {
    let mut worker = Worker::start(&kitchen());
    worker.begin("/sql-big", b"");
    let request = host_call(&mut worker);
    assert_eq!((request.header.flags, request.raw.len()), (Flags::STREAM, 0));
    let mut received = Vec::new();
    loop {
        worker.credit(
            Header {
                flags: Flags::TO_CALLER,
                ..request.header
            },
            CHUNK_LEN_MAX as u32,
        );
        let message = worker.receive_answer();
        assert_eq!(message.header.call, request.header.call);
        match message.header.kind {
            Kind::StreamChunk => received.extend_from_slice(&message.raw),
            Kind::StreamEnd => break,
            kind => panic!("{kind:?}"),
        }
    }
    let transaction: Transaction = decode(&received).unwrap();
    assert_eq!(
        transaction.statements[0].parameters,
        [Value::Blob(vec![0; 300 * 1024])]
    );

    let blob = vec![vec![Value::Text("x".repeat(500_000)), Value::Null]];
    let bytes = encode(&Results {
        results: vec![results(blob)],
    });
    worker.send(&Message::bare(Header {
        flags: Flags::STREAM,
        ..request.header.answer(Kind::Reply)
    }));
    let mut credit = 0;
    let chunk = Header {
        flags: Flags::TO_CALLER,
        ..request.header.answer(Kind::StreamChunk)
    };
    for piece in bytes.chunks(CHUNK_LEN_MAX) {
        while credit < piece.len() {
            let message = worker.receive_answer();
            assert_eq!(
                (message.header.kind, message.header.flags),
                (Kind::Credit, Flags::NONE)
            );
            credit += message.decode_body::<StreamCredit>().unwrap().bytes as usize;
            assert!(credit <= STREAM_WINDOW as usize);
        }
        credit -= piece.len();
        worker.send(&Message::bare(chunk).with_raw(piece.to_vec()));
    }
    worker.send(&Message::bare(Header {
        kind: Kind::StreamEnd,
        ..chunk
    }));
    loop {
        let message = worker.receive_answer();
        if message.header.kind == Kind::Reply {
            assert_eq!(&message.raw[..], b"500000");
            break;
        }
        assert_eq!(message.header.kind, Kind::Credit);
    }
}

#[test]
fn errors_of_dbriver_reach_the_doee_as_codes_with_their_text() {
    let mut worker = Worker::start(&kitchen());
    let cases = [
        (ErrorCode::ConditionFailed, 5),
        (ErrorCode::LimitReached, 6),
        (ErrorCode::Database, 7),
        (ErrorCode::Forbidden, 4),
        (ErrorCode::Unavailable, 9),
        (ErrorCode::NotFound, 10),
        (ErrorCode::Conflict, 12),
        (ErrorCode::Internal, 13),
    ];
    for (code, number) in cases {
        worker.begin("/sql", b"");
        let request = host_call(&mut worker);
        worker.send(&Message::error_answer(
            &request.header,
            &WireError::new(code, "because"),
        ));
        assert_eq!(worker.text(), format!("{number} because"));
    }
}

#[test]
fn an_answer_that_makes_no_sense_is_an_internal_error() {
    let mut worker = Worker::start(&kitchen());
    for nonsense in [Vec::new(), b"\xff\xff".to_vec(), one_result()] {
        worker.begin("/sql", b"");
        let request = host_call(&mut worker);
        answer(&mut worker, &request.header, nonsense);
        assert!(worker.text().starts_with("13 the database's answer"));
    }
}

#[test]
fn two_host_calls_run_at_a_time_and_end_in_any_order() {
    let mut worker = Worker::start(&kitchen());
    worker.begin("/sql-two", b"");
    let (first, second) = (host_call(&mut worker), host_call(&mut worker));
    answer(&mut worker, &second.header, one_result());
    answer(&mut worker, &first.header, one_result());
    assert_eq!(worker.text(), "1 then 0");
}

#[test]
fn transactions_are_counted_by_what_the_doee_asked_and_has_seen() {
    let mut worker = Worker::start(&kitchen());
    // Counted anew in each call.
    for _attempt in 0..2 {
        worker.begin("/sql-order", b"");
        let mut counted = Vec::new();
        while counted.len() < 5 {
            let message = worker.receive_answer();
            if message.header.kind != Kind::Request {
                assert_eq!(message.header.kind, Kind::Cancel);
                continue;
            }
            let Sequence { number, settled } = message.decode_body().unwrap();
            counted.push((number, settled));
            // The third is let go of before it has ended. The first has ended when the third begins, which the Doee
            // does not know yet.
            if number != 3 {
                answer(&mut worker, &message.header, one_result());
            }
        }
        assert_eq!(counted, [(1, 0), (2, 0), (3, 0), (4, 2), (5, 2)]);
        assert_eq!(worker.receive_answer().header.kind, Kind::Cancel);
        assert!(worker.text().starts_with('0'));
    }
}

#[test]
fn a_wait_times_out_and_the_abandoned_host_call_is_cancelled() {
    let mut worker = Worker::start(&kitchen());
    worker.begin("/sql-timeout", b"");
    let request = host_call(&mut worker);
    let cancel = worker.receive_answer();
    assert_eq!(
        (cancel.header.kind, cancel.header.call),
        (Kind::Cancel, request.header.call)
    );
    assert_eq!(worker.text(), "11 nothing has ended within the timeout");
    // The late answer disturbs nobody.
    answer(&mut worker, &request.header, one_result());
    assert_eq!(worker.get("/hello"), "hello");
}

#[test]
fn a_cancel_ends_a_host_call_and_the_call() {
    let mut worker = Worker::start(&kitchen());
    let header = worker.begin("/sql-wait", b"");
    let request = host_call(&mut worker);
    worker.send(&Message::bare(Header {
        kind: Kind::Cancel,
        ..header
    }));
    let cancel = worker.receive_answer();
    assert_eq!(
        (cancel.header.kind, cancel.header.call),
        (Kind::Cancel, request.header.call)
    );
    assert_eq!(worker.error().code, ErrorCode::Cancelled);
    assert_eq!(worker.get("/hello"), "hello");
}

#[test]
fn a_deadline_ends_a_host_call_and_the_call() {
    let mut worker = Worker::start(&kitchen());
    let header = Header {
        remaining_us: 20_000,
        ..worker.request(1)
    };
    worker.begin_with(header, "/sql-wait", b"");
    let request = host_call(&mut worker);
    let cancel = worker.receive_answer();
    assert_eq!(
        (cancel.header.kind, cancel.header.call),
        (Kind::Cancel, request.header.call)
    );
    assert_eq!(worker.error().code, ErrorCode::TimedOut);
}
