//! One connection: what it runs, what it refuses, when it stops.

use std::cell::{Cell, RefCell};

use proptest::prelude::*;

use super::*;
use crate::sql::classify;

/// Pieces of SQL that open and close quotes, comments and statements.
const PIECES: [&str; 24] = [
    "SELECT ",
    "1",
    "x",
    "'",
    "''",
    "\"",
    "`",
    "[",
    "]",
    ";",
    "--",
    "\n",
    "/*",
    "*/",
    "/",
    "(",
    ")",
    ",",
    "x'00'",
    " ",
    "VALUES (1)",
    "\\",
    "é",
    "ATTACH 'isms-escaped.sqlite' AS a;",
];

#[test]
fn a_connection_that_writes_syncs_each_commit() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("synced.sqlite");
    for mode in [Mode::Create, Mode::Write] {
        runtime.block_on(async {
            let mut connection = Connection::open(&path, mode, 64).await.unwrap();
            let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous")
                .fetch_one(connection.sqlite())
                .await
                .unwrap();
            let journal: String = sqlx::query_scalar("PRAGMA journal_mode")
                .fetch_one(connection.sqlite())
                .await
                .unwrap();
            // FULL: with a write-ahead log, synced before COMMIT returns.
            assert_eq!((synchronous, journal.as_str()), (2, "wal"), "{mode:?}");
        });
    }
}

#[test]
fn what_the_classifier_takes_for_one_statement_is_one_for_sqlite() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("soup.sqlite");
    let connection = runtime
        .block_on(Connection::open(&path, Mode::Create, 64))
        .unwrap();
    let soup = prop::collection::vec(prop::sample::select(&PIECES[..]), 0..14);
    let config = ProptestConfig {
        cases: 20_000,
        max_global_rejects: 1_000_000,
        ..ProptestConfig::default()
    };
    let connection = RefCell::new(connection);
    let accepted = Cell::new(0);
    proptest!(config, |(pieces in soup)| {
        let sql = format!("SELECT 1 {}", pieces.concat());
        let Ok(shape) = classify(&sql) else { return Ok(()) };
        accepted.set(accepted.get() + 1);
        let statement = Statement { sql, parameters: vec![], rows_demanded: None };
        let stop = Stop::at(Instant::now() + Duration::from_secs(10));
        let mut connection = connection.borrow_mut();
        let ran = runtime.block_on(connection.run(1, statement, shape.access, &stop, &mut Allowance::default()));
        prop_assert!(!matches!(ran, Err(DatabaseError::Refused { .. } | DatabaseError::Closed)), "{:?}", ran);
    });
    assert!(accepted.get() > 500, "only {} were tried", accepted.get());
    assert!(!Path::new("isms-escaped.sqlite").exists());
}
