//! The writer on its thread.

use std::sync::mpsc::channel;

use isms_journal::{AppendError, Directory, Event, Group, Lsn, PAYLOAD_LEN_MAX, Purpose, Stop, open};

use crate::harness::{Log, options, payload};

#[test]
fn what_was_appended_comes_back_with_numbers_kinds_and_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path());
    let mut group = Group::of(7, b"first");
    group.push(8, b"");
    assert_eq!(log.journal.append(Purpose::New, group).unwrap(), Lsn(1));
    assert_eq!(log.append(Purpose::Completion, b"third").unwrap(), Lsn(3));
    log.close();

    let log = Log::open(directory.path());
    let expected = [
        (Lsn(1), 7, b"first".to_vec()),
        (Lsn(2), 8, Vec::new()),
        (Lsn(3), 1, b"third".to_vec()),
    ];
    assert_eq!(log.replayed, expected);
    assert_eq!(log.journal.next_lsn(), Lsn(4));
    assert_eq!((log.report.records, log.report.payload_len), (3, 10));
    assert_eq!(log.report.torn, None);
    log.close();
}

#[test]
fn a_closed_log_has_made_durable_all_that_was_admitted() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path());
    let admitted = (1..)
        .map(Lsn)
        .take_while(|lsn| log.append(Purpose::New, &payload(*lsn)).is_ok());
    let admitted = admitted.take(60).count();
    log.close();
    assert_eq!(Log::open(directory.path()).replayed.len(), admitted);
}

#[test]
fn groups_share_syncs_and_are_acknowledged_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path());
    let (mut appended, mut events, mut last) = (0, 0, Lsn::FIRST);
    while last < Lsn(2001) {
        while appended < 2000 && log.append(Purpose::New, b"short").is_ok() {
            appended += 1;
        }
        match log.event() {
            Event::Durable { below } => {
                assert!(below > last);
                last = below;
                events += 1;
            }
            Event::Compact { below } => log.journal.release(below),
            Event::Stopped(stop) => panic!("{stop}"),
        }
    }
    assert_eq!(last, Lsn(2001));
    assert!(events < 1000, "{events} syncs for 2000 groups");
    log.close();
}

#[test]
fn an_empty_group_and_one_that_is_too_long_are_refused_and_given_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path());
    let refused = log.journal.append(Purpose::New, Group::new()).unwrap_err();
    assert!(matches!(refused.why, AppendError::Len { len: 0, .. }));
    let refused = log.append(Purpose::New, &[0; 9000]).unwrap_err();
    assert_eq!(refused.why, AppendError::Len { len: 9020, max: 8192 });
    assert_eq!(refused.group.len(), 9020);
    assert_eq!(log.journal.next_lsn(), Lsn::FIRST);
    log.close();
}

#[test]
fn the_longest_payload_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let options = isms_journal::Options {
        segment_len: 8 << 20,
        ..isms_journal::Options::new(1)
    };
    let longest = vec![9; PAYLOAD_LEN_MAX];
    let (mut journal, mut writer, _) =
        open(Directory::open(directory.path()).unwrap(), &options, |_| {}).unwrap();
    journal.append(Purpose::New, Group::of(1, &longest)).unwrap();
    writer.step(&mut |_| {});
    drop((journal, writer));
    let mut replayed = Vec::new();
    let directory = Directory::open(directory.path()).unwrap();
    open(directory, &options, |record| {
        replayed.push(record.payload.to_vec())
    })
    .unwrap();
    assert!(replayed == [longest]);
}

#[test]
fn a_sink_that_panics_stops_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let directory = Directory::open(directory.path()).unwrap();
    let (mut journal, writer, _) = open(directory, &options(), |_| {}).unwrap();
    let (sender, receiver) = channel::<()>();
    let thread = writer.spawn(move |event| {
        let _ = &sender;
        panic!("{event:?}");
    });
    journal.append(Purpose::New, Group::of(1, b"one")).unwrap();
    assert!(receiver.recv().is_err());
    assert!(thread.unwrap().join().is_err());
    let refused = journal.append(Purpose::New, Group::of(1, b"two")).unwrap_err();
    assert_eq!(refused.why, AppendError::Stopped(Stop::Gone));
}
