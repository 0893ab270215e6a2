//! What the log needs of a disk, and no more: one directory of files of fixed length.
//!
//! [`Directory`](crate::Directory) is the real one, [`SimulatedDisk`](crate::SimulatedDisk) loses and
//! tears what a power loss may lose and tear. What the log relies on: a sector of 512 bytes is written
//! whole or not at all, bytes outside of a write are not touched by it, and what was synced stays.

use std::io;

/// Files in one directory that nobody else uses meanwhile.
pub trait Storage: Send + 'static {
    /// An open file.
    type File: Send;

    /// Names of all files.
    fn list(&mut self) -> io::Result<Vec<String>>;

    /// Creates an empty file; fails when there is one of that name. The name is durable after
    /// [`sync_directory`](Storage::sync_directory).
    fn create(&mut self, name: &str) -> io::Result<Self::File>;

    /// Opens a file to read and write.
    fn open(&mut self, name: &str) -> io::Result<Self::File>;

    /// Removes a file.
    fn remove(&mut self, name: &str) -> io::Result<()>;

    /// Makes durable which files there are.
    fn sync_directory(&mut self) -> io::Result<()>;

    /// Length of a file in bytes.
    fn len(&mut self, file: &Self::File) -> io::Result<u64>;

    /// Makes a file this long, reads as zeros where nothing was written, and reserves its space, so that
    /// a later write does not find the disk full.
    fn preallocate(&mut self, file: &Self::File, len: u64) -> io::Result<()>;

    /// Fills the buffer with what stands at the offset; `UnexpectedEof` behind the end of the file.
    fn read_at(&mut self, file: &Self::File, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all bytes at the offset. `StorageFull` leaves undefined what stands there; the same write
    /// may be tried again.
    fn write_at(&mut self, file: &Self::File, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes durable what was written to the file. After an error nothing may be assumed about it.
    fn sync_data(&mut self, file: &Self::File) -> io::Result<()>;
}

/// True for errors that end when somebody makes space.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
