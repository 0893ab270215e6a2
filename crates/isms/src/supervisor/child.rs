//! Starts the platform's processes and hears them.

use std::{
    fmt,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, Result};
use isms_protocol::{
    Incarnation, Service,
    supervisor::{FromRole, ToRole},
};
use isms_sandbox::linux::{
    channel::{Channel, Datagram},
    launch::{Launch, arrange},
    seqpacket,
};
use tokio::{
    process::{Child, Command},
    sync::mpsc,
};

/// A process of the platform that the supervisor keeps alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Unit {
    Spawner,
    Role(Service),
}

impl Unit {
    /// The hidden subcommand that runs it, also its name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Unit::Spawner => "spawner",
            Unit::Role(service) => service.name(),
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What a process said, or that it ended.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) unit: Unit,
    pub(crate) incarnation: Incarnation,
    pub(crate) what: What,
}

#[derive(Debug)]
pub(crate) enum What {
    Said(FromRole),
    SpawnerReady,
    SpawnerLives,
    Exited(Option<ExitStatus>),
}

/// A started process.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) incarnation: Incarnation,
    pub(crate) started: Instant,
    pub(crate) pid: i32,
    channel: Arc<Channel>,
}

impl Running {
    /// Starts `isms NAME` in its working directory; what it says and its end go to `reports`.
    pub(crate) fn start(
        unit: Unit,
        incarnation: Incarnation,
        directory: &Path,
        reports: mpsc::Sender<Report>,
    ) -> Result<Running> {
        let (ours, theirs) = seqpacket::pair().context("cannot make a channel")?;
        let mut command = std::process::Command::new("/proc/self/exe");
        command
            .arg(unit.name())
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        std::os::unix::process::CommandExt::arg0(&mut command, "isms");
        // The spawner outlives a supervisor that was killed just long enough to clean up after it.
        let die_with_parent = unit != Unit::Spawner;
        let launch = Launch {
            descriptors: vec![theirs],
            die_with_parent,
            new_session: true,
            is_prompt: unit != Unit::Spawner,
        };
        arrange(&mut command, launch).context("cannot arrange its start")?;
        let child = Command::from(command)
            .spawn()
            .with_context(|| format!("cannot start {unit}"))?;
        let pid = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .context("the process has no number")?;
        let channel = Arc::new(Channel::new(ours)?);
        tokio::spawn(watch(unit, incarnation, child, Arc::clone(&channel), reports));
        Ok(Running {
            incarnation,
            started: Instant::now(),
            pid,
            channel,
        })
    }

    pub(crate) fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        self.channel
            .send(bytes, descriptors)
            .context("cannot speak with it")
    }

    pub(crate) fn tell(&self, value: &ToRole) -> Result<()> {
        self.send(&isms_protocol::encode(value), &[])
    }

    /// Kills it; its report follows.
    pub(crate) fn kill(&self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.pid) {
            // It may have ended just now.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Borrows descriptors for sending.
pub(crate) fn borrow_all(descriptors: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    descriptors.iter().map(AsFd::as_fd).collect()
}

/// Passes on what a process says until it ends, and then that it has.
async fn watch(
    unit: Unit,
    incarnation: Incarnation,
    mut child: Child,
    channel: Arc<Channel>,
    reports: mpsc::Sender<Report>,
) {
    let hear = async {
        while let Ok(Some(datagram)) = channel.receive().await {
            let Some(what) = understand(unit, &datagram) else {
                tracing::error!(%unit, "said something that cannot be read");
                continue;
            };
            if reports
                .send(Report {
                    unit,
                    incarnation,
                    what,
                })
                .await
                .is_err()
            {
                break;
            }
        }
        // The end of the process is what counts.
        std::future::pending::<()>().await;
    };
    let status = tokio::select! {
        status = child.wait() => status.ok(),
        () = hear => None,
    };
    // The supervisor hears no more when it is leaving itself.
    let _ = reports
        .send(Report {
            unit,
            incarnation,
            what: What::Exited(status),
        })
        .await;
}

fn understand(unit: Unit, datagram: &Datagram) -> Option<What> {
    use isms_sandbox::spawner::FromSpawner;
    match unit {
        Unit::Role(Service::Kernel) => isms_protocol::decode(&datagram.bytes).ok().map(What::Said),
        // Only the Kernel knows who is registered; another role that says so wants others to be killed.
        Unit::Role(_) => None,
        Unit::Spawner => match FromSpawner::decode(&datagram.bytes).ok()? {
            FromSpawner::Ready => Some(What::SpawnerReady),
            FromSpawner::Heartbeat => Some(What::SpawnerLives),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(unit: Unit, said: &FromRole) -> Option<What> {
        let datagram = Datagram {
            bytes: isms_protocol::encode(said),
            descriptors: Vec::new(),
        };
        understand(unit, &datagram)
    }

    #[test]
    fn only_the_kernel_is_believed_who_is_registered_and_who_is_lost() {
        let (service, incarnation) = (Service::Gate, Incarnation(1));
        for said in [
            FromRole::Heartbeat,
            FromRole::Registered { service, incarnation },
            FromRole::Lost { service, incarnation },
        ] {
            let kernel = heard(Unit::Role(Service::Kernel), &said);
            assert!(matches!(kernel, Some(What::Said(known)) if known == said));
            for service in Service::REGISTERED {
                assert!(heard(Unit::Role(service), &said).is_none(), "{service}");
            }
            assert!(heard(Unit::Spawner, &said).is_none());
        }
    }
}
