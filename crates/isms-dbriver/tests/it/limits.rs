//! What a transaction may not do, and that it harms nobody who tries.

use std::time::{Duration, Instant};

use isms_protocol::{
    ErrorCode, ProjectId,
    dbriver::{Statement, Value},
};

use crate::harness::{Harness, failure, sql_of};

const SCHEMA: &[(&str, &str)] = &[("1.sql", "CREATE TABLE t (id INTEGER PRIMARY KEY, value)")];
const ENDLESS: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
const ENDLESS_WRITE: &str = "INSERT INTO t (value) \
     WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";

async fn database(directory: &std::path::Path, disk_mb: u32) -> Harness {
    let harness = Harness::open(directory);
    harness
        .prepare("db", disk_mb, SCHEMA)
        .await
        .expect("migrations apply");
    harness
}

#[tokio::test]
async fn a_statement_that_does_not_end_is_interrupted_at_the_calls_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let harness = database(directory.path(), 16).await;
    for sql in [ENDLESS, ENDLESS_WRITE] {
        let began = Instant::now();
        let result = harness.run_in("db", vec![sql_of(sql, [])], 100_000).await;
        let message = "statement 1 ran over its time limit; the transaction was rolled back";
        assert_eq!(failure(result), (ErrorCode::LimitReached, message.into()));
        assert!(began.elapsed() >= Duration::from_millis(100));
    }
    harness
        .run(vec![sql_of("INSERT INTO t (value) VALUES (1)", [])])
        .await
        .expect("the writer goes on");
    assert_eq!(harness.value("SELECT count(*) FROM t").await, Value::Integer(1));
}

#[tokio::test]
async fn a_slow_statement_does_not_hold_up_another_database() {
    let directory = tempfile::tempdir().unwrap();
    let slow = database(directory.path(), 16).await;
    slow.prepare("other", 16, SCHEMA).await.unwrap();
    let endless = slow.run_in("db", vec![sql_of(ENDLESS_WRITE, [])], 3_000_000);
    let quick = async {
        let began = Instant::now();
        slow.run_in("other", vec![sql_of("INSERT INTO t (value) VALUES (1)", [])], 0)
            .await
            .expect("is not held up");
        began.elapsed()
    };
    tokio::pin!(endless);
    let waited = tokio::select! {
        biased;
        _ = &mut endless => panic!("the endless statement ended first"),
        waited = quick => waited,
    };
    assert!(waited < Duration::from_secs(3), "{waited:?}");
}

#[tokio::test]
async fn a_caller_that_goes_away_stops_its_statement() {
    let directory = tempfile::tempdir().unwrap();
    let harness = database(directory.path(), 16).await;
    let endless = harness.run_in("db", vec![sql_of(ENDLESS_WRITE, [])], 0);
    let gone = tokio::time::timeout(Duration::from_millis(50), endless).await;
    assert!(gone.is_err(), "the statement does not end by itself");
    // The writer is free long before the statement's own time limit of 5 s.
    let next = harness.run(vec![sql_of("INSERT INTO t (value) VALUES (1)", [])]);
    tokio::time::timeout(Duration::from_secs(2), next)
        .await
        .expect("the writer is free")
        .unwrap();
}

#[tokio::test]
async fn rows_and_bytes_of_a_transaction_are_limited() {
    let directory = tempfile::tempdir().unwrap();
    let harness = database(directory.path(), 16).await;
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 10001) SELECT i FROM n";
    let message = "the transaction returns more than 10000 rows; select fewer";
    assert_eq!(
        failure(harness.run(vec![sql_of(rows, [])]).await),
        (ErrorCode::LimitReached, message.into())
    );
    let bytes = "SELECT zeroblob(4194304)";
    let message = "the transaction returns more than 8388608 bytes; select less";
    let twice = vec![sql_of(bytes, []), sql_of(bytes, [])];
    assert_eq!(
        failure(harness.run(twice).await),
        (ErrorCode::LimitReached, message.into())
    );
    harness
        .run(vec![sql_of(bytes, [])])
        .await
        .expect("half of it fits");
}

#[tokio::test]
async fn statements_parameters_and_lengths_are_limited() {
    let directory = tempfile::tempdir().unwrap();
    let harness = database(directory.path(), 16).await;
    let select = || sql_of("SELECT 1", []);
    let too_many = harness.run((0..257).map(|_| select()).collect()).await;
    assert_eq!(
        failure(too_many),
        (
            ErrorCode::TooLarge,
            "more than 256 statements in a transaction; split it".into()
        )
    );
    let parameters = Statement {
        parameters: vec![Value::Null; 1000],
        ..select()
    };
    let message = "more than 999 parameters in a statement; split it";
    assert_eq!(
        failure(harness.run(vec![parameters]).await),
        (ErrorCode::TooLarge, message.into())
    );
    let long = sql_of(&format!("SELECT '{}'", "x".repeat(64 * 1024)), []);
    let message = "statement 1 is longer than 65536 bytes; send values as parameters";
    assert_eq!(
        failure(harness.run(vec![long]).await),
        (ErrorCode::TooLarge, message.into())
    );
    let message = "statement 1 has 0 parameters, 1 values were sent";
    let extra = Statement {
        parameters: vec![Value::Null],
        ..select()
    };
    assert_eq!(
        failure(harness.run(vec![extra]).await),
        (ErrorCode::Invalid, message.into())
    );
    assert_eq!(
        failure(harness.run(vec![]).await),
        (ErrorCode::Invalid, "the transaction has no statement".into())
    );
    harness
        .run((0..256).map(|_| select()).collect())
        .await
        .expect("256 statements are allowed");
}

#[tokio::test]
async fn a_full_database_refuses_to_grow_and_keeps_serving() {
    let directory = tempfile::tempdir().unwrap();
    let harness = database(directory.path(), 1).await;
    let fill = || sql_of("INSERT INTO t (value) VALUES (zeroblob(300000))", []);
    let mut stored = 0;
    let full = loop {
        match harness.run(vec![fill()]).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 10, "the limit is never reached");
    };
    assert_eq!(full.code, ErrorCode::LimitReached);
    assert_eq!(
        full.message,
        "the database is full; raise disk_mb in project.toml or delete rows"
    );
    assert_eq!(
        harness.value("SELECT count(*) FROM t").await,
        Value::Integer(stored)
    );
    harness.service.close().await;

    let reopened = Harness::open(directory.path());
    assert_eq!(
        failure(reopened.run(vec![fill()]).await).0,
        ErrorCode::LimitReached
    );
    reopened
        .prepare("db", 2, SCHEMA)
        .await
        .expect("more disk is given");
    reopened.run(vec![fill()]).await.expect("there is room now");
}

#[tokio::test]
async fn a_value_of_a_gigabyte_is_refused_and_the_database_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let harness = database(directory.path(), 16).await;
    for sql in [
        "SELECT hex(zeroblob(900000000))",
        "SELECT zeroblob(999999999)",
        "SELECT randomblob(999999999)",
    ] {
        let result = harness.run(vec![sql_of(sql, [])]).await;
        let (code, message) = failure(result);
        assert!(
            matches!(code, ErrorCode::LimitReached | ErrorCode::Unavailable),
            "{sql}: {code:?} {message}"
        );
    }
    assert_eq!(harness.value("SELECT 1").await, Value::Integer(1));
}

#[tokio::test]
async fn statements_that_leave_the_database_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let harness = database(directory.path(), 16).await;
    let elsewhere = directory.path().join("elsewhere.sqlite");
    let elsewhere = elsewhere.to_str().unwrap();
    for sql in [
        format!("ATTACH '{elsewhere}' AS a"),
        format!("SELECT 1; ATTACH '{elsewhere}' AS a"),
        format!("SELECT ']'';' AS [x];ATTACH '{elsewhere}' AS a"),
        format!("VACUUM INTO '{elsewhere}'"),
        "DETACH main".into(),
        "PRAGMA writable_schema = 1".into(),
        "PRAGMA max_page_count = 1000000".into(),
        "SELECT * FROM pragma_database_list".into(),
        "SELECT load_extension('x')".into(),
        "CREATE TEMP TABLE x (a)".into(),
        "CREATE TABLE x (a)".into(),
        "DROP TABLE t".into(),
        "BEGIN".into(),
        "COMMIT".into(),
        "END".into(),
        "ROLLBACK".into(),
        "SAVEPOINT job".into(),
        "RELEASE job".into(),
        "EXPLAIN SELECT 1".into(),
        "DELETE FROM _isms_migrations".into(),
        "UPDATE _isms_settings SET value = 9".into(),
        "UPDATE sqlite_master SET sql = ''".into(),
        "SELECT 1\0; ATTACH 'a' AS b".into(),
    ] {
        let (code, message) = failure(harness.run(vec![sql_of(&sql, [])]).await);
        assert_eq!(code, ErrorCode::Forbidden, "{sql}: {message}");
        assert!(
            message.starts_with("statement 1 was refused: "),
            "{sql}: {message}"
        );
    }
    assert!(!std::path::Path::new(elsewhere).exists());
}

#[tokio::test]
async fn more_databases_than_may_be_open_take_turns() {
    let directory = tempfile::tempdir().unwrap();
    let config = isms_dbriver::Config {
        open_databases_max: 1,
        ..isms_dbriver::Config::new(directory.path())
    };
    let harness = Harness::with(
        config,
        ProjectId::from_bytes([1; 16]),
        isms_protocol::DoeeVersion::from_bytes([2; 16]),
    );
    harness.prepare("db", 16, SCHEMA).await.unwrap();
    harness.prepare("other", 16, SCHEMA).await.unwrap();
    for database in ["db", "other", "db", "other"] {
        let insert = sql_of("INSERT INTO t (value) VALUES (1)", []);
        harness.run_in(database, vec![insert], 0).await.expect(database);
    }
    let endless = harness.run_in("db", vec![sql_of(ENDLESS_WRITE, [])], 1_000_000);
    let other = harness.run_in("other", vec![sql_of("SELECT 1", [])], 0);
    let (_, other) = tokio::join!(biased; endless, other);
    let message = "all 1 databases that may be open are in use; try again later";
    assert_eq!(failure(other), (ErrorCode::Busy, message.into()));
}
