//! What was answered survives a SIGKILL of the process that answered.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use isms_protocol::dbriver::Value;

use crate::harness::{Harness, sql_of};

const DIRECTORY: &str = "ISMS_TEST_KILLED_WRITER";
const ACKNOWLEDGED: i64 = 200;

#[tokio::test]
async fn nothing_that_was_answered_is_lost_when_the_process_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "durability::writer_that_is_killed",
            "--ignored",
            "--nocapture",
        ])
        .env(DIRECTORY, directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        if let Some(id) = line.unwrap().strip_prefix("stored ") {
            acknowledged = id.parse().unwrap();
        }
        if acknowledged >= ACKNOWLEDGED {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        acknowledged >= ACKNOWLEDGED,
        "the writer ended early at {acknowledged}"
    );

    let harness = Harness::open(directory.path());
    let lost = format!("SELECT {acknowledged} - count(*) FROM t WHERE id <= {acknowledged}");
    assert_eq!(harness.value(&lost).await, Value::Integer(0));
    let lost = format!("SELECT {acknowledged} - count(*) FROM single WHERE id <= {acknowledged}");
    assert_eq!(harness.value(&lost).await, Value::Integer(0));
    let torn = "SELECT count(*) FROM t WHERE (SELECT count(*) FROM pair WHERE pair.id = t.id) <> 1";
    assert_eq!(harness.value(torn).await, Value::Integer(0));
}

#[tokio::test]
#[ignore = "is the process that the test above kills"]
async fn writer_that_is_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let harness = Harness::open(directory.as_ref());
    harness
        .prepare(
            "db",
            16,
            &[(
                "1.sql",
                "CREATE TABLE t (id PRIMARY KEY); CREATE TABLE pair (id); CREATE TABLE single (id)",
            )],
        )
        .await
        .unwrap();
    // Bounded, so that nothing stays if the parent dies.
    for id in 1..100_000 {
        let inserts = ["INSERT INTO t VALUES (?)", "INSERT INTO pair VALUES (?)"];
        let inserts = inserts.map(|sql| sql_of(sql, [Value::Integer(id)]));
        harness.run(inserts.into()).await.unwrap();
        // A statement that is alone commits by itself.
        let single = sql_of("INSERT INTO single VALUES (?)", [Value::Integer(id)]);
        harness.run(vec![single]).await.unwrap();
        println!("stored {id}");
    }
}
