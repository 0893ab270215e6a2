//! Making databases and bringing them up to date.

use isms_protocol::{
    ErrorCode, Service as Role,
    dbriver::{Operation, Prepared, Value},
};

use crate::harness::{Harness, failure, sql_of};

const FIRST: (&str, &str) = ("1.sql", "CREATE TABLE t (a); INSERT INTO t VALUES (1);");
const SECOND: (&str, &str) = ("2.sql", "ALTER TABLE t ADD COLUMN b DEFAULT 7;");

#[tokio::test]
async fn new_migrations_are_applied_once_and_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path());
    let prepared = |created, applied| Ok(Prepared { created, applied });
    assert_eq!(harness.prepare("db", 16, &[FIRST]).await, prepared(true, 1));
    assert_eq!(harness.prepare("db", 16, &[FIRST]).await, prepared(false, 0));
    assert_eq!(
        harness.prepare("db", 16, &[FIRST, SECOND]).await,
        prepared(false, 1)
    );
    assert_eq!(harness.value("SELECT sum(a * b) FROM t").await, Value::Integer(7));
    harness.service.close().await;
    let reopened = Harness::open(directory.path());
    reopened.prepare("db", 16, &[FIRST, SECOND]).await.unwrap();
    assert_eq!(reopened.value("SELECT count(*) FROM t").await, Value::Integer(1));
}

#[tokio::test]
async fn a_changed_or_missing_migration_is_a_conflict() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path());
    harness.prepare("db", 16, &[FIRST, SECOND]).await.unwrap();
    let changed = harness
        .prepare("db", 16, &[("1.sql", "CREATE TABLE t (a, z)"), SECOND])
        .await;
    let message =
        "migration 1.sql was applied in another wording; add a new migration instead of changing one";
    assert_eq!(failure(changed), (ErrorCode::Conflict, message.into()));
    let message =
        "migration 2.sql was applied and is missing or in another place now; keep applied migrations";
    assert_eq!(
        failure(harness.prepare("db", 16, &[FIRST]).await),
        (ErrorCode::Conflict, message.into())
    );
    let between = harness
        .prepare("db", 16, &[FIRST, ("15.sql", "SELECT 1"), SECOND])
        .await;
    assert_eq!(failure(between), (ErrorCode::Conflict, message.into()));
    harness
        .prepare("db", 16, &[FIRST, SECOND])
        .await
        .expect("the database is as it was");
}

#[tokio::test]
async fn a_failing_migration_changes_nothing_of_all_that_were_new() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path());
    harness.prepare("db", 16, &[FIRST]).await.unwrap();
    let failed = harness
        .prepare(
            "db",
            16,
            &[
                FIRST,
                SECOND,
                ("3.sql", "SELECT 1;\nINSERT INTO nowhere VALUES (1)"),
            ],
        )
        .await;
    let message = "migration 3.sql, line 2: statement 2 failed: no such table: nowhere";
    assert_eq!(failure(failed), (ErrorCode::Database, message.into()));
    let unknown = harness.run(vec![sql_of("SELECT b FROM t", [])]).await;
    assert_eq!(failure(unknown).1, "statement 1 failed: no such column: b");
    let refused = harness
        .prepare("db", 16, &[FIRST, ("2.sql", "CREATE TABLE u (a); COMMIT")])
        .await;
    assert!(
        failure(refused)
            .1
            .starts_with("migration 2.sql, line 1: COMMIT is not allowed in a migration")
    );
    harness
        .prepare("db", 16, &[FIRST, SECOND])
        .await
        .expect("a corrected one applies");
}

#[tokio::test]
async fn a_database_whose_first_migration_failed_does_not_exist() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path());
    let failed = harness.prepare("db", 16, &[("1.sql", "CREATE nonsense")]).await;
    let message = "migration 1.sql, line 1: near \"nonsense\": syntax error";
    assert_eq!(failure(failed), (ErrorCode::Database, message.into()));
    let deeper = "-- readings\nCREATE TABLE t (\n  a INTEGER,\n  b REFERENCE u (z)\n);\nCREATE TABLE u (a);";
    let failed = harness.prepare("db", 16, &[("1.sql", deeper)]).await;
    // Where SQLite stopped, since its word stands there alone.
    let message = "migration 1.sql, line 4: statement 1 failed: near \"z\": syntax error";
    assert_eq!(failure(failed), (ErrorCode::Database, message.into()));
    let message = "the database db does not exist; name it in project.toml and deploy";
    let missing = (ErrorCode::NotFound, message.to_owned());
    assert_eq!(failure(harness.run(vec![sql_of("SELECT 1", [])]).await), missing);
    harness.prepare("db", 16, &[FIRST]).await.unwrap();
    assert_eq!(harness.value("SELECT a FROM t").await, Value::Integer(1));
}

#[tokio::test]
async fn a_dropped_projects_databases_are_gone_and_can_be_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path());
    harness.prepare("db", 16, &[FIRST]).await.unwrap();
    let header = harness.header(Role::Resadmin, Operation::Drop);
    harness
        .service
        .handle(&header, &[], bytes::Bytes::new())
        .await
        .unwrap();
    harness
        .service
        .handle(&header, &[], bytes::Bytes::new())
        .await
        .expect("twice is as good as once");
    assert!(!directory.path().join(harness.project.to_string()).exists());
    assert_eq!(
        failure(harness.run(vec![sql_of("SELECT 1", [])]).await).0,
        ErrorCode::NotFound
    );
    harness.prepare("db", 16, &[FIRST]).await.unwrap();
    assert_eq!(harness.value("SELECT count(*) FROM t").await, Value::Integer(1));
}

#[tokio::test]
async fn a_trigger_is_one_statement_of_a_migration() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path());
    let sql = "CREATE TABLE t (a); CREATE TABLE log (a);
        CREATE TRIGGER copy AFTER INSERT ON t BEGIN
            INSERT INTO log VALUES (CASE new.a WHEN 1 THEN 'one' ELSE 'more' END);
            UPDATE log SET a = a || '!';
        END;";
    harness.prepare("db", 16, &[("1.sql", sql)]).await.unwrap();
    harness
        .run(vec![sql_of("INSERT INTO t VALUES (1)", [])])
        .await
        .unwrap();
    assert_eq!(
        harness.value("SELECT a FROM log").await,
        Value::Text("one!".into())
    );
}
