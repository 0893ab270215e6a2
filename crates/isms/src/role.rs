//! A role's side of its life: bootstrap, privileges, run, stop.

use std::{
    collections::HashMap,
    future::Future,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use anyhow::{Context, Result, anyhow, bail};
use isms_ipc::LinkOptions;
use isms_kernel::SupervisorChannel;
use isms_protocol::{
    Service,
    supervisor::{Bootstrap, CHANNEL_FD, DescriptorKind, FromRole, ToRole},
};
use isms_sandbox::linux::{
    channel::{self, Channel},
    descriptor, process,
};
use isms_sandbox::spawner::SpawnerConfig;
use tokio::{
    runtime::LocalOptions,
    sync::{mpsc, watch},
};

use crate::logging;

/// Requests that each service takes at the same time; what waits, waits in the Kernel. The Doer's
/// concerns only what is not a call of a Doee.
fn concurrency(service: Service) -> u32 {
    match service {
        Service::Commserver => isms_commserver::CONCURRENCY,
        Service::Gate => isms_gate::CONCURRENCY,
        // DBriver and Resadmin put the number of their own settings in its place.
        _ => 16,
    }
}

/// Runs a role in this process until the supervisor stops it or is gone.
pub(crate) fn run(service: Service) -> Result<()> {
    let channel = descriptor::take_inherited(CHANNEL_FD)
        .context("a role is started by `isms up`, not by hand: it inherits a channel from the supervisor")?;
    let (bootstrap, descriptors) = receive_bootstrap(service, &channel)?;
    if let Some((uid, gid)) = bootstrap.user {
        process::drop_to(uid, gid).with_context(|| format!("cannot become user {uid}"))?;
    }
    process::set_dumpable(false).context("cannot forbid dumps of this process")?;
    // After the change of user, which clears the request.
    process::die_with_parent(std::os::unix::process::parent_id()).context("the supervisor is gone")?;
    logging::init(service.name());
    end_on_panic();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    // As a task: whenever another task wakes the future that blocks, the runtime asks the system for events first.
    let serve = runtime.spawn_local(serve(bootstrap, descriptors, channel));
    runtime.block_on(serve)?
}

/// Makes a panic end the process. The runtime would end the task alone and leave a role that looks alive and lacks
/// one of its parts; one that has ended is restarted within milliseconds.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// Blocks for the first datagram.
fn receive_bootstrap(
    service: Service,
    socket: &OwnedFd,
) -> Result<(Bootstrap, HashMap<DescriptorKind, OwnedFd>)> {
    let datagram = channel::receive(socket.as_fd())?.context("the supervisor is gone")?;
    let bootstrap: Bootstrap =
        isms_protocol::decode(&datagram.bytes).context("the bootstrap cannot be read")?;
    if bootstrap.service != service || bootstrap.descriptors.len() != datagram.descriptors.len() {
        bail!("the bootstrap is for {} and not for {service}", bootstrap.service);
    }
    let descriptors = bootstrap
        .descriptors
        .iter()
        .copied()
        .zip(datagram.descriptors)
        .collect();
    Ok((bootstrap, descriptors))
}

async fn serve(
    bootstrap: Bootstrap,
    mut descriptors: HashMap<DescriptorKind, OwnedFd>,
    channel: OwnedFd,
) -> Result<()> {
    let channel = Arc::new(Channel::new(channel)?);
    let (stop, shutdown) = watch::channel(false);
    let (announce, announcements) = mpsc::channel(64);
    let listen = listen(Arc::clone(&channel), stop, announce);
    let mut take = |kind: DescriptorKind| {
        descriptors
            .remove(&kind)
            .ok_or_else(|| anyhow!("the bootstrap lacks {kind:?}"))
    };
    let link = LinkOptions {
        socket: bootstrap.kernel_socket.into(),
        service: bootstrap.service,
        incarnation: bootstrap.incarnation,
        secret: bootstrap.secret,
        concurrency: concurrency(bootstrap.service),
    };
    let config = &bootstrap.config;
    match bootstrap.service {
        Service::Kernel => {
            let listener = take(DescriptorKind::KernelListener)?.into();
            let (reports, reported) = mpsc::channel(64);
            let supervisor = SupervisorChannel {
                commands: announcements,
                reports,
            };
            let run = isms_kernel::run(isms_protocol::decode(config)?, listener, supervisor, shutdown);
            tokio::select! {
                outcome = race(listen, run) => outcome,
                () = report(&channel, reported) => bail!("the kernel reports no more"),
            }
        }
        Service::Doer => {
            let spawner = take(DescriptorKind::Spawner)?;
            race(
                listen,
                isms_doer::run(isms_protocol::decode(config)?, link, spawner, shutdown),
            )
            .await
        }
        Service::Dbriver => {
            race(
                listen,
                isms_dbriver::run(isms_protocol::decode(config)?, link, shutdown),
            )
            .await
        }
        Service::Resadmin => {
            race(
                listen,
                isms_resadmin::run(isms_protocol::decode(config)?, link, shutdown),
            )
            .await
        }
        Service::Commserver => {
            let listener = take(DescriptorKind::HttpListener)?.into();
            race(
                listen,
                isms_commserver::run(isms_protocol::decode(config)?, listener, link, shutdown),
            )
            .await
        }
        Service::Gate => {
            let listener = take(DescriptorKind::HttpListener)?.into();
            race(
                listen,
                isms_gate::run(isms_protocol::decode(config)?, listener, link, shutdown),
            )
            .await
        }
        Service::Worker => bail!("a worker is not a role"),
    }
}

/// Passes on what the Kernel reports.
async fn report(channel: &Channel, mut reported: mpsc::Receiver<FromRole>) {
    while let Some(said) = reported.recv().await {
        if let Err(error) = channel.send(&isms_protocol::encode(&said), &[]) {
            tracing::warn!(%error, "could not tell the supervisor");
        }
    }
}

/// Runs a role beside its ear for the supervisor; without a supervisor there is no role.
async fn race<E>(listen: impl Future<Output = ()>, run: impl Future<Output = Result<(), E>>) -> Result<()>
where
    E: std::error::Error + Send + Sync + 'static,
{
    tokio::select! {
        outcome = run => outcome.map_err(Into::into),
        () = listen => bail!("the supervisor is gone"),
    }
}

/// Hears the supervisor until it is gone.
async fn listen(channel: Arc<Channel>, stop: watch::Sender<bool>, announce: mpsc::Sender<ToRole>) {
    while let Ok(Some(datagram)) = channel.receive().await {
        match isms_protocol::decode::<ToRole>(&datagram.bytes) {
            Ok(ToRole::Stop) => {
                stop.send_replace(true);
            }
            Ok(announcement @ ToRole::Announce { .. }) => {
                if announce.send(announcement).await.is_err() {
                    tracing::debug!("ignored an announcement, this role is not the kernel");
                }
            }
            Err(error) => tracing::error!(%error, "the supervisor said something that cannot be read"),
        }
    }
}

/// Runs the spawner until the supervisor stops it or is gone.
pub(crate) fn run_spawner() -> Result<()> {
    let channel = descriptor::take_inherited(CHANNEL_FD).context(
        "the spawner is started by `isms up`, not by hand: it inherits a channel from the supervisor",
    )?;
    let datagram = channel::receive(channel.as_fd())?.context("the supervisor is gone")?;
    let config: SpawnerConfig =
        isms_protocol::decode(&datagram.bytes).context("the settings cannot be read")?;
    logging::init("spawner");
    Ok(isms_sandbox::spawner::run(config, channel)?)
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::process::ExitStatusExt,
        process::{Command, Stdio},
    };

    use super::*;

    const PANICKING: &str = "ISMS_TEST_PANICKING_ROLE";

    #[test]
    fn a_panic_of_one_task_ends_the_whole_role_and_is_reported() {
        let arguments = [
            "--exact",
            "role::tests::role_whose_task_panics",
            "--ignored",
            "--nocapture",
        ];
        let output = Command::new(std::env::current_exe().unwrap())
            .args(arguments)
            .env(PANICKING, "1")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(
            output.status.signal(),
            Some(rustix::process::Signal::ABORT.as_raw()),
            "{output:?}"
        );
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("one task is missing"), "{said}");
    }

    #[test]
    #[ignore = "is the process that the test above ends"]
    fn role_whose_task_panics() {
        if std::env::var_os(PANICKING).is_none() {
            return;
        }
        end_on_panic();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build_local(LocalOptions::default())
            .unwrap();
        runtime.block_on(async {
            // The role itself goes on without it.
            let task = tokio::task::spawn_local(async { panic!("one task is missing") });
            assert!(task.await.is_err());
        });
    }
}
