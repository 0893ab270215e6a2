//! Any bytes as a source tree in the builder, and any names in one: nothing may panic, and nothing may be written
//! outside of the tree's folder.

#![no_main]

use std::fs;

use isms_executor::builder::write_sources;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let work = tempfile::tempdir().unwrap();
    check(data, work.path());
    let text = String::from_utf8_lossy(data);
    let files: Vec<(&str, &[u8])> = text.split('\n').map(|name| (name, &b"x"[..])).collect();
    let files: Vec<(&str, Bytes<'_>)> = files
        .into_iter()
        .map(|(name, content)| (name, Bytes(content)))
        .collect();
    check(&rmp_serde::to_vec(&files).unwrap(), work.path());
});

struct Bytes<'a>(&'a [u8]);

impl serde::Serialize for Bytes<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

fn check(sources: &[u8], work: &std::path::Path) {
    let folder = work.join("src");
    let _ = write_sources(sources, &folder);
    let names: Vec<_> = fs::read_dir(work)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(names.iter().all(|name| name == "src"), "{names:?}");
    let _ = fs::remove_dir_all(folder);
}
