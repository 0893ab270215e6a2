//! The archive of a project's folder: an uncompressed tar (ustar, pax or GNU long names), hostile.
//!
//! Nothing is unpacked: files are slices of the received bytes. Invariants: every path is relative,
//! without `..`, and names a regular file; there are no links; no file lies below another file; count
//! and lengths are bounded. What no build or migration needs is left out: dot files, `data/`, README.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::config::{ARCHIVE_ENTRIES_MAX, ARCHIVE_LEN_MAX};

const BLOCK_LEN: usize = 512;
/// Length of a path in an archive.
const PATH_LEN_MAX: usize = 255;
/// Length of an extension header, which holds a long path.
const EXTENSION_LEN_MAX: usize = 4_096;

/// The files of a project's folder, by path.
#[derive(Debug, Default)]
pub(crate) struct Bundle {
    files: BTreeMap<String, Bytes>,
}

/// Why an archive is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BundleError {
    #[error("the archive is {len} bytes long; {ARCHIVE_LEN_MAX} are allowed")]
    Len { len: usize },
    #[error("the archive ends in the middle of an entry")]
    Truncated,
    #[error("the archive is not a tar: the header at byte {offset} is damaged")]
    Header { offset: usize },
    #[error("the archive has more than {ARCHIVE_ENTRIES_MAX} entries")]
    Entries,
    #[error("the archive's entry {path:?} is a link or special file; only files and folders are allowed")]
    Kind { path: String },
    #[error("the archive's entry {path:?} does not stay below the project's folder")]
    Path { path: String },
    #[error("the archive has {path:?} twice, or as a file and a folder")]
    Twice { path: String },
}

impl Bundle {
    /// Reads an archive.
    pub(crate) fn read(archive: &Bytes) -> Result<Bundle, BundleError> {
        if archive.len() > ARCHIVE_LEN_MAX {
            return Err(BundleError::Len { len: archive.len() });
        }
        let mut bundle = Bundle::default();
        let mut reader = Reader { archive, offset: 0 };
        let mut entries = 0;
        while let Some(entry) = reader.next()? {
            entries += 1;
            if entries > ARCHIVE_ENTRIES_MAX {
                return Err(BundleError::Entries);
            }
            let path = clean_path(&entry.path)?;
            if entry.is_folder || is_left_out(&path) {
                continue;
            }
            if path.is_empty() {
                return Err(BundleError::Path { path: entry.path });
            }
            if bundle.files.insert(path.clone(), entry.content).is_some() {
                return Err(BundleError::Twice { path });
            }
        }
        bundle.check_folders()?;
        Ok(bundle)
    }

    /// A file.
    pub(crate) fn file(&self, path: &str) -> Option<&Bytes> {
        self.files.get(path)
    }

    /// All files below a folder, with paths relative to it, in order of path.
    pub(crate) fn folder(&self, folder: &str) -> Vec<(String, Bytes)> {
        let prefix = format!("{folder}/");
        let below = self
            .files
            .range(prefix.clone()..)
            .take_while(|(path, _)| path.starts_with(&prefix));
        below
            .map(|(path, content)| (path[prefix.len()..].to_owned(), content.clone()))
            .collect()
    }

    /// The paths of all files, and their lengths.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn paths(&self) -> Vec<(String, usize)> {
        let files = self.files.iter();
        files
            .map(|(path, content)| (path.clone(), content.len()))
            .collect()
    }

    fn check_folders(&self) -> Result<(), BundleError> {
        for path in self.files.keys() {
            let mut folders = path.match_indices('/').map(|(index, _)| &path[..index]);
            if let Some(folder) = folders.find(|folder| self.files.contains_key(*folder)) {
                return Err(BundleError::Twice {
                    path: folder.to_owned(),
                });
            }
        }
        Ok(())
    }
}

struct Entry {
    path: String,
    is_folder: bool,
    content: Bytes,
}

struct Reader<'a> {
    archive: &'a Bytes,
    offset: usize,
}

impl Reader<'_> {
    /// The next file or folder; None at the end.
    fn next(&mut self) -> Result<Option<Entry>, BundleError> {
        let mut long_path = None;
        let mut extensions = 0;
        loop {
            let offset = self.offset;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let len = octal(&header[124..136]).ok_or(BundleError::Header { offset })?;
            match header[156] {
                kind @ (b'x' | b'g' | b'L') => {
                    extensions += 1;
                    if len > EXTENSION_LEN_MAX || extensions > 4 {
                        return Err(BundleError::Header { offset });
                    }
                    let content = self.content(len)?;
                    match kind {
                        b'L' => {
                            long_path = Some(content.split(|byte| *byte == 0).next().unwrap_or(&[]).to_vec())
                        }
                        b'x' => long_path = pax_path(&content, offset)?.or(long_path),
                        _ => {}
                    }
                }
                kind => {
                    let path = long_path.unwrap_or_else(|| header_path(&header));
                    let path = text(path)?;
                    if !matches!(kind, b'0' | 0 | b'5') {
                        return Err(BundleError::Kind { path });
                    }
                    let is_folder = kind == b'5' || path.ends_with('/');
                    return Ok(Some(Entry {
                        path,
                        is_folder,
                        content: self.content(len)?,
                    }));
                }
            }
        }
    }

    /// The next header, its checksum verified; None at the end.
    fn header(&mut self) -> Result<Option<Bytes>, BundleError> {
        if self.offset == self.archive.len() {
            return Ok(None);
        }
        let offset = self.offset;
        let end = offset + BLOCK_LEN;
        if end > self.archive.len() {
            return Err(BundleError::Truncated);
        }
        let header = self.archive.slice(offset..end);
        self.offset = end;
        if header.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let stored = octal(&header[148..156]).ok_or(BundleError::Header { offset })?;
        let in_checksum = |index: usize| {
            if (148..156).contains(&index) {
                b' '
            } else {
                header[index]
            }
        };
        let sum: usize = (0..BLOCK_LEN).map(|index| usize::from(in_checksum(index))).sum();
        if sum != stored || !header[257..].starts_with(b"ustar") {
            return Err(BundleError::Header { offset });
        }
        Ok(Some(header))
    }

    fn content(&mut self, len: usize) -> Result<Bytes, BundleError> {
        let padded = len
            .checked_next_multiple_of(BLOCK_LEN)
            .ok_or(BundleError::Truncated)?;
        if padded > self.archive.len() - self.offset {
            return Err(BundleError::Truncated);
        }
        let content = self.archive.slice(self.offset..self.offset + len);
        self.offset += padded;
        Ok(content)
    }
}

/// Name and, in ustar's own form (not GNU's), prefix.
fn header_path(header: &[u8]) -> Vec<u8> {
    let field = |range: std::ops::Range<usize>| header[range].split(|byte| *byte == 0).next().unwrap_or(&[]);
    let (name, prefix) = (field(0..100), field(345..500));
    let is_posix = header[257..263] == *b"ustar\0";
    if prefix.is_empty() || !is_posix {
        return name.to_vec();
    }
    [prefix, b"/", name].concat()
}

/// The `path` of pax records, each `LENGTH KEY=VALUE\n`. A `size` is for files beyond 8 GiB: refused.
fn pax_path(records: &[u8], offset: usize) -> Result<Option<Vec<u8>>, BundleError> {
    let damaged = || BundleError::Header { offset };
    let mut rest = records;
    let mut path = None;
    while !rest.is_empty() {
        let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(damaged)?;
        let len = std::str::from_utf8(&rest[..space])
            .ok()
            .and_then(|text| text.parse::<usize>().ok());
        let len = len
            .filter(|len| *len > space + 1 && *len <= rest.len())
            .ok_or_else(damaged)?;
        let (record, after) = rest.split_at(len);
        let record = record[space + 1..].strip_suffix(b"\n").ok_or_else(damaged)?;
        match record
            .iter()
            .position(|byte| *byte == b'=')
            .map(|at| record.split_at(at))
        {
            Some((b"path", value)) => path = Some(value[1..].to_vec()),
            Some((b"size", _)) | None => return Err(damaged()),
            Some(_) => {}
        }
        rest = after;
    }
    Ok(path)
}

/// An octal number, ended by NUL or space. GNU's base-256 form is for files beyond 8 GiB: refused.
fn octal(field: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(field).ok()?;
    let digits = text.trim_matches([' ', '\0']);
    if digits.is_empty() {
        Some(0)
    } else {
        usize::from_str_radix(digits, 8).ok()
    }
}

fn text(path: Vec<u8>) -> Result<String, BundleError> {
    String::from_utf8(path).map_err(|error| BundleError::Path {
        path: String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

/// Removes `./` and a final `/`; refuses whatever leaves the folder or is no plain path.
fn clean_path(path: &str) -> Result<String, BundleError> {
    let parts: Vec<&str> = path.split('/').filter(|part| *part != ".").collect();
    let (last, folders) = parts.split_last().unwrap_or((&"", &[]));
    let is_plain = |part: &str| !part.is_empty() && part != ".." && !part.contains(['\\', '\0', '\n']);
    if path.len() > PATH_LEN_MAX
        || !folders.iter().all(|part| is_plain(part))
        || !(last.is_empty() || is_plain(last))
    {
        return Err(BundleError::Path {
            path: path.to_owned(),
        });
    }
    Ok(parts.join("/").trim_end_matches('/').to_owned())
}

fn is_left_out(path: &str) -> bool {
    path.split('/').any(|part| part.starts_with('.'))
        || path.starts_with("data/")
        || !path.contains('/') && path.starts_with("README")
}

#[cfg(test)]
mod tests;
