//! The inbox against a model that applies each transaction once, and what is forgotten when.

use std::{collections::BTreeMap, path::Path};

use isms_protocol::dbriver::{Migration, Prepare};
use proptest::prelude::*;

use super::super::{connection::Mode, migrate};
use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Opens the database as after a start of the process: nothing is known of it.
async fn open(directory: &Path) -> (Connection, Inbox) {
    let path = directory.join("db.sqlite");
    let connection = Connection::open(&path, Mode::Create, 64).await.unwrap();
    (connection, Inbox::default())
}

async fn prepared(directory: &Path) -> (Connection, Inbox) {
    let (mut connection, inbox) = open(directory).await;
    let effects = Migration {
        name: "1.sql".into(),
        sql: "CREATE TABLE effects (call INTEGER, number INTEGER, variant INTEGER)".into(),
    };
    let prepare = Prepare {
        database: "db".into(),
        disk_mb: 64,
        migrations: vec![effects],
    };
    migrate::prepare(&mut connection, &prepare).await.unwrap();
    (connection, inbox)
}

fn request(invocation: ProcessId, number: u32, settled: u32, variant: u8) -> DurableRequest {
    DurableRequest {
        invocation,
        sequence: Sequence { number, settled },
        hash: [variant; 32],
    }
}

/// Commits one transaction that has no effect but its entry.
async fn enter(connection: &mut Connection, inbox: &mut Inbox, request: &DurableRequest, answer: &[u8]) {
    connection.begin("BEGIN IMMEDIATE").await.unwrap();
    assert!(matches!(
        inbox.look_up(connection, request).await.unwrap(),
        Known::New
    ));
    let told = Told::Answer(Bytes::copy_from_slice(answer));
    inbox.record(connection, request, &told).await.unwrap();
    connection.control("COMMIT").await.unwrap();
    inbox.committed();
}

async fn look_up(
    connection: &mut Connection,
    inbox: &mut Inbox,
    request: &DurableRequest,
) -> Result<Known, DatabaseError> {
    connection.begin("BEGIN IMMEDIATE").await.unwrap();
    let known = inbox.look_up(connection, request).await;
    connection.control("ROLLBACK").await.unwrap();
    known
}

/// A transaction that some attempt of a call asks for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    call: u8,
    number: u32,
    settled: u32,
    variant: u8,
    /// A statement of it fails.
    fails: bool,
}

fn asked() -> impl Strategy<Value = Asked> {
    let settled = |number| (Just(number), 0..number);
    // Mostly what the call asks in every attempt, so that histories get far.
    let variant = prop_oneof![8 => Just(0_u8), 1 => Just(1_u8)];
    let place = (1..6_u32).prop_flat_map(settled);
    (0..3_u8, place, variant, prop::bool::weighted(0.2)).prop_map(
        |(call, (number, settled), variant, fails)| Asked {
            call,
            number,
            settled,
            variant,
            fails,
        },
    )
}

/// What should be on the disk.
#[derive(Clone, Default)]
struct Model {
    /// By call and number: what was asked, and which answer it got.
    entries: BTreeMap<(u8, u32), (Asked, u64)>,
    diverged: [bool; 3],
}

impl Model {
    /// The answer of before, `None` when it runs, or an error when the call does not repeat itself.
    fn judge(&self, asked: &Asked) -> Result<Option<u64>, ()> {
        match self.entries.get(&(asked.call, asked.number)) {
            Some((before, answer)) if before.variant == asked.variant => Ok(Some(*answer)),
            Some(_) => Err(()),
            None if self.diverged[usize::from(asked.call)] => Err(()),
            None => {
                let knew_of_it = self.entries.values().any(|(later, _)| {
                    later.call == asked.call && later.number > asked.number && later.settled >= asked.number
                });
                if knew_of_it { Err(()) } else { Ok(None) }
            }
        }
    }
}

/// Runs one transaction within its savepoint, and in the model; `answer` is what a new one is answered. False when it
/// was rolled back.
async fn run(
    connection: &mut Connection,
    inbox: &mut Inbox,
    model: &mut Model,
    asked: Asked,
    answer: u64,
) -> Result<bool, TestCaseError> {
    connection.control("SAVEPOINT job").await.unwrap();
    let invocation = ProcessId::from_bytes([asked.call + 1; 16]);
    let mut stays = true;
    let request = request(invocation, asked.number, asked.settled, asked.variant);
    match (
        inbox.look_up(connection, &request).await.unwrap(),
        model.judge(&asked),
    ) {
        (Known::Answered(kept), Ok(Some(before))) => prop_assert_eq!(&kept[..], &before.to_le_bytes()),
        (Known::Diverged(_), Err(())) => model.diverged[usize::from(asked.call)] = true,
        (Known::New, Ok(None)) => {
            sqlx::query("INSERT INTO effects VALUES (?, ?, ?)")
                .bind(asked.call)
                .bind(asked.number)
                .bind(asked.variant)
                .execute(connection.sqlite())
                .await
                .unwrap();
            if asked.fails {
                connection.control("ROLLBACK TO job").await.unwrap();
                stays = false;
            } else {
                let told = Told::Answer(Bytes::copy_from_slice(&answer.to_le_bytes()));
                inbox.record(connection, &request, &told).await.unwrap();
                model.entries.insert((asked.call, asked.number), (asked, answer));
            }
        }
        (found, expected) => prop_assert!(false, "{found:?} instead of {expected:?}"),
    }
    connection.control("RELEASE job").await.unwrap();
    Ok(stays)
}

async fn effects(connection: &mut Connection) -> Vec<(u8, u32, u8)> {
    sqlx::query_as("SELECT call, number, variant FROM effects ORDER BY call, number")
        .fetch_all(connection.sqlite())
        .await
        .unwrap()
}

#[test]
fn whatever_is_repeated_and_wherever_it_crashes_each_transaction_takes_effect_once() {
    let groups = prop::collection::vec((prop::collection::vec(asked(), 1..6), any::<bool>()), 1..16);
    let runtime = runtime();
    proptest!(ProptestConfig::with_cases(96), |(groups in groups)| {
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let (mut connection, mut inbox) = prepared(directory.path()).await;
            let (mut model, mut answer) = (Model::default(), 0);
            for (group, crashes) in groups {
                let (mut running, mut entered) = (model.clone(), false);
                connection.begin("BEGIN IMMEDIATE").await.unwrap();
                for asked in group {
                    answer += 1;
                    entered |= run(&mut connection, &mut inbox, &mut running, asked, answer).await?;
                }
                if crashes {
                    drop(connection);
                    (connection, inbox) = open(directory.path()).await;
                } else {
                    connection.control("COMMIT").await.unwrap();
                    if entered {
                        inbox.committed();
                    }
                    model = running;
                }
                let expected: Vec<_> = model
                    .entries
                    .values()
                    .map(|(asked, _)| (asked.call, asked.number, asked.variant))
                    .collect();
                prop_assert_eq!(effects(&mut connection).await, expected);
            }
            Ok(())
        })?;
    });
}

#[tokio::test]
async fn entries_of_calls_that_are_long_over_go_some_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let (mut connection, mut inbox) = prepared(directory.path()).await;
    let old = ProcessId::generate();
    let now = SystemTime::now();
    for number in 1..=INBOX_BATCH_LEN + 1 {
        enter(&mut connection, &mut inbox, &request(old, number, 0, 0), b"").await;
    }
    let second = request(old, 2, 0, 0);
    // Nothing is old yet.
    assert!(!inbox.clean(&mut connection, now + 29 * DAY).await.unwrap());
    assert!(matches!(
        look_up(&mut connection, &mut inbox, &second).await,
        Ok(Known::Answered(_))
    ));

    assert!(inbox.clean(&mut connection, now + 31 * DAY).await.unwrap());
    // One of its entries is left, and even that one cannot be asked for, now or after a start.
    let last = request(old, INBOX_BATCH_LEN + 1, 0, 0);
    for _start in 0..2 {
        for request in [&second, &last] {
            let known = look_up(&mut connection, &mut inbox, request).await;
            assert!(matches!(known, Err(DatabaseError::Forgotten)), "{known:?}");
        }
        (connection, inbox) = open(directory.path()).await;
    }
    assert!(!inbox.clean(&mut connection, now + 31 * DAY).await.unwrap());
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM _isms_inbox")
        .fetch_one(connection.sqlite())
        .await
        .unwrap();
    assert_eq!(left, 0);
    // A clock that was set back brings nothing back.
    assert!(!inbox.clean(&mut connection, now).await.unwrap());
    let known = look_up(&mut connection, &mut inbox, &second).await;
    assert!(matches!(known, Err(DatabaseError::Forgotten)), "{known:?}");
}

#[tokio::test]
async fn the_table_is_searched_by_its_key_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (mut connection, mut inbox) = prepared(directory.path()).await;
    let call = ProcessId::generate();
    enter(&mut connection, &mut inbox, &request(call, 1, 0, 0), b"").await;
    for sql in [LOOK_UP, REMOVE] {
        let plan = sqlx::query(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")))
            .fetch_all(connection.sqlite())
            .await
            .unwrap();
        let steps: Vec<String> = plan.iter().map(|row| row.get(3)).collect();
        let scans = steps.iter().any(|step| step.contains("SCAN _isms_inbox"));
        assert!(!scans, "{steps:?}");
        assert!(
            steps.iter().any(|step| step.contains("USING PRIMARY KEY")),
            "{steps:?}"
        );
    }
}

#[test]
fn an_id_tells_when_its_call_began() {
    let now_ms = millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
    let id = ProcessId::generate();
    assert!(began_ms(id).abs_diff(now_ms) < 60_000);
    assert!(earliest_id(began_ms(id)) <= id.to_bytes() && id.to_bytes() < earliest_id(began_ms(id) + 1));
    assert_eq!(earliest_id(u64::MAX)[..6], [0xff; 6]);
    assert_eq!((began_ms(ProcessId::NONE), earliest_id(0)), (0, [0; 16]));
}
