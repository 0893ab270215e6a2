//! The hostile suite: every probe is an attack that runs as a Doee on a real platform, each in a worker of its own.
//!
//! The suite is given a platform that somebody else started ([`Target`]), plants what is worth attacking on the same
//! machine (`world`), deploys the probes, calls each, and judges: a probe is contained when it was refused in the
//! expected way and nothing from outside shows harm. It starts no platform, knows no layer and builds no sandbox.

mod ablation;
mod catalogue;
mod project;
mod report;
mod suite;
mod world;

use std::path::PathBuf;

pub use ablation::{Ablated, Ablation, last_ablation};
pub use catalogue::{Probe, catalogue};
pub use project::{Binaries, compile};
pub use report::{Outcome, Report};
pub use suite::{Suite, run};

/// A running platform.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where projects are served, `HOST:PORT`.
    pub http: String,
    /// Where the management API is served, `HOST:PORT`.
    pub gate: String,
    /// The administrator's token.
    pub token: String,
    /// Data directory.
    pub data: PathBuf,
    /// The binary `isms`.
    pub isms: PathBuf,
    /// Process id of `isms up`.
    pub supervisor: u32,
}

/// What makes the walls of the probes' workers.
#[derive(Clone, Debug)]
pub struct Backend {
    /// The manifest's `isolation`.
    pub isolation: String,
    /// The manifest's `image`: a SIF file, which is uploaded with the probes.
    pub image: Option<PathBuf>,
}

impl Backend {
    /// The platform's own sandbox.
    pub fn native() -> Self {
        Self {
            isolation: "native".to_owned(),
            image: None,
        }
    }

    /// A probe with what must come of it here.
    fn expected(&self, probe: &Probe) -> Probe {
        let mut probe = probe.clone();
        // A container's filter knows no other refusal for a call whose arguments do not fit.
        if self.isolation != "native" && !probe.expect.is_empty() {
            probe.expect.push("ENOSYS".to_owned());
        }
        probe
    }

    /// Apptainer with this image.
    pub fn apptainer(image: PathBuf) -> Self {
        Self {
            isolation: "apptainer".to_owned(),
            image: Some(image),
        }
    }
}
