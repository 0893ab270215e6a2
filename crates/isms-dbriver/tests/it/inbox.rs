//! Transactions of durable calls: repeated by another attempt, they take effect once.

use std::{fs, sync::Arc};

use bytes::Bytes;
use isms_protocol::{
    ErrorCode, Flags, Header, ProcessId, Service as Role,
    dbriver::{Operation, Results, Sequence, Transaction, Value},
    decode, encode,
};
use proptest::prelude::*;

use crate::harness::{Harness, demanding, failure, nth, sql_of};

const SCHEMA: &[(&str, &str)] = &[(
    "1.sql",
    "CREATE TABLE t (id INTEGER PRIMARY KEY, value); CREATE TABLE version (version INTEGER); \
     INSERT INTO version VALUES (1);",
)];
const INSERT: &str = "INSERT INTO t (value) VALUES (random()) RETURNING id, value";
const COUNT: &str = "SELECT count(*) FROM t";

async fn database(directory: &std::path::Path) -> Harness {
    let harness = Harness::open(directory);
    harness.prepare("db", 16, SCHEMA).await.expect("migrations apply");
    harness
}

fn at(number: u32, settled: u32) -> Sequence {
    Sequence { number, settled }
}

#[tokio::test]
async fn a_repeated_transaction_is_answered_as_before_and_runs_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (call, other) = (ProcessId::generate(), ProcessId::generate());
    let harness = database(directory.path()).await;
    let insert = || vec![sql_of(INSERT, [])];
    let first = harness.run_durable(call, nth(1), insert()).await.unwrap();
    assert_eq!(harness.run_durable(call, nth(1), insert()).await.unwrap(), first);
    // Another number and another call are other transactions.
    let second = harness.run_durable(call, nth(2), insert()).await.unwrap();
    let others = harness.run_durable(other, nth(1), insert()).await.unwrap();
    assert!(first != second && second != others);
    assert_eq!(harness.value(COUNT).await, Value::Integer(3));

    harness.service.close().await;
    let reopened = Harness::open(directory.path());
    assert_eq!(reopened.run_durable(call, nth(1), insert()).await.unwrap(), first);
    assert_eq!(reopened.value(COUNT).await, Value::Integer(3));
}

#[tokio::test]
async fn a_copy_of_the_file_knows_what_took_effect() {
    let directory = tempfile::tempdir().unwrap();
    let call = ProcessId::generate();
    let insert = || vec![sql_of(INSERT, [])];
    let harness = database(&directory.path().join("original")).await;
    let first = harness.run_durable(call, nth(1), insert()).await.unwrap();
    harness.service.close().await;

    // What is not in the file itself yet is in its log.
    let project = harness.project.to_string();
    let (original, copy) = (directory.path().join("original"), directory.path().join("copy"));
    fs::create_dir_all(copy.join(&project)).unwrap();
    for file in ["db.sqlite", "db.sqlite-wal"] {
        let file = format!("{project}/{file}");
        if original.join(&file).exists() {
            fs::copy(original.join(&file), copy.join(&file)).unwrap();
        }
    }
    let copied = Harness::open(&copy);
    assert_eq!(copied.run_durable(call, nth(1), insert()).await.unwrap(), first);
    assert_eq!(copied.value(COUNT).await, Value::Integer(1));
}

#[tokio::test]
async fn a_call_that_asks_for_something_else_is_stopped_for_good() {
    let directory = tempfile::tempdir().unwrap();
    let harness = database(directory.path()).await;
    let insert = |value| {
        vec![sql_of(
            "INSERT INTO t (value) VALUES (?)",
            [Value::Integer(value)],
        )]
    };
    let call = ProcessId::generate();
    let kept = harness.run_durable(call, nth(1), insert(1)).await.unwrap();
    let other = harness.run_durable(call, nth(1), insert(2)).await;
    let (code, message) = failure(other);
    assert_eq!(code, ErrorCode::Conflict);
    assert!(
        message.starts_with("transaction 1 of this call asked for something else in an earlier attempt; "),
        "{message}"
    );

    // What it goes on with may be what it has done before, now and after a start.
    harness.service.close().await;
    let harness = Harness::open(directory.path());
    let next = failure(harness.run_durable(call, nth(2), insert(1)).await);
    assert_eq!(next.0, ErrorCode::Conflict);
    assert!(next.1.starts_with("transaction 2 was not run, "), "{}", next.1);
    assert_eq!(harness.run_durable(call, nth(1), insert(1)).await, Ok(kept));
    assert_eq!(harness.value(COUNT).await, Value::Integer(1));

    let another = ProcessId::generate();
    harness.run_durable(another, nth(1), insert(2)).await.unwrap();
    assert_eq!(harness.value(COUNT).await, Value::Integer(2));
}

#[tokio::test]
async fn whatever_a_transaction_asks_tells_it_apart() {
    let directory = tempfile::tempdir().unwrap();
    let harness = database(directory.path()).await;
    let sql = "UPDATE t SET value = ? WHERE id = 7";
    let value = |value| vec![sql_of(sql, [value])];
    let asked = [
        value(Value::Null),
        value(Value::Integer(1)),
        value(Value::Real(1.0)),
        value(Value::Text("1".into())),
        value(Value::Blob(b"1".to_vec())),
        vec![demanding(0, sql_of(sql, [Value::Null]))],
        vec![sql_of(sql, [Value::Null]), sql_of(sql, [Value::Null])],
        vec![sql_of("UPDATE t SET value = ?  WHERE id = 7", [Value::Null])],
    ];
    for (index, first) in asked.iter().enumerate() {
        for (other_index, other) in asked.iter().enumerate() {
            let call = ProcessId::generate();
            harness.run_durable(call, nth(1), first.clone()).await.unwrap();
            let repeated = harness.run_durable(call, nth(1), other.clone()).await;
            assert_eq!(repeated.is_ok(), index == other_index, "{first:?} {other:?}");
        }
    }
}

#[tokio::test]
async fn what_took_no_effect_takes_none_once_the_call_went_on_knowing_that() {
    let directory = tempfile::tempdir().unwrap();
    let harness = database(directory.path()).await;
    let update = |version: i64| {
        let sql = "UPDATE version SET version = version + 1 WHERE version = ?";
        vec![demanding(1, sql_of(sql, [Value::Integer(version)]))]
    };
    let call = ProcessId::generate();
    // The first attempt had read too old a version, and then the right one.
    let missed = failure(harness.run_durable(call, nth(1), update(2)).await);
    assert_eq!(missed.0, ErrorCode::ConditionFailed);
    harness.run_durable(call, nth(2), update(1)).await.unwrap();
    // In the second one its update would fit, but it is told what the first one was told.
    let again = failure(harness.run_durable(call, nth(1), update(2)).await);
    assert_eq!(again, missed);
    let version = "SELECT version FROM version";
    assert_eq!(harness.value(version).await, Value::Integer(2));

    // What was told is lost with DBriver, unless the call wrote before; so the call is stopped.
    let call = ProcessId::generate();
    failure(harness.run_durable(call, nth(1), update(3)).await);
    harness.service.close().await;
    let harness = Harness::open(directory.path());
    harness.run_durable(call, nth(2), update(2)).await.unwrap();
    let again = failure(harness.run_durable(call, nth(1), update(3)).await);
    assert_eq!(again.0, ErrorCode::Conflict);
    assert!(
        again.1.starts_with(
            "transaction 1 of this call took no effect in an earlier attempt, which then went on to transaction 2"
        ),
        "{}",
        again.1
    );
    assert_eq!(harness.value(version).await, Value::Integer(3));
}

#[tokio::test]
async fn what_was_asked_at_the_same_time_runs_in_any_order_and_what_was_lost_on_its_way_runs_later() {
    let directory = tempfile::tempdir().unwrap();
    let harness = database(directory.path()).await;
    let insert = |id| vec![sql_of("INSERT INTO t (id) VALUES (?)", [Value::Integer(id)])];
    let call = ProcessId::generate();
    // The first does not come, and the second was asked for without knowing that.
    harness.run_durable(call, at(2, 0), insert(2)).await.unwrap();
    harness.run_durable(call, at(1, 0), insert(1)).await.unwrap();
    harness.run_durable(call, at(2, 0), insert(2)).await.unwrap();
    assert_eq!(harness.value(COUNT).await, Value::Integer(2));
}

#[tokio::test]
async fn what_failed_runs_again_until_the_call_writes_and_fails_as_before_from_then_on() {
    let directory = tempfile::tempdir().unwrap();
    let harness = database(directory.path()).await;
    let insert = |id| vec![sql_of("INSERT INTO t (id) VALUES (?)", [Value::Integer(id)])];
    let delete = |id| vec![sql_of("DELETE FROM t WHERE id = ?", [Value::Integer(id)])];
    let call = ProcessId::generate();
    harness.run(insert(1)).await.unwrap();
    failure(harness.run_durable(call, nth(1), insert(1)).await);
    harness.run(delete(1)).await.unwrap();
    harness.run_durable(call, nth(1), insert(1)).await.unwrap();

    let failed = failure(harness.run_durable(call, nth(2), insert(1)).await);
    assert_eq!(failed.0, ErrorCode::Database);
    harness.run_durable(call, nth(3), insert(3)).await.unwrap();
    harness.run(delete(1)).await.unwrap();
    harness.service.close().await;
    let harness = Harness::open(directory.path());
    let again = harness.run_durable(call, nth(2), insert(1)).await;
    assert_eq!(failure(again), failed);
    harness.run_durable(call, nth(4), insert(4)).await.unwrap();
    assert_eq!(harness.value("SELECT sum(id) FROM t").await, Value::Integer(7));
}

#[tokio::test]
async fn what_was_read_before_a_write_is_read_again_as_it_was_and_what_was_read_after_it_anew() {
    let directory = tempfile::tempdir().unwrap();
    let harness = database(directory.path()).await;
    let call = ProcessId::generate();
    let count = || vec![sql_of(COUNT, [])];
    let insert = || vec![sql_of("INSERT INTO t (value) VALUES (1)", [])];
    let old = harness.run_durable(call, nth(1), count()).await.unwrap();
    harness.run(insert()).await.unwrap();
    // Nothing was decided by it yet.
    let none = harness.run_durable(call, nth(1), count()).await.unwrap();
    assert_ne!(old, none);
    harness.run_durable(call, nth(2), insert()).await.unwrap();
    let one = harness.run_durable(call, nth(3), count()).await.unwrap();

    harness.service.close().await;
    let harness = Harness::open(directory.path());
    harness.run(insert()).await.unwrap();
    let repeated = harness.run_durable(call, nth(1), count()).await.unwrap();
    assert_eq!(repeated, none);
    harness.run_durable(call, nth(2), insert()).await.unwrap();
    let anew = harness.run_durable(call, nth(3), count()).await.unwrap();
    assert!(anew != one && one != none);
    assert_eq!(harness.value(COUNT).await, Value::Integer(3));
}

#[tokio::test]
async fn a_call_that_reads_decides_and_writes_is_repeated_to_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let harness = database(directory.path()).await;
    let read = || vec![sql_of("SELECT version FROM version", [])];
    let update = |version: i64| {
        let sql = "UPDATE version SET version = ? WHERE version = ?";
        let values = [Value::Integer(version + 1), Value::Integer(version)];
        vec![demanding(1, sql_of(sql, values))]
    };
    let call = ProcessId::generate();
    let mut answers = Vec::new();
    for _attempt in 0..3 {
        let read = harness.run_durable(call, nth(1), read()).await.unwrap();
        let results: Results = decode(&read).unwrap();
        let Value::Integer(version) = results.results[0].rows[0][0] else {
            panic!("an integer")
        };
        answers.push(harness.run_durable(call, nth(2), update(version)).await.unwrap());
        // Another one goes on from there.
        let other = ProcessId::generate();
        let now = harness.value("SELECT version FROM version").await;
        let Value::Integer(now) = now else {
            panic!("an integer")
        };
        harness.run_durable(other, nth(1), update(now)).await.unwrap();
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
    // Once by the call, three times by the others.
    assert_eq!(
        harness.value("SELECT version FROM version").await,
        Value::Integer(5)
    );
}

#[tokio::test]
async fn a_read_and_a_write_do_not_take_each_others_place() {
    let directory = tempfile::tempdir().unwrap();
    let harness = database(directory.path()).await;
    let count = || vec![sql_of(COUNT, [])];
    let insert = || vec![sql_of("INSERT INTO t (value) VALUES (1)", [])];
    for replaced in [1, 2] {
        let call = ProcessId::generate();
        harness.run_durable(call, nth(1), count()).await.unwrap();
        harness.run_durable(call, nth(2), insert()).await.unwrap();
        let instead = if replaced == 1 { insert() } else { count() };
        let instead = failure(harness.run_durable(call, nth(replaced), instead).await);
        assert_eq!(instead.0, ErrorCode::Conflict);
        let next = failure(harness.run_durable(call, nth(3), insert()).await);
        assert_eq!(next.0, ErrorCode::Conflict);
    }
    // A read that a write has replaced before anything was written is nobody's.
    let call = ProcessId::generate();
    harness.run_durable(call, nth(1), count()).await.unwrap();
    let first = harness.run_durable(call, nth(1), insert()).await.unwrap();
    assert_eq!(harness.run_durable(call, nth(1), insert()).await, Ok(first));
    assert_eq!(harness.value(COUNT).await, Value::Integer(3));
}

#[tokio::test]
async fn a_read_that_is_too_long_or_forgotten_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let harness = database(directory.path()).await;
    let insert = |len: i64| {
        let sql = "INSERT INTO t (value) VALUES (zeroblob(?))";
        vec![sql_of(sql, [Value::Integer(len)])]
    };
    let read = || vec![sql_of("SELECT value FROM t", [])];
    harness.run(insert(65_536)).await.unwrap();
    let long = ProcessId::generate();
    let before = harness.run_durable(long, nth(1), read()).await.unwrap();
    harness.run_durable(long, nth(2), insert(1)).await.unwrap();
    assert_ne!(harness.run_durable(long, nth(1), read()).await.unwrap(), before);

    // DBriver starts anew between a read and the write.
    let forgotten = ProcessId::generate();
    let count = || vec![sql_of(COUNT, [])];
    let before = harness.run_durable(forgotten, nth(1), count()).await.unwrap();
    harness.service.close().await;
    let harness = Harness::open(directory.path());
    harness.run_durable(forgotten, nth(2), insert(1)).await.unwrap();
    assert_ne!(
        harness.run_durable(forgotten, nth(1), count()).await.unwrap(),
        before
    );
}

#[tokio::test]
async fn the_same_transaction_from_many_sides_at_once_takes_effect_once() {
    const CALLS: usize = 6;
    const SIDES: usize = 8;
    let directory = tempfile::tempdir().unwrap();
    let harness = Arc::new(database(directory.path()).await);
    let calls: Vec<ProcessId> = (0..CALLS).map(|_| ProcessId::generate()).collect();
    let tasks: Vec<_> = (0..CALLS * SIDES)
        .map(|index| {
            let (harness, call) = (harness.clone(), calls[index % CALLS]);
            tokio::spawn(async move {
                // They share commits with ones that fail.
                let fails = harness.run(vec![sql_of("INSERT INTO t (id) VALUES (1), (1)", [])]);
                let insert = vec![sql_of(INSERT, [])];
                let (failed, answer) = tokio::join!(fails, harness.run_durable(call, nth(1), insert));
                assert!(failed.is_err());
                (call, answer.unwrap())
            })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers.sort_by_key(|(call, _)| *call);
    answers.dedup();
    assert_eq!(answers.len(), CALLS);
    assert_eq!(harness.value(COUNT).await, Value::Integer(CALLS as i64));
}

#[tokio::test]
async fn an_answer_that_is_too_long_to_be_kept_is_refused_and_nothing_happens() {
    let directory = tempfile::tempdir().unwrap();
    let harness = database(directory.path()).await;
    let call = ProcessId::generate();
    let returning = |len: i64| {
        let sql = "INSERT INTO t (value) VALUES (zeroblob(?)) RETURNING value";
        vec![sql_of(sql, [Value::Integer(len)])]
    };
    let (code, message) = failure(harness.run_durable(call, nth(1), returning(65_536)).await);
    assert_eq!(code, ErrorCode::LimitReached);
    assert!(message.contains("65536 bytes may be; return less"), "{message}");
    assert_eq!(harness.value(COUNT).await, Value::Integer(0));
    // Nobody else's is limited so, and this one's reading neither.
    harness.run(returning(65_536)).await.unwrap();
    let read = harness.run_durable(call, nth(2), vec![sql_of("SELECT value FROM t", [])]);
    assert!(read.await.unwrap().len() > 65_536);
    harness
        .run_durable(call, nth(3), returning(60_000))
        .await
        .unwrap();
    harness
        .run_durable(call, nth(3), returning(60_000))
        .await
        .unwrap();
    assert_eq!(harness.value(COUNT).await, Value::Integer(2));
}

#[tokio::test]
async fn a_full_database_takes_neither_the_effect_nor_the_entry() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::open(directory.path());
    harness.prepare("db", 1, SCHEMA).await.unwrap();
    let call = ProcessId::generate();
    let insert = |len: i64| {
        let sql = "INSERT INTO t (value) VALUES (zeroblob(?)) RETURNING value";
        vec![sql_of(sql, [Value::Integer(len)])]
    };
    let mut stored = 0;
    let full = loop {
        match harness.run_durable(call, nth(stored + 1), insert(60_000)).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full.code, ErrorCode::LimitReached, "{full}");
    // Each takes its room twice: once as a row, once as the answer that is kept.
    assert!((5..9).contains(&stored), "{stored}");
    assert_eq!(harness.value(COUNT).await, Value::Integer(stored.into()));
    harness
        .run(vec![sql_of("DELETE FROM t WHERE id = 1", [])])
        .await
        .unwrap();
    harness
        .run(vec![sql_of("UPDATE t SET value = NULL", [])])
        .await
        .unwrap();
    for number in 1..=stored + 1 {
        harness
            .run_durable(call, nth(number), insert(60_000))
            .await
            .unwrap();
    }
    assert_eq!(harness.value(COUNT).await, Value::Integer(stored.into()));
}

#[tokio::test]
async fn what_an_old_call_did_is_forgotten_and_the_call_refused() {
    let directory = tempfile::tempdir().unwrap();
    let harness = database(directory.path()).await;
    let mut id = ProcessId::generate().to_bytes();
    // Of 1970.
    id[..6].fill(0);
    let old = ProcessId::from_bytes(id);
    let insert = || vec![sql_of(INSERT, [])];
    // The writer removes old entries after the commit, before it takes the next transaction.
    harness.run_durable(old, nth(1), insert()).await.unwrap();
    let (code, message) = failure(harness.run_durable(old, nth(1), insert()).await);
    assert_eq!(code, ErrorCode::Conflict);
    assert!(message.starts_with("the call began too long ago"), "{message}");
    harness
        .run_durable(ProcessId::generate(), nth(1), insert())
        .await
        .unwrap();
    assert_eq!(harness.value(COUNT).await, Value::Integer(2));
}

#[tokio::test]
async fn only_the_flag_makes_a_transaction_durable_and_then_it_needs_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let harness = database(directory.path()).await;
    let transaction = Transaction {
        database: "db".into(),
        statements: vec![sql_of("INSERT INTO t (value) VALUES (1)", [])],
    };
    let payload: Bytes = encode(&transaction).into();
    let header = |flags, parent| Header {
        flags,
        parent,
        ..harness.header(Role::Doer, Operation::Transaction)
    };
    let call = ProcessId::generate();
    let place = encode(&nth(1));
    let longer = [&[0x93], &place[1..], &[1]].concat();
    let bodies = [
        vec![],
        vec![0xc1],
        vec![0xff; 9_000],
        encode(&at(0, 0)),
        encode(&at(3, 3)),
        longer,
    ];
    for body in &bodies {
        let durable = header(Flags::DURABLE, call);
        let refused = harness.service.handle(&durable, body, payload.clone()).await;
        assert_eq!(failure(refused).0, ErrorCode::Invalid, "{body:?}");
    }
    let orphan = header(Flags::DURABLE, ProcessId::NONE);
    let refused = harness.service.handle(&orphan, &place, payload.clone()).await;
    assert_eq!(failure(refused).0, ErrorCode::Invalid);
    assert_eq!(harness.value(COUNT).await, Value::Integer(0));

    // Without the flag it runs each time, whatever its body says.
    for body in bodies.iter().chain([&place, &place]) {
        let plain = header(Flags::NONE, call);
        harness
            .service
            .handle(&plain, body, payload.clone())
            .await
            .unwrap();
    }
    assert_eq!(harness.value(COUNT).await, Value::Integer(8));
}

/// What the calls of the property ask for, by call and number: one row each, once.
fn effect(call: usize, number: u32) -> Vec<isms_protocol::dbriver::Statement> {
    let values = [Value::Integer(call as i64), Value::Integer(number.into())];
    vec![sql_of(
        "INSERT INTO effects VALUES (?, ?) RETURNING random()",
        values,
    )]
}

#[test]
fn attempts_that_overlap_and_starts_in_between_leave_each_effect_once() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    // Each wave asks at once for what it holds; between two waves DBriver may start anew.
    let wave = prop::collection::vec((0..4_usize, 1..5_u32), 1..24);
    let waves = prop::collection::vec((wave, any::<bool>()), 1..5);
    proptest!(ProptestConfig::with_cases(24), |(waves in waves)| {
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let mut harness = Arc::new(Harness::open(directory.path()));
            let schema = [("1.sql", "CREATE TABLE effects (call, number)")];
            harness.prepare("db", 16, &schema).await.unwrap();
            let calls: Vec<_> = (0..4).map(|_| ProcessId::generate()).collect();
            let mut answers = std::collections::BTreeMap::new();
            for (wave, starts) in waves {
                let tasks: Vec<_> = wave
                    .into_iter()
                    .map(|(call, number)| {
                        let (harness, id) = (harness.clone(), calls[call]);
                        tokio::spawn(async move {
                            let ran = harness.run_durable(id, at(number, 0), effect(call, number));
                            ((call, number), ran.await)
                        })
                    })
                    .collect();
                for task in tasks {
                    let (key, answer) = task.await.unwrap();
                    let answer: Results = decode(&answer.unwrap()).unwrap();
                    let before = answers.entry(key).or_insert(answer.clone());
                    prop_assert_eq!(&*before, &answer);
                }
                if starts {
                    harness.service.close().await;
                    harness = Arc::new(Harness::open(directory.path()));
                }
            }
            let twice = "SELECT count(*) - count(DISTINCT call * 100 + number) FROM effects";
            prop_assert_eq!(harness.value(twice).await, Value::Integer(0));
            let count = harness.value("SELECT count(*) FROM effects").await;
            prop_assert_eq!(count, Value::Integer(answers.len() as i64));
            Ok(())
        })?;
    });
}
