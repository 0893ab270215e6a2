//! Runs of schedules: one waits at the Kernel, whatever ends in between.

use std::sync::atomic::Ordering;

use isms_protocol::{ErrorCode, doer::Trigger, kernel::Progress};

use crate::harness::{Harness, Later};

/// When a test begins, and the first planned time after it.
const START_S: u64 = 1_000;

async fn deploy(harness: &Harness, source: &str, triggers: &str) {
    let manifest =
        format!("[project]\nname = \"one\"\n[doee.a]\nlanguage = \"c\"\nsource = \"a\"\n{triggers}");
    harness
        .deploy_well(&[
            ("project.toml", manifest.as_bytes()),
            ("a/a.c", source.as_bytes()),
        ])
        .await;
    harness.asked();
}

fn every(time: &str) -> String {
    format!("[[trigger]]\nevery = \"{time}\"\ndoee = \"a\"\n")
}

fn known(harness: &Harness) -> Vec<Later> {
    harness.peers.later.lock().expect("not poisoned").clone()
}

/// What the Kernel is asked for when schedules are expanded at a time.
async fn expand(harness: &Harness, now_s: u64, is_start: bool) -> Vec<String> {
    harness.now.store(now_s, Ordering::Relaxed);
    harness
        .service
        .expand_schedules(is_start)
        .await
        .expect("expanded");
    harness.asked()
}

#[tokio::test]
async fn the_next_run_is_told_once_and_another_one_when_its_time_has_come() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    deploy(&harness, "1", &every("60s")).await;
    harness.service.schedules_changed().await;
    assert_eq!(harness.service.expand_schedules(true).await, Ok(Some(1_020)));
    assert_eq!(harness.asked(), ["invoke at 1020"]);
    let call = &known(&harness)[0].invocation;
    assert_eq!((call.trigger, call.path.as_str()), (Trigger::Schedule, "/"));
    let headers: Vec<_> = call
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), &value[..]))
        .collect();
    assert_eq!(
        headers,
        [
            ("isms-planned", &b"1970-01-01T00:17:00Z"[..]),
            ("isms-schedule", b"every 60s")
        ]
    );
    assert!(expand(&harness, 1_019, false).await.is_empty());
    assert_eq!(expand(&harness, 1_020, false).await, ["invoke at 1080"]);
    // What was missed is not made up for.
    assert_eq!(expand(&harness, 1_300, false).await, ["invoke at 1320"]);
    assert_eq!(known(&harness).len(), 3);
}

#[tokio::test]
async fn a_run_of_which_no_answer_came_is_told_again_with_its_key() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    deploy(&harness, "1", &every("60s")).await;
    harness.fail("invoke", ErrorCode::Unavailable);
    let failed = harness.service.expand_schedules(true).await;
    assert_eq!(failed.map_err(|error| error.code), Err(ErrorCode::Unavailable));
    let later = harness.peers.later.clone();
    drop(harness);

    let mut harness = Harness::open(directory.path()).await;
    harness.asked();
    assert_eq!(
        expand(&harness, 1_030, true).await,
        ["invoke at 1020"],
        "its time has passed meanwhile"
    );
    assert_eq!(expand(&harness, 1_030, false).await, ["invoke at 1080"]);
    assert!(later.lock().unwrap().is_empty());
    harness.now.store(START_S, Ordering::Relaxed);
    let keys = known(&harness);
    assert_ne!(keys[0].key, keys[1].key);
    drop(harness);

    // Long after its time nobody knows whether it ran.
    harness = Harness::open(directory.path()).await;
    harness.fail("invoke", ErrorCode::Busy);
    harness.now.store(1_080, Ordering::Relaxed);
    harness.service.expand_schedules(true).await.unwrap_err();
    harness.heal();
    harness.asked();
    assert_eq!(expand(&harness, 1_300, true).await, ["invoke at 1320"]);
}

#[tokio::test]
async fn a_deployment_cancels_runs_of_what_is_gone_or_changed_and_keeps_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path()).await;
    deploy(&harness, "1", &(every("60s") + &every("1h"))).await;
    assert_eq!(
        expand(&harness, START_S, true).await,
        ["invoke at 1020", "invoke at 3600"]
    );
    deploy(&harness, "1", &every("1h")).await;
    assert_eq!(
        expand(&harness, START_S, false).await,
        ["process 1020", "cancel 1020"]
    );
    deploy(&harness, "2", &every("1h")).await;
    assert_eq!(
        expand(&harness, START_S, false).await,
        ["process 3600", "cancel 3600", "invoke at 3600"],
        "another version runs at the same time in its place"
    );
    let calls = known(&harness);
    assert_ne!(
        (&calls[1].key, calls[1].version),
        (&calls[2].key, calls[2].version)
    );
    // One that has begun goes on, and what comes after it is of the new version.
    harness.peers.later.lock().unwrap()[2].progress = Progress::Running;
    deploy(&harness, "3", &every("1h")).await;
    assert_eq!(
        expand(&harness, START_S, false).await,
        ["process 3600", "invoke at 7200"]
    );
    deploy(&harness, "3", "").await;
    assert_eq!(
        expand(&harness, START_S, false).await,
        ["process 7200", "cancel 7200"]
    );
    assert!(expand(&harness, 10_000, false).await.is_empty());
}
