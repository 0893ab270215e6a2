//! The example `machine-monitor`, exactly as its README promises.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Http, Platform, repository};

const DAY_S: i64 = 24 * 60 * 60;

fn monitor() -> Option<Platform> {
    let platform = Platform::start()?;
    platform.deploy(&repository().join("examples/machine-monitor"));
    Some(platform)
}

fn rows(path: &str) -> Vec<(String, f64)> {
    let text = fs::read_to_string(repository().join("examples/machine-monitor/data").join(path)).unwrap();
    let row = |line: &str| {
        line.split_once(',')
            .map(|(at, value)| (at.to_owned(), value.parse().unwrap()))
    };
    text.lines().skip(1).map(|line| row(line).unwrap()).collect()
}

fn post(http: &mut Http, body: &Value) -> (u16, Value) {
    let answer = http.send(
        "POST",
        "/machine-monitor/readings",
        &[],
        body.to_string().as_bytes(),
    );
    (answer.status, answer.json())
}

fn reading(machine: &str, at: &str, value: f64) -> Value {
    json!({ "machine": machine, "timestamp": at, "value": value })
}

fn seconds(text: &str) -> i64 {
    let part = |from: usize, to: usize| text[from..to].parse::<i64>().unwrap();
    let (year, month, day) = (part(0, 4), part(5, 7), part(8, 10));
    let year = if month <= 2 { year - 1 } else { year };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    days * DAY_S + part(11, 13) * 3600 + part(14, 16) * 60 + part(17, 19)
}

/// Windows hit, and episodes that lie in none.
fn score(anomalies: &Value, windows: &Value) -> (usize, usize) {
    let mut times: Vec<i64> = anomalies
        .as_array()
        .unwrap()
        .iter()
        .map(|alarm| seconds(alarm["timestamp"].as_str().unwrap()))
        .collect();
    times.sort_unstable();
    let windows: Vec<(i64, i64)> = windows
        .as_array()
        .unwrap()
        .iter()
        .map(|window| {
            (
                seconds(window[0].as_str().unwrap()),
                seconds(window[1].as_str().unwrap()),
            )
        })
        .collect();
    let hit = windows
        .iter()
        .filter(|(from, to)| times.iter().any(|at| (from..=to).contains(&at)))
        .count();
    let inside = |at: &i64| windows.iter().any(|(from, to)| (from..=to).contains(&at));
    let outside = times
        .chunk_by(|earlier, later| later - earlier <= DAY_S)
        .filter(|episode| !episode.iter().any(inside))
        .count();
    (hit, outside)
}

fn replay(platform: &Platform, machine: &str, rows: &[(String, f64)]) {
    let mut http = Http::connect(platform.http);
    for (at, value) in rows {
        let (status, answer) = post(&mut http, &reading(machine, at, *value));
        assert_eq!((status, &answer["stored"]), (200, &json!(1)), "{answer}");
    }
}

#[test]
fn the_machines_file_replays_whole_and_its_failures_are_found() {
    let Some(platform) = monitor() else { return };
    let rows = rows("machine_temperature_system_failure.csv");
    replay(&platform, "m1", &rows);
    let summary = platform.get("/machine-monitor/machines/m1/summary").json();
    assert_eq!(summary["count"], 22_695);
    let sum: f64 = rows.iter().map(|(_, value)| value).sum();
    let mean = summary["mean"].as_f64().unwrap();
    assert!((mean - sum / rows.len() as f64).abs() < 1e-6, "{mean}");
    let values = || rows.iter().map(|(_, value)| *value);
    let close = |name: &str, expected: f64| (summary[name].as_f64().unwrap() - expected).abs() < 1e-9;
    assert!(close("min", values().reduce(f64::min).unwrap()), "{summary}");
    assert!(close("max", values().reduce(f64::max).unwrap()), "{summary}");
    let anomalies = platform.get("/machine-monitor/machines/m1/anomalies").json();
    assert_eq!(
        anomalies.as_array().unwrap().len() as u64,
        summary["anomalies"].as_u64().unwrap()
    );
    let labels = repository().join("examples/machine-monitor/data/labels.json");
    let labels: Value = serde_json::from_str(&fs::read_to_string(labels).unwrap()).unwrap();
    let (hit, outside) = score(&anomalies, &labels["machine_temperature_system_failure.csv"]);
    assert!(hit >= 3, "{hit} windows hit");
    assert!(outside <= 14, "{outside} episodes outside");
}

#[test]
fn a_planted_spike_is_one_alarm_and_the_answer_has_its_shape() {
    let Some(platform) = monitor() else { return };
    let mut http = Http::connect(platform.http);
    for index in 0..1000 {
        let at = format!(
            "2024-01-{:02} {:02}:{:02}:00",
            1 + index / 288,
            index % 288 / 12,
            index % 12 * 5
        );
        let value = if index == 800 {
            500.0
        } else {
            50.0 + f64::from(index % 7)
        };
        let (status, answer) = post(&mut http, &reading("spiky", &at, value));
        assert_eq!(status, 200);
        assert_eq!(
            answer,
            json!({ "stored": 1, "anomalies": u32::from(index == 800) }),
            "reading {index}"
        );
    }
    let anomalies = platform.get("/machine-monitor/machines/spiky/anomalies").json();
    let alarm = &anomalies.as_array().unwrap()[0];
    assert_eq!(alarm["value"], 500.0);
    let mut keys: Vec<&String> = alarm.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["deviation", "mean", "timestamp", "value"]);
}

#[test]
fn an_array_is_stored_whole_or_not_at_all() {
    let Some(platform) = monitor() else { return };
    let mut http = Http::connect(platform.http);
    let good = reading("m", "2024-01-01 00:00:00", 1.0);
    let (status, answer) = post(
        &mut http,
        &json!([good, reading("m", "2024-01-01 00:05:00", 2.0)]),
    );
    assert_eq!((status, answer), (200, json!({ "stored": 2, "anomalies": 0 })));
    let (status, _) = post(
        &mut http,
        &json!([good, { "machine": "m", "timestamp": "never", "value": 1 }]),
    );
    assert_eq!(status, 400);
    let summary = platform.get("/machine-monitor/machines/m/summary").json();
    assert_eq!(
        summary,
        json!({ "count": 2, "mean": 1.5, "min": 1.0, "max": 2.0, "anomalies": 0 })
    );
    assert_eq!(
        platform.get("/machine-monitor/machines/nobody/summary").status,
        404
    );
    assert_eq!(
        platform.get("/machine-monitor/machines/nobody/anomalies").status,
        404
    );
    for body in [
        "",
        "{",
        "[]]",
        "7",
        r#"{"machine":"m"}"#,
        r#"{"machine":"m","timestamp":"2024-01-01 00:00:00","value":"x"}"#,
    ] {
        let answer = platform.request("POST", "/machine-monitor/readings", body);
        assert_eq!(answer.status, 400, "{body:?}: {}", answer.text());
    }
}

#[test]
fn concurrent_posts_lose_no_update() {
    let Some(platform) = monitor() else { return };
    let (clients, posts) = (8, 50);
    std::thread::scope(|scope| {
        for client in 0..clients {
            let http = platform.http;
            scope.spawn(move || {
                let mut http = Http::connect(http);
                for index in 0..posts {
                    let at = format!("2024-01-01 {client:02}:{index:02}:00");
                    let (status, answer) = post(&mut http, &reading("shared", &at, 1.0));
                    assert_eq!(status, 200, "{answer}");
                }
            });
        }
    });
    let summary = platform.get("/machine-monitor/machines/shared/summary").json();
    assert_eq!(summary["count"], clients * posts);
}

#[test]
fn the_detector_keeps_its_state_over_a_restart_and_finds_the_same_anomalies() {
    let Some(platform) = monitor() else { return };
    let rows: Vec<(String, f64)> = rows("machine_temperature_system_failure.csv")
        .into_iter()
        .take(4000)
        .collect();
    replay(&platform, "whole", &rows);
    let (first, second) = rows.split_at(2500);
    replay(&platform, "halves", first);
    let platform = platform.restart();
    replay(&platform, "halves", second);
    let anomalies = |machine: &str| {
        platform
            .get(&format!("/machine-monitor/machines/{machine}/anomalies"))
            .json()
    };
    assert_eq!(anomalies("whole"), anomalies("halves"));
    assert!(!anomalies("whole").as_array().unwrap().is_empty());
}
