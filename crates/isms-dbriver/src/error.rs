//! Why a transaction fails, and what the caller is told.

use isms_protocol::{
    ErrorCode, WireError,
    limits::{SQL_RESULT_LEN_MAX, SQL_ROWS_MAX},
};

use crate::{config::INBOX_ANSWER_LEN_MAX, sql::Refusal};

/// Why a transaction, a migration or a database failed. Statements count from 1.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DatabaseError {
    #[error("statement {statement} was refused: {reason}")]
    Refused { statement: usize, reason: Refusal },
    #[error("statement {statement} has {expected} parameters, {received} values were sent")]
    Parameters {
        statement: usize,
        expected: usize,
        received: usize,
    },
    #[error(
        "statement {statement} was to meet {demanded} rows and met {met}; the transaction was rolled back"
    )]
    Condition {
        statement: usize,
        demanded: u64,
        met: u64,
    },
    #[error("the transaction returns more than {SQL_ROWS_MAX} rows; select fewer")]
    Rows,
    #[error("the transaction returns more than {SQL_RESULT_LEN_MAX} bytes; select less")]
    Bytes,
    #[error("statement {statement} ran over its time limit; the transaction was rolled back")]
    Deadline { statement: usize },
    #[error("the transaction's deadline passed while it waited for the database")]
    Expired,
    #[error("the database is full; raise disk_mb in project.toml or delete rows")]
    Full,
    #[error("statement {statement} needs more memory than DBriver may take")]
    Memory { statement: usize },
    #[error("statement {statement} returned text that is not UTF-8")]
    NotText { statement: usize },
    #[error("statement {statement} failed: {message}")]
    Sqlite { statement: usize, message: String },
    #[error("the commit failed: {message}; nothing was changed")]
    Commit { message: String },
    #[error(
        "statement {statement} met a failing disk: {message}; look whether it was stored before you repeat it"
    )]
    Disk { statement: usize, message: String },
    #[error("the database was closed by a failure; try again")]
    Closed,
    #[error("the database has as many transactions waiting as it takes; try again later")]
    QueueFull,
    #[error(
        "transaction {number} of this call asked for something else in an earlier attempt; a durable function asks \
         the same in every attempt, with the same values"
    )]
    Other { number: u32 },
    #[error(
        "transaction {number} of this call took no effect in an earlier attempt, which then went on to transaction \
         {later}; a durable function asks the same in every attempt"
    )]
    OutOfTurn { number: u32, later: u32 },
    #[error(
        "transaction {number} was not run, since an earlier one of this call asked for something else than in an \
         earlier attempt; what the call did until then stays"
    )]
    Stopped { number: u32 },
    #[error(
        "the answer of {len} bytes is too long to be kept for a repetition of this durable call, \
         {INBOX_ANSWER_LEN_MAX} bytes may be; return less, or read in a transaction that does not write"
    )]
    AnswerTooLong { len: usize },
    /// What an earlier attempt was told.
    #[error("{}", .0.message)]
    Repeated(WireError),
    #[error("the call began too long ago; what it did is not known any more")]
    Forgotten,
    #[error("migration {name}, line {line}: {source}")]
    Migration {
        name: String,
        line: usize,
        #[source]
        source: Box<DatabaseError>,
    },
    #[error("migration {name}, line {line}: {reason}")]
    MigrationRefused {
        name: String,
        line: usize,
        reason: Refusal,
    },
    #[error("migration {name} was applied in another wording; add a new migration instead of changing one")]
    MigrationChanged { name: String },
    #[error("migration {name} was applied and is missing or in another place now; keep applied migrations")]
    MigrationMissing { name: String },
    #[error("the database {database} does not exist; name it in project.toml and deploy")]
    NotFound { database: String },
    #[error("all {open} databases that may be open are in use; try again later")]
    TooManyOpen { open: usize },
    #[error("the database cannot be opened: {message}")]
    Open { message: String },
}

impl DatabaseError {
    /// What SQLite or sqlx said about a statement. The connection is of no use any more after [`Self::Closed`].
    pub(crate) fn from_sqlx(statement: usize, error: &sqlx::Error) -> DatabaseError {
        let Some(database) = error.as_database_error() else {
            return match error {
                sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                    DatabaseError::NotText { statement }
                }
                _ => DatabaseError::Closed,
            };
        };
        match primary_code(error) {
            Some(SQLITE_INTERRUPT) => DatabaseError::Deadline { statement },
            Some(SQLITE_FULL) => DatabaseError::Full,
            Some(SQLITE_NOMEM) => DatabaseError::Memory { statement },
            Some(SQLITE_IOERR | SQLITE_CORRUPT | SQLITE_CANTOPEN | SQLITE_NOTADB) => DatabaseError::Disk {
                statement,
                message: database.message().to_owned(),
            },
            _ => DatabaseError::Sqlite {
                statement,
                message: database.message().to_owned(),
            },
        }
    }

    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            // What is no SQL at all is nobody's lack of rights.
            DatabaseError::Refused {
                reason: Refusal::Syntax { .. },
                ..
            }
            | DatabaseError::MigrationRefused {
                reason: Refusal::Syntax { .. } | Refusal::Incomplete,
                ..
            } => ErrorCode::Database,
            DatabaseError::Refused { .. } | DatabaseError::MigrationRefused { .. } => ErrorCode::Forbidden,
            DatabaseError::Parameters { .. } => ErrorCode::Invalid,
            DatabaseError::Condition { .. } => ErrorCode::ConditionFailed,
            DatabaseError::Rows | DatabaseError::Bytes | DatabaseError::AnswerTooLong { .. } => {
                ErrorCode::LimitReached
            }
            DatabaseError::Other { .. }
            | DatabaseError::OutOfTurn { .. }
            | DatabaseError::Stopped { .. }
            | DatabaseError::Forgotten => ErrorCode::Conflict,
            DatabaseError::Repeated(error) => error.code,
            DatabaseError::Deadline { .. } | DatabaseError::Full | DatabaseError::Memory { .. } => {
                ErrorCode::LimitReached
            }
            DatabaseError::Expired => ErrorCode::Expired,
            DatabaseError::NotText { .. } | DatabaseError::Sqlite { .. } | DatabaseError::Disk { .. } => {
                ErrorCode::Database
            }
            DatabaseError::Commit { .. } => ErrorCode::Database,
            DatabaseError::Closed => ErrorCode::Unavailable,
            DatabaseError::QueueFull | DatabaseError::TooManyOpen { .. } => ErrorCode::Busy,
            DatabaseError::NotFound { .. } => ErrorCode::NotFound,
            DatabaseError::Migration { source, .. } => source.code(),
            DatabaseError::MigrationChanged { .. } | DatabaseError::MigrationMissing { .. } => {
                ErrorCode::Conflict
            }
            DatabaseError::Open { .. } => ErrorCode::Internal,
        }
    }
}

impl From<DatabaseError> for WireError {
    fn from(error: DatabaseError) -> WireError {
        WireError::new(error.code(), error.to_string())
    }
}

/// `SQLITE_NOMEM`, out of memory or of the configured heap.
pub(crate) const SQLITE_NOMEM: i32 = 7;
/// `SQLITE_INTERRUPT`, stopped by the progress handler.
pub(crate) const SQLITE_INTERRUPT: i32 = 9;
/// `SQLITE_IOERR`, the system could not read, write or sync.
const SQLITE_IOERR: i32 = 10;
/// `SQLITE_CORRUPT`, the file makes no sense.
const SQLITE_CORRUPT: i32 = 11;
/// `SQLITE_CANTOPEN`, a file could not be opened.
const SQLITE_CANTOPEN: i32 = 14;
/// `SQLITE_NOTADB`, the file is no database.
const SQLITE_NOTADB: i32 = 26;
/// `SQLITE_FULL`, over `max_page_count` or no space left.
pub(crate) const SQLITE_FULL: i32 = 13;
/// `SQLITE_CONSTRAINT`, a constraint does not hold.
pub(crate) const SQLITE_CONSTRAINT: i32 = 19;

/// The primary result code of an error that SQLite reported.
pub(crate) fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let extended: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(extended & 0xff)
}
