//! What a transaction does, and that it does it wholly or not at all.

use isms_protocol::{
    ErrorCode,
    dbriver::{StatementResult, Value},
};
use proptest::prelude::*;

use crate::harness::{Harness, demanding, failure, sql_of};

const SCHEMA: &[(&str, &str)] = &[("1.sql", "CREATE TABLE t (id INTEGER PRIMARY KEY, value)")];

async fn database(directory: &std::path::Path) -> Harness {
    let harness = Harness::open(directory);
    harness.prepare("db", 16, SCHEMA).await.expect("migrations apply");
    harness
}

#[tokio::test]
async fn each_type_comes_back_as_it_was_stored() {
    let directory = tempfile::tempdir().unwrap();
    let harness = database(directory.path()).await;
    let values = vec![
        Value::Null,
        Value::Integer(i64::MIN),
        Value::Integer(i64::MAX),
        Value::Real(-0.5),
        Value::Real(f64::INFINITY),
        Value::Text(String::new()),
        Value::Text("käse\0🧀".into()),
        Value::Blob(vec![]),
        Value::Blob(vec![0, 255, 0]),
    ];
    let inserts = values
        .iter()
        .map(|value| sql_of("INSERT INTO t (value) VALUES (?)", [value.clone()]));
    harness.run(inserts.collect()).await.unwrap();
    let results = harness
        .run(vec![sql_of("SELECT value FROM t ORDER BY id", [])])
        .await
        .unwrap();
    let read: Vec<Value> = results.results[0].rows.iter().map(|row| row[0].clone()).collect();
    assert_eq!(read, values);
    assert_eq!(results.results[0].columns, ["value"]);
}

#[test]
fn any_value_comes_back_as_it_was_stored() {
    let value = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Integer),
        any::<f64>()
            .prop_filter("SQLite stores NaN as NULL", |real| !real.is_nan())
            .prop_map(Value::Real),
        any::<String>().prop_map(Value::Text),
        prop::collection::vec(any::<u8>(), 0..200).prop_map(Value::Blob),
    ];
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let harness = runtime.block_on(database(directory.path()));
    proptest!(ProptestConfig::with_cases(64), |(value in value)| {
        let read = runtime.block_on(async {
            let statements = vec![
                sql_of("DELETE FROM t", []),
                sql_of("INSERT INTO t (value) VALUES (?)", [value.clone()]),
            ];
            harness.run(statements).await.unwrap();
            harness.value("SELECT value FROM t").await
        });
        prop_assert_eq!(read, value);
    });
}

#[tokio::test]
async fn results_tell_columns_rows_and_changes_of_each_statement() {
    let directory = tempfile::tempdir().unwrap();
    let harness = database(directory.path()).await;
    let results = harness
        .run(vec![
            sql_of(
                "INSERT INTO t (id, value) VALUES (1, 'a'), (2, 'b') RETURNING id",
                [],
            ),
            sql_of("UPDATE t SET value = 'c' WHERE id > ?", [Value::Integer(7)]),
            sql_of("SELECT id, value AS v FROM t WHERE id = 2", []),
            sql_of("SELECT id AS absent FROM t WHERE id = 3", []),
        ])
        .await
        .unwrap();
    let result = |columns: &[&str], rows, rows_changed| StatementResult {
        columns: columns.iter().map(|name| (*name).into()).collect(),
        rows,
        rows_changed,
    };
    assert_eq!(
        results.results,
        [
            result(&["id"], vec![vec![Value::Integer(1)], vec![Value::Integer(2)]], 2),
            result(&[], vec![], 0),
            result(
                &["id", "v"],
                vec![vec![Value::Integer(2), Value::Text("b".into())]],
                0
            ),
            result(&["absent"], vec![], 0),
        ],
    );
}

#[tokio::test]
async fn a_missed_row_demand_rolls_the_transaction_back() {
    let directory = tempfile::tempdir().unwrap();
    let harness = database(directory.path()).await;
    let missed = harness
        .run(vec![
            sql_of("INSERT INTO t (id) VALUES (1)", []),
            demanding(1, sql_of("UPDATE t SET value = 'x' WHERE id = 2", [])),
        ])
        .await;
    let message = "statement 2 was to meet 1 rows and met 0; the transaction was rolled back";
    assert_eq!(failure(missed), (ErrorCode::ConditionFailed, message.into()));
    assert_eq!(harness.value("SELECT count(*) FROM t").await, Value::Integer(0));

    let met = vec![
        demanding(1, sql_of("INSERT INTO t (id) VALUES (1)", [])),
        demanding(1, sql_of("SELECT id FROM t", [])),
        demanding(0, sql_of("DELETE FROM t WHERE id = 9", [])),
    ];
    harness.run(met).await.expect("all demands are met");
}

#[tokio::test]
async fn a_failing_statement_undoes_those_before_it_and_says_what_sqlite_said() {
    let directory = tempfile::tempdir().unwrap();
    let harness = database(directory.path()).await;
    let failed = harness
        .run(vec![
            sql_of("INSERT INTO t (id) VALUES (1)", []),
            sql_of("INSERT INTO t (id) VALUES (1)", []),
        ])
        .await;
    let message = "statement 2 failed: UNIQUE constraint failed: t.id";
    assert_eq!(failure(failed), (ErrorCode::Database, message.into()));
    assert_eq!(harness.value("SELECT count(*) FROM t").await, Value::Integer(0));
    let unknown = harness.run(vec![sql_of("SELECT a FROM nowhere", [])]).await;
    assert_eq!(
        failure(unknown),
        (
            ErrorCode::Database,
            "statement 1 failed: no such table: nowhere".into()
        )
    );
}

#[tokio::test]
async fn a_single_statement_is_done_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let harness = database(directory.path()).await;
    let twice = harness
        .run(vec![sql_of("INSERT INTO t (id) VALUES (1), (1)", [])])
        .await;
    assert_eq!(failure(twice).0, ErrorCode::Database);
    // More rows than a transaction may return, told only after they were written.
    let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i <= 10000) \
                INSERT INTO t (id) SELECT i FROM n RETURNING id";
    let many = harness.run(vec![sql_of(many, [])]).await;
    assert_eq!(failure(many).0, ErrorCode::LimitReached);
    let missed = demanding(2, sql_of("INSERT INTO t (id) VALUES (1)", []));
    assert_eq!(
        failure(harness.run(vec![missed]).await).0,
        ErrorCode::ConditionFailed
    );
    assert_eq!(harness.value("SELECT count(*) FROM t").await, Value::Integer(0));
    let good = harness
        .run(vec![sql_of("INSERT INTO t (id) VALUES (1), (2)", [])])
        .await;
    assert_eq!(good.unwrap().results[0].rows_changed, 2);
    assert_eq!(harness.value("SELECT count(*) FROM t").await, Value::Integer(2));
}

#[tokio::test]
async fn concurrent_transactions_share_commits_and_are_all_there_after_a_reopen() {
    const COUNT: i64 = 400;
    let directory = tempfile::tempdir().unwrap();
    let harness = std::sync::Arc::new(database(directory.path()).await);
    let tasks: Vec<_> = (0..COUNT)
        .map(|id| {
            let harness = harness.clone();
            tokio::spawn(async move {
                let insert = sql_of("INSERT INTO t (id) VALUES (?)", [Value::Integer(id)]);
                harness.run(vec![insert]).await
            })
        })
        .collect();
    let mut stored = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => stored += 1,
            Err(error) => assert_eq!(error.code, ErrorCode::Busy, "{error}"),
        }
    }
    let counts = harness.service.write_counts(harness.project, "db").await.unwrap();
    assert_eq!(counts.transactions, stored);
    assert!(stored >= 256, "the writer's queue takes 256, {stored} were taken");
    assert!(counts.commits * 4 <= counts.transactions, "{counts:?}");
    harness.service.close().await;

    let reopened = Harness::open(directory.path());
    assert_eq!(
        reopened.value("SELECT count(*) FROM t").await,
        Value::Integer(stored as i64)
    );
}

#[tokio::test]
async fn a_transaction_that_fails_in_a_group_takes_nobody_along() {
    let directory = tempfile::tempdir().unwrap();
    let harness = std::sync::Arc::new(Harness::open(directory.path()));
    let schema = "CREATE TABLE parent (id INTEGER PRIMARY KEY);
        CREATE TABLE t (id INTEGER PRIMARY KEY, value);
        CREATE TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED);";
    harness.prepare("db", 16, &[("1.sql", schema)]).await.unwrap();
    // By turns: one that holds, one that breaks a constraint, one that makes SQLite roll back the whole
    // group, one whose constraint is looked at only when the group commits.
    let sql_by_turn = |index: i64| match index % 4 {
        0 => format!("INSERT INTO t VALUES ({index}, 'kept')"),
        1 => "INSERT INTO parent VALUES (1), (1)".to_owned(),
        2 => "INSERT OR ROLLBACK INTO parent VALUES (1), (1)".to_owned(),
        _ => "INSERT INTO child VALUES (7)".to_owned(),
    };
    let tasks: Vec<_> = (0..64)
        .map(|index| {
            let (harness, sql) = (harness.clone(), sql_by_turn(index));
            tokio::spawn(async move { (index, harness.run(vec![sql_of(&sql, [])]).await) })
        })
        .collect();
    for task in tasks {
        let (index, result) = task.await.unwrap();
        let expected = match index % 4 {
            0 => None,
            // Of the commit or, when it was alone in the end, of the statement.
            3 => Some("FOREIGN KEY constraint failed"),
            _ => Some("statement 1 failed: UNIQUE constraint failed: parent.id"),
        };
        let message = result.err().map(|error| error.message);
        let as_expected = match (&message, expected) {
            (Some(message), Some(expected)) => message.contains(expected),
            (message, expected) => message.is_none() && expected.is_none(),
        };
        assert!(as_expected, "{index}: {message:?}");
    }
    assert_eq!(harness.value("SELECT count(*) FROM t").await, Value::Integer(16));
    assert_eq!(
        harness.value("SELECT count(*) FROM parent").await,
        Value::Integer(0)
    );
    assert_eq!(
        harness.value("SELECT count(*) FROM child").await,
        Value::Integer(0)
    );
}

#[tokio::test]
async fn concurrent_increments_with_versions_lose_nothing() {
    const WORKERS: i64 = 8;
    const INCREMENTS: i64 = 25;
    let directory = tempfile::tempdir().unwrap();
    let harness = std::sync::Arc::new(Harness::open(directory.path()));
    let schema = "CREATE TABLE counter (value INTEGER, version INTEGER); INSERT INTO counter VALUES (0, 0);";
    harness.prepare("db", 16, &[("1.sql", schema)]).await.unwrap();
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let harness = harness.clone();
            tokio::spawn(async move {
                for _ in 0..INCREMENTS {
                    while !increment(&harness).await {}
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(
        harness.value("SELECT value FROM counter").await,
        Value::Integer(WORKERS * INCREMENTS)
    );
}

/// Reads and writes in two transactions; false when another one came between.
async fn increment(harness: &Harness) -> bool {
    let read = harness
        .run(vec![sql_of("SELECT value, version FROM counter", [])])
        .await
        .expect("the counter is read");
    let [Value::Integer(value), Value::Integer(version)] = read.results[0].rows[0][..] else {
        panic!("two integers")
    };
    let update = sql_of(
        "UPDATE counter SET value = ?, version = version + 1 WHERE version = ?",
        [Value::Integer(value + 1), Value::Integer(version)],
    );
    match harness.run(vec![demanding(1, update)]).await {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.code, ErrorCode::ConditionFailed, "{error}");
            false
        }
    }
}
