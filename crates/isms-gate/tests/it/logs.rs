//! Logs of Doees.

use isms_gate::Config;
use isms_http::test_support::soon;
use isms_protocol::{
    Header, Kind, Message, ProcessId, ProjectId, Service,
    gate::{LogRecord, LogRecords, Operation},
    worker::LogLevel,
};
use serde_json::{Value, json};

use crate::harness::{A, B, Gate, VERSION};

const LOGS: &str = "GET /api/v1/projects/a/doees/d/logs";

impl Gate {
    async fn log(&self, project: ProjectId, texts: &[&str]) {
        let record = |text: &&str| LogRecord {
            project,
            project_name: "a".into(),
            doee: "d".into(),
            version: VERSION,
            process: ProcessId::NONE,
            at_us: 5,
            level: LogLevel::Warn,
            text: (*text).into(),
        };
        let header = Header {
            operation: Operation::Log as u16,
            ..Header::new(Kind::Event, Service::Doer, Service::Gate)
        };
        let records = LogRecords {
            records: texts.iter().map(record).collect(),
        };
        self.kernel.tell(&Message::with_body(header, &records)).await;
    }

    /// Waits until that many bytes of lines are held.
    async fn holds_lines(&self, count: u64) {
        let held = async {
            loop {
                let status = self.fetch("admin", "GET /api/v1/status").await.json();
                if status["logs"]["bytes"].as_u64().unwrap() >= count {
                    return;
                }
            }
        };
        soon("the lines", held).await;
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn line(text: &str) -> Value {
    json!({
        "at_us": 5,
        "level": "warn",
        "version": "02020202-0202-0202-0202-020202020202",
        "process": null,
        "text": text,
    })
}

#[tokio::test]
async fn the_tail_is_shown_and_ends() {
    let gate = Gate::start().await;
    gate.log(A, &["one", "two", "three"]).await;
    gate.log(B, &["not yours"]).await;
    gate.holds_lines(4 * 48).await;
    let all = gate.fetch("reader-a", LOGS).await;
    assert_eq!(
        (all.status, &*all.header("content-type")),
        (200, "application/x-ndjson")
    );
    assert_eq!(lines(&all.text()), [line("one"), line("two"), line("three")]);
    let tail = gate.fetch("reader-a", &format!("{LOGS}?tail=1")).await;
    assert_eq!(lines(&tail.text()), [line("three")]);
}

#[tokio::test]
async fn a_follower_gets_lines_as_they_come() {
    let gate = Gate::start().await;
    let mut follower = gate.open("reader-a", &format!("{LOGS}?follow=true&tail=0")).await;
    assert_eq!(follower.head().await.status, 200);
    for text in ["one", "two"] {
        gate.log(A, &[text]).await;
        let chunk = String::from_utf8(follower.chunk().await.unwrap()).unwrap();
        assert_eq!(lines(&chunk), [line(text)]);
    }
}

#[tokio::test]
async fn what_was_forgotten_is_counted() {
    let mut config = Config::default();
    config.logs.doee_len_max = 1000;
    let gate = Gate::with(config, |_| async {}).await;
    let texts: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    gate.log(A, &texts.iter().map(String::as_str).collect::<Vec<_>>())
        .await;
    gate.holds_lines(500).await;
    let shown = lines(&gate.fetch("reader-a", LOGS).await.text());
    let dropped = shown[0]["dropped"].as_u64().unwrap();
    assert_eq!(dropped + shown.len() as u64 - 1, 20);
    assert_eq!(shown.last().unwrap(), &line("19"));
}

#[tokio::test]
async fn readers_are_limited_and_a_reader_that_leaves_makes_room() {
    let mut config = Config::default();
    config.logs.followers_max = 1;
    let gate = Gate::with(config, |_| async {}).await;
    let mut follower = gate.open("reader-a", &format!("{LOGS}?follow=true")).await;
    follower.head().await;
    let refused = gate.fetch("reader-a", LOGS).await;
    assert_eq!((refused.status, &refused.json()["title"]), (503, &"busy".into()));
    drop(follower);
    let free = async { while gate.fetch("reader-a", LOGS).await.status != 200 {} };
    soon("the free place", free).await;
}

#[tokio::test]
async fn unknown_doees_foreign_projects_and_bad_queries_are_refused() {
    let gate = Gate::start().await;
    for (request, status) in [
        ("GET /api/v1/projects/a/doees/x/logs", 404),
        ("GET /api/v1/projects/b/doees/d/logs", 404),
        ("GET /api/v1/projects/a/doees/d/logs?tail=x", 400),
        ("GET /api/v1/projects/a/doees/d/logs?follow=maybe", 400),
    ] {
        assert_eq!(gate.fetch("reader-a", request).await.status, status, "{request}");
    }
}

#[tokio::test]
async fn malformed_log_events_are_ignored() {
    let gate = Gate::start().await;
    let header = Header {
        operation: Operation::Log as u16,
        ..Header::new(Kind::Event, Service::Doer, Service::Gate)
    };
    gate.kernel.tell(&Message::with_body(header, &"garbage")).await;
    gate.kernel
        .tell(&Message::with_body(
            Header {
                operation: 99,
                ..header
            },
            &0,
        ))
        .await;
    gate.log(A, &["after"]).await;
    gate.holds_lines(48).await;
    assert_eq!(lines(&gate.fetch("reader-a", LOGS).await.text()), [line("after")]);
}
