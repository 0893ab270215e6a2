//! How calls went: as JSON and as Prometheus reads it, within the token's scope.

use isms_protocol::{
    Class, DoeeVersion, ProjectId, Service,
    kernel::{BUCKETS_US, Calls, CallsAfter, ClassCalls, DoeeCalls, Histogram, Outcomes},
    resadmin::{self, NameDoees, NamedDoee, NamedDoees},
};
use serde_json::json;

use crate::harness::{A, B, Gate, VERSION};

const OF_B: DoeeVersion = DoeeVersion::from_bytes([3; 16]);
/// What `d` of project `a` was before.
const OLD_OF_A: DoeeVersion = DoeeVersion::from_bytes([5; 16]);
/// Of a project that was deleted.
const GONE: DoeeVersion = DoeeVersion::from_bytes([4; 16]);

/// What the Kernel says: four rows, in two parts.
pub(crate) fn part(after: CallsAfter) -> Calls {
    match after.row {
        0 => Calls {
            doees: vec![doee(DoeeVersion::NONE, ProjectId::NONE), doee(VERSION, A)],
            next: 2,
        },
        2 => Calls {
            doees: vec![doee(OF_B, B), doee(GONE, ProjectId::from_bytes([0xc; 16]))],
            next: 0,
        },
        other => panic!("nobody said that a part begins at {other}"),
    }
}

fn doee(doee: DoeeVersion, project: ProjectId) -> DoeeCalls {
    let mut counts = vec![0; BUCKETS_US.len() + 1];
    (counts[0], counts[2], counts[BUCKETS_US.len()]) = (3, 2, 1);
    let histogram = |sum_us| Histogram {
        counts: counts.clone(),
        sum_us,
    };
    let class = ClassCalls {
        class: Class::High,
        outcomes: Outcomes {
            done: 5,
            failed: 1,
            expired: 2,
            rate_limited: 7,
            ..Outcomes::default()
        },
        deadlines_met: 5,
        deadlines_missed: 1,
        waited: histogram(250),
        ran: histogram(70_000_000),
    };
    DoeeCalls {
        doee,
        project,
        queued: 3,
        running: 1,
        classes: vec![class],
    }
}

/// What Resadmin calls them.
pub(crate) fn names(asked: &NameDoees) -> NamedDoees {
    let name = |version: &DoeeVersion| match *version {
        VERSION | OLD_OF_A => Some(("a", "d")),
        OF_B => Some(("b", "e")),
        _ => None,
    };
    let named = asked.versions.iter().filter_map(|version| {
        let (project, doee) = name(version)?;
        Some(NamedDoee {
            version: *version,
            project: project.into(),
            doee: doee.into(),
        })
    });
    NamedDoees {
        doees: named.collect(),
    }
}

#[tokio::test]
async fn a_projects_token_sees_the_calls_of_its_own_doees() {
    let gate = Gate::start().await;
    let own = gate.fetch("reader-a", "GET /api/v1/calls").await.json();
    let row = json!({
        "project": A,
        "project_name": "a",
        "doee": "d",
        "version": VERSION,
        "queued": 3,
        "running": 1,
        "classes": [{
            "class": "high",
            "outcomes": {
                "done": 5, "failed": 1, "crashed": 0, "unavailable": 0, "refused": 0, "rate_limited": 7,
                "cancelled": 0, "expired": 2, "timed_out": 0,
            },
            "deadlines": { "met": 5, "missed_queued": 2, "missed_running": 1 },
            "waited": { "counts": [3, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], "sum_us": 250 },
            "ran": { "counts": [3, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], "sum_us": 70_000_000 },
        }],
    });
    assert_eq!(own, json!({ "buckets_us": BUCKETS_US, "calls": [row] }));

    let all = gate.fetch("reader", "GET /api/v1/calls").await.json();
    let named: Vec<_> = all["calls"].as_array().unwrap().iter().collect();
    let named: Vec<_> = named
        .iter()
        .map(|row| (&row["project_name"], &row["doee"], &row["version"]))
        .collect();
    let (nobody, gone) = (json!(null), json!(GONE));
    let expected = [
        (&nobody, &nobody, &nobody),
        (&json!("a"), &json!("d"), &json!(VERSION)),
        (&json!("b"), &json!("e"), &json!(OF_B)),
        (&nobody, &nobody, &gone),
    ];
    assert_eq!(named, expected);
    assert_eq!(gate.fetch("invoker-a", "GET /api/v1/calls").await.status, 403);
}

#[tokio::test]
async fn names_are_asked_for_once() {
    let gate = Gate::start().await;
    for _ in 0..3 {
        gate.fetch("reader-a", "GET /api/v1/calls").await;
    }
    let asked = gate.operations(Service::Resadmin);
    assert_eq!(asked, [resadmin::Operation::NameDoees as u16]);
}

#[tokio::test]
async fn what_the_doees_of_a_deleted_project_were_called_is_asked_for_anew() {
    let gate = Gate::start().await;
    gate.fetch("reader-a", "GET /metrics").await;
    assert_eq!(gate.fetch("admin", "DELETE /api/v1/projects/a").await.status, 204);
    gate.fetch("reader-a", "GET /metrics").await;
    let names = resadmin::Operation::NameDoees as u16;
    let asked = gate.operations(Service::Resadmin);
    assert_eq!(asked.iter().filter(|&&operation| operation == names).count(), 2);
}

#[tokio::test]
async fn prometheus_reads_counts_histograms_and_for_who_sees_all_projects_the_platform() {
    let gate = Gate::start().await;
    assert_eq!(gate.fetch("", "GET /metrics").await.status, 401);
    assert_eq!(gate.fetch("invoker-a", "GET /metrics").await.status, 403);
    let response = gate.fetch("reader", "GET /metrics").await;
    assert_eq!(
        response.header("content-type"),
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let text = response.text();
    let labels = format!("project=\"a\",doee=\"d\",version=\"{VERSION}\"");
    let high = format!("{labels},class=\"high\"");
    for line in [
        "# TYPE isms_calls_total counter".to_owned(),
        "isms_service_queued{service=\"doer\"} 2".to_owned(),
        "isms_processes_total{outcome=\"expired\"} 9".to_owned(),
        "isms_events_dropped_total 10".to_owned(),
        "isms_log_bytes 0".to_owned(),
        "isms_trace_bytes 0".to_owned(),
        "isms_traces_evicted_total 0".to_owned(),
        "isms_trace_spans_dropped_total 0".to_owned(),
        format!("isms_calls_queued{{{labels}}} 3"),
        format!("isms_calls_total{{{high},outcome=\"rate_limited\"}} 7"),
        format!("isms_call_deadlines_total{{{high},result=\"missed_queued\"}} 2"),
        "# TYPE isms_call_run_seconds histogram".to_owned(),
        format!("isms_call_run_seconds_bucket{{{high},le=\"0.0001\"}} 3"),
        format!("isms_call_run_seconds_bucket{{{high},le=\"0.0005\"}} 5"),
        format!("isms_call_run_seconds_bucket{{{high},le=\"60\"}} 5"),
        format!("isms_call_run_seconds_bucket{{{high},le=\"+Inf\"}} 6"),
        format!("isms_call_run_seconds_sum{{{high}}} 70"),
        format!("isms_call_wait_seconds_sum{{{high}}} 0.00025"),
        format!("isms_call_wait_seconds_count{{{high}}} 6"),
        "isms_calls_running{project=\"\",doee=\"other\",version=\"\"} 1".to_owned(),
        format!("isms_calls_running{{project=\"\",doee=\"\",version=\"{GONE}\"}} 1"),
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is missing in\n{text}"
        );
    }
    // Each family is described once, before its samples; no sample stands twice.
    let samples: Vec<_> = text.lines().filter_map(|line| line.rsplit_once(' ')).collect();
    let mut names: Vec<_> = samples.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    assert!(
        names
            .windows(2)
            .all(|pair| pair[0] != pair[1] || pair[0].starts_with('#'))
    );

    let own = gate.fetch("reader-a", "GET /metrics").await.text();
    assert!(own.contains(&labels) && !own.contains("project=\"b\""), "{own}");
    assert!(!own.contains("isms_service") && !own.contains("other"), "{own}");
}
