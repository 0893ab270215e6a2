//! Sealed memfds: bytes that can be handed to another process and never change again.
#![allow(unsafe_code)] // memfd_create and its seals

use std::{
    ffi::CStr,
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use super::check;

/// What a sealed memfd forbids: to grow, shrink, be written, and to take the seals off.
const SEALS: libc::c_int = libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_WRITE | libc::F_SEAL_SEAL;

/// Copies `bytes` into a sealed memfd.
pub fn create_sealed(name: &CStr, bytes: &[u8]) -> io::Result<OwnedFd> {
    create_sealed_from(name, &mut &*bytes, bytes.len() as u64)
}

/// Copies what `source` gives into a sealed memfd. Fails with `FileTooLarge` beyond `len_max` bytes.
pub fn create_sealed_from(name: &CStr, source: &mut impl Read, len_max: u64) -> io::Result<OwnedFd> {
    let mut file = File::from(create(name, Content::Code)?);
    let copied = io::copy(&mut source.take(len_max.saturating_add(1)), &mut file)?;
    if copied > len_max {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("longer than {len_max} bytes"),
        ));
    }
    file.flush()?;
    // SAFETY: fcntl on a descriptor that we own.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, SEALS) })?;
    Ok(file.into())
}

/// What a memfd is made for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    /// Code, which is loaded from it.
    Code,
    /// Anything else: no program, ever.
    Data,
}

impl Content {
    /// The flag that says so since Linux 6.3; elsewhere it is EINVAL, and every memfd can be executed.
    fn flag(self) -> libc::c_uint {
        const MFD_NOEXEC_SEAL: libc::c_uint = 0x8;
        const MFD_EXEC: libc::c_uint = 0x10;
        match self {
            Content::Code => MFD_EXEC,
            Content::Data => MFD_NOEXEC_SEAL,
        }
    }
}

/// Makes an empty memfd that can be sealed.
pub(super) fn create(name: &CStr, content: Content) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    for flags in [flags | content.flag(), flags] {
        // SAFETY: `name` is a C string.
        match check(unsafe { libc::memfd_create(name.as_ptr(), flags) }) {
            // SAFETY: the call succeeded, so the descriptor is open and ours.
            Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EINVAL))
}

/// Checks that a descriptor is a memfd whose content can never change; returns its length.
pub fn verify_sealed(descriptor: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: fcntl on a descriptor that is borrowed, hence open.
    let seals = check(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GET_SEALS) })?;
    if seals & SEALS != SEALS {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the memfd is not sealed",
        ));
    }
    Ok(File::from(descriptor.as_fd().try_clone_to_owned()?)
        .metadata()?
        .len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_can_be_read_and_never_changed() {
        let sealed = create_sealed(c"doee", b"bytes").unwrap();
        assert_eq!(verify_sealed(sealed.as_fd()).unwrap(), 5);
        let mut file = File::from(sealed);
        assert_eq!(
            file.write(b"x").unwrap_err().kind(),
            io::ErrorKind::PermissionDenied
        );
        assert_eq!(
            file.set_len(9).unwrap_err().kind(),
            io::ErrorKind::PermissionDenied
        );
        // SAFETY: fcntl on a descriptor that we own.
        let unsealed = check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SEAL) });
        assert_eq!(unsealed.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn more_than_allowed_is_refused() {
        assert!(create_sealed_from(c"doee", &mut &b"12345"[..], 5).is_ok());
        let refused = create_sealed_from(c"doee", &mut &b"123456"[..], 5).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::FileTooLarge);
        assert!(
            create_sealed_from(c"doee", &mut io::repeat(7), 1 << 20).is_err(),
            "an endless source"
        );
    }

    #[test]
    fn what_is_not_sealed_is_refused() {
        let open = create(c"doee", Content::Code).unwrap();
        assert_eq!(
            verify_sealed(open.as_fd()).unwrap_err().kind(),
            io::ErrorKind::PermissionDenied
        );
        assert!(verify_sealed(File::open("/proc/self/exe").unwrap().as_fd()).is_err());
    }
}
