//! A started sandbox, as the host holds it: its init process and, until it runs, the handshake.

use std::{
    fs::File,
    io::{self, Read},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use super::{Limits, rlimit, start::StartError, steps::Step};
use crate::linux::{check, check_long, process};

/// Exit code of the init of a runtime whose program was killed by signal `n`: this plus `n`.
pub(crate) const SIGNAL_BASE: libc::c_int = 128;
const SIGNAL_MAX: libc::c_int = 64;

/// A sandbox. Dropping it kills and reaps it.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pid: u32,
    pidfd: OwnedFd,
    handshake: Option<Handshake>,
    ends: Option<Ends>,
    start: Start,
    memory_by_cgroup: bool,
    reaped: bool,
}

/// What makes a sandbox's walls, and with that when its program runs and who exits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// Its init executes the program itself.
    Direct,
    /// A container runtime starts the program, which runs when it has said its first word on its control channel.
    /// It never will once the other end is closed (`silenced`); its exit tells why.
    ByRuntime { silenced: bool },
}

/// The host's end of the handshake socket.
#[derive(Debug)]
pub(crate) struct Handshake(pub(super) OwnedFd);

/// The host's ends of a sandbox's channels.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) control: OwnedFd,
    pub(crate) data: OwnedFd,
    pub(crate) output: OwnedFd,
}

/// How far a start has got.
#[derive(Debug)]
pub(crate) enum Progress {
    /// Not there yet.
    Starting,
    /// The program runs (or the process died; it will be reaped).
    Running,
    /// A step failed.
    Failed(StartError),
}

/// How a sandbox ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    /// Its memory was written to a core file, or given to the host's handler of such.
    pub(crate) dumped: bool,
}

impl Sandbox {
    pub(crate) fn new(
        pid: u32,
        pidfd: OwnedFd,
        handshake: Handshake,
        ends: Ends,
        memory_by_cgroup: bool,
    ) -> Self {
        Self {
            pid,
            pidfd,
            handshake: Some(handshake),
            ends: Some(ends),
            start: Start::Direct,
            memory_by_cgroup,
            reaped: false,
        }
    }

    /// The same, started by a container runtime: the init only waits for it and exits as it does.
    pub(crate) fn started_by_runtime(mut self) -> Self {
        self.start = Start::ByRuntime { silenced: false };
        self
    }

    /// Its init process, as the host sees it.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Readable when it has exited.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Readable when [`Self::progress`] has news; `None` once it runs.
    pub(crate) fn handshake(&self) -> Option<BorrowedFd<'_>> {
        match (&self.handshake, self.start) {
            (Some(handshake), _) => Some(handshake.0.as_fd()),
            (None, Start::ByRuntime { silenced: false }) => {
                self.ends.as_ref().map(|ends| ends.control.as_fd())
            }
            (None, _) => None,
        }
    }

    /// The channels, to be handed out once.
    pub(crate) fn take_ends(&mut self) -> Option<Ends> {
        self.ends.take()
    }

    /// Lets the new process take its next step.
    pub(crate) fn go_ahead(&self) -> io::Result<()> {
        let Some(handshake) = &self.handshake else {
            return Ok(());
        };
        // SAFETY: sends one byte of a static string; a dead peer is an error, not a signal.
        check_long(unsafe {
            libc::send(
                handshake.0.as_raw_fd(),
                c"g".as_ptr().cast(),
                1,
                libc::MSG_NOSIGNAL,
            ) as _
        })
        .map(drop)
    }

    /// Looks how far the start has got.
    pub(crate) fn progress(&mut self) -> Progress {
        let Some(handshake) = &self.handshake else {
            return self.hear_first_word();
        };
        let mut report = [0_u8; 5];
        // SAFETY: receives into a local array.
        let result = unsafe {
            libc::recv(
                handshake.0.as_raw_fd(),
                report.as_mut_ptr().cast(),
                report.len(),
                libc::MSG_DONTWAIT,
            )
        };
        match check_long(result as _) {
            Ok(0) => {
                self.handshake = None;
                self.hear_first_word()
            }
            Ok(_) => Progress::Failed(inside(report)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Progress::Starting
            }
            Err(error) => Progress::Failed(StartError::Prepare(error)),
        }
    }

    /// Looks whether a program that a runtime starts has said something; what it said stays for the Doer.
    fn hear_first_word(&mut self) -> Progress {
        let (Start::ByRuntime { silenced }, Some(ends)) = (&mut self.start, &self.ends) else {
            return Progress::Running;
        };
        let mut word = [0_u8; 1];
        // SAFETY: receives into a local array.
        let result = unsafe {
            libc::recv(
                ends.control.as_raw_fd(),
                word.as_mut_ptr().cast(),
                word.len(),
                libc::MSG_PEEK | libc::MSG_DONTWAIT,
            )
        };
        match check_long(result as _) {
            Ok(1..) => return Progress::Running,
            Ok(_) => *silenced = true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => *silenced = true,
        }
        Progress::Starting
    }

    /// What it wrote before it ended, when nobody took its channels; the end of it, at most `len_max` bytes.
    pub(crate) fn last_words(&mut self, len_max: usize) -> Vec<u8> {
        let Some(ends) = self.ends.take().filter(|_| self.reaped) else {
            return Vec::new();
        };
        // Nobody is left to write, so this reads what the pipe holds and its end.
        let mut words = Vec::new();
        let _ = File::from(ends.output).read_to_end(&mut words);
        words.drain(..words.len().saturating_sub(len_max));
        words
    }

    /// Kills it. Its whole pid namespace goes with its init.
    pub(crate) fn kill(&self) -> io::Result<()> {
        if self.reaped {
            Ok(())
        } else {
            process::kill_pidfd(self.pidfd.as_fd())
        }
    }

    /// Sets the resource limits that stand in for, or behind, its cgroup.
    pub(crate) fn limit(&self, limits: &Limits) -> io::Result<()> {
        if self.start != Start::Direct {
            // Its init is the runtime's; the program has the cgroup's limits.
            return Ok(());
        }
        rlimit::adjust(self.pid, limits, self.memory_by_cgroup)
    }

    /// Reaps it if it has exited.
    pub(crate) fn try_reap(&mut self) -> io::Result<Option<Exit>> {
        self.wait(libc::WNOHANG)
    }

    /// Waits until it has exited, and reaps it.
    pub(crate) fn reap(&mut self) -> io::Result<()> {
        loop {
            match self.wait(0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(drop),
            }
        }
    }

    fn wait(&mut self, flags: libc::c_int) -> io::Result<Option<Exit>> {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let pidfd = self.pidfd.as_raw_fd() as libc::id_t;
        // SAFETY: `info` is writable, and all zero when nobody has exited.
        let info = unsafe {
            check(libc::waitid(
                libc::P_PIDFD,
                pidfd,
                info.as_mut_ptr(),
                libc::WEXITED | flags,
            ))?;
            info.assume_init()
        };
        // SAFETY: waitid fills the fields of a child's siginfo.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        if pid == 0 {
            return Ok(None);
        }
        self.reaped = true;
        let (code, signal) = match (info.si_code == libc::CLD_EXITED, self.start) {
            // The init of a pid namespace cannot die by a signal of its own; it exits as a shell would say it.
            (true, Start::ByRuntime { .. }) if (1..=SIGNAL_MAX).contains(&(status - SIGNAL_BASE)) => {
                (None, Some(status - SIGNAL_BASE))
            }
            (true, _) => (Some(status), None),
            (false, _) => (None, Some(status)),
        };
        Ok(Some(Exit {
            code,
            signal,
            dumped: info.si_code == libc::CLD_DUMPED,
        }))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if !self.reaped && self.kill().is_ok() {
            // A killed init takes its namespace along; nothing can keep it.
            let _ = self.reap();
        }
    }
}

fn inside(report: [u8; 5]) -> StartError {
    let [step, errno @ ..] = report;
    let step = Step::from_byte(step).map_or("start", Step::describe);
    StartError::Inside {
        step,
        source: io::Error::from_raw_os_error(i32::from_le_bytes(errno)),
    }
}
