//! Settings of DBriver, and the limits that it alone cares about.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// Bytes of one encoded transaction.
pub(crate) const REQUEST_LEN_MAX: usize = 8 * 1024 * 1024;
/// Bytes of one statement of a transaction.
pub(crate) const SQL_LEN_MAX: usize = 64 * 1024;
/// Bytes of one encoded `Prepare`: all migrations of a database.
pub(crate) const PREPARE_LEN_MAX: usize = 4 * 1024 * 1024;
/// Migrations of one database.
pub(crate) const MIGRATIONS_MAX: usize = 1_000;
/// Time that all new migrations of a database may take together.
pub(crate) const MIGRATION_TIME_MAX: Duration = Duration::from_secs(60);
/// Transactions that share one commit.
pub(crate) const GROUP_LEN_MAX: usize = 64;
/// Bytes of results that a group holds back until its commit.
pub(crate) const GROUP_RESULT_LEN_MAX: usize = 16 * 1024 * 1024;
/// Age after which a group takes nobody else in and commits.
pub(crate) const GROUP_AGE_MAX: Duration = Duration::from_millis(10);
/// Transactions that wait for one database's writer.
pub(crate) const WRITER_QUEUE_LEN: usize = 256;
/// Bytes of the answer of a durable call's transaction that writes, which is kept for its repetition.
pub(crate) const INBOX_ANSWER_LEN_MAX: usize = 64 * 1024;
/// Transactions of a durable call that wrote nothing and are remembered until it writes; all go into the inbox then.
pub(crate) const READS_OF_CALL_MAX: usize = 32;
/// Bytes of what is remembered of one call.
pub(crate) const READS_OF_CALL_LEN_MAX: usize = 256 * 1024;
/// Bytes of what is remembered of all calls in one database.
pub(crate) const READS_LEN_MAX: usize = 1024 * 1024;
/// Entries of the inbox that are removed at once.
pub(crate) const INBOX_BATCH_LEN: u32 = 128;
/// Between two removals while there are more.
pub(crate) const INBOX_BATCH_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked for entries to remove.
pub(crate) const INBOX_CLEAN_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// Doee versions whose grants are remembered.
pub(crate) const GRANTS_CACHED_MAX: usize = 1_024;
/// Steps of SQLite's virtual machine between two looks at the clock: some 10 µs.
pub(crate) const STEPS_PER_CHECK: i32 = 1_000;
/// Compiled statements that each connection keeps.
pub(crate) const STATEMENTS_CACHED: usize = 64;
/// Rows that SQLite's thread may be ahead of the limits' check.
pub(crate) const ROWS_AHEAD_MAX: usize = 8;

/// What the supervisor tells DBriver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// DBriver's part of the data directory.
    pub directory: PathBuf,
    /// Requests at the same time; the rest waits in the Kernel.
    #[serde(default = "default_concurrency")]
    pub concurrency: u32,
    /// Time that a transaction may take from its start; a call's own deadline may be shorter.
    #[serde(default = "default_transaction_ms_max")]
    pub transaction_ms_max: u32,
    /// Databases that are open at the same time.
    #[serde(default = "default_open_databases_max")]
    pub open_databases_max: usize,
    /// Connections for reading, of each open database.
    #[serde(default = "default_readers_per_database")]
    pub readers_per_database: usize,
    /// Idle time after which a database is closed.
    #[serde(default = "default_idle_close_s")]
    pub idle_close_s: u32,
    /// Memory that SQLite may take for all databases together.
    #[serde(default = "default_heap_mb_max")]
    pub heap_mb_max: u32,
}

impl Config {
    /// Settings for a directory, with the default for everything else.
    pub fn new(directory: impl Into<PathBuf>) -> Config {
        Config {
            directory: directory.into(),
            concurrency: default_concurrency(),
            transaction_ms_max: default_transaction_ms_max(),
            open_databases_max: default_open_databases_max(),
            readers_per_database: default_readers_per_database(),
            idle_close_s: default_idle_close_s(),
            heap_mb_max: default_heap_mb_max(),
        }
    }
}

fn default_concurrency() -> u32 {
    64
}

fn default_transaction_ms_max() -> u32 {
    5_000
}

fn default_open_databases_max() -> usize {
    64
}

fn default_readers_per_database() -> usize {
    2
}

fn default_idle_close_s() -> u32 {
    60
}

fn default_heap_mb_max() -> u32 {
    256
}
