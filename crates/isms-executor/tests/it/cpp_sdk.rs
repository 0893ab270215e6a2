//! The C++ half of the SDK: its own unit tests, and the base class in a real worker.

use std::fs;
use std::process::Command;

use isms_protocol::dbriver::{Results, StatementResult, Transaction, Value};
use isms_protocol::doer::{Invocation, Parameter};
use isms_protocol::worker::{LogLevel, Report, Stage};
use isms_protocol::{ErrorCode, Kind, Message, WireError, decode, encode};

use crate::worker::{Worker, compile, sdk};

fn kitchen() -> Vec<u8> {
    compile("kitchen.cpp", include_str!("doees/kitchen.cpp"))
}

#[test]
fn the_json_of_the_sdk_passes_its_own_tests() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("json_test");
    let output = Command::new("c++")
        .args([
            "-std=c++20",
            "-O1",
            "-Wall",
            "-Wextra",
            "-Wpedantic",
            "-Werror",
            "-fsanitize=undefined",
        ])
        .args(["-fno-sanitize-recover=all", "-I"])
        .arg(sdk("cpp/include"))
        .arg(sdk("cpp/tests/json_test.cpp"))
        .arg("-o")
        .arg(&program)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let output = Command::new(&program).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    fs::remove_file(program).unwrap();
}

#[test]
fn exceptions_become_errors_with_their_text() {
    let mut worker = Worker::start(&kitchen());
    for (path, message) in [
        ("/throw", "it was thrown"),
        ("/throw-int", "something was thrown that is no std::exception"),
        ("/empty", "execute returned an empty response"),
    ] {
        worker.begin(path, b"");
        let error = worker.error();
        assert_eq!((error.code, &*error.message), (ErrorCode::DoeeFailed, message));
    }
    worker.begin("/member", b"{}");
    assert_eq!(worker.error().message, "\"a\" is missing");
}

#[test]
fn a_body_that_is_no_json_is_answered_with_400() {
    let mut worker = Worker::start(&kitchen());
    worker.begin("/json", b"{\"a\":}");
    let (reply, body) = worker.reply();
    let error = br#"{"error":"invalid JSON at byte 5: this is no value"}"#;
    assert_eq!((reply.status, &*body), (400, &error[..]));
    worker.begin("/json", b"1");
    assert_eq!(worker.text(), "1");
}

#[test]
fn an_exception_in_initialize_fails_the_start_and_one_in_terminate_is_logged() {
    let (_worker, report) = Worker::assign(&kitchen(), vec![("fail".into(), Parameter::Boolean(true))]);
    assert_eq!(
        report,
        Report::Failed {
            stage: Stage::Initialize,
            message: "initialize threw".into()
        }
    );
    let (_worker, report) = Worker::assign(&kitchen(), vec![("window".into(), Parameter::Text("x".into()))]);
    let message = "the parameter \"window\" is of another type".into();
    assert_eq!(
        report,
        Report::Failed {
            stage: Stage::Initialize,
            message
        }
    );
    let mut worker = Worker::start(&kitchen());
    assert_eq!(worker.log_line().text, "initialized");
    worker.drain();
    assert_eq!(worker.report(), Report::Terminated);
    let line = worker.log_line();
    assert_eq!(
        (line.level, &*line.text),
        (LogLevel::Error, "terminate threw an exception")
    );
}

#[test]
fn requests_and_responses_are_ergonomic() {
    let (mut worker, _) = Worker::assign(&kitchen(), vec![("window".into(), Parameter::Integer(288))]);
    let invocation = Invocation {
        path: "/hello".into(),
        parameters: vec![("id".into(), "m\"1".into())],
        ..Invocation::default()
    };
    worker.send(&Message::with_body(worker.request(1), &invocation));
    assert_eq!(worker.text(), r#"{"window":288,"id":"m\"1"}"#);
    let invocation = Invocation {
        path: "/query".into(),
        query: "p=1&q=a%20b+c%2g&r".into(),
        ..Invocation::default()
    };
    worker.send(&Message::with_body(worker.request(2), &invocation));
    assert_eq!(worker.text(), "a b c%2g");
    worker.begin("/json", "{\"a\": [1, 2.5, \"\\u00e9\"]}".as_bytes());
    assert_eq!(worker.text(), "{\"a\":[1,2.5,\"é\"]}");
    worker.begin("/nowhere", b"");
    let (reply, body) = worker.reply();
    assert_eq!((reply.status, &*body), (404, &br#"{"error":"no such path"}"#[..]));
    assert!(reply.headers.contains(&("x-why".into(), "test".into())));
}

#[test]
fn a_transaction_demands_rows_and_reads_them() {
    let mut worker = Worker::start(&kitchen());
    worker.begin("/transaction", b"");
    let request = worker.receive_answer();
    let transaction: Transaction = decode(&request.raw).unwrap();
    assert_eq!(
        (&*transaction.database, transaction.statements.len()),
        ("readings", 2)
    );
    assert_eq!(transaction.statements[0].rows_demanded, Some(1));
    assert_eq!(transaction.statements[0].parameters, [Value::Real(1.5)]);
    let update = StatementResult {
        rows_changed: 1,
        ..StatementResult::default()
    };
    let rows = vec![vec![Value::Integer(3), Value::Text("x".into())]];
    let select = StatementResult {
        columns: vec!["a".into(), "b".into()],
        rows,
        rows_changed: 0,
    };
    let results = encode(&Results {
        results: vec![update, select],
    });
    worker.send(&Message::bare(request.header.answer(Kind::Reply)).with_raw(results));
    assert_eq!(worker.text(), r#"{"column":"a","a":3.0,"b":"x"}"#);

    worker.begin("/transaction", b"");
    let request = worker.receive_answer().header;
    worker.send(&Message::error_answer(
        &request,
        &WireError::new(ErrorCode::ConditionFailed, "row count"),
    ));
    assert_eq!(worker.reply().0.status, 409);

    worker.begin("/transaction", b"");
    let request = worker.receive_answer().header;
    worker.send(&Message::error_answer(
        &request,
        &WireError::new(ErrorCode::Database, "no such table"),
    ));
    assert_eq!(worker.error().message, "no such table");
}
