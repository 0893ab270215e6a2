//! Whose directory it may be.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
};

use isms_journal::{Directory, DirectoryError, OpenError, Purpose, open};

use crate::harness::{Log, options};

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A log with one record, closed.
fn with_log() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path());
    log.append(Purpose::New, b"one").unwrap();
    log.close();
    directory
}

fn first_file(directory: &Path) -> std::path::PathBuf {
    directory.join("segment-00000001")
}

/// What opening a log says whose file somebody else could change.
fn refusal(directory: &Path) -> String {
    match open(Directory::open(directory).unwrap(), &options(), |_| {}) {
        Err(OpenError::Storage {
            step: "open", source, ..
        }) => source.to_string(),
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn a_second_user_of_a_directory_is_refused_until_the_first_is_gone() {
    let directory = with_log();
    let log = Log::open(directory.path());
    let second = Directory::open(directory.path());
    assert!(matches!(second, Err(DirectoryError::InUse { .. })));
    log.close();
    Log::open(directory.path()).close();
}

#[test]
fn a_directory_that_everybody_can_write_to_is_refused() {
    let directory = with_log();
    set_mode(directory.path(), 0o777);
    let refused = Directory::open(directory.path());
    assert!(matches!(refused, Err(DirectoryError::Unsafe { .. })));
}

#[test]
fn a_file_that_everybody_can_write_to_is_refused() {
    let directory = with_log();
    set_mode(&first_file(directory.path()), 0o666);
    assert_eq!(refusal(directory.path()), "can be written to by everybody");
}

#[test]
fn a_link_in_place_of_a_file_is_not_followed() {
    let directory = with_log();
    let elsewhere = directory.path().join("elsewhere");
    fs::rename(first_file(directory.path()), &elsewhere).unwrap();
    symlink(&elsewhere, first_file(directory.path())).unwrap();
    assert!(refusal(directory.path()).contains("symbolic links"));
}

#[test]
fn a_directory_or_a_file_of_another_user_is_refused() {
    let directory = with_log();
    let file = first_file(directory.path());
    if chown(&file, Some(65534), None).is_err() {
        eprintln!("SKIPPED: only root can give a file to another user");
        return;
    }
    assert_eq!(refusal(directory.path()), "belongs to another user");
    chown(&file, Some(0), None).unwrap();
    chown(directory.path(), Some(65534), None).unwrap();
    let refused = Directory::open(directory.path());
    assert!(matches!(refused, Err(DirectoryError::Unsafe { .. })));
    chown(directory.path(), Some(0), None).unwrap();
    Log::open(directory.path()).close();
}

#[test]
fn files_are_readable_by_their_user_alone_and_those_of_others_are_left() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("segment-notes"), "mine").unwrap();
    Log::open(directory.path()).close();
    assert!(directory.path().join("segment-notes").exists());
    let mode = fs::metadata(first_file(directory.path()))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}
