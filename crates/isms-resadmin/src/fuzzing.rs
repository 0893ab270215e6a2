//! For fuzz/: what is uploaded, read.

use bytes::Bytes;

use crate::{bundle::Bundle, elf, manifest};

/// Reads an archive; the paths of its files and their lengths.
pub fn archive(archive: &Bytes) -> Option<Vec<(String, usize)>> {
    let bundle = Bundle::read(archive).ok()?;
    Some(bundle.paths())
}

/// Reads a manifest; true when it is one.
pub fn manifest(text: &str) -> bool {
    manifest::parse(text).is_ok()
}

/// Looks at a binary; true when it may be a Doee.
pub fn binary(file: &[u8]) -> bool {
    elf::check(file).is_ok()
}
