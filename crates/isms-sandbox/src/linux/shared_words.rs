//! Words of memory that two processes share.
//!
//! Invariant: the memory cannot shrink under its mapping, since neither side maps it before it is sealed. An
//! access of a page that the other side has cut off would end the process.
#![allow(unsafe_code)] // memfd_create, mmap and what lies behind

use std::{
    ffi::CStr,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    ptr::{self, NonNull},
    slice,
    sync::atomic::AtomicU32,
};

use super::{check, memfd};

const SEALS: libc::c_int = libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;

/// A mapping, unmapped when dropped. The other side may write to it at any time.
#[derive(Debug)]
pub struct SharedWords {
    first: NonNull<AtomicU32>,
    count: usize,
}

// SAFETY: atomics may be used from any thread, and the mapping belongs to none.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Makes `count` zeroes, and the descriptor by which another process maps them.
    pub fn create(name: &CStr, count: usize) -> io::Result<(SharedWords, OwnedFd)> {
        let file = File::from(memfd::create(name, memfd::Content::Data)?);
        file.set_len((count * size_of::<AtomicU32>()) as u64)?;
        // SAFETY: fcntl on a descriptor that we own.
        check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, SEALS) })?;
        let descriptor = OwnedFd::from(file);
        Ok((SharedWords::map(descriptor.as_fd(), count)?, descriptor))
    }

    /// Maps `count` words that another process has made. Refuses what could shrink, or is too short.
    pub fn map(descriptor: BorrowedFd<'_>, count: usize) -> io::Result<SharedWords> {
        // SAFETY: fcntl on a descriptor that is borrowed, hence open.
        let seals = check(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GET_SEALS) })?;
        let len = count * size_of::<AtomicU32>();
        let enough = File::from(descriptor.try_clone_to_owned()?).metadata()?.len() >= len as u64;
        if seals & SEALS != SEALS || !enough || count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the shared memory is too short, or could become so",
            ));
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, of a descriptor that is open, over no other.
        let first = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                protection,
                libc::MAP_SHARED,
                descriptor.as_raw_fd(),
                0,
            )
        };
        if first == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let first = NonNull::new(first.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        Ok(SharedWords { first, count })
    }
}

impl AsRef<[AtomicU32]> for SharedWords {
    fn as_ref(&self) -> &[AtomicU32] {
        // SAFETY: the mapping holds as many, aligned to a page, zeroed at first, as long as `self` lives; all
        // bit patterns are values, and both sides use atomics.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: our mapping, which nobody can use any more.
        unsafe { libc::munmap(self.first.as_ptr().cast(), self.count * size_of::<AtomicU32>()) };
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, sync::atomic::Ordering::SeqCst};

    use super::*;

    #[test]
    fn what_one_side_writes_the_other_reads() {
        let (ours, descriptor) = SharedWords::create(c"words", 100).unwrap();
        let theirs = SharedWords::map(descriptor.as_fd(), 100).unwrap();
        assert_eq!(theirs.as_ref().len(), 100);
        ours.as_ref()[99].store(7, SeqCst);
        assert_eq!(theirs.as_ref()[99].load(SeqCst), 7);
    }

    #[test]
    fn nobody_can_cut_the_memory_off() {
        let (_ours, descriptor) = SharedWords::create(c"words", 100).unwrap();
        let error = File::from(descriptor).set_len(0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn the_memory_can_never_become_a_program() {
        let (_ours, descriptor) = SharedWords::create(c"words", 1).unwrap();
        let file = File::from(descriptor);
        if !std::path::Path::new("/proc/sys/vm/memfd_noexec").exists() {
            eprintln!("SKIPPED: Linux before 6.3 has no MFD_NOEXEC_SEAL");
            return;
        }
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o111, 0);
        let executable = std::fs::Permissions::from_mode(0o777);
        let error = file.set_permissions(executable).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn memory_that_is_too_short_or_not_sealed_is_refused() {
        let (_ours, descriptor) = SharedWords::create(c"words", 1).unwrap();
        assert!(SharedWords::map(descriptor.as_fd(), 2).is_err());
        let open = File::from(memfd::create(c"words", memfd::Content::Data).unwrap());
        open.set_len(4096).unwrap();
        assert!(SharedWords::map(open.as_fd(), 1).is_err());
    }
}
