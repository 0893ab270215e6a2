//! The probing function of a sandbox with a second process in it, which Landlock does not restrict: only its scopes keep
//! the first one away from it. At the end the first one crashes, for all to see whether its memory is written
//! anywhere. System calls only, no allocation.
#![allow(unsafe_code)] // system calls that a sandbox must refuse

use std::{cell::Cell, ptr};

use crate::{linux::process, native::Checkpoint};

/// What it reports: two numbers.
pub(super) const FINDINGS_LEN: usize = 8;
/// Of what was not tried.
const UNTRIED: i32 = -1;

/// Results by errno; 0 for what went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Findings {
    pub(super) signal: i32,
    pub(super) socket: i32,
}

/// The function.
pub(super) struct Neighbour {
    process: Cell<libc::pid_t>,
}

impl Findings {
    /// Takes the bytes that the function wrote.
    pub(super) fn from_bytes(bytes: [u8; FINDINGS_LEN]) -> Self {
        let [[a, b, c, d], [e, f, g, h]] = *bytes.as_chunks::<4>().0 else {
            return Self {
                signal: UNTRIED,
                socket: UNTRIED,
            };
        };
        Self {
            signal: i32::from_le_bytes([a, b, c, d]),
            socket: i32::from_le_bytes([e, f, g, h]),
        }
    }
}

impl Neighbour {
    pub(super) fn new() -> Self {
        Self {
            process: Cell::new(0),
        }
    }

    pub(super) fn probe(&self, checkpoint: Checkpoint) {
        match checkpoint {
            Checkpoint::Privileged | Checkpoint::Filtered => {}
            Checkpoint::Unprivileged => self.settle(),
            Checkpoint::Confined => self.reach_out(),
        }
    }

    /// Makes what lies outside of Landlock's domain, which begins later: a process, and a socket with an abstract name.
    fn settle(&self) {
        let none = ptr::null::<libc::c_void>();
        // SAFETY: plain numbers, and an address that is passed with its length. The new process does nothing but wait; it
        // dies with the sandbox.
        unsafe {
            let process = libc::syscall(libc::SYS_clone, libc::SIGCHLD, none, none, none, none);
            if process == 0 {
                libc::poll(ptr::null_mut(), 0, -1);
                libc::_exit(0);
            }
            self.process.set(process as libc::pid_t);
            let (address, len) = address();
            let socket = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
            if libc::bind(socket, (&raw const address).cast(), len) == 0 {
                libc::listen(socket, 1);
            }
        }
    }

    fn reach_out(&self) {
        // SAFETY: plain numbers, an address with its length, and a local array that is written.
        unsafe {
            // Of a process that could not be made nothing is tried: the number would mean all of them.
            let signal = if self.process.get() > 0 {
                errno_of(libc::kill(self.process.get(), 0))
            } else {
                UNTRIED
            };
            let (address, len) = address();
            let socket = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
            let connected = errno_of(libc::connect(socket, (&raw const address).cast(), len));
            let mut findings = [0; FINDINGS_LEN];
            findings[..4].copy_from_slice(&signal.to_le_bytes());
            findings[4..].copy_from_slice(&connected.to_le_bytes());
            libc::write(1, findings.as_ptr().cast(), findings.len());
        }
        crash();
    }
}

/// Crashes where a file could be made, as a process whose memory may be dumped.
fn crash() {
    // SAFETY: a C string; abort ends the process, and where its signal is ignored, by an invalid instruction.
    unsafe {
        libc::chdir(c"/tmp".as_ptr());
        if process::set_dumpable(true).is_err() {
            libc::_exit(1);
        }
        libc::abort();
    }
}

/// An abstract name, which starts with a zero.
fn address() -> (libc::sockaddr_un, libc::socklen_t) {
    const NAME: &[u8] = b"\0isms-probe";
    // SAFETY: an all-zero address is valid.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (slot, byte) in address.sun_path.iter_mut().zip(NAME) {
        *slot = *byte as libc::c_char;
    }
    let len = size_of::<libc::sa_family_t>() + NAME.len();
    (address, len as libc::socklen_t)
}

fn errno_of(result: libc::c_int) -> i32 {
    if result < 0 {
        std::io::Error::last_os_error().raw_os_error().unwrap_or(UNTRIED)
    } else {
        0
    }
}
