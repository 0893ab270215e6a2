//! SIF, the file format of Apptainer's images: finds the squashfs that is the image's root, and wraps one.
//!
//! Reading looks at the global header and the descriptors only, both bounded, every offset checked against the file's
//! length. What is wrapped has neither a time nor a random id, so equal input gives equal bytes. Layout: version 1 of
//! the Singularity Image Format, little-endian throughout. Not here: squashfs itself, which the kernel reads.

mod fields;
mod write;

use std::{fs::File, io, os::unix::fs::FileExt};

pub use self::fields::{Arch, DESCRIPTOR_LEN, GLOBAL_LEN};
use self::fields::{Descriptor, FileSystem, Global, PartitionKind};
pub use self::write::{WriteError, wrap};

/// Descriptors that a file may announce, used or not. Apptainer makes room for 48.
pub const DESCRIPTORS_MAX: u64 = 1024;

/// First bytes of a squashfs, and the length of its own header.
const SQUASHFS_MAGIC: [u8; 4] = *b"hsqs";
const SQUASHFS_HEADER_LEN: u64 = 96;
/// Where a squashfs says how long it is.
const SQUASHFS_LEN_AT: u64 = 40;
/// What a loop device can begin at.
const SECTOR_LEN: u64 = 512;

/// The image's root: a squashfs within the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its first byte.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
    /// What its programs run on.
    pub arch: Arch,
}

/// Why a file is no image that can be used.
#[derive(Debug, thiserror::Error)]
pub enum SifError {
    /// It cannot be read.
    #[error("cannot read the image")]
    Read(#[source] io::Error),
    /// Another format.
    #[error("not a SIF image; build one with `apptainer build`")]
    NotSif,
    /// A version of the format that is not known.
    #[error("a SIF image of another version than 1; build it again with a current Apptainer")]
    Version,
    /// It ends before what it describes.
    #[error("the image is truncated: {what} ends at byte {end}, the file at {len}; upload it again")]
    Truncated {
        /// What is cut off.
        what: &'static str,
        /// Where it would end.
        end: u64,
        /// Length of the file.
        len: u64,
    },
    /// Numbers that cannot be.
    #[error("the image is corrupt: {0}; build it again")]
    Corrupt(&'static str),
    /// Data without a root.
    #[error("the image has no primary system partition; build it with `apptainer build`")]
    NoRoot,
    /// More than one.
    #[error("the image has more than one primary system partition")]
    ManyRoots,
    /// Encrypted with a key that nobody here has.
    #[error("the image is encrypted; build it without `--encrypt`")]
    Encrypted,
    /// A root that is no squashfs.
    #[error("the image's root is {0} and not squashfs; build it again with a current Apptainer")]
    FileSystem(&'static str),
    /// For other machines.
    #[error("the image is made for {image}, this machine is {machine}")]
    Arch {
        /// What it is made for.
        image: Arch,
        /// What this is.
        machine: Arch,
    },
}

/// The global header, checked: where the descriptors are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    descriptors_offset: u64,
    descriptors_total: u64,
    len: u64,
}

impl Header {
    /// Reads the first [`GLOBAL_LEN`] bytes of a file of `len` bytes.
    pub fn parse(bytes: &[u8], len: u64) -> Result<Self, SifError> {
        let bytes = bytes.first_chunk().ok_or(SifError::NotSif)?;
        let global = Global::decode(bytes);
        if !global.has_magic {
            return Err(SifError::NotSif);
        }
        if global.version != 1 {
            return Err(SifError::Version);
        }
        if !(1..=DESCRIPTORS_MAX).contains(&global.descriptors_total) {
            return Err(SifError::Corrupt("its number of descriptors is out of range"));
        }
        if global.descriptors_offset < GLOBAL_LEN as u64 {
            return Err(SifError::Corrupt("its descriptors lie in its header"));
        }
        let header = Self {
            descriptors_offset: global.descriptors_offset,
            descriptors_total: global.descriptors_total,
            len,
        };
        within(
            "its table of descriptors",
            header.descriptors_offset,
            header.descriptors_len(),
            len,
        )?;
        Ok(header)
    }

    /// Where in the file the descriptors begin.
    pub fn descriptors_offset(&self) -> u64 {
        self.descriptors_offset
    }

    /// Length of the descriptors in bytes; bounded by [`DESCRIPTORS_MAX`].
    pub fn descriptors_len(&self) -> u64 {
        self.descriptors_total * DESCRIPTOR_LEN as u64
    }

    /// Finds the root in the descriptors' bytes.
    pub fn root(&self, descriptors: &[u8]) -> Result<Partition, SifError> {
        if descriptors.len() as u64 != self.descriptors_len() {
            return Err(SifError::Corrupt("its table of descriptors is cut off"));
        }
        let (descriptors, _) = descriptors.as_chunks::<DESCRIPTOR_LEN>();
        let mut roots = descriptors
            .iter()
            .map(Descriptor::decode)
            .filter(Descriptor::is_used_partition)
            .filter(|descriptor| descriptor.partition_kind == PartitionKind::PRIMARY_SYSTEM);
        let root = roots.next().ok_or(SifError::NoRoot)?;
        if roots.next().is_some() {
            return Err(SifError::ManyRoots);
        }
        match root.file_system {
            FileSystem::SQUASHFS => {}
            FileSystem::ENCRYPTED_SQUASHFS => return Err(SifError::Encrypted),
            other => return Err(SifError::FileSystem(other.name())),
        }
        if root.offset < self.descriptors_offset + self.descriptors_len()
            || root.offset % SECTOR_LEN != 0
            || root.len < SQUASHFS_HEADER_LEN
        {
            return Err(SifError::Corrupt("its root lies where none can be"));
        }
        within("its root", root.offset, root.len, self.len)?;
        Ok(Partition {
            offset: root.offset,
            len: root.len,
            arch: root.arch,
        })
    }
}

impl Partition {
    /// Checks the first bytes of the partition: a squashfs that ends within it.
    pub fn check_squashfs(&self, bytes: &[u8]) -> Result<(), SifError> {
        let no_squashfs = SifError::Corrupt("its root does not begin as a squashfs does");
        if !bytes.starts_with(&SQUASHFS_MAGIC) {
            return Err(no_squashfs);
        }
        let len = bytes
            .get(SQUASHFS_LEN_AT as usize..)
            .and_then(<[u8]>::first_chunk)
            .ok_or(no_squashfs)?;
        within("its squashfs", 0, u64::from_le_bytes(*len), self.len)
    }

    /// Refuses an image for other machines.
    pub fn check_arch(&self) -> Result<(), SifError> {
        if self.arch == Arch::HOST {
            Ok(())
        } else {
            Err(SifError::Arch {
                image: self.arch,
                machine: Arch::HOST,
            })
        }
    }
}

/// Finds the root of the image in `file` and checks that this machine can use it.
pub fn read(file: &File) -> Result<Partition, SifError> {
    let len = file.metadata().map_err(SifError::Read)?.len();
    if len < GLOBAL_LEN as u64 {
        return Err(SifError::NotSif);
    }
    let header = Header::parse(&read_at(file, 0, GLOBAL_LEN as u64)?, len)?;
    let descriptors = read_at(file, header.descriptors_offset(), header.descriptors_len())?;
    let root = header.root(&descriptors)?;
    root.check_arch()?;
    root.check_squashfs(&read_at(file, root.offset, SQUASHFS_HEADER_LEN)?)?;
    Ok(root)
}

/// Reads what was checked to lie within the file, and to be short.
fn read_at(file: &File, offset: u64, len: u64) -> Result<Vec<u8>, SifError> {
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, offset).map_err(SifError::Read)?;
    Ok(bytes)
}

fn within(what: &'static str, offset: u64, part_len: u64, len: u64) -> Result<(), SifError> {
    match offset.checked_add(part_len) {
        Some(end) if end <= len => Ok(()),
        Some(end) => Err(SifError::Truncated { what, end, len }),
        None => Err(SifError::Corrupt("an offset in it overflows")),
    }
}

#[cfg(test)]
mod tests;
