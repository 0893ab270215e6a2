//! The example `machine-monitor`, exactly as its README promises.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use crate::{
    harness::{Http, Platform, eventually, repository},
    project::Project,
};

const DAY_S: i64 = 24 * 60 * 60;
const MACHINE_FILE: &str = "machine_temperature_system_failure.csv";
const OFFICE_FILE: &str = "ambient_temperature_system_failure.csv";

fn example() -> PathBuf {
    repository().join("examples/machine-monitor")
}

fn monitor() -> Option<Platform> {
    let platform = Platform::start()?;
    platform.deploy(&example());
    Some(platform)
}

/// A copy of the example with this many workers for each function, and a warm-up of 200 readings instead
/// of 576, so that short series have alarms.
fn with_workers(count: u32) -> Project {
    let mut manifest = fs::read_to_string(example().join("project.toml")).unwrap();
    let workers = format!("workers = {{ min = {count}, max = {count} }}");
    for (ours, changed) in [
        ("workers = { min = 0, max = 8 }", workers.as_str()),
        ("warm_up = 576", "warm_up = 200"),
    ] {
        assert!(manifest.contains(ours));
        manifest = manifest.replace(ours, changed);
    }
    let folders = ["doees/anomaly", "doees/history", "migrations"];
    folders
        .into_iter()
        .fold(Project::new(&manifest), |project, folder| {
            let files = fs::read_dir(example().join(folder)).unwrap();
            files.map(Result::unwrap).fold(project, |project, file| {
                let path = format!("{folder}/{}", file.file_name().to_str().unwrap());
                project.file(&path, fs::read(file.path()).unwrap())
            })
        })
}

fn rows(file: &str) -> Vec<(String, f64)> {
    let text = fs::read_to_string(example().join("data").join(file)).unwrap();
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

/// Posts readings of a machine, one request at a time.
fn replay(platform: &Platform, machine: &str, rows: &[(String, f64)]) {
    let mut http = Http::connect(platform.http);
    for (at, value) in rows {
        let (status, answer) = post(&mut http, &reading(machine, at, *value));
        assert_eq!((status, &answer["stored"]), (200, &json!(1)), "{answer}");
    }
}

/// The answer to `GET …/anomalies`, byte by byte.
fn anomalies(platform: &Platform, machine: &str) -> String {
    let answer = platform.get(&format!("/machine-monitor/machines/{machine}/anomalies"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

/// Replays a file of the example's data and checks the summary against it; returns the number of alarms,
/// of labelled windows hit, of those missed, and of episodes outside of them.
fn replay_file(platform: &Platform, machine: &str, file: &str) -> (usize, usize, usize, usize) {
    let rows = rows(file);
    replay(platform, machine, &rows);
    let summary = platform
        .get(&format!("/machine-monitor/machines/{machine}/summary"))
        .json();
    assert_eq!(summary["count"], rows.len());
    let values = || rows.iter().map(|(_, value)| *value);
    let close = |name: &str, expected: f64| (summary[name].as_f64().unwrap() - expected).abs() < 1e-6;
    assert!(
        close("mean", values().sum::<f64>() / rows.len() as f64),
        "{summary}"
    );
    assert!(close("min", values().reduce(f64::min).unwrap()), "{summary}");
    assert!(close("max", values().reduce(f64::max).unwrap()), "{summary}");
    let anomalies: Value = serde_json::from_str(&anomalies(platform, machine)).unwrap();
    let alarms = anomalies.as_array().unwrap().len();
    assert_eq!(summary["anomalies"], alarms);
    let labels = fs::read_to_string(example().join("data/labels.json")).unwrap();
    let windows = &serde_json::from_str::<Value>(&labels).unwrap()[file];
    let (hit, outside) = score(&anomalies, windows);
    (alarms, hit, windows.as_array().unwrap().len() - hit, outside)
}

// The numbers are those of the example's README; at least 3 of the 4 windows and at most 14 episodes
// outside are what the detector owes.
#[test]
fn the_machines_file_replays_whole_and_all_its_failures_are_found() {
    let Some(platform) = monitor() else { return };
    let found = replay_file(&platform, "m1", MACHINE_FILE);
    assert_eq!(rows(MACHINE_FILE).len(), 22_695);
    assert_eq!(
        found,
        (259, 4, 0, 12),
        "alarms, windows hit and missed, episodes outside"
    );
}

#[test]
fn the_offices_file_replays_whole_and_both_its_failures_are_found() {
    let Some(platform) = monitor() else { return };
    let found = replay_file(&platform, "office", OFFICE_FILE);
    assert_eq!(rows(OFFICE_FILE).len(), 7_267);
    assert_eq!(
        found,
        (28, 2, 0, 12),
        "alarms, windows hit and missed, episodes outside"
    );
}

#[test]
fn one_worker_and_eight_find_the_same_anomalies_for_one_machine_and_for_eight_at_once() {
    let Some(platform) = Platform::start() else { return };
    let rows = rows(MACHINE_FILE);
    let parts = [500, 1000, 1700, 2000, 8000, 9000, 11_000, 16_000].map(|from| &rows[from..from + 350]);
    platform.deploy(with_workers(1).path());
    let alone: Vec<String> = (0..8)
        .map(|part| {
            let machine = format!("one-{part}");
            replay(&platform, &machine, parts[part]);
            anomalies(&platform, &machine)
        })
        .collect();
    assert!(alone.iter().all(|found| found != "[]"), "{alone:?}");
    let served = || -> Vec<Value> {
        let workers = platform.workers("machine-monitor").into_iter();
        let served = workers.filter(|worker| worker["doee"] == "anomaly" && worker["calls"] != 0);
        served.map(|worker| worker["worker"].clone()).collect()
    };
    let only_one = served();
    assert_eq!(only_one.len(), 1);

    platform.deploy(with_workers(8).path());
    std::thread::scope(|scope| {
        for (part, rows) in parts.iter().enumerate() {
            let platform = &platform;
            scope.spawn(move || replay(platform, &format!("at-once-{part}"), rows));
        }
    });
    let at_once: Vec<String> = (0..8)
        .map(|part| anomalies(&platform, &format!("at-once-{part}")))
        .collect();
    assert_eq!(at_once, alone);
    let more = served().into_iter().filter(|worker| !only_one.contains(worker));
    assert!(more.count() > 1, "one worker did all the work");
    replay(&platform, "eight", parts[0]);
    assert_eq!(anomalies(&platform, "eight"), alone[0]);
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
fn a_restart_of_the_doer_or_of_the_platform_changes_no_anomaly() {
    let Some(platform) = Platform::start() else { return };
    platform.deploy(with_workers(8).path());
    let rows = &rows(MACHINE_FILE)[500..850];
    replay(&platform, "whole", rows);
    // Alarms come in the second part and in the third.
    let (first, second, third) = (&rows[..215], &rows[215..280], &rows[280..]);
    replay(&platform, "parts", first);
    let doer = platform.process("doer").unwrap();
    doer.kill();
    eventually("the doer's end", || (!doer.is_alive()).then_some(()));
    eventually("the doer's successor", || {
        let summary = platform.get("/machine-monitor/machines/parts/summary");
        (summary.status == 200).then_some(())
    });
    replay(&platform, "parts", second);
    let platform = platform.restart();
    replay(&platform, "parts", third);
    let whole = anomalies(&platform, "whole");
    assert_eq!(anomalies(&platform, "parts"), whole);
    for part in [second, third] {
        assert!(part.iter().any(|(at, _)| whole.contains(at)), "{whole}");
    }
}
