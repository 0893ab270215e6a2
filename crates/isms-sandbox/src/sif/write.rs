//! Wraps a squashfs into a SIF file: one descriptor, no time, no random id.

use std::io::{self, Read, Write};

use super::{
    SQUASHFS_HEADER_LEN, SQUASHFS_MAGIC,
    fields::{Arch, DESCRIPTOR_LEN, Descriptor, Global},
};

/// As Apptainer makes them: room for descriptors after the first page, data from a page's start.
const DESCRIPTORS_TOTAL: u64 = 48;
const DESCRIPTORS_OFFSET: u64 = 4096;
const DATA_OFFSET: u64 = DESCRIPTORS_OFFSET + DESCRIPTORS_TOTAL * DESCRIPTOR_LEN as u64;
const ROOT_OFFSET: u64 = DATA_OFFSET.next_multiple_of(4096);

/// Why no image was made.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The input cannot be read.
    #[error("cannot read the squashfs")]
    Read(#[source] io::Error),
    /// The input is something else.
    #[error("not a squashfs; make one with mksquashfs")]
    NotSquashfs,
    /// The input has another length than was said.
    #[error("the squashfs has another length than it had when it was looked at")]
    Length,
    /// The output cannot be written.
    #[error("cannot write the image")]
    Write(#[source] io::Error),
}

/// Writes an image whose root is the squashfs of `len` bytes that `squashfs` gives, for machines of `arch`.
pub fn wrap(
    squashfs: &mut impl Read,
    len: u64,
    arch: Arch,
    image: &mut impl Write,
) -> Result<(), WriteError> {
    let mut first = [0; SQUASHFS_HEADER_LEN as usize];
    match squashfs.read_exact(&mut first) {
        Ok(()) if first.starts_with(&SQUASHFS_MAGIC) && len >= SQUASHFS_HEADER_LEN => {}
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(WriteError::Read(error)),
        _ => return Err(WriteError::NotSquashfs),
    }
    let global = Global {
        has_magic: true,
        version: 1,
        arch,
        descriptors_free: DESCRIPTORS_TOTAL - 1,
        descriptors_total: DESCRIPTORS_TOTAL,
        descriptors_offset: DESCRIPTORS_OFFSET,
        data_offset: DATA_OFFSET,
        data_len: ROOT_OFFSET - DATA_OFFSET + len,
    };
    let mut head = vec![0; ROOT_OFFSET as usize];
    let at = DESCRIPTORS_OFFSET as usize;
    head[..super::GLOBAL_LEN].copy_from_slice(&global.encode());
    head[at..at + DESCRIPTOR_LEN].copy_from_slice(&Descriptor::root(ROOT_OFFSET, len, arch).encode());
    let mut write = |bytes: &[u8]| image.write_all(bytes).map_err(WriteError::Write);
    write(&head)?;
    write(&first)?;
    let mut left = len - SQUASHFS_HEADER_LEN;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match squashfs.read(&mut buffer) {
            Ok(0) if left == 0 => return image.flush().map_err(WriteError::Write),
            Ok(count) if count > 0 && count as u64 <= left => {
                image.write_all(&buffer[..count]).map_err(WriteError::Write)?;
                left -= count as u64;
            }
            Ok(_) => return Err(WriteError::Length),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(WriteError::Read(error)),
        }
    }
}
