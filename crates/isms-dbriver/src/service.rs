//! The state machine of DBriver: a request comes in, its answer goes out.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use bytes::Bytes;
use isms_protocol::{
    ErrorCode, Flags, Header, ProjectId, Service as Role, WireError, dbriver::Operation, encode,
};
use tokio::sync::mpsc;

use crate::{
    config::{Config, PREPARE_LEN_MAX, REQUEST_LEN_MAX},
    database::{Answer, DurableRequest, Mode, Stop},
    decode::{self, CheckedTransaction},
    grants::{GrantsCache, GrantsRequest},
    registry::Registry,
};

/// The format of DBriver's part of the data directory.
const FORMAT: u32 = 1;

/// DBriver.
pub struct Service {
    config: Config,
    registry: Registry,
    grants: GrantsCache,
}

/// Why DBriver cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be used.
    #[error("cannot use the directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A later release wrote the directory.
    #[error("{path} has format {found}, this release knows {FORMAT}; use the release that wrote it")]
    Format {
        /// The directory.
        path: PathBuf,
        /// What its `format` file holds.
        found: String,
    },
}

/// What the writer of one open database counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteCounts {
    /// Commits written to disk.
    pub commits: u64,
    /// Transactions that took part in them.
    pub transactions: u64,
}

impl Service {
    /// Opens the data directory. Grants are asked for through the channel.
    pub fn open(config: Config, grants: mpsc::Sender<GrantsRequest>) -> Result<Service, OpenError> {
        let path = config.directory.clone();
        let failed = |source| OpenError::Directory {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(&path).map_err(failed)?;
        let format = path.join("format");
        match fs::read_to_string(&format) {
            Ok(found) if found.trim() == FORMAT.to_string() => {}
            Ok(found) => {
                return Err(OpenError::Format {
                    path,
                    found: found.trim().to_owned(),
                });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                fs::write(&format, format!("{FORMAT}\n")).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        Ok(Service {
            registry: Registry::new(config.clone()),
            grants: GrantsCache::new(grants),
            config,
        })
    }

    /// The longest payload that a request may have.
    pub fn payload_len_max(header: &Header) -> usize {
        match Operation::from_u16(header.operation) {
            Some(Operation::Transaction) => REQUEST_LEN_MAX,
            Some(Operation::Prepare) => PREPARE_LEN_MAX,
            Some(Operation::Drop) | None => 0,
        }
    }

    /// Answers a request; what is returned is the reply's payload. A dropped future stops what it began.
    pub async fn handle(&self, header: &Header, body: &[u8], payload: Bytes) -> Result<Bytes, WireError> {
        let operation = Operation::from_u16(header.operation)
            .ok_or_else(|| WireError::new(ErrorCode::Invalid, "DBriver does not know this operation"))?;
        if payload.len() > Service::payload_len_max(header) {
            let message = format!(
                "the request is longer than {} bytes",
                Service::payload_len_max(header)
            );
            return Err(WireError::new(ErrorCode::TooLarge, message));
        }
        match operation {
            Operation::Transaction => self.transaction(header, body, &payload).await,
            Operation::Prepare => self.prepare(header, &payload).await,
            Operation::Drop => self.drop_project(header).await,
        }
    }

    /// Closes databases that have been idle for the configured time.
    pub async fn close_idle(&self) {
        self.registry.close_idle(Instant::now()).await;
    }

    /// Closes all databases after what they were given.
    pub async fn close(&self) {
        self.registry.close_all().await;
    }

    /// What the writer of a database counted since it was opened; opens it if it is not.
    pub async fn write_counts(&self, project: ProjectId, database: &str) -> Result<WriteCounts, WireError> {
        let slot = self.registry.open(project, database, Mode::Write).await?;
        let counts = slot.get().map(|database| WriteCounts {
            commits: database.counters().commits.load(Ordering::Relaxed),
            transactions: database.counters().transactions.load(Ordering::Relaxed),
        });
        Ok(counts.unwrap_or_default())
    }

    async fn transaction(&self, header: &Header, body: &[u8], payload: &[u8]) -> Result<Bytes, WireError> {
        let stop = Stop::at(self.deadline(header));
        let transaction = decode::transaction(payload)?;
        let durable = durable_request(header, body, &transaction)?;
        self.grants
            .check(header.project, header.calling_doee, &transaction.database)
            .await?;
        let slot = self
            .registry
            .open(header.project, &transaction.database, Mode::Write)
            .await?;
        let database = slot.get().ok_or_else(closed)?;
        Ok(
            match database.transact(transaction.statements, durable, stop).await? {
                Answer::Results(results) => encode(&results).into(),
                Answer::Encoded(results) => results,
            },
        )
    }

    async fn prepare(&self, header: &Header, payload: &[u8]) -> Result<Bytes, WireError> {
        check_resadmin(header)?;
        let prepare = decode::prepare(payload)?;
        let name = prepare.database.clone();
        let slot = self.registry.open(header.project, &name, Mode::Create).await?;
        let prepared = slot.get().ok_or_else(closed)?.prepare(prepare).await;
        if prepared.is_err() {
            // A database that was only just made must not be taken for a prepared one.
            self.registry.discard(header.project, &name);
        }
        Ok(encode(&prepared?).into())
    }

    async fn drop_project(&self, header: &Header) -> Result<Bytes, WireError> {
        check_resadmin(header)?;
        self.grants.forget(header.project);
        self.registry.drop_project(header.project).await?;
        Ok(Bytes::new())
    }

    fn deadline(&self, header: &Header) -> Instant {
        let own = Duration::from_millis(self.config.transaction_ms_max.into());
        let time = match header.remaining_us {
            0 => own,
            remaining => own.min(Duration::from_micros(remaining)),
        };
        Instant::now() + time
    }
}

/// What a transaction is known by in later attempts of its call. Only the Kernel says that a call is durable; without
/// its word the body does not count.
fn durable_request(
    header: &Header,
    body: &[u8],
    transaction: &CheckedTransaction,
) -> Result<Option<DurableRequest>, WireError> {
    if !header.flags.contains(Flags::DURABLE) {
        return Ok(None);
    }
    if header.parent.is_none() {
        let message = "a durable transaction belongs to a call";
        return Err(WireError::new(ErrorCode::Invalid, message));
    }
    Ok(Some(DurableRequest {
        invocation: header.parent,
        sequence: decode::sequence(body)?,
        hash: transaction.hash(),
    }))
}

/// Databases are made and deleted by Resadmin alone, for the project that it names.
fn check_resadmin(header: &Header) -> Result<(), WireError> {
    if header.sender != Role::Resadmin || !header.calling_doee.is_none() || header.project.is_none() {
        return Err(WireError::new(
            ErrorCode::Forbidden,
            "only Resadmin may make or delete databases of a project",
        ));
    }
    Ok(())
}

fn closed() -> WireError {
    crate::error::DatabaseError::Closed.into()
}
