//! Exactly once across a SIGKILL: between a commit and its reply, and anywhere else.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use isms_dbriver::{Config, run};
use isms_ipc::LinkOptions;
use isms_protocol::{
    DoeeVersion, Flags, Header, Incarnation, Kind, Message, ProcessId, Secret, Service as Role,
    dbriver::{Grants, Migration, Operation, Prepare, Statement, Transaction, Value},
    encode,
};
use tokio::{net::UnixListener, sync::watch};

use crate::{
    harness::{Harness, nth, sql_of},
    role::{Kernel, request},
};

const DIRECTORY: &str = "ISMS_TEST_KILLED_DBRIVER";
/// Calls that are asked for before each kill, and transactions of each.
const CALLS: [u8; 3] = [40, 90, 150];
const TRANSACTIONS: u32 = 3;

/// Starts a "test" of this module as a process of its own.
fn start(test: &str, directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn wait_for(stdout: ChildStdout, line: &str) {
    let found = BufReader::new(stdout)
        .lines()
        .any(|read| read.unwrap().ends_with(line));
    assert!(found, "the process ended before it said {line:?}");
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The id of a call is the same in every process that asks for it, and of a time that is never over.
fn call(index: u8) -> ProcessId {
    let mut id = [index; 16];
    id[..6].fill(0xff);
    ProcessId::from_bytes(id)
}

fn effects(call: u8, number: u32) -> Vec<Statement> {
    let values = || [Value::Integer(call.into()), Value::Integer(number.into())];
    vec![
        sql_of("INSERT INTO effects VALUES (?, ?)", values()),
        sql_of("INSERT INTO pair VALUES (?, ?)", values()),
    ]
}

async fn attempt(harness: &Harness, index: u8) {
    for number in 1..=TRANSACTIONS {
        harness
            .run_durable(call(index), nth(number), effects(index, number))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn calls_that_are_repeated_after_kills_have_their_effects_once() {
    let directory = tempfile::tempdir().unwrap();
    for calls in CALLS {
        let mut child = start("killed::caller_that_is_killed", directory.path());
        let stdout = child.stdout.take().unwrap();
        wait_for(stdout, &format!("begins {calls}"));
        kill(child);
    }
    let harness = Harness::open(directory.path());
    let count = "SELECT count(*) FROM effects";
    let Value::Integer(before) = harness.value(count).await else {
        panic!("a count")
    };
    let begun = i64::from(CALLS[2]) * i64::from(TRANSACTIONS);
    assert!(before >= begun, "{before} of {begun} that were answered");
    let asked = u8::MAX;
    for index in 0..asked {
        attempt(&harness, index).await;
    }
    let all = Value::Integer(i64::from(asked) * i64::from(TRANSACTIONS));
    assert_eq!(harness.value(count).await, all);
    assert_eq!(harness.value("SELECT count(*) FROM pair").await, all);
    let once = "SELECT count(*) FROM (SELECT DISTINCT * FROM effects JOIN pair USING (call, number))";
    assert_eq!(harness.value(once).await, all);
}

#[tokio::test]
#[ignore = "is the process that the test above kills"]
async fn caller_that_is_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let harness = Harness::open(directory.as_ref());
    let schema = "CREATE TABLE effects (call, number); CREATE TABLE pair (call, number)";
    harness.prepare("db", 16, &[("1.sql", schema)]).await.unwrap();
    for index in 0..u8::MAX {
        println!("begins {index}");
        attempt(&harness, index).await;
    }
}

#[tokio::test]
async fn a_reply_that_was_lost_with_its_dbriver_is_given_by_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("kernel.sock")).unwrap();
    let invocation = ProcessId::generate();
    let mut replies = Vec::new();
    for _incarnation in 0..2 {
        let mut child = start("killed::role_that_is_killed", directory.path());
        // Read by nobody, and open as long as the process.
        let _stdout = child.stdout.take().unwrap();
        let mut kernel = Kernel::accept(&listener).await;
        let prepare = Prepare {
            database: "db".into(),
            disk_mb: 1,
            migrations: vec![Migration {
                name: "1.sql".into(),
                sql: "CREATE TABLE t (value)".into(),
            }],
        };
        let header = request(Role::Resadmin, Operation::Prepare, 1);
        kernel.send(Message::bare(header).with_raw(encode(&prepare)));
        assert_eq!(kernel.next().await.header.kind, Kind::Reply);
        replies.push(ask(&mut kernel, invocation, 2).await);
        // The reply was sent after the commit; the Kernel may not have got it any more.
        kill(child);
    }
    assert_eq!(replies[0].header.kind, Kind::Reply);
    assert_eq!(
        (replies[1].header.kind, &replies[1].raw),
        (Kind::Reply, &replies[0].raw)
    );
}

/// Has the call's first transaction run, and vouches for its grants.
async fn ask(kernel: &mut Kernel, invocation: ProcessId, call: u64) -> Message {
    // Run twice, it would return two.
    let insert = "INSERT INTO t VALUES (1) RETURNING (SELECT count(*) FROM t)";
    let transaction = Transaction {
        database: "db".into(),
        statements: vec![sql_of(insert, []), sql_of("SELECT count(*), random() FROM t", [])],
    };
    let header = Header {
        flags: Flags::DURABLE,
        parent: invocation,
        calling_doee: DoeeVersion::from_bytes([2; 16]),
        ..request(Role::Doer, Operation::Transaction, call)
    };
    kernel.send(Message::with_body(header, &nth(1)).with_raw(encode(&transaction)));
    let asked = kernel.next().await;
    let grants = Grants {
        databases: vec!["db".into()],
        http: vec![],
    };
    kernel.send(Message::with_body(asked.header.answer(Kind::Reply), &grants));
    kernel.next().await
}

#[tokio::test]
#[ignore = "is the process that the test above kills"]
async fn role_that_is_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let directory = Path::new(&directory);
    let options = LinkOptions {
        socket: directory.join("kernel.sock"),
        service: Role::Dbriver,
        incarnation: Incarnation(1),
        secret: Secret([5; 32]),
        concurrency: 0,
    };
    let (_stop, shutdown) = watch::channel(false);
    run(Config::new(directory.join("dbriver")), options, shutdown)
        .await
        .unwrap();
}
