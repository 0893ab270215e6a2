//! A directory of the file system as the disk of a log.
//!
//! It belongs to whoever opened it, alone: an exclusive lock on the directory refuses a second user, and what
//! somebody else owns or may write to is refused, since he could change what was acknowledged.
//! Files are opened relative to the directory, and links are not followed.

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, FallocateFlags, FileType, FlockOperation, Mode, OFlags},
    io::{Errno, retry_on_intr},
};

use crate::Storage;

/// A directory that is held for a log alone.
#[derive(Debug)]
pub struct Directory {
    directory: OwnedFd,
}

/// Why a directory cannot hold a log.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It cannot be opened.
    #[error("cannot open the journal's directory {path}")]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Somebody else uses it.
    #[error("the journal in {path} is in use by another process")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Somebody else could change it.
    #[error("{path} {why}; only its user may be able to write to a journal")]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
}

impl Directory {
    /// Takes a directory that exists.
    pub fn open(path: &Path) -> Result<Directory, DirectoryError> {
        let failed = |source: Errno| DirectoryError::Open {
            path: path.to_owned(),
            source: source.into(),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty())).map_err(failed)?;
        let stat = rustix::fs::fstat(&directory).map_err(failed)?;
        if let Some(why) = foreign(&stat) {
            return Err(DirectoryError::Unsafe {
                path: path.to_owned(),
                why,
            });
        }
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Directory { directory }),
            Err(Errno::WOULDBLOCK) => Err(DirectoryError::InUse {
                path: path.to_owned(),
            }),
            Err(error) => Err(failed(error)),
        }
    }

    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        // Without NONBLOCK a pipe of that name would be waited for.
        let flags = flags | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = retry_on_intr(|| rustix::fs::openat(&self.directory, name, flags, mode))?;
        let stat = rustix::fs::fstat(&file)?;
        let why = if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            foreign(&stat)
        } else {
            Some("is not a regular file")
        };
        match why {
            Some(why) => Err(io::Error::new(io::ErrorKind::PermissionDenied, why)),
            None => Ok(File::from(file)),
        }
    }
}

/// Why somebody else could change what this describes.
fn foreign(stat: &rustix::fs::Stat) -> Option<&'static str> {
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        Some("belongs to another user")
    } else if Mode::from_raw_mode(stat.st_mode).contains(Mode::WOTH) {
        Some("can be written to by everybody")
    } else {
        None
    }
}

impl Storage for Directory {
    type File = File;

    fn list(&mut self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.directory)? {
            // A name that is not UTF-8 is none of the log's.
            if let Ok(name) = entry?.file_name().to_str() {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn create(&mut self, name: &str) -> io::Result<File> {
        self.open_file(name, OFlags::CREATE | OFlags::EXCL)
    }

    fn open(&mut self, name: &str) -> io::Result<File> {
        self.open_file(name, OFlags::empty())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.directory, name, AtFlags::empty())?)
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.directory)?)
    }

    fn len(&mut self, file: &File) -> io::Result<u64> {
        Ok(file.metadata()?.len())
    }

    fn preallocate(&mut self, file: &File, len: u64) -> io::Result<()> {
        match retry_on_intr(|| rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len)) {
            // A file system that cannot reserve: written once it has its space.
            Err(Errno::OPNOTSUPP) => write_zeros(file, len),
            other => Ok(other?),
        }
    }

    fn read_at(&mut self, file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        file.read_exact_at(buffer, offset)
    }

    fn write_at(&mut self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn sync_data(&mut self, file: &File) -> io::Result<()> {
        // Not tried again, not even when interrupted: the error of a writeback is reported once.
        Ok(rustix::fs::fdatasync(file)?)
    }
}

fn write_zeros(file: &File, len: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < len {
        let piece = (len - offset).min(zeros.len() as u64);
        file.write_all_at(&zeros[..piece as usize], offset)?;
        offset += piece;
    }
    Ok(())
}
