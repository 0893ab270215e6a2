//! The example's and the templates' Doees in real workers; the detector against the labelled data.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use isms_protocol::dbriver::{Results, StatementResult, Transaction, Value};
use isms_protocol::doer::{Invocation, InvocationReply};
use isms_protocol::limits::CHUNK_LEN_MAX;
use isms_protocol::{ErrorCode, Flags, Header, Kind, Message, WireError, decode, encode};

use crate::worker::{Worker, compile, sdk};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// A Doee of the example, its headers put in place of their includes.
fn doee(name: &str) -> Vec<u8> {
    let folder = repository("examples/machine-monitor/doees").join(name);
    let mut source = fs::read_to_string(folder.join(format!("{name}.cpp"))).unwrap();
    for header in ["detector.hpp", "reading.hpp"] {
        let include = format!("#include \"{header}\"");
        if source.contains(&include) {
            let text = fs::read_to_string(folder.join(header))
                .unwrap()
                .replace("#pragma once", "");
            source = source.replace(&include, &text);
        }
    }
    compile("doee.cpp", &source)
}

fn send(worker: &mut Worker, invocation: &Invocation, body: &str) {
    worker.send(&Message::with_body(worker.request(1), invocation).with_raw(body.to_owned()));
}

fn post(worker: &mut Worker, body: &str) {
    let invocation = Invocation {
        method: "POST".into(),
        path: "/readings".into(),
        ..Invocation::default()
    };
    send(worker, &invocation, body);
}

fn answer(worker: &mut Worker) -> (u16, String) {
    let message = worker.receive_answer();
    assert_eq!(
        message.header.kind,
        Kind::Reply,
        "{:?}",
        message.decode_body::<WireError>()
    );
    let reply: InvocationReply = message.decode_body().unwrap();
    (reply.status, String::from_utf8(message.raw.to_vec()).unwrap())
}

/// The next transaction, and its header to answer.
fn transaction(worker: &mut Worker) -> (Message, Transaction) {
    let message = worker.receive_answer();
    assert_eq!(message.header.kind, Kind::Request);
    let transaction = decode(&message.raw).unwrap();
    (message, transaction)
}

fn rows(worker: &mut Worker, request: &Message, rows: Vec<Vec<Value>>) {
    let columns = vec!["c".to_owned(); rows.first().map_or(0, Vec::len)];
    let results = Results {
        results: vec![StatementResult {
            columns,
            rows,
            rows_changed: 0,
        }],
    };
    worker.send(&Message::bare(request.header.answer(Kind::Reply)).with_raw(encode(&results)));
}

fn done(worker: &mut Worker, request: &Message, statements: usize) {
    let results = Results {
        results: vec![StatementResult::default(); statements],
    };
    worker.send(&Message::bare(request.header.answer(Kind::Reply)).with_raw(encode(&results)));
}

fn state(version: i64, count: i64) -> Vec<Vec<Value>> {
    let real = Value::Real;
    vec![vec![
        Value::Text("m1".into()),
        Value::Integer(version),
        Value::Integer(count),
        real(1.5),
        real(1.0),
        real(2.0),
        Value::Integer(3),
        real(1.0),
        real(0.25),
    ]]
}

const READING: &str = r#"{"machine":"m1","timestamp":"2013-12-02 21:15:00","value":73.97}"#;

#[test]
fn the_first_reading_of_a_machine_makes_its_row_and_an_array_is_one_transaction() {
    let mut worker = Worker::start(&doee("anomaly"));
    post(&mut worker, &format!("[{READING},{READING}]"));
    let (request, select) = transaction(&mut worker);
    assert_eq!(select.statements[0].parameters, [Value::Text("m1".into())]);
    rows(&mut worker, &request, Vec::new());
    let (request, store) = transaction(&mut worker);
    assert_eq!(store.statements.len(), 2);
    assert!(
        store.statements[0].sql.starts_with("INSERT INTO machines"),
        "{}",
        store.statements[0].sql
    );
    assert_eq!(store.statements[0].rows_demanded, Some(1));
    assert_eq!(store.statements[0].parameters[0], Value::Integer(2));
    assert_eq!(store.statements[1].parameters.len(), 6);
    assert!(
        store.statements[1].sql.ends_with("VALUES (?, ?, ?), (?, ?, ?)"),
        "{}",
        store.statements[1].sql
    );
    done(&mut worker, &request, 2);
    assert_eq!(
        answer(&mut worker),
        (200, r#"{"stored":2,"anomalies":0}"#.to_owned())
    );
}

#[test]
fn a_state_that_changed_meanwhile_is_read_again_and_an_anomaly_is_recorded() {
    let mut worker = Worker::start(&doee("anomaly"));
    post(&mut worker, READING);
    let (request, _) = transaction(&mut worker);
    rows(&mut worker, &request, state(7, 900));
    let (request, _) = transaction(&mut worker);
    let error = WireError::new(ErrorCode::ConditionFailed, "row count");
    worker.send(&Message::error_answer(&request.header, &error));
    let (request, _) = transaction(&mut worker);
    rows(&mut worker, &request, state(8, 901));
    let (request, store) = transaction(&mut worker);
    let update = &store.statements[0];
    assert!(update.sql.starts_with("UPDATE machines"), "{}", update.sql);
    assert_eq!(
        (update.rows_demanded, update.parameters.last()),
        (Some(1), Some(&Value::Integer(8)))
    );
    assert_eq!(
        (&update.parameters[0], &update.parameters[4]),
        (&Value::Integer(902), &Value::Integer(4))
    );
    let anomaly = &store.statements[2];
    assert!(
        anomaly.sql.starts_with("INSERT INTO anomalies"),
        "{}",
        anomaly.sql
    );
    assert_eq!(
        anomaly.parameters[2..],
        [Value::Real(73.97), Value::Real(1.0), Value::Real(0.5)]
    );
    done(&mut worker, &request, 3);
    assert_eq!(
        answer(&mut worker),
        (200, r#"{"stored":1,"anomalies":1}"#.to_owned())
    );
}

#[test]
fn a_full_array_stays_within_the_limits_of_a_transaction_and_one_more_is_refused() {
    let mut worker = Worker::start(&doee("anomaly"));
    let array = |count: usize| format!("[{}]", vec![READING; count].join(","));
    let header = Header {
        flags: Flags::STREAM,
        ..worker.request(1)
    };
    let stream = |worker: &mut Worker, body: &str| {
        let invocation = Invocation {
            method: "POST".into(),
            path: "/readings".into(),
            ..Invocation::default()
        };
        worker.send(&Message::with_body(header, &invocation));
        assert_eq!(worker.receive_answer().header.kind, Kind::Credit);
        let piece = Header {
            kind: Kind::StreamChunk,
            flags: Flags::NONE,
            ..header
        };
        for chunk in body.as_bytes().chunks(CHUNK_LEN_MAX) {
            worker.send(&Message::bare(piece).with_raw(chunk.to_vec()));
        }
        worker.send(&Message::bare(Header {
            kind: Kind::StreamEnd,
            ..piece
        }));
    };
    stream(&mut worker, &array(1001));
    assert_eq!(
        answer(&mut worker),
        (
            400,
            r#"{"error":"an array has at most 1000 readings"}"#.to_owned()
        )
    );
    stream(&mut worker, &array(1000));
    let (request, _) = transaction(&mut worker);
    rows(&mut worker, &request, Vec::new());
    let (request, store) = transaction(&mut worker);
    let lens: Vec<_> = store
        .statements
        .iter()
        .map(|statement| statement.parameters.len())
        .collect();
    assert_eq!(lens, [8, 999, 999, 999, 3]);
    done(&mut worker, &request, 5);
    assert_eq!(answer(&mut worker).0, 200);
}

#[test]
fn readings_that_make_no_sense_are_400_with_the_reason() {
    let mut worker = Worker::start(&doee("anomaly"));
    let cases = [
        ("", "invalid JSON"),
        ("{", "invalid JSON"),
        ("{}", "\\\"machine\\\" is missing"),
        (
            r#"{"machine":"m1","timestamp":"2013-12-02 21:15:00"}"#,
            "\\\"value\\\" is missing",
        ),
        (
            r#"{"machine":"m1","timestamp":"2013-12-02 21:15:00","value":"1"}"#,
            "expected a number",
        ),
        (
            r#"{"machine":"m1","timestamp":"2013-12-02 21:15:00","value":1e999}"#,
            "too large",
        ),
        (
            r#"{"machine":"m1","timestamp":"2013-12-02 21:15:00","value":1e16}"#,
            "at most 1e15",
        ),
        (
            r#"{"machine":"m1","timestamp":"2013-02-29 21:15:00","value":1}"#,
            "is a time such as",
        ),
        (
            r#"{"machine":"m1","timestamp":"2013-12-02T21:15:00","value":1}"#,
            "is a time such as",
        ),
        (
            r#"{"machine":"","timestamp":"2013-12-02 21:15:00","value":1}"#,
            "letters, digits",
        ),
        (
            r#"{"machine":"a b","timestamp":"2013-12-02 21:15:00","value":1}"#,
            "letters, digits",
        ),
        (r#"[{"machine":7}]"#, "reading 0: expected a string"),
        ("7", "expected an object"),
    ];
    for (body, reason) in cases {
        post(&mut worker, body);
        let (status, text) = answer(&mut worker);
        assert_eq!(status, 400, "{body}");
        assert!(
            text.starts_with("{\"error\":") && text.contains(reason),
            "{body}: {text}"
        );
    }
    post(&mut worker, "[]");
    assert_eq!(
        answer(&mut worker),
        (200, r#"{"stored":0,"anomalies":0}"#.to_owned())
    );
}

#[test]
fn the_history_answers_from_one_row_and_lists_anomalies_in_order() {
    let mut worker = Worker::start(&doee("history"));
    let ask = |worker: &mut Worker, route: &str| {
        let parameters = vec![("id".into(), "m1".into())];
        send(
            worker,
            &Invocation {
                route: route.into(),
                parameters,
                ..Invocation::default()
            },
            "",
        );
        transaction(worker).0
    };
    let summary = || {
        vec![vec![
            Value::Integer(2),
            Value::Real(3.0),
            Value::Real(1.0),
            Value::Real(2.0),
            Value::Integer(1),
        ]]
    };
    let request = ask(&mut worker, "/machines/{id}/summary");
    rows(&mut worker, &request, summary());
    let expected = r#"{"count":2,"mean":1.5,"min":1.0,"max":2.0,"anomalies":1}"#;
    assert_eq!(answer(&mut worker), (200, expected.to_owned()));
    let request = ask(&mut worker, "/machines/{id}/summary");
    rows(&mut worker, &request, Vec::new());
    assert_eq!(answer(&mut worker).0, 404);
    let request = ask(&mut worker, "/machines/{id}/anomalies");
    rows(&mut worker, &request, summary());
    let (request, select) = transaction(&mut worker);
    assert_eq!(select.statements[0].parameters[1], Value::Integer(0));
    let row = |id, at: &str| {
        vec![
            Value::Integer(id),
            Value::Text(at.into()),
            Value::Real(9.0),
            Value::Real(1.0),
            Value::Real(0.5),
        ]
    };
    rows(&mut worker, &request, vec![row(4, "a"), row(9, "b")]);
    let expected = r#"[{"timestamp":"a","value":9.0,"mean":1.0,"deviation":0.5},{"timestamp":"b","value":9.0,"mean":1.0,"deviation":0.5}]"#;
    assert_eq!(answer(&mut worker), (200, expected.to_owned()));
}

#[test]
fn the_detector_finds_every_labelled_failure_in_the_data() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("replay");
    let source = "#include <detector.hpp>\n#include <cstdio>\n#include <cstdlib>\n\
        int main() { Detector detector; State state; char line[128];\n\
        while (fgets(line, sizeof line, stdin)) if (line[19] == ',' && detector.feed(state, atof(line + 20)))\n\
        printf(\"%.19s\\n\", line);\nreturn state.count == 22695 && state.anomalies == 259 ? 0 : 1; }\n";
    fs::write(folder.path().join("replay.cpp"), source).unwrap();
    let compiled = Command::new("c++")
        .args(["-std=c++20", "-O2", "-I"])
        .arg(repository("examples/machine-monitor/doees/anomaly"))
        .arg(folder.path().join("replay.cpp"))
        .arg("-o")
        .arg(&program)
        .status();
    assert!(compiled.unwrap().success());
    let data = repository("examples/machine-monitor/data/machine_temperature_system_failure.csv");
    let output = Command::new(&program)
        .stdin(fs::File::open(data).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", output.status);
    let alarms: Vec<_> = str::from_utf8(&output.stdout).unwrap().lines().collect();
    let windows = [
        ("2013-12-10 06:25:00", "2013-12-12 05:35:00"),
        ("2013-12-15 17:50:00", "2013-12-17 17:00:00"),
        ("2014-01-27 14:20:00", "2014-01-29 13:30:00"),
        ("2014-02-07 14:55:00", "2014-02-09 14:05:00"),
    ];
    for (from, to) in windows {
        assert!(
            alarms.iter().any(|at| (from..=to).contains(at)),
            "nothing from {from} to {to}"
        );
    }
}

#[test]
fn the_templates_answer_as_they_are() {
    let template = |path: &str| fs::read_to_string(repository("crates/isms/templates").join(path)).unwrap();
    let binary = compile("hello.cpp", &template("cpp/doees/hello/hello.cpp"));
    assert_eq!(
        Worker::start(&binary).get("/"),
        r#"{"message":"hello, world","path":"/"}"#
    );
    let binary = compile("hello.c", &template("c/doees/hello/hello.c"));
    assert_eq!(Worker::start(&binary).get("/"), "hello, world\n");
    assert!(sdk("README.md").exists());
}
