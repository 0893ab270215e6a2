//! A copy of the spawner that does one slow thing and says how it went. It dies with the spawner, holds nothing of
//! it but a pipe to report through, and is killed when dropped.
#![allow(unsafe_code)] // fork and waitid

use std::{
    fs::File,
    io::{self, Read, Write},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    panic::{self, AssertUnwindSafe},
};

use crate::linux::{check, descriptor, process};

/// Where the process has its end of the pipe; all above is closed.
const REPORT: RawFd = 3;
/// Bytes of a report.
const REPORT_LEN_MAX: u64 = 2048;
/// What a report of success is; one of a failure is its text.
const DONE: &[u8] = b"\0";

/// A process at work.
#[derive(Debug)]
pub(super) struct Helper {
    pid: libc::pid_t,
    report: File,
    heard: Vec<u8>,
    is_late: bool,
    is_reaped: bool,
}

/// How a helper fares.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Running,
    Done(Result<(), String>),
}

impl Helper {
    /// Starts a process that does `work`. Must be called from a process with one thread.
    pub(super) fn start<E: std::error::Error>(work: impl FnOnce() -> Result<(), E>) -> io::Result<Self> {
        let (report, theirs) = descriptor::pipe()?;
        descriptor::set_nonblocking(report.as_fd(), true)?;
        let parent = std::process::id();
        // SAFETY: this process has one thread, so its copy may do all that it may; the copy leaves by _exit.
        let pid = check(unsafe { libc::fork() })?;
        if pid == 0 {
            let _ = panic::catch_unwind(AssertUnwindSafe(|| {
                enter(theirs.as_raw_fd(), parent).and_then(|()| tell(work()))
            }));
            // SAFETY: leaves without running destructors of the copies of the spawner's things.
            unsafe { libc::_exit(0) };
        }
        Ok(Self {
            pid,
            report: report.into(),
            heard: Vec::new(),
            is_late: false,
            is_reaped: false,
        })
    }

    /// Readable when there is news.
    pub(super) fn report(&self) -> BorrowedFd<'_> {
        self.report.as_fd()
    }

    /// It was killed for taking too long.
    pub(super) fn is_late(&self) -> bool {
        self.is_late
    }

    /// Looks how it fares; one that is `late` is killed.
    pub(super) fn outcome(&mut self, late: bool) -> Outcome {
        if late && !self.is_late {
            self.is_late = true;
            self.kill();
        }
        let mut report = (&self.report).take(REPORT_LEN_MAX);
        let ended = match report.read_to_end(&mut self.heard) {
            Ok(_) => true,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        };
        if !ended || !self.reap(libc::WNOHANG) {
            return Outcome::Running;
        }
        Outcome::Done(match self.heard.as_slice() {
            _ if self.is_late => Err("it took too long to stage it".to_owned()),
            DONE => Ok(()),
            [] => Err("the process that staged it was killed".to_owned()),
            text => Err(String::from_utf8_lossy(text).into_owned()),
        })
    }

    fn kill(&self) {
        // SAFETY: plain numbers; the process is a child that is not reaped, so the number is its own.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }

    /// True once it is reaped.
    fn reap(&mut self, flags: libc::c_int) -> bool {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        // SAFETY: `info` is writable, and all zero when nobody has exited; si_pid is valid for a child's siginfo.
        let reaped = self.is_reaped
            || unsafe {
                let flags = libc::WEXITED | flags;
                let waited = libc::waitid(libc::P_PID, self.pid as libc::id_t, info.as_mut_ptr(), flags);
                waited == 0 && info.assume_init().si_pid() == self.pid
            };
        self.is_reaped = reaped;
        reaped
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if !self.is_reaped {
            self.kill();
            self.reap(0);
        }
    }
}

/// In the new process: dies with the spawner, keeps nothing open but the report and the standard streams, and stays
/// behind whoever has calls to answer.
fn enter(report: RawFd, parent: u32) -> io::Result<()> {
    process::die_with_parent(parent)?;
    // SAFETY: the source is open. What gets closed belongs to copies of which nothing runs here any more.
    unsafe {
        check(libc::dup2(report, REPORT))?;
        process::close_from(REPORT + 1)?;
        libc::setpriority(libc::PRIO_PROCESS, 0, 10);
    }
    Ok(())
}

/// Reports through [`REPORT`].
fn tell<E: std::error::Error>(result: Result<(), E>) -> io::Result<()> {
    let mut text = match &result {
        Ok(()) => DONE.to_vec(),
        Err(error) => chain(error).into_bytes(),
    };
    text.truncate(REPORT_LEN_MAX as usize);
    // SAFETY: borrowed for this call only, and open since `enter`.
    let report = unsafe { BorrowedFd::borrow_raw(REPORT) };
    File::from(report.try_clone_to_owned()?).write_all(&text)
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
