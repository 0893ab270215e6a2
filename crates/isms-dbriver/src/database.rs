//! One open database: its writer task and its readers.

mod connection;
mod inbox;
mod migrate;
mod reads;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use isms_protocol::{
    dbriver::{Prepare, Prepared, Results},
    encode,
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
};

pub(crate) use connection::{Mode, Stop};
pub(crate) use inbox::DurableRequest;
pub(crate) use writer::{Answer, CheckedStatement, WriterCounters};

use crate::{config::WRITER_QUEUE_LEN, error::DatabaseError, sql::Access};
use connection::Connection;
use inbox::Told;
use reads::Reads;
use writer::{Job, Order, Writer, run_statements};

/// An open database.
pub(crate) struct Database {
    path: PathBuf,
    heap_mb_max: u32,
    orders: mpsc::Sender<Order>,
    writer: JoinHandle<()>,
    readers: Semaphore,
    reader_pool: Mutex<Vec<Connection>>,
    reads: Arc<Mutex<Reads>>,
    counters: Arc<WriterCounters>,
}

impl Database {
    /// Opens a database file and starts its writer.
    pub(crate) async fn open(
        path: &Path,
        mode: Mode,
        readers_max: usize,
        heap_mb_max: u32,
        counters: Arc<WriterCounters>,
    ) -> Result<Database, DatabaseError> {
        let fail = |error: sqlx::Error| DatabaseError::Open {
            message: error.to_string(),
        };
        let mut connection = Connection::open(path, mode, heap_mb_max).await.map_err(fail)?;
        if mode == Mode::Write && !migrate::restore_disk(&mut connection).await.map_err(fail)? {
            let database = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            return Err(DatabaseError::NotFound { database });
        }
        let (orders, received) = mpsc::channel(WRITER_QUEUE_LEN);
        let reads = Arc::<Mutex<Reads>>::default();
        let writer = Writer::new(connection, received, reads.clone(), counters.clone());
        let writer = tokio::spawn(writer.run());
        Ok(Database {
            path: path.to_owned(),
            heap_mb_max,
            orders,
            writer,
            readers: Semaphore::new(readers_max.max(1)),
            reader_pool: Mutex::default(),
            reads,
            counters,
        })
    }

    /// False once the writer has given up.
    pub(crate) fn is_open(&self) -> bool {
        !self.orders.is_closed()
    }

    /// Runs a transaction; one that only reads runs beside the writer, on a snapshot. One of a durable call takes
    /// effect once, however often it is asked for.
    pub(crate) async fn transact(
        &self,
        statements: Vec<CheckedStatement>,
        durable: Option<DurableRequest>,
        stop: Stop,
    ) -> Result<Answer, DatabaseError> {
        let _abandon = AbandonOnDrop(stop.abandoned.clone());
        if let Some(request) = &durable {
            reads::lock(&self.reads).begin(request);
        }
        let reads = statements.iter().all(|(_, access)| *access == Access::Read);
        if reads && let Some(answer) = self.read(&statements, durable.as_ref(), &stop).await? {
            return Ok(answer);
        }
        let (answer, answered) = oneshot::channel();
        let job = Job {
            statements,
            durable,
            stop,
            answer,
            alone: false,
        };
        self.orders
            .try_send(Order::Transaction(job))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => DatabaseError::QueueFull,
                mpsc::error::TrySendError::Closed(_) => DatabaseError::Closed,
            })?;
        answered.await.unwrap_or(Err(DatabaseError::Closed))
    }

    /// Applies migrations and the disk limit.
    pub(crate) async fn prepare(&self, prepare: Prepare) -> Result<Prepared, DatabaseError> {
        let (answer, answered) = oneshot::channel();
        let order = Order::Prepare {
            prepare: Box::new(prepare),
            answer,
        };
        self.orders.send(order).await.map_err(|_| DatabaseError::Closed)?;
        answered.await.unwrap_or(Err(DatabaseError::Closed))
    }

    /// Ends the writer after what it was given, and closes the files.
    pub(crate) async fn close(self) {
        drop(self.orders);
        self.writer.await.ok();
    }

    /// Reads. `None` when the call's transaction of this number is in the inbox: the writer judges that.
    async fn read(
        &self,
        statements: &[CheckedStatement],
        durable: Option<&DurableRequest>,
        stop: &Stop,
    ) -> Result<Option<Answer>, DatabaseError> {
        let wait = tokio::time::timeout_at(stop.at.into(), self.readers.acquire());
        let _permit = wait
            .await
            .map_err(|_| DatabaseError::Expired)?
            .map_err(|_| DatabaseError::Closed)?;
        let pooled = self.pool().pop();
        let mut connection = match pooled {
            Some(connection) => connection,
            None => Connection::open(&self.path, Mode::Read, self.heap_mb_max)
                .await
                .map_err(|error| DatabaseError::Open {
                    message: error.to_string(),
                })?,
        };
        let known = match durable {
            Some(request) => inbox::has_entry(&mut connection, request).await,
            None => false,
        };
        let results = match known {
            true => Ok(None),
            false => read_snapshot(&mut connection, statements, stop).await.map(Some),
        };
        if !matches!(results, Err(DatabaseError::Closed)) {
            self.pool().push(connection);
        }
        if let (Err(error), Some(request)) = (&results, durable)
            && let Some(refusal) = Told::refusal(error)
        {
            reads::lock(&self.reads).remember(*request, refusal);
        }
        let Some(results) = results? else {
            return Ok(None);
        };
        let Some(request) = durable else {
            return Ok(Some(Answer::Results(results)));
        };
        let answer = Bytes::from(encode(&results));
        reads::lock(&self.reads).remember(*request, Told::Answer(answer.clone()));
        Ok(Some(Answer::Encoded(answer)))
    }

    fn pool(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.reader_pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the writer counted.
    pub(crate) fn counters(&self) -> &WriterCounters {
        &self.counters
    }
}

/// One statement is a snapshot by itself; several need a transaction to see the same one.
async fn read_snapshot(
    connection: &mut Connection,
    statements: &[CheckedStatement],
    stop: &Stop,
) -> Result<Results, DatabaseError> {
    let several = statements.len() > 1;
    let fail = |error| DatabaseError::from_sqlx(0, &error);
    if several {
        connection.begin("BEGIN").await.map_err(fail)?;
    }
    let results = run_statements(connection, statements, stop).await;
    if several && !connection.is_rolled_back() && connection.control("COMMIT").await.is_err() {
        return Err(DatabaseError::Closed);
    }
    results.map(|(results, _)| results)
}

/// Stops what runs when its caller goes away.
struct AbandonOnDrop(Arc<AtomicBool>);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
