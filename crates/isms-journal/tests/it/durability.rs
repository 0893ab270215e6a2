//! What was acknowledged survives a SIGKILL of the process that acknowledged it.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::channel,
};

use isms_journal::{AppendError, Directory, Event, Group, Lsn, Purpose, open};

use crate::harness::{Log, options, payload};

const DIRECTORY: &str = "ISMS_TEST_KILLED_JOURNAL";
const ROUNDS: u64 = 6;
const ACKNOWLEDGED: u64 = 1500;

#[test]
fn nothing_that_was_acknowledged_is_lost_when_the_process_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = 1;
    for round in 0..ROUNDS {
        acknowledged = run_until_killed(directory.path(), acknowledged + ACKNOWLEDGED);
        let log = Log::open(directory.path());
        let next = log.journal.next_lsn();
        assert!(
            next.0 >= acknowledged,
            "round {round}: {next}..{acknowledged} lost"
        );
        let first = next.0 - log.replayed.len() as u64;
        assert!(!log.replayed.is_empty());
        for (index, (lsn, kind, bytes)) in log.replayed.iter().enumerate() {
            assert_eq!((lsn.0, *kind), (first + index as u64, 1));
            assert!(*bytes == payload(*lsn), "record {lsn} came back otherwise");
        }
        log.close();
    }
}

/// Runs a process that appends, and kills it after the acknowledgement of this number.
fn run_until_killed(directory: &Path, target: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "durability::journal_that_is_killed",
            "--ignored",
            "--nocapture",
        ])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        if let Some(below) = line.unwrap().strip_prefix("durable ") {
            acknowledged = below.parse().unwrap();
        }
        if acknowledged >= target {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        acknowledged >= target,
        "the process ended early at {acknowledged}"
    );
    acknowledged
}

#[test]
#[ignore = "is the process that the test above kills"]
fn journal_that_is_killed() {
    let Some(path) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let directory = Directory::open(Path::new(&path)).unwrap();
    let (mut journal, writer, _) = open(directory, &options(), |_| {}).unwrap();
    let (sender, events) = channel();
    let report = move |event| {
        if let Event::Durable { below } = event {
            println!("durable {below}");
            std::io::stdout().flush().unwrap();
        }
        let _ = sender.send(event);
    };
    let thread = writer.spawn(report).unwrap();
    // Bounded, so that nothing stays if the parent dies.
    let last = Lsn(journal.next_lsn().0 + 100_000);
    while journal.next_lsn() < last {
        let next = journal.next_lsn();
        let mut group = Group::of(1, &payload(next));
        (1..next.0 % 4).for_each(|more| group.push(1, &payload(Lsn(next.0 + more))));
        let is_busy = match journal.append(Purpose::New, group) {
            Ok(_) => false,
            Err(refused) => match refused.why {
                AppendError::Busy | AppendError::Full => true,
                why => panic!("{why}"),
            },
        };
        let waited = is_busy.then(|| events.recv().unwrap());
        for event in waited.into_iter().chain(events.try_iter()) {
            if let Event::Compact { below } = event {
                journal.release(below);
            }
        }
    }
    drop(journal);
    thread.join().unwrap();
}
