//! The two records of a SIF file, field by field. Decoding takes any bytes; what the fields may be is checked by who
//! reads them.

use std::fmt;

/// Length of the global header.
pub const GLOBAL_LEN: usize = 128;
/// Length of one descriptor.
pub const DESCRIPTOR_LEN: usize = 585;

/// The line by which a kernel would start an image as a program.
const LAUNCH_SCRIPT: &[u8; 32] = b"#!/usr/bin/env run-singularity\n\0";
const MAGIC: &[u8; 10] = b"SIF_MAGIC\0";

/// A descriptor's type, "partition".
const TYPE_PARTITION: i32 = 0x4004;
/// The first group of descriptors, with the bits that say that it is one.
const FIRST_GROUP: u32 = 0xf000_0001;

/// What the programs of an image run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
    /// What this platform does not run on.
    Other,
}

impl Arch {
    /// This machine's.
    #[cfg(target_arch = "x86_64")]
    pub const HOST: Self = Self::X86_64;
    /// This machine's.
    #[cfg(target_arch = "aarch64")]
    pub const HOST: Self = Self::Aarch64;

    fn from_code(code: [u8; 3]) -> Self {
        match &code {
            b"02\0" => Self::X86_64,
            b"04\0" => Self::Aarch64,
            _ => Self::Other,
        }
    }

    fn code(self) -> [u8; 3] {
        match self {
            Self::X86_64 => *b"02\0",
            Self::Aarch64 => *b"04\0",
            Self::Other => *b"00\0",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::X86_64 => "x86-64",
            Self::Aarch64 => "aarch64",
            Self::Other => "another architecture",
        })
    }
}

/// File system of a partition, by its number in the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileSystem(i32);

impl FileSystem {
    pub(super) const SQUASHFS: Self = Self(1);
    pub(super) const ENCRYPTED_SQUASHFS: Self = Self(5);

    pub(super) fn name(self) -> &'static str {
        match self.0 {
            1 => "squashfs",
            2 => "ext3",
            3 => "an archive",
            4 => "raw data",
            5 => "encrypted squashfs",
            _ => "of an unknown kind",
        }
    }
}

/// Use of a partition, by its number in the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartitionKind(i32);

impl PartitionKind {
    pub(super) const PRIMARY_SYSTEM: Self = Self(2);
}

/// The global header, as far as it is of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Global {
    pub(super) has_magic: bool,
    /// 0 when it is no number.
    pub(super) version: u8,
    pub(super) arch: Arch,
    pub(super) descriptors_free: u64,
    pub(super) descriptors_total: u64,
    pub(super) descriptors_offset: u64,
    pub(super) data_offset: u64,
    pub(super) data_len: u64,
}

impl Global {
    pub(super) fn decode(bytes: &[u8; GLOBAL_LEN]) -> Self {
        let version: [u8; 3] = array(bytes, 42);
        Self {
            has_magic: array(bytes, 32) == *MAGIC,
            version: match version {
                [tens @ b'0'..=b'9', ones @ b'0'..=b'9', 0] => (tens - b'0') * 10 + (ones - b'0'),
                _ => 0,
            },
            arch: Arch::from_code(array(bytes, 45)),
            descriptors_free: u64_at(bytes, 80),
            descriptors_total: u64_at(bytes, 88),
            descriptors_offset: u64_at(bytes, 96),
            data_offset: u64_at(bytes, 112),
            data_len: u64_at(bytes, 120),
        }
    }

    /// With a nil id and times of zero.
    pub(super) fn encode(&self) -> [u8; GLOBAL_LEN] {
        let mut bytes = [0; GLOBAL_LEN];
        bytes[..32].copy_from_slice(LAUNCH_SCRIPT);
        bytes[32..42].copy_from_slice(MAGIC);
        bytes[42..45].copy_from_slice(&[b'0' + self.version / 10, b'0' + self.version % 10, 0]);
        bytes[45..48].copy_from_slice(&self.arch.code());
        bytes[80..88].copy_from_slice(&self.descriptors_free.to_le_bytes());
        bytes[88..96].copy_from_slice(&self.descriptors_total.to_le_bytes());
        bytes[96..104].copy_from_slice(&self.descriptors_offset.to_le_bytes());
        let descriptors_len = self.descriptors_total * DESCRIPTOR_LEN as u64;
        bytes[104..112].copy_from_slice(&descriptors_len.to_le_bytes());
        bytes[112..120].copy_from_slice(&self.data_offset.to_le_bytes());
        bytes[120..].copy_from_slice(&self.data_len.to_le_bytes());
        bytes
    }
}

/// One descriptor, as far as it is of use; the last three fields have a meaning for a partition only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    kind: i32,
    used: bool,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) file_system: FileSystem,
    pub(super) partition_kind: PartitionKind,
    pub(super) arch: Arch,
}

impl Descriptor {
    /// The root of an image.
    pub(super) fn root(offset: u64, len: u64, arch: Arch) -> Self {
        Self {
            kind: TYPE_PARTITION,
            used: true,
            offset,
            len,
            file_system: FileSystem::SQUASHFS,
            partition_kind: PartitionKind::PRIMARY_SYSTEM,
            arch,
        }
    }

    pub(super) fn is_used_partition(&self) -> bool {
        self.used && self.kind == TYPE_PARTITION
    }

    pub(super) fn decode(bytes: &[u8; DESCRIPTOR_LEN]) -> Self {
        Self {
            kind: i32::from_le_bytes(array(bytes, 0)),
            used: bytes[4] != 0,
            offset: u64_at(bytes, 17),
            len: u64_at(bytes, 25),
            file_system: FileSystem(i32::from_le_bytes(array(bytes, 201))),
            partition_kind: PartitionKind(i32::from_le_bytes(array(bytes, 205))),
            arch: Arch::from_code(array(bytes, 209)),
        }
    }

    /// As the first and only one of a file, named "root", without times or owners.
    pub(super) fn encode(&self) -> [u8; DESCRIPTOR_LEN] {
        let mut bytes = [0; DESCRIPTOR_LEN];
        bytes[..4].copy_from_slice(&self.kind.to_le_bytes());
        bytes[4] = self.used.into();
        bytes[5..9].copy_from_slice(&1_u32.to_le_bytes());
        bytes[9..13].copy_from_slice(&FIRST_GROUP.to_le_bytes());
        bytes[17..25].copy_from_slice(&self.offset.to_le_bytes());
        bytes[25..33].copy_from_slice(&self.len.to_le_bytes());
        // With padding: there is none.
        bytes[33..41].copy_from_slice(&self.len.to_le_bytes());
        bytes[73..77].copy_from_slice(b"root");
        bytes[201..205].copy_from_slice(&self.file_system.0.to_le_bytes());
        bytes[205..209].copy_from_slice(&self.partition_kind.0.to_le_bytes());
        bytes[209..212].copy_from_slice(&self.arch.code());
        bytes
    }
}

/// Bytes of a record at an offset that lies within it.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}
