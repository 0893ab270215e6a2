//! The probing function: what runs in place of a program. It keeps to the rules of the code between clone and exec: system
//! calls only, no allocation.
#![allow(unsafe_code)] // system calls that a sandbox must refuse

use std::{cell::Cell, ffi::CStr, io, ptr};

use crate::{
    native::{Checkpoint, DESCRIPTORS_MAX},
    seccomp::{self, Instruction},
};

/// Operations that a sandbox must refuse.
#[repr(usize)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    BecomeRoot,
    HostFile,
    WriteRoot,
    TemporaryBytes,
    TemporaryFiles,
    KernelSettings,
    SignalHost,
    Connect,
    HostQueue,
    Mount,
    BoundingSet,
    NewPrivileges,
    LandlockWrite,
    DescriptorLimit,
    SurplusDescriptor,
    Fork,
    Socket,
    Ptrace,
    Clone3,
    ClearDeathSignal,
    Execute,
}

/// How many there are.
const CHECKS: usize = Check::Execute as usize + 1;
/// The findings as bytes.
pub(super) const FINDINGS_LEN: usize = CHECKS * 4;
/// Of a check that was not made.
const UNTRIED: i32 = -1;

/// The errno of each operation; 0 for one that went through.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Findings([i32; CHECKS]);

/// What the function must know of the host to try.
pub(super) struct Inside<'a> {
    pub(super) host_file: &'a CStr,
    pub(super) spawner: libc::pid_t,
    pub(super) queue: libc::c_int,
    pub(super) second_filter: &'a [Instruction],
    /// Bytes and files that its `/tmp` may hold.
    pub(super) temporary: (u64, u32),
    found: [Cell<i32>; CHECKS],
}

impl Check {
    /// The errno by which this layer refuses; another one means that something else did, or nothing.
    fn expected(self) -> i32 {
        match self {
            Self::BecomeRoot | Self::HostQueue => libc::EINVAL,
            Self::HostFile | Self::KernelSettings => libc::ENOENT,
            Self::WriteRoot => libc::EROFS,
            Self::TemporaryBytes | Self::TemporaryFiles => libc::ENOSPC,
            Self::SignalHost => libc::ESRCH,
            Self::Connect => libc::ENETUNREACH,
            Self::LandlockWrite => libc::EACCES,
            Self::DescriptorLimit | Self::SurplusDescriptor => libc::EBADF,
            Self::Fork => libc::EAGAIN,
            Self::Clone3 => libc::ENOSYS,
            Self::Mount
            | Self::BoundingSet
            | Self::NewPrivileges
            | Self::Socket
            | Self::Ptrace
            | Self::ClearDeathSignal
            | Self::Execute => libc::EPERM,
        }
    }
}

impl Findings {
    /// Takes the bytes that the function wrote.
    pub(super) fn from_bytes(bytes: &[u8; FINDINGS_LEN]) -> Self {
        let mut found = [UNTRIED; CHECKS];
        for (slot, bytes) in found.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *slot = i32::from_le_bytes(*bytes);
        }
        Self(found)
    }

    /// The operation was refused, by the layer that it was to prove.
    pub(super) fn blocked(&self, check: Check) -> bool {
        self.0[check as usize] == check.expected()
    }

    /// What happened to it.
    pub(super) fn describe(&self, check: Check) -> String {
        match self.0[check as usize] {
            0 => "it went through".to_owned(),
            UNTRIED => "it could not be tried".to_owned(),
            errno => io::Error::from_raw_os_error(errno).to_string(),
        }
    }
}

impl<'a> Inside<'a> {
    pub(super) fn new(
        host_file: &'a CStr,
        spawner: libc::pid_t,
        queue: libc::c_int,
        second_filter: &'a [Instruction],
        temporary: (u64, u32),
    ) -> Self {
        Self {
            host_file,
            spawner,
            queue,
            second_filter,
            temporary,
            found: [const { Cell::new(UNTRIED) }; CHECKS],
        }
    }

    /// Tries what belongs to a checkpoint; at the last one reports and waits until the host has looked around.
    pub(super) fn probe(&self, checkpoint: Checkpoint) {
        match checkpoint {
            Checkpoint::Privileged => self.probe_namespaces(),
            Checkpoint::Unprivileged => self.probe_capabilities(),
            Checkpoint::Confined => self.probe_limits(),
            Checkpoint::Filtered => {
                self.probe_filters();
                self.report();
            }
        }
    }

    fn note(&self, check: Check, result: libc::c_long) {
        let errno = if result < 0 {
            io::Error::last_os_error().raw_os_error().unwrap_or(UNTRIED)
        } else {
            0
        };
        self.found[check as usize].set(errno);
    }

    fn note_refused(&self, check: Check, refused: bool) {
        self.found[check as usize].set(if refused { check.expected() } else { 0 });
    }

    fn probe_namespaces(&self) {
        // SAFETY: C strings and plain numbers; whatever went through happened inside.
        unsafe {
            self.note(Check::BecomeRoot, libc::syscall(libc::SYS_setresuid, 0, 0, 0));
            self.note(
                Check::HostFile,
                libc::open(self.host_file.as_ptr(), libc::O_PATH | libc::O_CLOEXEC).into(),
            );
            let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_CLOEXEC;
            self.note(
                Check::WriteRoot,
                libc::open(c"/probe".as_ptr(), flags, 0o600).into(),
            );
            self.note(Check::SignalHost, libc::kill(self.spawner, 0).into());
            self.note(Check::Connect, connect_to_loopback().into());
            let mut state: libc::msqid_ds = std::mem::zeroed();
            self.note(
                Check::HostQueue,
                libc::msgctl(self.queue, libc::IPC_STAT, &raw mut state).into(),
            );
        }
    }

    fn probe_capabilities(&self) {
        const CAP_SYS_ADMIN: libc::c_int = 21;
        // SAFETY: C strings and plain numbers.
        unsafe {
            let (kind, target) = (c"tmpfs".as_ptr(), c"/tmp".as_ptr());
            self.note(
                Check::Mount,
                libc::mount(kind, target, kind, 0, ptr::null()).into(),
            );
            let bounded = libc::prctl(libc::PR_CAPBSET_READ, CAP_SYS_ADMIN, 0, 0, 0) == 0;
            self.note_refused(Check::BoundingSet, bounded);
            let renounced = libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1;
            self.note_refused(Check::NewPrivileges, renounced);
        }
    }

    fn probe_limits(&self) {
        // SAFETY: C strings and plain numbers; a process that could be forked leaves at once.
        unsafe {
            self.note(
                Check::LandlockWrite,
                libc::open(c"/proc/self/comm".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC).into(),
            );
            let settings = c"/proc/sys/kernel/core_pattern".as_ptr();
            self.note(
                Check::KernelSettings,
                libc::open(settings, libc::O_PATH | libc::O_CLOEXEC).into(),
            );
            self.fill_temporary();
            self.note(Check::DescriptorLimit, libc::dup2(0, DESCRIPTORS_MAX).into());
            let inherited = |fd: &libc::c_int| {
                let flags = libc::fcntl(*fd, libc::F_GETFD);
                flags >= 0 && flags & libc::FD_CLOEXEC == 0
            };
            self.note_refused(
                Check::SurplusDescriptor,
                (5..DESCRIPTORS_MAX).find(inherited).is_none(),
            );
            let none = ptr::null::<libc::c_void>();
            let forked = libc::syscall(libc::SYS_clone, libc::SIGCHLD, none, none, none, none);
            if forked == 0 {
                libc::_exit(0);
            }
            self.note(Check::Fork, forked);
        }
    }

    /// Takes one byte, then one file, more than there may be.
    fn fill_temporary(&self) {
        let (bytes, files) = self.temporary;
        // SAFETY: C strings, the last one a local array that ends with a zero, and plain numbers.
        unsafe {
            let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_CLOEXEC;
            let file = libc::open(c"/tmp/bytes".as_ptr(), flags, 0o600);
            let beyond = bytes.saturating_add(1) as libc::off_t;
            self.note(Check::TemporaryBytes, libc::fallocate(file, 0, 0, beyond).into());
            libc::unlink(c"/tmp/bytes".as_ptr());
            let mut name = *b"/tmp/aaaaaaaa\0";
            for number in 0..=files {
                for (digit, at) in (5..13).rev().enumerate() {
                    name[at] = b'a' + (number >> (4 * digit) & 15) as u8;
                }
                let made = libc::mknod(name.as_ptr().cast(), libc::S_IFREG | 0o600, 0);
                self.note(Check::TemporaryFiles, made.into());
                if made < 0 {
                    return;
                }
            }
        }
    }

    fn probe_filters(&self) {
        // SAFETY: plain numbers, and a null clone_args that no kernel would accept.
        unsafe {
            self.note(
                Check::Socket,
                libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0).into(),
            );
            self.note(
                Check::Ptrace,
                libc::syscall(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0, 0, 0),
            );
            self.note(
                Check::Clone3,
                libc::syscall(libc::SYS_clone3, ptr::null::<libc::clone_args>(), 0_usize),
            );
            self.note(
                Check::ClearDeathSignal,
                libc::prctl(libc::PR_SET_PDEATHSIG, 0, 0, 0, 0).into(),
            );
        }
        if seccomp::load(self.second_filter).is_err() {
            return;
        }
        let none = [ptr::null()];
        // SAFETY: a C string and two empty lists.
        let result = unsafe { libc::execve(c"/none".as_ptr(), none.as_ptr(), none.as_ptr()) };
        self.note(Check::Execute, result.into());
    }

    fn report(&self) {
        let mut bytes = [0_u8; FINDINGS_LEN];
        for (slot, found) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(&self.found) {
            *slot = found.get().to_le_bytes();
        }
        // SAFETY: writes a local array, then waits for the host to close its end of the control socket.
        unsafe {
            libc::write(1, bytes.as_ptr().cast(), bytes.len());
            libc::read(3, bytes.as_mut_ptr().cast(), 1);
        }
    }
}

/// Makes a TCP connection to a port of the own loopback, where the host may or may not listen.
fn connect_to_loopback() -> libc::c_int {
    // SAFETY: an all-zero address is valid; it is passed with its length, and the socket closed once.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        let mut address: libc::sockaddr_in = std::mem::zeroed();
        address.sin_family = libc::AF_INET as libc::sa_family_t;
        address.sin_port = 9_u16.to_be();
        address.sin_addr.s_addr = 0x7f00_0001_u32.to_be();
        // No close: it would hide the errno, and the descriptor is gone at exec.
        libc::connect(
            socket,
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    }
}

/// Uses up processor time, then memory, until something stops it.
pub(super) fn hunger(checkpoint: Checkpoint) {
    const SPIN_MS: i64 = 30;
    const MEMORY: usize = 64 * 1024 * 1024;
    if checkpoint != Checkpoint::Confined {
        return;
    }
    let begun = now_ms();
    while now_ms() - begun < SPIN_MS {}
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a fresh mapping, written within its length.
    unsafe {
        let memory = libc::mmap(ptr::null_mut(), MEMORY, protection, flags, -1, 0);
        if memory != libc::MAP_FAILED {
            libc::memset(memory, 1, MEMORY);
        }
        libc::_exit(0);
    }
}

/// Says that it is there, then stays until it is killed.
pub(super) fn linger(checkpoint: Checkpoint) {
    if checkpoint == Checkpoint::Filtered {
        // SAFETY: writes a static byte; then waits for signals, of which only SIGKILL can come.
        unsafe {
            libc::write(1, c".".as_ptr().cast(), 1);
            libc::poll(ptr::null_mut(), 0, -1);
        }
    }
}

fn now_ms() -> i64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_refusal_of_the_layer_itself_counts() {
        let mut bytes = [0_u8; FINDINGS_LEN];
        let at = Check::WriteRoot as usize * 4;
        assert!(
            !Findings::from_bytes(&bytes).blocked(Check::WriteRoot),
            "it went through"
        );
        bytes[at] = libc::EACCES as u8;
        assert!(
            !Findings::from_bytes(&bytes).blocked(Check::WriteRoot),
            "something else refused it"
        );
        bytes[at] = libc::EROFS as u8;
        assert!(Findings::from_bytes(&bytes).blocked(Check::WriteRoot));
        bytes[at..at + 4].fill(0xff);
        assert!(
            !Findings::from_bytes(&bytes).blocked(Check::WriteRoot),
            "it was never tried"
        );
    }
}
