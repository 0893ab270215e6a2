//! A DBriver in a folder of its own, with the test in the place of Resadmin and of a Doee.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use isms_dbriver::{Config, GrantsRequest, Service};
use isms_protocol::{
    DoeeVersion, ErrorCode, Flags, Header, Kind, ProcessId, ProjectId, Service as Role, WireError,
    dbriver::{
        Grants, Migration, Operation, Prepare, Prepared, Results, Sequence, Statement, Transaction, Value,
    },
    decode, encode,
};
use tokio::sync::mpsc;

pub(crate) struct Harness {
    pub(crate) service: Arc<Service>,
    pub(crate) project: ProjectId,
    pub(crate) doee: DoeeVersion,
}

impl Harness {
    /// Opens a directory whose one Doee is granted the databases `db` and `other`.
    pub(crate) fn open(directory: &Path) -> Harness {
        Harness::with(
            Config::new(directory),
            ProjectId::from_bytes([1; 16]),
            DoeeVersion::from_bytes([2; 16]),
        )
    }

    pub(crate) fn with(config: Config, project: ProjectId, doee: DoeeVersion) -> Harness {
        let (requests, mut asked) = mpsc::channel::<GrantsRequest>(16);
        tokio::spawn(async move {
            while let Some(request) = asked.recv().await {
                let known = (request.project, request.version) == (project, doee);
                let grants = Grants {
                    databases: vec!["db".into(), "other".into()],
                    http: vec![],
                };
                let answer = if known {
                    Ok(grants)
                } else {
                    Err(WireError::new(ErrorCode::NotFound, "unknown"))
                };
                request.answer.send(answer).ok();
            }
        });
        let service = Arc::new(Service::open(config, requests).expect("the directory is usable"));
        Harness {
            service,
            project,
            doee,
        }
    }

    pub(crate) fn header(&self, sender: Role, operation: Operation) -> Header {
        let mut header = Header::new(Kind::Request, sender, Role::Dbriver);
        header.operation = operation as u16;
        header.project = self.project;
        if sender == Role::Doer {
            header.calling_doee = self.doee;
        }
        header
    }

    pub(crate) async fn prepare(
        &self,
        database: &str,
        disk_mb: u32,
        migrations: &[(&str, &str)],
    ) -> Result<Prepared, WireError> {
        let migrations = migrations
            .iter()
            .map(|(name, sql)| Migration {
                name: (*name).into(),
                sql: (*sql).into(),
            })
            .collect();
        let prepare = Prepare {
            database: database.into(),
            disk_mb,
            migrations,
        };
        let header = self.header(Role::Resadmin, Operation::Prepare);
        let answer = self.service.handle(&header, &[], encode(&prepare).into()).await?;
        Ok(decode(&answer).expect("decodes"))
    }

    /// Runs statements in the database `db`.
    pub(crate) async fn run(&self, statements: Vec<Statement>) -> Result<Results, WireError> {
        self.run_in("db", statements, 0).await
    }

    pub(crate) async fn run_in(
        &self,
        database: &str,
        statements: Vec<Statement>,
        remaining_us: u64,
    ) -> Result<Results, WireError> {
        let header = Header {
            remaining_us,
            ..self.header(Role::Doer, Operation::Transaction)
        };
        let transaction = Transaction {
            database: database.into(),
            statements,
        };
        let payload: Bytes = self
            .service
            .handle(&header, &[], encode(&transaction).into())
            .await?;
        Ok(decode(&payload).expect("results decode"))
    }

    /// Runs statements in the database `db` as a durable call's transaction; the answer is encoded.
    pub(crate) async fn run_durable(
        &self,
        call: ProcessId,
        sequence: Sequence,
        statements: Vec<Statement>,
    ) -> Result<Bytes, WireError> {
        let header = Header {
            flags: Flags::DURABLE,
            parent: call,
            ..self.header(Role::Doer, Operation::Transaction)
        };
        let transaction = Transaction {
            database: "db".into(),
            statements,
        };
        let payload = encode(&transaction).into();
        self.service.handle(&header, &encode(&sequence), payload).await
    }

    /// The first value of the first row of one statement.
    pub(crate) async fn value(&self, sql: &str) -> Value {
        let results = self.run(vec![sql_of(sql, [])]).await.expect(sql);
        results.results[0].rows[0][0].clone()
    }
}

/// The `number`th transaction of a call that waits for each.
pub(crate) fn nth(number: u32) -> Sequence {
    Sequence {
        number,
        settled: number - 1,
    }
}

/// A statement with parameters.
pub(crate) fn sql_of<const N: usize>(sql: &str, parameters: [Value; N]) -> Statement {
    Statement {
        sql: sql.into(),
        parameters: parameters.into(),
        rows_demanded: None,
    }
}

/// A statement that must meet a number of rows.
pub(crate) fn demanding(rows: u64, statement: Statement) -> Statement {
    Statement {
        rows_demanded: Some(rows),
        ..statement
    }
}

/// The code and message of a failure.
pub(crate) fn failure<T: std::fmt::Debug>(result: Result<T, WireError>) -> (ErrorCode, String) {
    let error = result.expect_err("must fail");
    (error.code, error.message)
}
