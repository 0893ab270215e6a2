//! Files that somebody or something has changed: refused, with the place, and not changed.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use isms_journal::{Damage, Directory, Lsn, OpenError, Options, Purpose, open};

use crate::harness::{Log, options, payload};

/// Begins the first batch of a segment.
const FIRST_BATCH: u64 = 4096;

/// A log over several segments, closed; the first one's file.
fn with_log() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path());
    for lsn in (1..400).map(Lsn) {
        log.append(Purpose::New, &payload(lsn)).unwrap();
        log.wait_durable(Lsn(lsn.0 + 1));
    }
    assert!(log.journal.usage().live_segments > 2);
    log.close();
    let first = directory.path().join("segment-00000001");
    (directory, first)
}

fn damage(directory: &Path) -> (String, u64, Damage) {
    let before = contents(directory);
    match open(Directory::open(directory).unwrap(), &options(), |_| {}) {
        Err(OpenError::Corrupt { file, offset, damage }) => {
            assert!(before == contents(directory), "a damaged log was changed");
            (file, offset, damage)
        }
        other => panic!("{:?}", other.err()),
    }
}

fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(directory).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

fn flip(file: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 4], offset).unwrap();
}

#[test]
fn a_flipped_bit_in_a_record_is_reported_with_file_and_offset() {
    let (directory, first) = with_log();
    flip(&first, FIRST_BATCH + 40 + 20 + 5);
    let expected = ("segment-00000001".to_owned(), FIRST_BATCH + 40, Damage::Record);
    assert_eq!(damage(directory.path()), expected);
    flip(&first, FIRST_BATCH + 40 + 20 + 5);
    assert_eq!(Log::open(directory.path()).replayed.len(), 399);
}

#[test]
fn a_flipped_bit_in_the_header_of_a_segment_or_batch_is_reported() {
    let (directory, first) = with_log();
    flip(&first, FIRST_BATCH + 9);
    assert_eq!(damage(directory.path()).1, FIRST_BATCH);
    flip(&first, FIRST_BATCH + 9);
    flip(&first, 33);
    assert_eq!(damage(directory.path()).2, Damage::Missing);
}

#[test]
fn a_truncated_file_is_reported_with_where_it_ends() {
    let (directory, first) = with_log();
    let file = OpenOptions::new().write(true).open(first).unwrap();
    file.set_len(20_000).unwrap();
    let expected = ("segment-00000001".to_owned(), 20_000, Damage::Length);
    assert_eq!(damage(directory.path()), expected);
}

#[test]
fn a_missing_file_is_reported_by_the_one_behind_it() {
    let (directory, first) = with_log();
    fs::remove_file(first).unwrap();
    assert_eq!(damage(directory.path()).2, Damage::Missing);
}

#[test]
fn two_files_with_one_segment_are_reported() {
    let (directory, first) = with_log();
    fs::copy(&first, directory.path().join("segment-00000099")).unwrap();
    assert_eq!(damage(directory.path()).2, Damage::Twice);
}

#[test]
fn a_file_of_another_log_is_refused() {
    let (directory, _) = with_log();
    let other = tempfile::tempdir().unwrap();
    let other_options = Options {
        new_log_id: 78,
        ..options()
    };
    drop(open(Directory::open(other.path()).unwrap(), &other_options, |_| {}).unwrap());
    fs::copy(
        other.path().join("segment-00000001"),
        directory.path().join("segment-00000099"),
    )
    .unwrap();
    let refused = open(Directory::open(directory.path()).unwrap(), &options(), |_| {});
    assert!(matches!(refused.err(), Some(OpenError::OtherLog { .. })));
}
