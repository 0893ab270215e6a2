//! What Resadmin remembers: one SQLite file, `synchronous=FULL`, one connection.
//!
//! Invariants: a method that changes something returns after its commit; a deployment becomes current
//! in one transaction; versions of Doees are never changed. A newer schema is refused.

mod deployments;
mod images;
mod schedules;
mod schema;
mod settings;
mod tokens;

use std::{collections::HashSet, path::Path, time::Duration};

use isms_protocol::{ContentHash, ErrorCode, WireError};
use sqlx::{
    ConnectOptions, Row, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous},
};
use tokio::sync::Mutex;

use crate::files::DISK_FULL;

pub(crate) use deployments::{DeployedDoee, Deployment, NewDeployment, Version};
pub(crate) use schedules::{Run, Schedule, ScheduledCall};
pub(crate) use tokens::NewToken;

/// The store.
pub(crate) struct Store {
    connection: Mutex<SqliteConnection>,
}

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("the store failed")]
    Sqlite(#[from] sqlx::Error),
    #[error("the store has format {found}, this release knows {known}; use the release that wrote it")]
    Format { found: i64, known: i64 },
    #[error("the store holds a damaged {what}")]
    Damaged { what: &'static str },
    #[error("{what}: {count_max} are allowed")]
    TooMany { what: &'static str, count_max: usize },
}

/// `SQLITE_FULL`, as sqlx shows the codes of SQLite.
const FULL: &str = "13";

impl StoreError {
    pub(crate) fn is_for_want_of_room(&self) -> bool {
        let StoreError::Sqlite(sqlx::Error::Database(error)) = self else {
            return false;
        };
        error.code().is_some_and(|code| code == FULL)
    }
}

impl From<StoreError> for WireError {
    fn from(error: StoreError) -> WireError {
        match error {
            StoreError::TooMany { .. } => WireError::new(ErrorCode::LimitReached, error.to_string()),
            error => {
                tracing::error!(error = &error as &dyn std::error::Error, "store failed");
                if error.is_for_want_of_room() {
                    return WireError::new(ErrorCode::LimitReached, DISK_FULL);
                }
                WireError::new(ErrorCode::Internal, "Resadmin's store failed; see its log")
            }
        }
    }
}

impl Store {
    /// Opens the file, makes it if it is missing, and brings its schema up to date.
    pub(crate) async fn open(path: &Path) -> Result<Store, StoreError> {
        let mut connection = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5))
            .disable_statement_logging()
            .connect()
            .await?;
        schema::upgrade(&mut connection).await?;
        Ok(Store {
            connection: Mutex::new(connection),
        })
    }

    /// The binaries that are recorded.
    pub(crate) async fn binaries(&self) -> Result<HashSet<ContentHash>, StoreError> {
        self.hashes("SELECT hash FROM binaries").await
    }

    /// The source trees that are recorded.
    pub(crate) async fn sources(&self) -> Result<HashSet<ContentHash>, StoreError> {
        self.hashes("SELECT DISTINCT source FROM builds").await
    }

    async fn hashes(&self, sql: &'static str) -> Result<HashSet<ContentHash>, StoreError> {
        let mut connection = self.connection.lock().await;
        let rows = sqlx::query(sql).fetch_all(&mut *connection).await?;
        rows.iter()
            .map(|row| Ok(ContentHash(bytes(row, 0, "hash")?)))
            .collect()
    }
}

/// A column of exactly `N` bytes.
fn bytes<const N: usize>(row: &SqliteRow, column: usize, what: &'static str) -> Result<[u8; N], StoreError> {
    let bytes: Vec<u8> = row.try_get(column)?;
    bytes.try_into().map_err(|_| StoreError::Damaged { what })
}

/// A column that holds a value in MessagePack.
fn decoded<T: serde::de::DeserializeOwned>(
    row: &SqliteRow,
    column: usize,
    what: &'static str,
) -> Result<T, StoreError> {
    let bytes: Vec<u8> = row.try_get(column)?;
    isms_protocol::decode(&bytes).map_err(|_| StoreError::Damaged { what })
}

/// A number that SQLite holds signed.
fn unsigned(row: &SqliteRow, column: usize, what: &'static str) -> Result<u64, StoreError> {
    u64::try_from(row.try_get::<i64, _>(column)?).map_err(|_| StoreError::Damaged { what })
}
