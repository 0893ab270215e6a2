//! A first look at a shared object, so that what cannot be a Doee of this machine fails at deployment
//! and not at the first call. It proves nothing about the code: the sandbox does not trust it.

use isms_protocol::limits::ARTIFACT_LEN_MAX;

/// Name of the function that every Doee exports.
const ABI_SYMBOL: &[u8] = b"isms_doee_v1\0";
const HEADER_LEN: usize = 64;
const PROGRAM_HEADER_LEN: usize = 56;
const PROGRAM_HEADERS_MAX: usize = 64;
const SECTION_HEADER_LEN: u64 = 64;
const TYPE_SHARED: u16 = 3;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_DYNAMIC: u32 = 2;
const SEGMENT_INTERPRETER: u32 = 3;
const SEGMENT_STACK: u32 = 0x6474_e551;
const FLAG_EXECUTE: u32 = 1;
const FLAG_WRITE: u32 = 2;

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
    #[error("its section headers lie beyond its end, so it was cut or damaged; build or copy it again")]
    Sections,
    #[error("a part of it may be both written and run; link it without -N, and no section with flags \"wx\"")]
    WritableCode,
    #[error("it asks for a stack that is executable; link it with -z noexecstack")]
    ExecutableStack,
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
    check_sections(file)?;
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
    let (mut loads, mut dynamics, mut loaded_to) = (0, 0, 0);
    for index in 0..count {
        let segment = start
            .checked_add(index * PROGRAM_HEADER_LEN)
            .and_then(|at| Segment::read(file, at))
            .ok_or(ElfError::Headers)?;
        match segment.kind {
            SEGMENT_LOAD | SEGMENT_DYNAMIC if !segment.is_in(file) => return Err(ElfError::Headers),
            SEGMENT_LOAD => {
                // In this order, by the standard; loaders count on it.
                if segment.address < loaded_to {
                    return Err(ElfError::Headers);
                }
                loaded_to = segment.memory_end().ok_or(ElfError::Headers)?;
                if segment.flags & FLAG_WRITE != 0 && segment.flags & FLAG_EXECUTE != 0 {
                    return Err(ElfError::WritableCode);
                }
                loads += 1;
            }
            SEGMENT_DYNAMIC => dynamics += 1,
            // A position-independent program has the same type and asks for an interpreter.
            SEGMENT_INTERPRETER => return Err(ElfError::Type),
            SEGMENT_STACK if segment.flags & FLAG_EXECUTE != 0 => return Err(ElfError::ExecutableStack),
            _ => {}
        }
    }
    if loads == 0 || dynamics != 1 {
        Err(ElfError::Headers)
    } else {
        Ok(())
    }
}

/// No loader looks at them, but they are the last thing in a file, so they tell whether all of it is there.
fn check_sections(file: &[u8]) -> Result<(), ElfError> {
    let (offset, count) = (u64_at(file, 40), u16_at(file, 60));
    let (offset, count) = offset.zip(count).ok_or(ElfError::Sections)?;
    match offset.checked_add(u64::from(count) * SECTION_HEADER_LEN) {
        Some(end) if end <= file.len() as u64 => Ok(()),
        _ => Err(ElfError::Sections),
    }
}

/// A program header.
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    file_len: u64,
    memory_len: u64,
}

impl Segment {
    fn read(file: &[u8], at: usize) -> Option<Self> {
        let header = file.get(at..at.checked_add(PROGRAM_HEADER_LEN)?)?;
        Some(Self {
            kind: u32_at(header, 0)?,
            flags: u32_at(header, 4)?,
            offset: u64_at(header, 8)?,
            address: u64_at(header, 16)?,
            file_len: u64_at(header, 32)?,
            memory_len: u64_at(header, 40)?,
        })
    }

    fn is_in(&self, file: &[u8]) -> bool {
        let end = self.offset.checked_add(self.file_len);
        end.is_some_and(|end| end <= file.len() as u64)
    }

    /// Where it ends in memory; it has room for what the file holds.
    fn memory_end(&self) -> Option<u64> {
        let end = self.address.checked_add(self.memory_len);
        end.filter(|_| self.memory_len >= self.file_len)
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
        assert_eq!(changed(HEADER_LEN + 4, b"\x07"), Err(ElfError::WritableCode));
        assert_eq!(changed(HEADER_LEN + 4, b"\x05"), Ok(()));
        // Longer in the file than in memory, and around the end of memory.
        assert_eq!(changed(HEADER_LEN + 32, b"\x01"), Err(ElfError::Headers));
        assert_eq!(changed(HEADER_LEN + 16, &[0xff; 40]), Err(ElfError::Headers));
        assert_eq!(changed(40, &u64::MAX.to_le_bytes()), Err(ElfError::Sections));
        assert_eq!(changed(60, b"\xff"), Err(ElfError::Sections));
    }

    #[test]
    fn segments_must_ascend_and_a_stack_must_not_be_executable() {
        let file = shared_object();
        // A second LOAD in the place of DYNAMIC, and DYNAMIC and STACK behind it.
        let header = |kind: u32, flags: u32, address: u64| {
            let mut header = vec![0; PROGRAM_HEADER_LEN];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            header[4..8].copy_from_slice(&flags.to_le_bytes());
            header[16..24].copy_from_slice(&address.to_le_bytes());
            header[40] = 16;
            header
        };
        let of = |second: u64, stack: u32| {
            let mut file = file.clone();
            file.truncate(HEADER_LEN);
            file[56] = 4;
            for header in [
                header(SEGMENT_LOAD, 5, 4096),
                header(SEGMENT_LOAD, 6, second),
                header(SEGMENT_DYNAMIC, 6, second),
                header(SEGMENT_STACK, stack, 0),
            ] {
                file.extend(header);
            }
            file.extend_from_slice(ABI_SYMBOL);
            check(&file)
        };
        assert_eq!(of(4112, 6), Ok(()));
        assert_eq!(of(4111, 6), Err(ElfError::Headers));
        assert_eq!(of(0, 6), Err(ElfError::Headers));
        assert_eq!(of(4112, 7), Err(ElfError::ExecutableStack));
    }

    #[test]
    fn every_cut_of_a_file_is_refused_without_a_panic() {
        let file = shared_object();
        for len in 0..file.len() {
            assert!(check(&file[..len]).is_err(), "{len}");
        }
    }
}
