//! One SQLite connection: how it is opened, how a statement runs on it, how it is stopped.
//!
//! Invariants: a statement runs only under a [`Stop`]; statements of this crate (BEGIN, COMMIT …) run
//! without one and are constants.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::TryStreamExt;
use isms_protocol::{
    dbriver::{Statement, StatementResult},
    limits::{SQL_RESULT_LEN_MAX, SQL_ROWS_MAX},
};
use sqlx::{
    AssertSqlSafe, Column, ConnectOptions, Either, Executor, Row, SqlSafeStr, SqlStr, SqliteConnection,
    Statement as _,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous},
};

use crate::{
    config::{ROWS_AHEAD_MAX, STATEMENTS_CACHED, STEPS_PER_CHECK},
    error::DatabaseError,
    sql::{Access, Refusal},
    value::{bind, encoded_len, read_row},
};

/// When a statement must end.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    /// The transaction's deadline.
    pub(crate) at: Instant,
    /// True once nobody waits for the answer any more.
    pub(crate) abandoned: Arc<AtomicBool>,
}

impl Stop {
    /// A deadline that is not abandoned.
    pub(crate) fn at(at: Instant) -> Stop {
        Stop {
            at,
            abandoned: Arc::default(),
        }
    }

    /// True when what runs must end.
    pub(crate) fn is_due(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed) || Instant::now() >= self.at
    }
}

/// What a transaction may still return.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    rows: usize,
    bytes: usize,
}

impl Default for Allowance {
    fn default() -> Allowance {
        Allowance {
            rows: SQL_ROWS_MAX,
            bytes: SQL_RESULT_LEN_MAX,
        }
    }
}

impl Allowance {
    /// Bytes that have been used.
    pub(crate) fn bytes_used(&self) -> usize {
        SQL_RESULT_LEN_MAX - self.bytes
    }

    fn take(&mut self, rows: usize, bytes: usize) -> Result<(), DatabaseError> {
        self.rows = self.rows.checked_sub(rows).ok_or(DatabaseError::Rows)?;
        self.bytes = self.bytes.checked_sub(bytes).ok_or(DatabaseError::Bytes)?;
        Ok(())
    }
}

/// How a database file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// For the writer; the file must exist.
    Write,
    /// For the writer; the file is made when it is missing.
    Create,
    /// For a reader; SQLite refuses every change.
    Read,
}

/// A connection and what steers it from outside of its thread.
pub(crate) struct Connection {
    sqlite: SqliteConnection,
    stop: Arc<Mutex<Option<Stop>>>,
    rolled_back: Arc<AtomicBool>,
}

impl Connection {
    /// Opens a database file.
    pub(crate) async fn open(path: &Path, mode: Mode, heap_mb_max: u32) -> Result<Connection, sqlx::Error> {
        let mut options = SqliteConnectOptions::new()
            .filename(path)
            .read_only(mode == Mode::Read)
            .create_if_missing(mode == Mode::Create)
            .busy_timeout(Duration::from_secs(5))
            .statement_cache_capacity(STATEMENTS_CACHED)
            .row_buffer_size(ROWS_AHEAD_MAX)
            // Sorting must not fill the disk: it stays in memory, below the heap's limit, which is the process's.
            .pragma("temp_store", "MEMORY")
            .pragma(
                "hard_heap_limit",
                (u64::from(heap_mb_max) * 1024 * 1024).to_string(),
            )
            .pragma("trusted_schema", "OFF")
            .disable_statement_logging();
        if mode != Mode::Read {
            options = options
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full);
        }
        let mut sqlite = options.connect().await?;
        let stop = Arc::new(Mutex::new(None::<Stop>));
        let rolled_back = Arc::new(AtomicBool::new(false));
        let mut handle = sqlite.lock_handle().await?;
        let watched = stop.clone();
        handle.set_progress_handler(STEPS_PER_CHECK, move || {
            !lock(&watched).as_ref().is_some_and(Stop::is_due)
        });
        let flag = rolled_back.clone();
        handle.set_rollback_hook(move || flag.store(true, Ordering::Release));
        drop(handle);
        Ok(Connection {
            sqlite,
            stop,
            rolled_back,
        })
    }

    /// Runs a statement of this crate.
    pub(crate) async fn control(&mut self, sql: &'static str) -> Result<(), sqlx::Error> {
        sqlx::query(sql).execute(&mut self.sqlite).await.map(drop)
    }

    /// Begins a transaction and forgets earlier rollbacks.
    pub(crate) async fn begin(&mut self, sql: &'static str) -> Result<(), sqlx::Error> {
        self.rolled_back.store(false, Ordering::Release);
        self.control(sql).await
    }

    /// True when SQLite has rolled the transaction back since [`Self::begin`]: it does so by itself when
    /// the disk is full, when a write is interrupted, and on `OR ROLLBACK`.
    pub(crate) fn is_rolled_back(&self) -> bool {
        self.rolled_back.load(Ordering::Acquire)
    }

    /// Direct access, for statements of this crate with parameters.
    pub(crate) fn sqlite(&mut self) -> &mut SqliteConnection {
        &mut self.sqlite
    }

    /// Runs one statement of a Doee, the `number`th of its transaction, and checks its row demand.
    pub(crate) async fn run(
        &mut self,
        number: usize,
        statement: Statement,
        access: Access,
        stop: &Stop,
        allowance: &mut Allowance,
    ) -> Result<StatementResult, DatabaseError> {
        let demanded = statement.rows_demanded;
        *lock(&self.stop) = Some(stop.clone());
        let result = collect(&mut self.sqlite, number, statement, access, allowance).await;
        *lock(&self.stop) = None;
        let result = result?;
        let met = match access {
            Access::Read => result.rows.len() as u64,
            Access::Write { .. } => result.rows_changed,
        };
        match demanded {
            Some(demanded) if demanded != met => Err(DatabaseError::Condition {
                statement: number,
                demanded,
                met,
            }),
            _ => Ok(result),
        }
    }

    /// Runs one statement of a migration.
    pub(crate) async fn run_migration(
        &mut self,
        number: usize,
        sql: &str,
        stop: &Stop,
    ) -> Result<(), DatabaseError> {
        let statement = Statement {
            sql: sql.to_owned(),
            parameters: Vec::new(),
            rows_demanded: None,
        };
        let access = Access::Write { returning: false };
        self.run(number, statement, access, stop, &mut Allowance::default())
            .await
            .map(drop)
    }
}

async fn collect(
    sqlite: &mut SqliteConnection,
    number: usize,
    statement: Statement,
    access: Access,
    allowance: &mut Allowance,
) -> Result<StatementResult, DatabaseError> {
    let sql: SqlStr = AssertSqlSafe(statement.sql).into_sql_str();
    let mut query = sqlx::query(sql.clone());
    for value in statement.parameters {
        query = bind(query, value);
    }
    let fail = |error| DatabaseError::from_sqlx(number, &error);
    let mut result = StatementResult::default();
    let mut statements_run = 0;
    // A statement may end in rows, in a count, or both; all of it comes through one stream.
    let mut items = (&mut *sqlite).fetch_many(query);
    while let Some(item) = items.try_next().await.map_err(fail)? {
        match item {
            Either::Left(done) => {
                statements_run += 1;
                if statements_run > 1 {
                    return Err(DatabaseError::Refused {
                        statement: number,
                        reason: Refusal::Several,
                    });
                }
                if access != Access::Read {
                    result.rows_changed = done.rows_affected();
                }
            }
            Either::Right(row) => take_row(&row, &mut result, allowance).map_err(|error| match error {
                RowError::Limit(error) => error,
                RowError::Decode(error) => fail(error),
            })?,
        }
    }
    drop(items);
    if access == Access::Read && result.rows.is_empty() {
        let prepared = sqlite.prepare(sql).await.map_err(fail)?;
        result.columns = prepared
            .columns()
            .iter()
            .map(|column| column.name().to_owned())
            .collect();
    }
    Ok(result)
}

enum RowError {
    Limit(DatabaseError),
    Decode(sqlx::Error),
}

fn take_row(
    row: &SqliteRow,
    result: &mut StatementResult,
    allowance: &mut Allowance,
) -> Result<(), RowError> {
    if result.columns.is_empty() {
        result.columns = row
            .columns()
            .iter()
            .map(|column| column.name().to_owned())
            .collect();
        let bytes = result.columns.iter().map(|name| name.len() + 5).sum();
        allowance.take(0, bytes).map_err(RowError::Limit)?;
    }
    let values = read_row(row).map_err(RowError::Decode)?;
    allowance
        .take(1, values.iter().map(encoded_len).sum())
        .map_err(RowError::Limit)?;
    result.rows.push(values);
    Ok(())
}

fn lock(stop: &Mutex<Option<Stop>>) -> std::sync::MutexGuard<'_, Option<Stop>> {
    stop.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
