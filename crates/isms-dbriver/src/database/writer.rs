//! The only writer of a database, with group commit.
//!
//! Transactions that arrive while a commit is being written wait, and then run inside one SQLite
//! transaction, each but the first within its own savepoint; all are answered after the shared COMMIT. A
//! single statement that is alone commits by itself, which spares two of three turns of SQLite's thread.
//! Invariants: an answer `Ok` is sent only after COMMIT returned with `synchronous=FULL`; a failing
//! transaction takes nobody along: where SQLite rolls back everything by itself, the others run again,
//! which is right because nobody was told of them. A commit that fails for any reason but a constraint
//! ends the writer: what the disk holds then is known only after the file has been opened again.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};

use bytes::Bytes;
use isms_protocol::{
    dbriver::{Prepare, Prepared, Results, Statement},
    encode,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    connection::{Allowance, Connection, Stop},
    inbox::{DurableRequest, Inbox, Known, Told},
    migrate,
    reads::{self, Reads},
};
use crate::{
    config::{
        GROUP_AGE_MAX, GROUP_LEN_MAX, GROUP_RESULT_LEN_MAX, INBOX_BATCH_INTERVAL, INBOX_CLEAN_INTERVAL,
    },
    error::{DatabaseError, SQLITE_CONSTRAINT, primary_code},
    sql::Access,
};

/// A checked statement and whether it may write.
pub(crate) type CheckedStatement = (Statement, Access);

/// What a transaction is answered.
#[derive(Debug)]
pub(crate) enum Answer {
    Results(Results),
    /// Encoded results: of a durable call, whose inbox keeps them so.
    Encoded(Bytes),
}

/// A transaction on its way through the writer.
pub(crate) struct Job {
    pub(crate) statements: Vec<CheckedStatement>,
    /// Set when it is of a durable call.
    pub(crate) durable: Option<DurableRequest>,
    pub(crate) stop: Stop,
    pub(crate) answer: oneshot::Sender<Result<Answer, DatabaseError>>,
    /// Set after a shared commit failed by a deferred constraint: commits on its own to show whose it was.
    pub(crate) alone: bool,
}

/// What the writer is asked for.
pub(crate) enum Order {
    Transaction(Job),
    Prepare {
        prepare: Box<Prepare>,
        answer: oneshot::Sender<Result<Prepared, DatabaseError>>,
    },
}

/// Counts what the writer did.
#[derive(Debug, Default)]
pub(crate) struct WriterCounters {
    /// Commits written.
    pub(crate) commits: AtomicU64,
    /// Transactions that took part in them.
    pub(crate) transactions: AtomicU64,
}

/// The writer's state.
pub(crate) struct Writer {
    connection: Connection,
    orders: mpsc::Receiver<Order>,
    backlog: VecDeque<Job>,
    prepare: Option<Order>,
    inbox: Inbox,
    /// What durable calls have read, for the inbox.
    reads: Arc<Mutex<Reads>>,
    /// When it is looked for old entries of the inbox again.
    clean_at: Instant,
    counters: Arc<WriterCounters>,
}

/// The connection is of no use any more.
struct Broken;

/// A transaction that has run and waits for the commit.
struct Ran {
    job: Job,
    /// A refusal when the commit is to say that the call is stopped.
    answer: Result<Answer, DatabaseError>,
    /// Numbers of its call's reads that were recorded with it.
    reads: Vec<u32>,
}

impl Writer {
    pub(crate) fn new(
        connection: Connection,
        orders: mpsc::Receiver<Order>,
        reads: Arc<Mutex<Reads>>,
        counters: Arc<WriterCounters>,
    ) -> Writer {
        Writer {
            connection,
            orders,
            backlog: VecDeque::new(),
            prepare: None,
            inbox: Inbox::default(),
            reads,
            clean_at: Instant::now(),
            counters,
        }
    }

    /// Works until all senders are gone or the connection broke; then what waits is told by its
    /// dropped answer.
    pub(crate) async fn run(mut self) {
        loop {
            if let Some(Order::Prepare { prepare, answer }) = self.prepare.take() {
                let done = migrate::prepare(&mut self.connection, &prepare).await;
                let closed = matches!(done, Err(DatabaseError::Closed));
                answer.send(done).ok();
                if closed {
                    return;
                }
            }
            if self.backlog.is_empty() {
                let Some(order) = self.orders.recv().await else {
                    return;
                };
                self.accept(order);
                if self.backlog.is_empty() {
                    continue;
                }
            }
            if self.commit_group().await.is_err() || self.clean_inbox().await.is_err() {
                return;
            }
        }
    }

    /// Now and then removes what the inbox need not keep, so little at a time that no transaction waits long for it.
    async fn clean_inbox(&mut self) -> Result<(), Broken> {
        if !self.inbox.is_ready() || Instant::now() < self.clean_at {
            return Ok(());
        }
        let cleaned = self.inbox.clean(&mut self.connection, SystemTime::now()).await;
        let more = cleaned.map_err(|error| {
            tracing::warn!(error = %error, "the inbox could not be cleaned, database was closed");
            Broken
        })?;
        self.clean_at = Instant::now()
            + if more {
                INBOX_BATCH_INTERVAL
            } else {
                INBOX_CLEAN_INTERVAL
            };
        Ok(())
    }

    fn accept(&mut self, order: Order) {
        match order {
            Order::Transaction(job) => self.backlog.push_back(job),
            Order::Prepare { .. } => self.prepare = Some(order),
        }
    }

    /// The next transaction of the group: from the backlog, or one that has arrived meanwhile. Orders
    /// keep their order: after a `Prepare` nothing more is taken until it is done.
    fn next_job(&mut self) -> Option<Job> {
        if self.backlog.is_empty() && self.prepare.is_none() {
            match self.orders.try_recv() {
                Ok(order) => self.accept(order),
                Err(_) => return None,
            }
        }
        self.backlog.pop_front()
    }

    async fn commit_group(&mut self) -> Result<(), Broken> {
        if self.backlog.len() == 1
            && self.prepare.is_none()
            && self.orders.is_empty()
            && let Some(job) = self.backlog.pop_front_if(|job| commits_by_itself(job))
        {
            return self.run_alone(job).await;
        }
        let started = Instant::now();
        let mut group: Vec<Ran> = Vec::new();
        let mut bytes = 0;
        while group.len() < GROUP_LEN_MAX && bytes < GROUP_RESULT_LEN_MAX && started.elapsed() < GROUP_AGE_MAX
        {
            if group.first().is_some_and(|first| first.job.alone) {
                break;
            }
            let Some(job) = self.next_job() else { break };
            if job.alone && !group.is_empty() {
                self.backlog.push_front(job);
                break;
            }
            if job.stop.is_due() {
                job.answer.send(Err(DatabaseError::Expired)).ok();
                continue;
            }
            match self.run_job(job, group.is_empty()).await {
                Ok((ran, len)) => {
                    group.push(ran);
                    bytes += len;
                }
                Err(Outcome::Failed) => {}
                Err(Outcome::GroupLost) => return self.give_back(group),
                Err(Outcome::Broken) => return Err(Broken),
            }
        }
        if group.is_empty() {
            Ok(())
        } else {
            self.commit(group).await
        }
    }

    /// Runs a transaction of one statement; SQLite commits it when the statement has ended well, and undoes it else.
    async fn run_alone(&mut self, job: Job) -> Result<(), Broken> {
        if job.stop.is_due() {
            job.answer.send(Err(DatabaseError::Expired)).ok();
            return Ok(());
        }
        match run_statements(&mut self.connection, &job.statements, &job.stop).await {
            Ok((results, _)) => {
                self.counters.commits.fetch_add(1, Ordering::Relaxed);
                self.counters.transactions.fetch_add(1, Ordering::Relaxed);
                job.answer.send(Ok(Answer::Results(results))).ok();
                Ok(())
            }
            // The statement's fault, or that of the disk under its commit.
            Err(error) => {
                let broken = matches!(error, DatabaseError::Closed | DatabaseError::Disk { .. });
                if broken {
                    tracing::warn!(%error, "a commit failed, database was closed");
                }
                job.answer.send(Err(error)).ok();
                if broken { Err(Broken) } else { Ok(()) }
            }
        }
    }

    /// Runs a transaction within the group's; the first one opens it.
    async fn run_job(&mut self, job: Job, first: bool) -> Result<(Ran, usize), Outcome> {
        let opened = match first {
            true => self.connection.begin("BEGIN IMMEDIATE").await,
            false => self.connection.control("SAVEPOINT job").await,
        };
        if let Err(error) = opened {
            job.answer.send(Err(DatabaseError::from_sqlx(0, &error))).ok();
            return Err(Outcome::Broken);
        }
        match self.effect(&job).await {
            Ok(Effect { answer, len, reads }) => {
                if !first && self.connection.control("RELEASE job").await.is_err() {
                    return Err(Outcome::Broken);
                }
                Ok((Ran { job, answer, reads }, len))
            }
            Err(error) => {
                let undone = self.undo_job(first, &error).await;
                if let Some(request) = job.durable
                    && let Some(refusal) = Told::refusal(&error)
                {
                    reads::lock(&self.reads).remember(request, refusal);
                }
                job.answer.send(Err(error)).ok();
                Err(undone)
            }
        }
    }

    /// Runs a transaction's statements, unless it is a durable call's that took effect before. What is `Ok` is to be
    /// committed.
    async fn effect(&mut self, job: &Job) -> Result<Effect, DatabaseError> {
        let connection = &mut self.connection;
        let Some(request) = &job.durable else {
            let (results, len) = run_statements(connection, &job.statements, &job.stop).await?;
            return Ok(Effect::new(Ok(Answer::Results(results)), len));
        };
        match self.inbox.look_up(connection, request).await? {
            Known::Answered(answer) => Ok(Effect::encoded(answer)),
            Known::Refused(refusal) => Ok(Effect::new(Err(DatabaseError::Repeated(refusal)), 0)),
            Known::Diverged(refusal) => Ok(Effect::new(Err(refusal), 0)),
            Known::New => {
                let (results, _) = run_statements(connection, &job.statements, &job.stop).await?;
                let answer = Bytes::from(encode(&results));
                let told = Told::Answer(answer.clone());
                self.inbox.record(connection, request, &told).await?;
                let mut effect = Effect::encoded(answer);
                let reads = reads::lock(&self.reads).of(request.invocation);
                for (read, told) in &reads {
                    self.inbox.record(connection, read, told).await?;
                    effect.reads.push(read.sequence.number);
                }
                Ok(effect)
            }
        }
    }

    async fn undo_job(&mut self, first: bool, error: &DatabaseError) -> Outcome {
        if matches!(error, DatabaseError::Closed) {
            return Outcome::Broken;
        }
        if self.connection.is_rolled_back() {
            return if first {
                Outcome::Failed
            } else {
                Outcome::GroupLost
            };
        }
        let undo: &[&'static str] = match first {
            true => &["ROLLBACK"],
            false => &["ROLLBACK TO job", "RELEASE job"],
        };
        for sql in undo {
            if self.connection.control(sql).await.is_err() {
                return Outcome::Broken;
            }
        }
        Outcome::Failed
    }

    async fn commit(&mut self, group: Vec<Ran>) -> Result<(), Broken> {
        let Err(error) = self.connection.control("COMMIT").await else {
            self.counters.commits.fetch_add(1, Ordering::Relaxed);
            self.counters
                .transactions
                .fetch_add(group.len() as u64, Ordering::Relaxed);
            for ran in group {
                if let Some(request) = &ran.job.durable {
                    self.inbox.committed();
                    reads::lock(&self.reads).forget(request.invocation, &ran.reads);
                }
                ran.job.answer.send(ran.answer).ok();
            }
            return Ok(());
        };
        let constraint = primary_code(&error) == Some(SQLITE_CONSTRAINT);
        if constraint
            && (self.connection.is_rolled_back() || self.connection.control("ROLLBACK").await.is_ok())
        {
            if group.len() > 1 {
                let alone = group.into_iter().map(|ran| Ran {
                    job: Job {
                        alone: true,
                        ..ran.job
                    },
                    ..ran
                });
                return self.give_back(alone.collect());
            }
            answer_all(group, &error);
            return Ok(());
        }
        tracing::warn!(error = %error, transactions = group.len(), "commit failed, database was closed");
        answer_all(group, &error);
        Err(Broken)
    }

    /// Puts transactions that ran in vain in front of the queue, in their order.
    fn give_back(&mut self, group: Vec<Ran>) -> Result<(), Broken> {
        for ran in group.into_iter().rev() {
            self.backlog.push_front(ran.job);
        }
        Ok(())
    }
}

/// True for a single statement that needs no rollback but SQLite's own: nothing is demanded of it afterwards, and no
/// rows of it can be too many once it has written.
fn commits_by_itself(job: &Job) -> bool {
    let bare = matches!(
        job.statements.as_slice(),
        [(
            Statement {
                rows_demanded: None,
                ..
            },
            Access::Write { returning: false }
        )]
    );
    // An entry of the inbox is committed with it.
    bare && job.durable.is_none()
}

/// What a transaction leaves to be committed.
struct Effect {
    answer: Result<Answer, DatabaseError>,
    len: usize,
    reads: Vec<u32>,
}

impl Effect {
    fn new(answer: Result<Answer, DatabaseError>, len: usize) -> Effect {
        Effect {
            answer,
            len,
            reads: Vec::new(),
        }
    }

    fn encoded(answer: Bytes) -> Effect {
        let len = answer.len();
        Effect::new(Ok(Answer::Encoded(answer)), len)
    }
}

/// Why a transaction is not part of the group.
enum Outcome {
    /// It alone was undone.
    Failed,
    /// SQLite rolled back the whole group.
    GroupLost,
    /// The connection is of no use any more.
    Broken,
}

/// Runs the statements of one transaction; returns the results and the bytes they take.
pub(crate) async fn run_statements(
    connection: &mut Connection,
    statements: &[CheckedStatement],
    stop: &Stop,
) -> Result<(Results, usize), DatabaseError> {
    let mut allowance = Allowance::default();
    let mut results = Results::default();
    for (index, (statement, access)) in statements.iter().enumerate() {
        let result = connection
            .run(index + 1, statement.clone(), *access, stop, &mut allowance)
            .await?;
        results.results.push(result);
    }
    Ok((results, allowance.bytes_used()))
}

fn answer_all(group: Vec<Ran>, error: &sqlx::Error) {
    let message = match error.as_database_error() {
        Some(database) => database.message().to_owned(),
        None => "the connection was lost".to_owned(),
    };
    for ran in group {
        ran.job
            .answer
            .send(Err(DatabaseError::Commit {
                message: message.clone(),
            }))
            .ok();
    }
}
