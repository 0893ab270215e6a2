//! A file that the disk has damaged: who touches the damage is told, and everything else goes on.

use std::{
    fs,
    path::{Path, PathBuf},
};

use isms_protocol::{ErrorCode, dbriver::Value};
use sqlx::{ConnectOptions, Connection, sqlite::SqliteConnectOptions};

use crate::harness::{Harness, failure, sql_of};

const PAGE_LEN: usize = 4096;

/// The one file below a directory that holds this database.
fn file_of(directory: &Path, database: &str) -> PathBuf {
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.file_stem().is_some_and(|stem| stem == database)
                && fs::read(&path).unwrap().starts_with(b"SQLite format 3")
            {
                return path;
            }
        }
    }
    panic!("there is no file of {database}");
}

/// Moves all that was written into the file, so that no page is read from elsewhere.
async fn empty_the_log(file: &Path) {
    let options = SqliteConnectOptions::new().filename(file);
    let mut connection = options.connect().await.unwrap();
    let busy: i64 = sqlx::query_scalar("PRAGMA wal_checkpoint(TRUNCATE)")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(busy, 0);
    connection.close().await.unwrap();
}

/// A harness whose table `t` is damaged, and whose table `kept` is not.
async fn damaged(directory: &Path) -> Harness {
    let harness = Harness::open(directory);
    let tables = "CREATE TABLE kept (id INTEGER PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, data)";
    harness.prepare("db", 16, &[("1.sql", tables)]).await.unwrap();
    let fill = "INSERT INTO t WITH RECURSIVE n (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < 500) \
                SELECT id, zeroblob(1000) FROM n";
    harness.run(vec![sql_of(fill, [])]).await.unwrap();
    harness.service.close().await;
    let file = file_of(directory, "db");
    empty_the_log(&file).await;
    let mut bytes = fs::read(&file).unwrap();
    let undamaged = bytes.len() - 50 * PAGE_LEN;
    bytes[undamaged..].fill(0xff);
    fs::write(&file, bytes).unwrap();
    Harness::open(directory)
}

#[tokio::test]
async fn a_statement_that_meets_a_damaged_page_says_so_and_the_rest_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let harness = damaged(directory.path()).await;
    let update = || vec![sql_of("UPDATE t SET data = 'x'", [])];
    let keep = |id| sql_of("INSERT INTO kept VALUES (?)", [Value::Integer(id)]);
    // By itself, among others that must be undone with it, and as a reader.
    let mut kept = 0;
    for statements in [
        update(),
        [vec![keep(1000)], update()].concat(),
        vec![sql_of("SELECT sum(length(data)) FROM t", [])],
    ] {
        let (code, message) = failure(harness.run(statements).await);
        assert_eq!(code, ErrorCode::Database, "{message}");
        assert!(message.contains("met a failing disk"), "{message}");
        kept += 1;
        harness.run(vec![keep(kept)]).await.unwrap();
        let sum = harness.value("SELECT sum(id) FROM kept").await;
        assert_eq!(sum, Value::Integer((1..=kept).sum()), "after {message}");
    }
}
