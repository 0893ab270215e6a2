//! Durable calls that read, decide and write, with attempts that are killed anywhere and others in between.

use isms_protocol::{
    ErrorCode, ProcessId, WireError,
    dbriver::{Results, Value},
    decode,
};
use proptest::prelude::*;

use crate::harness::{Harness, demanding, nth, sql_of};

/// Calls, and how often each of them counts up.
const CALLS: usize = 3;
const COUNTS: i64 = 2;
const SCHEMA: &str = "CREATE TABLE counter (value INTEGER); INSERT INTO counter VALUES (0); \
                      CREATE TABLE log (call INTEGER, count INTEGER)";

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A call asks for its next transaction.
    Asks(usize),
    /// Its attempt is killed, before it sees the answer of the transaction that it has just asked for.
    DiesAsking(usize),
    /// DBriver starts anew.
    Starts,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..CALLS).prop_map(Step::Asks),
        3 => (0..CALLS).prop_map(Step::DiesAsking),
        1 => Just(Step::Starts),
    ]
}

/// A call; what it has done so far is forgotten with its attempt.
struct Call {
    index: usize,
    id: ProcessId,
    number: u32,
    counted: i64,
    read: Option<i64>,
    stopped: bool,
}

impl Call {
    fn new(index: usize) -> Call {
        Call {
            index,
            id: ProcessId::generate(),
            number: 0,
            counted: 0,
            read: None,
            stopped: false,
        }
    }

    fn dies(&mut self) {
        (self.number, self.counted, self.read) = (0, 0, None);
    }

    fn has_ended(&self) -> bool {
        self.counted == COUNTS || self.stopped
    }

    /// Reads the counter, or counts up from what it has read; reads again when another one was faster.
    async fn asks(&mut self, harness: &Harness) {
        if self.has_ended() {
            return;
        }
        self.number += 1;
        let statements = match self.read {
            None => vec![sql_of("SELECT value FROM counter", [])],
            Some(value) => {
                let update = "UPDATE counter SET value = value + 1 WHERE value = ?";
                let log = [Value::Integer(self.index as i64), Value::Integer(self.counted)];
                vec![
                    demanding(1, sql_of(update, [Value::Integer(value)])),
                    sql_of("INSERT INTO log VALUES (?, ?)", log),
                ]
            }
        };
        let answer = harness.run_durable(self.id, nth(self.number), statements).await;
        let answer = answer.map_err(|WireError { code, message }| (code, message));
        match (answer, self.read.take()) {
            (Ok(answer), None) => {
                let results: Results = decode(&answer).unwrap();
                let [Value::Integer(value)] = results.results[0].rows[0][..] else {
                    panic!("an integer")
                };
                self.read = Some(value);
            }
            (Ok(_), Some(_)) => self.counted += 1,
            (Err((ErrorCode::ConditionFailed, _)), _) => {}
            (Err((ErrorCode::Conflict, _)), _) => self.stopped = true,
            (Err((_, message)), _) => panic!("{message}"),
        }
    }
}

#[test]
fn a_call_that_is_run_again_until_it_ends_has_its_effects_once() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let steps = prop::collection::vec(step(), 1..60);
    proptest!(ProptestConfig::with_cases(64), |(steps in steps)| {
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let mut harness = Harness::open(directory.path());
            harness.prepare("db", 16, &[("1.sql", SCHEMA)]).await.unwrap();
            let mut calls: Vec<Call> = (0..CALLS).map(Call::new).collect();
            let mut starts = false;
            for step in steps {
                match step {
                    Step::Asks(call) => calls[call].asks(&harness).await,
                    Step::DiesAsking(call) => {
                        calls[call].asks(&harness).await;
                        calls[call].dies();
                    }
                    Step::Starts => {
                        starts = true;
                        harness.service.close().await;
                        harness = Harness::open(directory.path());
                    }
                }
            }
            for call in &mut calls {
                while !call.has_ended() {
                    call.asks(&harness).await;
                }
            }
            let counter = harness.value("SELECT value FROM counter").await;
            prop_assert_eq!(counter, harness.value("SELECT count(*) FROM log").await);
            for call in &calls {
                let index = call.index;
                let rows = format!("SELECT count(*) FROM log WHERE call = {index}");
                let Value::Integer(rows) = harness.value(&rows).await else {
                    panic!("a count")
                };
                let twice = format!("SELECT count(*) - count(DISTINCT count) FROM log WHERE call = {index}");
                prop_assert_eq!(harness.value(&twice).await, Value::Integer(0));
                prop_assert!(rows == COUNTS || call.stopped);
                // Only what DBriver remembered is lost with it.
                prop_assert!(!call.stopped || starts);
            }
            Ok(())
        })?;
    });
}
