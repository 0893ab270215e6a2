//! Tables from what the platform says.

use serde_json::json;

use super::*;

/// What the platform says of a function that was called so often in one class.
fn said(doee: &str, class: &str, done: u64, failed: u64) -> serde_json::Value {
    json!({
        "project": null, "project_name": "p", "doee": doee, "version": "v", "queued": 2, "running": 1,
        "classes": [{
            "class": class,
            "outcomes": { "done": done, "failed": failed, "expired": 1, "timed_out": 1 },
            "deadlines": { "met": done, "missed_queued": 1, "missed_running": 1 },
            "waited": { "counts": [done, 0, 0], "sum_us": 1 },
            "ran": { "counts": [0, done, failed], "sum_us": 1 },
        }],
    })
}

fn calls(rows: &[serde_json::Value]) -> Calls {
    serde_json::from_value(json!({ "buckets_us": [100, 1000], "calls": rows })).unwrap()
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn versions_of_a_function_are_one_row_and_its_classes_are_several() {
    let calls = calls(&[
        said("a", "batch", 10, 0),
        said("a", "batch", 30, 2),
        said("a", "high", 1, 0),
    ]);
    let text = once(&rows(&calls), &calls.buckets_us);
    let lines: Vec<_> = text.lines().map(words).collect();
    assert_eq!(lines[1][..7], ["p/a", "high", "3", "2", "1", "0", "2"]);
    assert_eq!(lines[2][..7], ["p/a", "batch", "46", "4", "2", "2", "4"]);
    assert_eq!(lines[2][7..], ["50", "µs", "99", "µs", "572", "µs", "1.0", "ms"]);
}

#[test]
fn what_has_no_name_is_shown_by_its_version_and_the_rest_as_other() {
    let mut gone = said("a", "normal", 1, 0);
    gone["project_name"] = json!(null);
    gone["doee"] = json!(null);
    let mut rest = gone.clone();
    rest["version"] = json!(null);
    let rows = rows(&calls(&[gone, rest]));
    let names: Vec<_> = rows.keys().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["other", "v"]);
}

#[test]
fn a_live_table_shows_what_came_since_the_last_one_the_busiest_first() {
    let before = rows(&calls(&[said("a", "normal", 10, 0), said("b", "normal", 10, 0)]));
    let now = calls(&[said("a", "normal", 12, 1), said("b", "normal", 50, 0)]);
    let lines = live(
        &rows(&now),
        &before,
        Some(Duration::from_secs(2)),
        &now.buckets_us,
    );
    let shown: Vec<_> = lines.iter().map(|line| words(line)).collect();
    assert_eq!(shown[1][..7], ["p/b", "normal", "20.0", "2", "1", "0", "0"]);
    assert_eq!(shown[2][..7], ["p/a", "normal", "1.5", "2", "1", "1", "0"]);
    let first = live(&rows(&now), &Rows::new(), None, &now.buckets_us);
    assert_eq!(words(&first[1])[2], "-");
}

#[test]
fn a_kernel_that_was_started_anew_counts_from_nothing() {
    let before = rows(&calls(&[said("a", "normal", 100, 7)]));
    let now = rows(&calls(&[said("a", "normal", 3, 0)]));
    let change = now.iter().map(|(key, row)| row.since(before.get(key))).next();
    assert_eq!(change.map(|change| (change.ended, change.failed)), Some((5, 0)));
}

#[test]
fn quantiles_lie_within_their_bucket_and_never_beyond_the_last_bound() {
    let times = |counts: &[u64]| Histogram {
        counts: counts.to_vec(),
    };
    let bounds = [100, 200, 400];
    assert_eq!(times(&[0, 0, 0, 0]).quantile_us(&bounds, 0.5), None);
    assert_eq!(times(&[0, 10, 0, 0]).quantile_us(&bounds, 0.5), Some(150));
    assert_eq!(times(&[5, 0, 5, 0]).quantile_us(&bounds, 0.5), Some(100));
    assert_eq!(times(&[0, 0, 0, 3]).quantile_us(&bounds, 0.99), Some(400));
    assert_eq!(times(&[]).quantile_us(&bounds, 0.99), None);
}

#[test]
fn a_screen_that_is_too_small_says_how_much_it_hides() {
    let lines = |count: usize| (0..count).map(|number| number.to_string()).collect();
    let size = |rows| {
        Some(rustix::termios::Winsize {
            ws_row: rows,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        })
    };
    assert_eq!(fit(lines(4), size(5)), "0\n1\n2\n3\n");
    assert_eq!(fit(lines(5), size(5)), "0\n1\n2\n... and 2 more\n");
    assert_eq!(fit(lines(5), size(0)), "0\n... and 4 more\n");
    assert_eq!(fit(lines(3), None), "0\n1\n2\n");
}
