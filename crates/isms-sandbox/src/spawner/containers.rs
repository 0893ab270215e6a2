//! Workers in containers: the Apptainer backend, prepared and proven when the first one is asked for.
//!
//! A platform in which nobody uses it pays for a look at a file. Not here: which image (images), how a container is
//! started (`apptainer`).

use std::{fs, os::fd::BorrowedFd, path::PathBuf};

use super::ImageHash;
use crate::{
    apptainer::{Apptainer, Container, Runtime},
    linux::process,
    native::{Cgroups, Controller, Group, Limits, Sandbox},
    probe::LayerReport,
};

/// Name of the backend among the layers.
pub(super) const LAYER: &str = "apptainer";

/// The backend, or why it cannot be used.
#[derive(Debug)]
pub(super) struct Containers {
    runtime: Result<Runtime, String>,
    prepared: Option<Apptainer>,
    proof: Proof,
    stage: PathBuf,
    executor: PathBuf,
    maxima: Limits,
    required: bool,
}

/// What has to happen when a container is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Worker,
    /// The probe comes first.
    Probe,
    /// It is under way.
    Wait,
    Refuse(String),
}

/// Whether containers isolate here.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Proof {
    /// Nobody has asked for one yet.
    Missing,
    /// A probe runs in this image.
    Sought(ImageHash),
    Given,
    /// Something was not blocked.
    Refuted(String),
}

impl Containers {
    /// Looks whether containers can be started here at all. `stage` is a new directory for what they see, `executor` a
    /// file that every uid may execute.
    pub(super) fn new(
        cgroups: &Cgroups,
        stage: PathBuf,
        executor: PathBuf,
        maxima: &Limits,
        required: &[&str],
    ) -> Self {
        Self {
            runtime: usable(cgroups),
            prepared: None,
            proof: Proof::Missing,
            stage,
            executor,
            maxima: *maxima,
            required: required.contains(&LAYER),
        }
    }

    /// As a layer of isolation.
    pub(super) fn report(&self) -> LayerReport {
        let program = self.runtime.as_ref().map(|runtime| runtime.program.display());
        let detail = match (program, &self.proof) {
            (Err(reason), _) => reason.clone(),
            (Ok(program), Proof::Missing | Proof::Sought(_)) => {
                format!("{program} is there; whether it isolates is tried when it is used first")
            }
            (Ok(_), Proof::Given) => {
                "socket, ptrace, mount, a file and a process of the host were refused".to_owned()
            }
            (Ok(program), Proof::Refuted(what)) => format!("{program} does not isolate: {what}"),
        };
        LayerReport {
            name: LAYER.to_owned(),
            proven: self.proof == Proof::Given,
            detail,
            required: self.required,
        }
    }

    /// Whether nothing is required of containers that is known to be missing. The proof comes before the first worker in
    /// any case.
    pub(super) fn is_sufficient(&self) -> bool {
        !self.required || self.runtime.is_ok()
    }

    /// What has to happen for the next container.
    pub(super) fn next_step(&self) -> Step {
        match &self.proof {
            Proof::Missing => Step::Probe,
            Proof::Sought(_) => Step::Wait,
            Proof::Given => Step::Worker,
            Proof::Refuted(what) => Step::Refuse(format!("apptainer does not isolate workers here: {what}")),
        }
    }

    /// Starts a container of the image of that name: with the executor, or with the probe while there is no proof.
    pub(super) fn start(
        &mut self,
        container: Container<'_>,
        group: Option<&Group>,
        image: ImageHash,
    ) -> Result<Sandbox, String> {
        let group = group.ok_or_else(|| "a container needs a control group of its own".to_owned())?;
        let is_proven = self.proof == Proof::Given;
        let prepared = self.prepare()?;
        let started = if is_proven {
            prepared.start(container, group)
        } else {
            prepared.start_probe(container, group)
        };
        let sandbox = started.map_err(|error| error.to_string())?;
        if !is_proven {
            self.proof = Proof::Sought(image);
        }
        Ok(sandbox)
    }

    /// Takes the probe's report.
    pub(super) fn judge(&mut self, control: BorrowedFd<'_>, id: u32) {
        let judged = match &self.prepared {
            Some(prepared) => prepared.judge(control, id),
            None => Err("it was never prepared".to_owned()),
        };
        self.proof = judged.map_or_else(Proof::Refuted, |()| Proof::Given);
    }

    /// The probe did not come to report, which says nothing of the walls. Returns its image.
    pub(super) fn give_up_probe(&mut self) -> Option<ImageHash> {
        match self.proof {
            Proof::Sought(image) => {
                self.proof = Proof::Missing;
                Some(image)
            }
            _ => None,
        }
    }

    fn prepare(&mut self) -> Result<&Apptainer, String> {
        let runtime = self
            .runtime
            .as_ref()
            .map_err(|reason| format!("apptainer cannot be used: {reason}"))?;
        if self.prepared.is_none() {
            // An attempt that failed half-way may have left something.
            let _ = fs::remove_dir_all(&self.stage);
            let prepared = Apptainer::prepare(runtime, &self.stage, &self.executor, &self.maxima);
            self.prepared = Some(prepared.map_err(|error| error.to_string())?);
        }
        self.prepared
            .as_ref()
            .ok_or_else(|| "apptainer was not prepared".to_owned())
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
