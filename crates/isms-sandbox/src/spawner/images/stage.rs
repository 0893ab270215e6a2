//! What a preparing process does with an image: copies and verifies it.
#![allow(unsafe_code)] // fallocate

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::Path,
};

use sha2::{Digest, Sha256};

use super::ImageHash;
use crate::{
    linux::check,
    sif::{self, SifError},
};

/// Name of the staged SIF file in the image's directory.
pub(super) const FILE: &str = "image.sif";
/// The same while it is copied.
const PARTIAL: &str = "partial";

/// Why an image could not be staged.
#[derive(Debug, thiserror::Error)]
pub(super) enum StageError {
    #[error("it is not there; deploy it again")]
    Missing,
    #[error("it cannot be opened")]
    Open(#[source] io::Error),
    #[error("it is no regular file")]
    NotAFile,
    #[error(
        "it has {len} bytes, the administrator allows {len_max}; raise `[images] size_mb_max` or use a smaller one"
    )]
    TooLong { len: u64, len_max: u64 },
    #[error("there is no room for its {len} bytes in the run directory; free some space there")]
    NoRoom { len: u64 },
    #[error("it cannot be copied")]
    Copy(#[source] io::Error),
    #[error("its content is not what its name says; deploy it again")]
    Hash,
    #[error(transparent)]
    Sif(#[from] SifError),
}

/// Copies the image at `source` into `directory`, at most `len_max` bytes; what has another hash, or is no image for
/// this machine, leaves nothing there.
pub(super) fn file(
    source: &Path,
    directory: &Path,
    image: ImageHash,
    len_max: u64,
) -> Result<(), StageError> {
    let partial = directory.join(PARTIAL);
    let staged = copy(source, &partial, image, len_max)
        .and_then(|()| fs::rename(&partial, directory.join(FILE)).map_err(StageError::Copy));
    if staged.is_err() {
        let _ = fs::remove_file(&partial);
    }
    staged
}

fn copy(source: &Path, target: &Path, image: ImageHash, len_max: u64) -> Result<(), StageError> {
    let (mut source, len) = open(source)?;
    if len > len_max {
        return Err(StageError::TooLong { len, len_max });
    }
    let opened = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(target);
    let mut target = opened.map_err(StageError::Copy)?;
    reserve(&target, len)?;
    let mut hash = Sha256::new();
    // Whoever owns the source may make it longer or shorter meanwhile: then the hash differs.
    let mut left = len;
    let mut buffer = vec![0; 1 << 18];
    while left > 0 {
        let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = source.read(&mut buffer[..room]).map_err(StageError::Copy)?;
        if count == 0 {
            return Err(StageError::Hash);
        }
        hash.update(&buffer[..count]);
        target
            .write_all(&buffer[..count])
            .map_err(|error| full(error, len))?;
        left -= count as u64;
    }
    if <[u8; 32]>::from(hash.finalize()) != image.0 {
        return Err(StageError::Hash);
    }
    sif::read(&target)?;
    let readable = fs::Permissions::from_mode(0o444);
    target.set_permissions(readable).map_err(StageError::Copy)
}

/// Opens what an untrusted owner put there: no link, nothing that blocks or is anything but a file.
fn open(path: &Path) -> Result<(File, u64), StageError> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StageError::Missing),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Err(StageError::NotAFile),
        Err(error) => return Err(StageError::Open(error)),
    };
    let metadata = file.metadata().map_err(StageError::Open)?;
    if !metadata.is_file() {
        return Err(StageError::NotAFile);
    }
    Ok((file, metadata.len()))
}

/// Takes the room for the whole file at once, so that a full disk is noticed before it is filled.
fn reserve(target: &File, len: u64) -> Result<(), StageError> {
    let Ok(signed) = libc::off_t::try_from(len) else {
        return Err(StageError::NoRoom { len });
    };
    // SAFETY: plain numbers and an open descriptor.
    match check(unsafe { libc::fallocate(target.as_raw_fd(), 0, 0, signed) }) {
        // A file system that cannot reserve, or no byte to reserve.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => Ok(()),
        result => result.map(drop).map_err(|error| full(error, len)),
    }
}

fn full(error: io::Error, len: u64) -> StageError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            StageError::NoRoom { len }
        }
        _ => StageError::Copy(error),
    }
}
