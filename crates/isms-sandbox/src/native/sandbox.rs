//! A started sandbox, as the host holds it: its init process and, until it runs, the handshake.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use super::{Limits, rlimit, start::StartError, steps::Step};
use crate::linux::{check, check_long, process};

/// A sandbox. Dropping it kills and reaps it.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pid: u32,
    pidfd: OwnedFd,
    handshake: Option<Handshake>,
    ends: Option<Ends>,
    memory_by_cgroup: bool,
    reaped: bool,
}

/// The host's end of the handshake socket.
#[derive(Debug)]
pub(super) struct Handshake(pub(super) OwnedFd);

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
    pub(super) fn new(
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
            memory_by_cgroup,
            reaped: false,
        }
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
        self.handshake.as_ref().map(|handshake| handshake.0.as_fd())
    }

    /// The channels, to be handed out once.
    pub(crate) fn take_ends(&mut self) -> Option<Ends> {
        self.ends.take()
    }

    /// Lets the new process take its next step.
    pub(super) fn go_ahead(&self) -> io::Result<()> {
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
            return Progress::Running;
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
                Progress::Running
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
        Ok(Some(if info.si_code == libc::CLD_EXITED {
            Exit {
                code: Some(status),
                signal: None,
                dumped: false,
            }
        } else {
            Exit {
                code: None,
                signal: Some(status),
                dumped: info.si_code == libc::CLD_DUMPED,
            }
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
