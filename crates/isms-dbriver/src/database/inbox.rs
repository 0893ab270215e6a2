//! The inbox: which transactions of durable calls have taken effect, and what they were answered.
//!
//! A durable call is run again when its worker has died, and asks for its transactions again. An entry is written
//! in the SQLite transaction of the effects themselves, so there is no moment at which one of the two is there
//! without the other. Invariants: a call's nth transaction takes effect at most once; where it was answered, its
//! repetition gets the same answer and runs nothing; a call that does not repeat itself is stopped, since what it
//! would do from there on may be what it has done already. What a call has read, and what was refused to it, goes in
//! with what it writes next (`reads.rs`), and is answered from here then.
//!
//! The table lies in the database itself, for the same transaction and for a copy of the file to be complete. A
//! process id begins with the time of the call, so the primary key is in the order of age as well.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use isms_protocol::{ProcessId, WireError, dbriver::Sequence, decode, encode, limits::INBOX_KEEP};
use sqlx::Row;

use super::connection::Connection;
use crate::{
    config::{INBOX_ANSWER_LEN_MAX, INBOX_BATCH_LEN},
    error::DatabaseError,
};

/// Number of the entry that says that a call did not repeat itself. Transactions count from 1.
const DIVERGED: u32 = 0;

/// The entry itself, else that of a divergence, else one of a later transaction that was asked knowing how this one
/// ended: when this one has no entry then, it took no effect, and must not do so now.
const LOOK_UP: &str = "SELECT number, hash, refused, answer FROM (\
     SELECT 1 AS rank, * FROM _isms_inbox WHERE invocation = ?1 AND number = ?2 UNION ALL \
     SELECT 2, * FROM _isms_inbox WHERE invocation = ?1 AND number = ?3 UNION ALL \
     SELECT * FROM (SELECT 3, * FROM _isms_inbox \
     WHERE invocation = ?1 AND number > ?2 AND settled >= ?2 LIMIT 1)) ORDER BY rank LIMIT 1";

const REMOVE: &str = "DELETE FROM _isms_inbox WHERE (invocation, number) IN \
     (SELECT invocation, number FROM _isms_inbox WHERE invocation < ? LIMIT ?)";

/// A transaction of a durable call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DurableRequest {
    /// The call; the same in all of its attempts.
    pub(crate) invocation: ProcessId,
    pub(crate) sequence: Sequence,
    /// Of what the transaction asks.
    pub(crate) hash: [u8; 32],
}

/// What a transaction of a durable call was told, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Answer(Bytes),
    Refusal(Bytes),
}

impl Told {
    pub(crate) fn bytes(&self) -> &Bytes {
        match self {
            Told::Answer(bytes) | Told::Refusal(bytes) => bytes,
        }
    }

    /// A refusal that another attempt must hear as well, since it says what the data was like. One that says how busy
    /// or how full everything was is no such one.
    pub(crate) fn refusal(error: &DatabaseError) -> Option<Told> {
        let of_data = matches!(
            error,
            DatabaseError::Condition { .. } | DatabaseError::Sqlite { .. } | DatabaseError::Repeated(_)
        );
        let wire = || WireError::new(error.code(), error.to_string());
        of_data.then(|| Told::Refusal(encode(&wire()).into()))
    }
}

/// What is known of a transaction before it runs.
#[derive(Debug)]
pub(crate) enum Known {
    /// Nothing: it may run.
    New,
    /// This is what it was answered.
    Answered(Bytes),
    /// It was refused like this, and the call went on from there.
    Refused(WireError),
    /// The call does not repeat itself. To be committed like an effect, so that the call is stopped for good.
    Diverged(DatabaseError),
}

/// The inbox of one database, as its writer sees it.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// The table is known to be on the disk.
    ready: bool,
    /// Entries of calls that began before were removed; read with the first look.
    forgotten_ms: Option<u64>,
}

impl Inbox {
    /// Looks a transaction up within the SQLite transaction in which it would run.
    pub(crate) async fn look_up(
        &mut self,
        connection: &mut Connection,
        request: &DurableRequest,
    ) -> Result<Known, DatabaseError> {
        if !self.ready {
            // Made by the first call that needs it, so that other databases stay as they are.
            let table = "CREATE TABLE IF NOT EXISTS _isms_inbox (\
                         invocation BLOB NOT NULL, number INTEGER NOT NULL, settled INTEGER NOT NULL, \
                         hash BLOB NOT NULL, refused INTEGER NOT NULL, answer BLOB NOT NULL, PRIMARY KEY (invocation, number)) \
                         STRICT, WITHOUT ROWID";
            connection.control(table).await.map_err(failed)?;
        }
        if began_ms(request.invocation) < self.forgotten_ms(connection).await? {
            return Err(DatabaseError::Forgotten);
        }
        let Sequence { number, .. } = request.sequence;
        let found = sqlx::query(LOOK_UP)
            .bind(&request.invocation.to_bytes()[..])
            .bind(number)
            .bind(DIVERGED)
            .fetch_optional(connection.sqlite())
            .await
            .map_err(failed)?;
        let Some(found) = found else {
            return Ok(Known::New);
        };
        let (of, hash, refused, answer): (u32, Vec<u8>, bool, Vec<u8>) = (
            found.try_get(0).map_err(failed)?,
            found.try_get(1).map_err(failed)?,
            found.try_get(2).map_err(failed)?,
            found.try_get(3).map_err(failed)?,
        );
        if of == number && hash == request.hash {
            return match refused {
                true => Ok(Known::Refused(
                    decode(&answer).map_err(|_| DatabaseError::Forgotten)?,
                )),
                false => Ok(Known::Answered(answer.into())),
            };
        }
        let mark = DurableRequest {
            sequence: Sequence {
                number: DIVERGED,
                settled: 0,
            },
            hash: [0; 32],
            ..*request
        };
        self.write(connection, &mark, &Told::Answer(Bytes::new())).await?;
        Ok(Known::Diverged(match of {
            DIVERGED => DatabaseError::Stopped { number },
            _ if of == number => DatabaseError::Other { number },
            later => DatabaseError::OutOfTurn { number, later },
        }))
    }

    /// Records a transaction that has run, within its SQLite transaction, or one that did not write with one that did.
    pub(crate) async fn record(
        &self,
        connection: &mut Connection,
        request: &DurableRequest,
        told: &Told,
    ) -> Result<(), DatabaseError> {
        let len = told.bytes().len();
        if len > INBOX_ANSWER_LEN_MAX {
            return Err(DatabaseError::AnswerTooLong { len });
        }
        self.write(connection, request, told).await
    }

    /// The SQLite transaction of an entry was committed, and the table with it.
    pub(crate) fn committed(&mut self) {
        self.ready = true;
    }

    /// True when there may be entries to remove.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Removes entries of calls that are long over, some at a time. True when there may be more. After an error the
    /// connection is of no use any more.
    pub(crate) async fn clean(
        &mut self,
        connection: &mut Connection,
        now: SystemTime,
    ) -> Result<bool, sqlx::Error> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let before_ms = millis(now.saturating_sub(INBOX_KEEP));
        let old = sqlx::query("SELECT 1 FROM _isms_inbox WHERE invocation < ? LIMIT 1")
            .bind(&earliest_id(before_ms)[..])
            .fetch_optional(connection.sqlite())
            .await;
        let Ok(Some(_)) = old else {
            return Ok(false);
        };
        connection.begin("BEGIN IMMEDIATE").await?;
        match remove(connection, before_ms).await {
            Ok(removed) => {
                connection.control("COMMIT").await?;
                self.forgotten_ms = self.forgotten_ms.max(Some(before_ms));
                Ok(removed == u64::from(INBOX_BATCH_LEN))
            }
            Err(error) => {
                if !connection.is_rolled_back() {
                    connection.control("ROLLBACK").await?;
                }
                tracing::warn!(error = %error, "old entries of the inbox could not be removed");
                Ok(false)
            }
        }
    }

    async fn write(
        &self,
        connection: &mut Connection,
        request: &DurableRequest,
        told: &Told,
    ) -> Result<(), DatabaseError> {
        // What is there stays: that of a divergence, or what wrote under the number of a read.
        sqlx::query(
            "INSERT INTO _isms_inbox (invocation, number, settled, hash, refused, answer) \
             VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(&request.invocation.to_bytes()[..])
        .bind(request.sequence.number)
        .bind(request.sequence.settled)
        .bind(&request.hash[..])
        .bind(matches!(told, Told::Refusal(_)))
        .bind(&told.bytes()[..])
        .execute(connection.sqlite())
        .await
        .map(drop)
        .map_err(failed)
    }

    async fn forgotten_ms(&mut self, connection: &mut Connection) -> Result<u64, DatabaseError> {
        if let Some(forgotten_ms) = self.forgotten_ms {
            return Ok(forgotten_ms);
        }
        let row = sqlx::query("SELECT value FROM _isms_settings WHERE name = 'inbox_forgotten_ms'")
            .fetch_optional(connection.sqlite())
            .await
            .map_err(failed)?;
        let forgotten_ms = match row {
            Some(row) => row.try_get::<i64, _>(0).map_err(failed)?.unsigned_abs(),
            None => 0,
        };
        self.forgotten_ms = Some(forgotten_ms);
        Ok(forgotten_ms)
    }
}

/// True when there is an entry of this number, whatever was asked; for a transaction that only reads, on a connection
/// that does so.
pub(crate) async fn has_entry(connection: &mut Connection, request: &DurableRequest) -> bool {
    let found = sqlx::query("SELECT 1 FROM _isms_inbox WHERE invocation = ? AND number = ?")
        .bind(&request.invocation.to_bytes()[..])
        .bind(request.sequence.number)
        .fetch_optional(connection.sqlite())
        .await;
    // Without the table there is no entry.
    matches!(found, Ok(Some(_)))
}

async fn remove(connection: &mut Connection, before_ms: u64) -> Result<u64, sqlx::Error> {
    let removed = sqlx::query(REMOVE)
        .bind(&earliest_id(before_ms)[..])
        .bind(INBOX_BATCH_LEN)
        .execute(connection.sqlite())
        .await?;
    // Whatever the clock says later, a call of which something was forgotten is not let in again.
    sqlx::query(
        "INSERT INTO _isms_settings (name, value) VALUES ('inbox_forgotten_ms', ?) \
         ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
    )
    .bind(i64::try_from(before_ms).unwrap_or(i64::MAX))
    .execute(connection.sqlite())
    .await?;
    Ok(removed.rows_affected())
}

/// When a call began, by its id: the first 48 bits of a UUIDv7 are its time in ms.
fn began_ms(invocation: ProcessId) -> u64 {
    let bytes = invocation.to_bytes();
    bytes[..6].iter().fold(0, |ms, byte| ms << 8 | u64::from(*byte))
}

/// What sorts before all ids of calls that began then or later.
fn earliest_id(began_ms: u64) -> [u8; 16] {
    const MS_MAX: u64 = (1 << 48) - 1;
    let mut id = [0; 16];
    id[..6].copy_from_slice(&began_ms.min(MS_MAX).to_be_bytes()[2..]);
    id
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn failed(error: sqlx::Error) -> DatabaseError {
    DatabaseError::from_sqlx(0, &error)
}

#[cfg(test)]
mod tests;
