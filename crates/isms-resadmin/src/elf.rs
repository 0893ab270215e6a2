//! A first look at a shared object, so that what cannot be a Doee of this machine fails at deployment
//! and not at the first call. It proves nothing about the code: the sandbox does not trust it.

use isms_protocol::limits::ARTIFACT_LEN_MAX;

/// Name of the function that every Doee exports.
const ABI_SYMBOL: &[u8] = b"isms_doee_v1\0";
const HEADER_LEN: usize = 64;
const PROGRAM_HEADER_LEN: usize = 56;
const PROGRAM_HEADERS_MAX: usize = 64;
const TYPE_SHARED: u16 = 3;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_DYNAMIC: u32 = 2;
const SEGMENT_INTERPRETER: u32 = 3;

#[cfg(target_arch = "x86_64")]
const MACHINE: (u16, &str) = (62, "x86-64");
#[cfg(target_arch = "aarch64")]
const MACHINE: (u16, &str) = (183, "aarch64");

/// Why bytes are not a Doee's binary.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ElfError {
    #[error("it is {len} bytes long; {ARTIFACT_LEN_MAX} are allowed")]
    Len { len: usize },
    #[error("it is not a 64-bit ELF file")]
    Magic,
    #[error("it is not for this machine, which is {}", MACHINE.1)]
    Machine,
    #[error("it is a program or object file; build it with -shared")]
    Type,
    #[error("its program headers are damaged")]
    Headers,
    #[error("it does not export isms_doee_v1; include isms_doee.h and register the Doee")]
    Symbol,
}

/// Checks that bytes are a shared object for this machine that mentions the ABI's symbol.
pub(crate) fn check(file: &[u8]) -> Result<(), ElfError> {
    if file.len() as u64 > ARTIFACT_LEN_MAX {
        return Err(ElfError::Len { len: file.len() });
    }
    // 64-bit, little-endian, version 1.
    if file.len() < HEADER_LEN || !file.starts_with(b"\x7fELF\x02\x01\x01") {
        return Err(ElfError::Magic);
    }
    if u16_at(file, 18) != Some(MACHINE.0) {
        return Err(ElfError::Machine);
    }
    if u16_at(file, 16) != Some(TYPE_SHARED) {
        return Err(ElfError::Type);
    }
    check_segments(file)?;
    if !file.windows(ABI_SYMBOL.len()).any(|window| window == ABI_SYMBOL) {
        return Err(ElfError::Symbol);
    }
    Ok(())
}

fn check_segments(file: &[u8]) -> Result<(), ElfError> {
    let start = u64_at(file, 32)
        .and_then(|offset| usize::try_from(offset).ok())
        .ok_or(ElfError::Headers)?;
    let count = usize::from(u16_at(file, 56).ok_or(ElfError::Headers)?);
    if u16_at(file, 54).map(usize::from) != Some(PROGRAM_HEADER_LEN) || count > PROGRAM_HEADERS_MAX {
        return Err(ElfError::Headers);
    }
    let (mut loads, mut dynamics) = (0, 0);
    for index in 0..count {
        let header = start
            .checked_add(index * PROGRAM_HEADER_LEN)
            .ok_or(ElfError::Headers)?;
        let kind = u32_at(file, header).ok_or(ElfError::Headers)?;
        let offset = header
            .checked_add(8)
            .and_then(|at| u64_at(file, at))
            .ok_or(ElfError::Headers)?;
        let len = header
            .checked_add(32)
            .and_then(|at| u64_at(file, at))
            .ok_or(ElfError::Headers)?;
        let in_file = offset
            .checked_add(len)
            .is_some_and(|end| end <= file.len() as u64);
        match kind {
            SEGMENT_LOAD | SEGMENT_DYNAMIC if !in_file => return Err(ElfError::Headers),
            SEGMENT_LOAD => loads += 1,
            SEGMENT_DYNAMIC => dynamics += 1,
            // A position-independent program has the same type and asks for an interpreter.
            SEGMENT_INTERPRETER => return Err(ElfError::Type),
            _ => {}
        }
    }
    if loads == 0 || dynamics != 1 {
        Err(ElfError::Headers)
    } else {
        Ok(())
    }
}

fn u16_at(file: &[u8], at: usize) -> Option<u16> {
    field(file, at).map(u16::from_le_bytes)
}

fn u32_at(file: &[u8], at: usize) -> Option<u32> {
    field(file, at).map(u32::from_le_bytes)
}

fn u64_at(file: &[u8], at: usize) -> Option<u64> {
    field(file, at).map(u64::from_le_bytes)
}

fn field<const N: usize>(file: &[u8], at: usize) -> Option<[u8; N]> {
    file.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest file that passes: a header, one LOAD, one DYNAMIC, the symbol's name.
    fn shared_object() -> Vec<u8> {
        let mut file = vec![0; HEADER_LEN + 2 * PROGRAM_HEADER_LEN];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        file[16..18].copy_from_slice(&TYPE_SHARED.to_le_bytes());
        file[18..20].copy_from_slice(&MACHINE.0.to_le_bytes());
        file[32] = HEADER_LEN as u8;
        file[54] = PROGRAM_HEADER_LEN as u8;
        file[56] = 2;
        file[HEADER_LEN] = SEGMENT_LOAD as u8;
        file[HEADER_LEN + PROGRAM_HEADER_LEN] = SEGMENT_DYNAMIC as u8;
        file.extend_from_slice(ABI_SYMBOL);
        file
    }

    fn changed(at: usize, bytes: &[u8]) -> Result<(), ElfError> {
        let mut file = shared_object();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        check(&file)
    }

    #[test]
    fn what_cannot_be_a_doee_of_this_machine_is_refused() {
        assert_eq!(check(&shared_object()), Ok(()));
        assert_eq!(check(b"#!/bin/sh"), Err(ElfError::Magic));
        assert_eq!(changed(4, b"\x01"), Err(ElfError::Magic));
        assert_eq!(changed(18, b"\x03\x00"), Err(ElfError::Machine));
        assert_eq!(changed(16, b"\x02"), Err(ElfError::Type));
        assert_eq!(changed(HEADER_LEN, b"\x03"), Err(ElfError::Type));
        assert_eq!(changed(32, &u64::MAX.to_le_bytes()), Err(ElfError::Headers));
        assert_eq!(changed(56, b"\xff\xff"), Err(ElfError::Headers));
        assert_eq!(changed(56, b"\x01"), Err(ElfError::Headers));
        assert_eq!(
            changed(HEADER_LEN + 32, &u64::MAX.to_le_bytes()),
            Err(ElfError::Headers)
        );
        assert_eq!(
            changed(HEADER_LEN + 2 * PROGRAM_HEADER_LEN, b"x"),
            Err(ElfError::Symbol)
        );
    }

    #[test]
    fn every_cut_of_a_file_is_refused_without_a_panic() {
        let file = shared_object();
        for len in 0..file.len() {
            assert!(check(&file[..len]).is_err(), "{len}");
        }
    }
}
