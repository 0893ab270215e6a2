//! What is drawn of a trace, to the letter, and of traces that make no sense.

use serde_json::json;

use super::*;

fn span(process: &str, changes: &Value) -> Value {
    let mut span = json!({
        "process": process, "attempt": 1, "parent": null, "parent_attempt": null,
        "service": "doer", "operation": "invoke", "doee": "main", "version": "v",
        "at_us": 1_000, "queued_us": 0, "dispatched_us": 20, "begun_us": 120, "ran_us": 250,
        "start": "pooled", "ended_us": 400, "outcome": "done",
    });
    for (name, value) in changes.as_object().unwrap() {
        span[name] = value.clone();
    }
    span
}

fn sql(changes: &Value) -> Value {
    let of_call = json!({
        "parent": "p", "parent_attempt": 1, "service": "dbriver", "operation": "transaction", "doee": null,
        "version": null, "at_us": 1_200, "dispatched_us": 0, "begun_us": null, "ran_us": null, "start": null,
        "ended_us": 100,
    });
    let mut span = span("q", &of_call);
    for (name, value) in changes.as_object().unwrap() {
        span[name] = value.clone();
    }
    span
}

fn trace(spans: &[Value], omitted: u64) -> Trace {
    let trace = json!({
        "trace": "t",
        "calls": [{
            "process": "p", "project": "x", "project_name": "shop", "outcome": "done", "omitted": omitted,
            "spans": spans,
        }],
    });
    serde_json::from_value(trace).unwrap()
}

#[test]
fn a_call_is_drawn_with_its_phases_and_what_it_asked_for() {
    let trace = trace(&[span("p", &json!({})), sql(&json!({}))], 0);
    let expected = "\
process p  trace t  done  400 µs
                         AT µs   TOOK
shop/main                    0    400  ========================================
  queue                      0     20  ..
  start, pooled             20    100    ..........
  run                      120    250              #########################
    dbriver transaction    200    100                      ##########
  finish                   370     30                                       ...
";
    assert_eq!(draw(&trace, Colours::No), expected);
}

#[test]
fn each_attempt_is_drawn_and_what_failed_says_how() {
    let first = span("p", &json!({ "outcome": "failed", "ended_us": 370 }));
    let second = span(
        "p",
        &json!({ "attempt": 2, "at_us": 1_400, "queued_us": 150, "dispatched_us": 150,
        "begun_us": 160, "ran_us": 40, "ended_us": 200, "start": "warm" }),
    );
    let drawn = draw(&trace(&[first, second], 3), Colours::No);
    let starts: Vec<&str> = drawn.lines().filter(|line| line.starts_with("shop")).collect();
    assert!(
        starts[0].ends_with("failed") && starts[0].starts_with("shop/main  "),
        "{drawn}"
    );
    assert!(starts[1].starts_with("shop/main, attempt 2"), "{drawn}");
    assert!(
        drawn.contains("  accept ") && drawn.ends_with("3 more are not told of\n"),
        "{drawn}"
    );
}

#[test]
fn what_never_ran_has_only_waited() {
    let changes = json!({ "dispatched_us": null, "begun_us": null, "ran_us": null, "start": null, "outcome": "expired" });
    let drawn = draw(&trace(&[span("p", &changes)], 0), Colours::No);
    let labels: Vec<_> = drawn
        .lines()
        .skip(2)
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert_eq!(labels, ["shop/main", "queue"]);
    assert!(drawn.contains("expired"), "{drawn}");
}

#[test]
fn spans_whose_parents_are_missing_or_go_in_circles_are_drawn_once() {
    let orphan = sql(&json!({ "parent": "nobody" }));
    let circle = sql(&json!({ "process": "r", "parent": "r" }));
    let drawn = draw(&trace(&[orphan, circle], 0), Colours::No);
    assert_eq!(drawn.matches("dbriver transaction").count(), 2, "{drawn}");
}

#[test]
fn text_of_others_does_not_steer_the_terminal_and_ours_only_when_it_may() {
    let trace = trace(&[span("p", &json!({ "doee": "a\x1b[31m" }))], 0);
    assert!(!draw(&trace, Colours::No).contains('\x1b'));
    assert!(draw(&trace, Colours::Yes).contains("\x1b[32m#"));
    assert!(!draw(&trace, Colours::Yes).contains("a\x1b"));
}

#[test]
fn the_list_has_a_row_for_each_call() {
    let answer = json!({ "traces": [{
        "process": "p", "trace": "t", "project": "x", "project_name": "shop", "doee": "main", "version": "v",
        "class": "normal", "outcome": "timed_out", "start": null, "at_us": 5, "took_us": 1_500, "attempts": 2, "spans": 7,
    }]});
    let expected = "\
PROCESS  DOEE       OUTCOME    START  TOOK    ATTEMPTS  SPANS
p        shop/main  timed_out  -      1.5 ms  2         7
";
    assert_eq!(list(&answer), expected);
}
