//! Brings a database up to date: migrations in order, all of them in one SQLite transaction.
//!
//! Bookkeeping lives in the database itself (`_isms_migrations`, `_isms_settings`), so a copy of the
//! file is complete; statements of Doees cannot name these tables.

use std::time::Instant;

use isms_protocol::dbriver::{Migration, Prepare, Prepared};
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Row};

use super::connection::{Connection, Stop};
use crate::{
    config::MIGRATION_TIME_MAX,
    error::DatabaseError,
    sql::{Refused, split_migration},
};

/// Bytes of a database page; SQLite's default, made sure of by [`set_disk`].
const PAGE_LEN: u64 = 4096;
const MIB: u64 = 1024 * 1024;

/// Applies what is missing and sets the disk limit.
pub(crate) async fn prepare(
    connection: &mut Connection,
    prepare: &Prepare,
) -> Result<Prepared, DatabaseError> {
    connection
        .begin("BEGIN IMMEDIATE")
        .await
        .map_err(|error| DatabaseError::from_sqlx(0, &error))?;
    let applied = apply(connection, prepare).await;
    let ended = match (&applied, connection.is_rolled_back()) {
        (Ok(_), _) => connection.control("COMMIT").await,
        (Err(_), true) => Ok(()),
        (Err(_), false) => connection.control("ROLLBACK").await,
    };
    if let Err(error) = ended {
        tracing::warn!(error = %error, "migration could not be ended, database was closed");
        return Err(DatabaseError::Closed);
    }
    let prepared = applied?;
    set_disk(connection, prepare.disk_mb)
        .await
        .map_err(|error| DatabaseError::from_sqlx(0, &error))?;
    Ok(prepared)
}

/// Sets the disk limit that the last [`prepare`] recorded; for a connection that was just opened.
/// False when no `prepare` has ever succeeded.
pub(crate) async fn restore_disk(connection: &mut Connection) -> Result<bool, sqlx::Error> {
    if !is_prepared(connection).await? {
        return Ok(false);
    }
    let row = sqlx::query("SELECT value FROM _isms_settings WHERE name = 'disk_mb'")
        .fetch_one(connection.sqlite())
        .await?;
    set_disk(connection, row.try_get::<u32, _>(0)?).await?;
    Ok(true)
}

/// True when a [`prepare`] has succeeded before.
async fn is_prepared(connection: &mut Connection) -> Result<bool, sqlx::Error> {
    let bookkeeping = sqlx::query("SELECT 1 FROM sqlite_master WHERE name = '_isms_settings'")
        .fetch_optional(connection.sqlite())
        .await?;
    Ok(bookkeeping.is_some())
}

async fn set_disk(connection: &mut Connection, disk_mb: u32) -> Result<(), sqlx::Error> {
    let pages = (u64::from(disk_mb) * MIB / PAGE_LEN).max(1);
    let sql = format!("PRAGMA max_page_count = {pages}");
    sqlx::query(AssertSqlSafe(sql))
        .fetch_one(connection.sqlite())
        .await
        .map(drop)
}

async fn apply(connection: &mut Connection, prepare: &Prepare) -> Result<Prepared, DatabaseError> {
    let stop = Stop::at(Instant::now() + MIGRATION_TIME_MAX);
    let fail = |error| DatabaseError::from_sqlx(0, &error);
    let created = !is_prepared(connection).await.map_err(fail)?;
    for sql in [
        "CREATE TABLE IF NOT EXISTS _isms_migrations (\
         position INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, hash BLOB NOT NULL) STRICT",
        "CREATE TABLE IF NOT EXISTS _isms_settings (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT",
    ] {
        connection.control(sql).await.map_err(fail)?;
    }
    let applied = sqlx::query("SELECT name, hash FROM _isms_migrations ORDER BY position")
        .fetch_all(connection.sqlite())
        .await
        .map_err(fail)?;
    for (position, row) in applied.iter().enumerate() {
        let (name, hash): (String, Vec<u8>) = (row.try_get(0).map_err(fail)?, row.try_get(1).map_err(fail)?);
        check_applied(&name, &hash, prepare.migrations.get(position))?;
    }
    for (position, migration) in prepare.migrations.iter().enumerate().skip(applied.len()) {
        run(connection, migration, &stop).await?;
        sqlx::query("INSERT INTO _isms_migrations (position, name, hash) VALUES (?, ?, ?)")
            .bind(position as i64)
            .bind(&migration.name)
            .bind(hash(migration))
            .execute(connection.sqlite())
            .await
            .map_err(fail)?;
    }
    sqlx::query("INSERT OR REPLACE INTO _isms_settings (name, value) VALUES ('disk_mb', ?)")
        .bind(prepare.disk_mb)
        .execute(connection.sqlite())
        .await
        .map_err(fail)?;
    Ok(Prepared {
        created,
        applied: prepare.migrations.len().saturating_sub(applied.len()) as u32,
    })
}

fn check_applied(
    name: &str,
    hash_applied: &[u8],
    migration: Option<&Migration>,
) -> Result<(), DatabaseError> {
    match migration {
        Some(migration) if migration.name == name && hash(migration) == hash_applied => Ok(()),
        Some(migration) if migration.name == name => Err(DatabaseError::MigrationChanged {
            name: name.to_owned(),
        }),
        _ => Err(DatabaseError::MigrationMissing {
            name: name.to_owned(),
        }),
    }
}

async fn run(connection: &mut Connection, migration: &Migration, stop: &Stop) -> Result<(), DatabaseError> {
    let name = &migration.name;
    let refused = |Refused { offset, reason }| DatabaseError::MigrationRefused {
        name: name.clone(),
        line: line_at(&migration.sql, offset),
        reason,
    };
    let statements = split_migration(&migration.sql).map_err(refused)?;
    for (index, (offset, sql)) in statements.into_iter().enumerate() {
        connection
            .run_migration(index + 1, sql, stop)
            .await
            .map_err(|source| DatabaseError::Migration {
                name: name.clone(),
                line: line_at(&migration.sql, offset + offset_of_fault(sql, &source)),
                source: Box::new(source),
            })?;
    }
    Ok(())
}

/// The line, from 1, of a byte.
fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
        + 1
}

/// Where in its statement an error is: SQLite names the token near which it stopped. Where that token stands more
/// than once, and for all other errors, it is the statement's beginning.
fn offset_of_fault(sql: &str, error: &DatabaseError) -> usize {
    let DatabaseError::Sqlite { message, .. } = error else {
        return 0;
    };
    let token = message
        .strip_prefix("near \"")
        .and_then(|rest| rest.strip_suffix("\": syntax error"));
    let mut places = sql.match_indices(token.unwrap_or_default());
    match (token, places.next(), places.next()) {
        (Some(_), Some((offset, _)), None) => offset,
        _ => 0,
    }
}

fn hash(migration: &Migration) -> Vec<u8> {
    Sha256::digest(migration.sql.as_bytes()).to_vec()
}
