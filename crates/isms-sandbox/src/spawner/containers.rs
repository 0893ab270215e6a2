//! Workers in containers: the Apptainer backend, prepared when the first one is asked for.
//!
//! A platform in which nobody uses it pays for a look at a file. Not here: which image (images), how a container is
//! started (`apptainer`).

use std::path::{Path, PathBuf};

use super::{Holes, SpawnerConfig};
use crate::{
    apptainer::{Apptainer, Openings, Runtime},
    linux::process,
    native::{Cgroups, Controller, Group, Ids, Limits, Sandbox},
    probe::LayerReport,
};

/// Name of the backend among the layers.
const LAYER: &str = "apptainer";

/// The backend, or why it cannot be used.
#[derive(Debug)]
pub(super) struct Containers {
    runtime: Result<Runtime, String>,
    prepared: Option<Apptainer>,
    stage: PathBuf,
    executor: PathBuf,
}

impl Containers {
    /// Looks whether containers can be started here at all. `stage` is a new directory for what they see, `executor` a
    /// file that every uid may execute.
    pub(super) fn new(cgroups: &Cgroups, stage: PathBuf, executor: PathBuf) -> Self {
        Self {
            runtime: usable(cgroups),
            prepared: None,
            stage,
            executor,
        }
    }

    /// As a layer: whether the backend is there. That it isolates is checked on each worker.
    pub(super) fn report(&self, required: &[&str]) -> LayerReport {
        let (proven, detail) = match &self.runtime {
            Ok(runtime) => (
                true,
                format!(
                    "{} is there and nobody but root can change it",
                    runtime.program.display()
                ),
            ),
            Err(reason) => (false, reason.clone()),
        };
        LayerReport {
            name: LAYER.to_owned(),
            proven,
            detail,
            required: required.contains(&LAYER),
        }
    }

    /// Starts a container of the SIF file `image`.
    pub(super) fn start(
        &mut self,
        config: &SpawnerConfig,
        image: &Path,
        limits: &Limits,
        ids: Ids,
        group: Option<&Group>,
        holes: &Holes,
    ) -> Result<Sandbox, String> {
        let runtime = self
            .runtime
            .as_ref()
            .map_err(|reason| format!("apptainer cannot be used: {reason}"))?;
        let (Ids::Distinct(id @ 1..), Some(group)) = (ids, group) else {
            return Err("a container needs a uid other than root's and a cgroup of its own".to_owned());
        };
        let prepared = match self.prepared.take() {
            Some(prepared) => prepared,
            None => {
                let openings = Openings {
                    device_nodes: &config.device_nodes,
                    directories: &config.directories,
                };
                // An attempt that failed half-way may have left something.
                let _ = std::fs::remove_dir_all(&self.stage);
                Apptainer::prepare(
                    runtime,
                    &self.stage,
                    &self.executor,
                    openings,
                    &config.worker_maxima,
                )
                .map_err(|error| error.to_string())?
            }
        };
        let started = prepared.start(image, limits, id, group, holes);
        self.prepared = Some(prepared);
        started.map_err(|error| error.to_string())
    }
}

fn usable(cgroups: &Cgroups) -> Result<Runtime, String> {
    let runtime = Runtime::find().map_err(|error| error.to_string())?;
    if process::effective_uid() != 0 {
        return Err(
            "the platform was not started as root, which gives each container a uid of its own".to_owned(),
        );
    }
    // Without them a container's limits would hold for nothing but its first process.
    for controller in [Controller::Memory, Controller::Pids] {
        if !cgroups.has(controller) {
            return Err(format!(
                "control groups are missing: {}",
                cgroups.missing(controller)
            ));
        }
    }
    Ok(runtime)
}
