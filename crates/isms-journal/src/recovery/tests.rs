//! What openings make of files that were prepared to the byte.

use super::*;
use crate::{
    Event, Group, Purpose, SimulatedDisk, Step,
    format::{BATCH_HEADER_LEN, RECORD_HEADER_LEN},
    planted::plant,
};

const FIRST: &str = "segment-00000001";

/// A log with these groups of one record, each in a batch of its own; not closed.
fn log_of(payloads: &[&[u8]]) -> SimulatedDisk {
    let disk = SimulatedDisk::new(1);
    let (mut journal, mut writer, _) = open(disk.clone(), &Options::small(5), |_| {}).unwrap();
    for payload in payloads {
        journal.append(Purpose::New, Group::of(1, payload)).unwrap();
        assert_eq!(writer.step(&mut |_| {}), Step::Worked);
    }
    disk
}

fn replayed(disk: &SimulatedDisk) -> Result<(Vec<Vec<u8>>, Report), OpenError> {
    let mut payloads = Vec::new();
    let note = |record: Record<'_>| payloads.push(record.payload.to_vec());
    let (_, _, report) = open(disk.clone(), &Options::small(5), note)?;
    Ok((payloads, report))
}

/// The disk with one file changed.
fn changed(disk: &SimulatedDisk, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> SimulatedDisk {
    let mut bytes = disk.get(name).unwrap();
    change(&mut bytes);
    let disk = disk.fork();
    disk.put(name, &bytes);
    disk
}

#[test]
fn a_new_log_is_empty_and_keeps_its_reserve_ready() {
    let (payloads, report) = replayed(&SimulatedDisk::new(1)).unwrap();
    assert!(payloads.is_empty());
    let expected = Report {
        segments: 1,
        spare_segments: 4,
        ..Report::default()
    };
    assert_eq!(report, expected);
}

#[test]
fn a_newer_format_is_refused_with_both_versions() {
    let disk = changed(&log_of(&[b"one"]), FIRST, |bytes| {
        let sum =
            |bytes: &[u8]| crate::format::checksum(crate::format::checksum(0, &bytes[..12]), &bytes[16..64]);
        bytes[8] = 2;
        let sum = sum(bytes).to_le_bytes();
        bytes[12..16].copy_from_slice(&sum);
    });
    let refused = replayed(&disk).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "segment-00000001 has format 2, and this version knows up to 1; use the newer version"
    );
}

#[test]
fn a_torn_last_batch_is_cut_and_reported() {
    // Without an anchor behind it: that is written when there is time.
    let torn_at = u64::from(BATCHES_BEGIN) + 512;
    let disk = changed(&log_of(&[b"one", &[7; 2000]]), FIRST, |bytes| {
        bytes[torn_at as usize + 1024..][..512].fill(0);
    });
    let (payloads, report) = replayed(&disk).unwrap();
    assert_eq!(payloads, [b"one"]);
    let torn = Torn {
        file: FIRST.into(),
        offset: torn_at,
        len: 2560,
    };
    assert_eq!(report.torn, Some(torn));
    assert_eq!(replayed(&disk).unwrap().1.torn, None);
}

#[test]
fn the_same_is_damage_when_something_valid_stands_behind_it() {
    let disk = changed(&log_of(&[b"one", &[7; 2000], b"three"]), FIRST, |bytes| {
        bytes[BATCHES_BEGIN as usize + 512 + 1024] ^= 1;
    });
    match replayed(&disk) {
        Err(OpenError::Corrupt { file, offset, damage }) => {
            let record = u64::from(BATCHES_BEGIN) + 512 + BATCH_HEADER_LEN as u64;
            assert_eq!((file.as_str(), offset, damage), (FIRST, record, Damage::Record));
        }
        other => panic!("{other:?}"),
    }
}

/// Tears a batch, opens the log, and has the sector that was missing appear, as the next batch may bring it
/// when most of that is lost as well; what comes back then.
fn after_a_cut() -> Vec<Vec<u8>> {
    let whole = log_of(&[&[7; 2000]]);
    let lost = BATCHES_BEGIN as usize + 1024;
    let torn = changed(&whole, FIRST, |bytes| bytes[lost..lost + 512].fill(0));
    assert!(replayed(&torn).unwrap().0.is_empty());
    let next = changed(&torn, FIRST, |bytes| {
        bytes[lost..lost + 512].copy_from_slice(&whole.get(FIRST).unwrap()[lost..lost + 512]);
    });
    replayed(&next).unwrap().0
}

#[test]
fn what_was_cut_never_comes_back() {
    assert!(after_a_cut().is_empty());
    plant(Some(Bug::KeepsCutTail));
    let found = after_a_cut();
    plant(None);
    assert_eq!(found, [[7; 2000]], "the test would not notice");
}

#[test]
fn an_anchor_tells_damage_to_the_last_batch_from_a_torn_one() {
    let disk = SimulatedDisk::new(1);
    let (mut journal, mut writer, _) = open(disk.clone(), &Options::small(5), |_| {}).unwrap();
    journal.append(Purpose::New, Group::of(1, b"last")).unwrap();
    while writer.step(&mut |_| {}) != Step::Idle {}
    drop((journal, writer));
    disk.flip(
        FIRST,
        u64::from(BATCHES_BEGIN) + (BATCH_HEADER_LEN + RECORD_HEADER_LEN) as u64,
        0,
    );
    assert!(matches!(replayed(&disk), Err(OpenError::Corrupt { .. })));
}

#[test]
fn a_log_that_met_a_failed_sync_acknowledges_nothing_and_says_why() {
    let disk = SimulatedDisk::new(1);
    let (mut journal, mut writer, _) = open(disk.clone(), &Options::small(5), |_| {}).unwrap();
    journal.append(Purpose::New, Group::of(1, b"one")).unwrap();
    disk.fail_syncs(1);
    let mut events = Vec::new();
    assert_eq!(writer.step(&mut |event| events.push(event)), Step::Stopped);
    let stop = Stop::Sync {
        file: FIRST.into(),
        cause: "input/output error".into(),
    };
    assert_eq!(events, [Event::Stopped(stop.clone())]);
    let refused = journal.append(Purpose::New, Group::of(1, b"two")).unwrap_err();
    assert_eq!(refused.why, crate::AppendError::Stopped(stop.clone()));
    assert_eq!(writer.step(&mut |event| panic!("{event:?}")), Step::Stopped);
    drop(writer);
    assert_eq!(journal.stopped(), Some(stop));
}

#[test]
fn options_that_do_not_fit_together_are_refused() {
    let check = |change: fn(&mut Options)| {
        let mut options = Options::small(5);
        change(&mut options);
        options.check().unwrap_err()
    };
    assert_eq!(
        check(|it| it.segment_len += 512),
        OptionsError::SegmentLen { min: 40 << 10 }
    );
    assert_eq!(check(|it| it.segments_max = 5), OptionsError::Segments);
    assert_eq!(
        check(|it| it.queue_len_max = 4096),
        OptionsError::QueueLen { min: 8192 }
    );
    assert!(matches!(
        check(|it| it.group_len_max = 1 << 30),
        OptionsError::GroupLen { .. }
    ));
    Options::small(5).check().unwrap();
    Options::new(1).check().unwrap();
}
