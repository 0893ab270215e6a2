//! Reads from an ELF file what it needs to run: its loader and its shared libraries.
//!
//! Only 64-bit little-endian files, all offsets checked; anything else is an error, never a panic.

use std::{ffi::OsString, os::unix::ffi::OsStringExt, path::PathBuf};

/// What a program or library asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// Path of the dynamic loader; `None` for a library or a static program.
    pub(super) interpreter: Option<PathBuf>,
    /// Names of shared libraries.
    pub(super) libraries: Vec<OsString>,
    /// Libraries, and the versions of their symbols that are asked for.
    pub(super) versions: Vec<(OsString, OsString)>,
}

/// Bytes that are no ELF file that this machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a 64-bit ELF file for this machine")]
pub struct ElfError;

const HEADER_LEN: usize = 64;
const PROGRAM_HEADER_LEN: usize = 56;
const SEGMENTS_MAX: usize = 128;
const NEEDED_MAX: usize = 256;

const SEGMENT_LOAD: u32 = 1;
const SEGMENT_DYNAMIC: u32 = 2;
const SEGMENT_INTERPRETER: u32 = 3;
const TAG_NEEDED: u64 = 1;
const TAG_STRINGS: u64 = 5;
const TAG_VERSIONS: u64 = 0x6fff_fffe;

/// What this machine runs.
#[cfg(target_arch = "x86_64")]
const MACHINE: u64 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u64 = 183;

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    len: u64,
}

/// Reads the needs of the ELF file with these bytes.
pub(super) fn needs(file: &[u8]) -> Result<Needs, ElfError> {
    if file.len() < HEADER_LEN || !file.starts_with(b"\x7fELF\x02\x01") {
        return Err(ElfError);
    }
    if number::<2>(file, 18)? != MACHINE {
        return Err(ElfError);
    }
    let segments = segments(file)?;
    let interpreter = segments
        .iter()
        .find(|segment| segment.kind == SEGMENT_INTERPRETER);
    let dynamic = segments.iter().find(|segment| segment.kind == SEGMENT_DYNAMIC);
    let (libraries, versions) = match dynamic {
        Some(dynamic) => dynamic_needs(file, dynamic, &segments)?,
        None => Default::default(),
    };
    Ok(Needs {
        interpreter: interpreter
            .map(|at| string(file, at.offset))
            .transpose()?
            .map(PathBuf::from),
        libraries,
        versions,
    })
}

fn segments(file: &[u8]) -> Result<Vec<Segment>, ElfError> {
    let table = number::<8>(file, 32)?;
    let (size, count) = (number::<2>(file, 54)? as usize, number::<2>(file, 56)? as usize);
    if size != PROGRAM_HEADER_LEN || count > SEGMENTS_MAX {
        return Err(ElfError);
    }
    (0..count as u64)
        .map(|index| {
            let at = table.checked_add(index * size as u64).ok_or(ElfError)?;
            let field = |offset: u64| at.checked_add(offset).ok_or(ElfError);
            Ok(Segment {
                kind: number::<4>(file, at)? as u32,
                offset: number::<8>(file, field(8)?)?,
                address: number::<8>(file, field(16)?)?,
                len: number::<8>(file, field(32)?)?,
            })
        })
        .collect()
}

type Versions = Vec<(OsString, OsString)>;

fn dynamic_needs(
    file: &[u8],
    dynamic: &Segment,
    segments: &[Segment],
) -> Result<(Vec<OsString>, Versions), ElfError> {
    let (mut names, mut strings, mut versions) = (Vec::new(), None, None);
    for index in 0..dynamic.len / 16 {
        let at = dynamic.offset.checked_add(index * 16).ok_or(ElfError)?;
        let value = number::<8>(file, at.checked_add(8).ok_or(ElfError)?)?;
        match number::<8>(file, at)? {
            0 => break,
            TAG_NEEDED => names.push(value),
            TAG_STRINGS => strings = Some(value),
            TAG_VERSIONS => versions = Some(value),
            _ => {}
        }
        if names.len() > NEEDED_MAX {
            return Err(ElfError);
        }
    }
    if names.is_empty() {
        return Ok(Default::default());
    }
    let strings = file_offset(strings.ok_or(ElfError)?, segments)?;
    let name = |name: u64| string(file, strings.checked_add(name).ok_or(ElfError)?);
    let versions = match versions {
        Some(at) => self::versions(file, file_offset(at, segments)?, &name)?,
        None => Vec::new(),
    };
    let libraries = names.into_iter().map(&name).collect::<Result<_, _>>()?;
    Ok((libraries, versions))
}

/// Walks the list of libraries with, for each, the list of versions; both are chains of relative offsets. Versions that
/// may be missing are left out.
fn versions(
    file: &[u8],
    first: u64,
    name: &impl Fn(u64) -> Result<OsString, ElfError>,
) -> Result<Versions, ElfError> {
    const FLAG_WEAK: u64 = 2;
    let plus = |at: u64, offset: u64| at.checked_add(offset).ok_or(ElfError);
    let mut versions = Vec::new();
    let mut library_at = first;
    for _ in 0..NEEDED_MAX {
        let library = name(number::<4>(file, plus(library_at, 4)?)?)?;
        let mut version_at = plus(library_at, number::<4>(file, plus(library_at, 8)?)?)?;
        for _ in 0..NEEDED_MAX {
            if number::<2>(file, plus(version_at, 4)?)? & FLAG_WEAK == 0 {
                versions.push((library.clone(), name(number::<4>(file, plus(version_at, 8)?)?)?));
            }
            match number::<4>(file, plus(version_at, 12)?)? {
                0 => break,
                next => version_at = plus(version_at, next)?,
            }
        }
        match number::<4>(file, plus(library_at, 12)?)? {
            0 => return Ok(versions),
            next => library_at = plus(library_at, next)?,
        }
    }
    Err(ElfError)
}

/// Where in the file an address of the loaded program lies.
fn file_offset(address: u64, segments: &[Segment]) -> Result<u64, ElfError> {
    let loaded = segments.iter().filter(|segment| segment.kind == SEGMENT_LOAD);
    let mut offsets = loaded.filter_map(|segment| {
        let inside = address
            .checked_sub(segment.address)
            .filter(|inside| *inside < segment.len)?;
        segment.offset.checked_add(inside)
    });
    offsets.next().ok_or(ElfError)
}

fn number<const N: usize>(file: &[u8], at: u64) -> Result<u64, ElfError> {
    let start = usize::try_from(at).map_err(|_| ElfError)?;
    let bytes = file
        .get(start..)
        .and_then(|rest| rest.first_chunk::<N>())
        .ok_or(ElfError)?;
    Ok(bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn string(file: &[u8], at: u64) -> Result<OsString, ElfError> {
    let start = usize::try_from(at).map_err(|_| ElfError)?;
    let rest = file.get(start..).ok_or(ElfError)?;
    let end = rest
        .iter()
        .take(4096)
        .position(|byte| *byte == 0)
        .ok_or(ElfError)?;
    Ok(OsString::from_vec(rest[..end].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_program_needs_a_loader_and_the_c_library() {
        let needs = needs(&std::fs::read("/proc/self/exe").unwrap()).unwrap();
        assert!(needs.interpreter.unwrap().to_string_lossy().contains("ld-linux"));
        assert!(needs.libraries.contains(&OsString::from("libc.so.6")));
        let of_libc = needs
            .versions
            .iter()
            .filter(|(library, _)| library == "libc.so.6");
        let of_libc: Vec<_> = of_libc.map(|(_, version)| version.to_string_lossy()).collect();
        assert!(
            of_libc.iter().any(|version| version.starts_with("GLIBC_2.")),
            "{of_libc:?}"
        );
    }

    #[test]
    fn truncated_and_foreign_files_are_refused() {
        let file = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(needs(b""), Err(ElfError));
        assert_eq!(needs(b"#!/bin/sh\n"), Err(ElfError));
        assert_eq!(needs(&file[..HEADER_LEN]), Err(ElfError));
        let mut huge_table = file[..4096].to_vec();
        huge_table[32..40].fill(0xff);
        assert_eq!(needs(&huge_table), Err(ElfError));
        let mut foreign = file.clone();
        foreign[18..20].copy_from_slice(&8_u16.to_le_bytes()); // MIPS
        assert_eq!(needs(&foreign), Err(ElfError));
    }
}
