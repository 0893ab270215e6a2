//! The settings of each process, made from those of the platform.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use isms_protocol::{Service, encode};
use isms_sandbox::{
    native::Limits,
    spawner::{SpawnerConfig, UidRange},
};

use super::Supervisor;

/// Builders that may run beside the workers.
const BUILDERS_MAX: u32 = 4;
/// Numbers that workers and builders take turns with, several times what is ever in use.
const WORKER_UIDS: u32 = 4096;
/// The most memory of a build, in MB.
const BUILD_MEMORY_MB: u32 = 1024;

/// A role's settings as its crate defines them.
pub(super) fn role(supervisor: &Supervisor, service: Service) -> Vec<u8> {
    let settings = &supervisor.settings;
    // Each role starts in its own folder.
    let directory = supervisor.data.of(service);
    match service {
        Service::Kernel => encode(&isms_kernel::Config {
            peer_uids: supervisor.users.of_services(),
            results_keep_s: settings.results.keep_s,
            dead_keep_s: settings.results.dead_keep_s,
            journal: Some(directory.join("journal")),
            journal_mb_max: settings.journal.mb_max,
            results_max: settings.results.count_max as usize,
            traces_per_s: settings.traces.per_s,
            slow_ms: settings.traces.slow_ms,
            results_bytes_max: mebibytes(settings.results.memory_mb_max) as usize,
            ..isms_kernel::Config::default()
        }),
        Service::Doer => encode(&isms_doer::Config {
            pool_size: settings.pool_size,
            workers_max: settings.workers_max,
            idle_s: settings.idle_s,
            sent_ahead: settings.sent_ahead,
            build_memory_mb: BUILD_MEMORY_MB,
            device_nodes: settings.device_nodes.clone(),
            directories: settings.directories.clone(),
            ..isms_doer::Config::default()
        }),
        Service::Dbriver => encode(&isms_dbriver::Config::new(directory)),
        Service::Resadmin => encode(&isms_resadmin::Config {
            image_len_max: mebibytes(settings.image_mb_max),
            images_len_max: mebibytes(settings.images_mb_max),
            device_nodes: settings.device_nodes.clone(),
            directories: settings.directories.clone(),
            build_network: settings.build_network,
            ..isms_resadmin::Config::new(directory, supervisor.admin_token)
        }),
        Service::Commserver => encode(&isms_commserver::Config {
            egress: settings.egress.clone(),
            ..isms_commserver::Config::default()
        }),
        Service::Gate => encode(&isms_gate::Config {
            hosts: settings.gate_hosts.clone(),
            traces: isms_gate::TraceLimits {
                len_max: mebibytes(settings.traces.memory_mb_max) as usize,
            },
            otlp: settings.traces.otlp.clone(),
            image_len_max: mebibytes(settings.image_mb_max),
            ..isms_gate::Config::default()
        }),
        Service::Worker => Vec::new(),
    }
}

/// The spawner's settings.
pub(super) fn spawner(supervisor: &Supervisor) -> Result<SpawnerConfig> {
    let settings = &supervisor.settings;
    let run = supervisor.data.run();
    Ok(SpawnerConfig {
        data_directory: supervisor.data.path().to_owned(),
        run_directory: run.clone(),
        socket_directory: run.clone(),
        executor: beside_this_binary("doee-executor")?,
        builder: beside_this_binary("doee-builder")?,
        sdk_include: crate::sdk::write_headers(&run)?,
        uids: UidRange {
            first: supervisor.users.workers_first().unwrap_or(0),
            count: WORKER_UIDS,
        },
        workers_max: settings.workers_max as u32 + BUILDERS_MAX,
        worker_maxima: Limits {
            memory_bytes: mebibytes(settings.memory_mb_max),
            cpu_permille: 4000,
            cpu_weight: 10_000,
            pids: 256,
        },
        builder_maxima: Limits {
            memory_bytes: mebibytes(BUILD_MEMORY_MB),
            cpu_permille: 4000,
            cpu_weight: 100,
            pids: 256,
        },
        images: supervisor.data.images(),
        image_len_max: mebibytes(settings.image_mb_max),
        device_nodes: settings.device_nodes.clone(),
        directories: settings.directories.clone(),
        builder_network: settings.build_network,
        required_layers: settings.required_layers.clone(),
    })
}

fn mebibytes(count: u32) -> u64 {
    u64::from(count) << 20
}

/// The executor and the builder are installed in the same folder as this program.
fn beside_this_binary(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe().context("cannot find the folder of this program")?;
    let path = this.with_file_name(name);
    ensure!(
        path.is_file(),
        "{} is missing: install it beside {}",
        path.display(),
        this.display()
    );
    Ok(path)
}
