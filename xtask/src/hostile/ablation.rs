//! Which layer stops which attack: every probe with all layers, without each one, and without any, in a guest.
//!
//! A guest that a probe spoilt is not used again: the next probe starts in a fresh one. One that ends or falls silent
//! under a probe was lost to it.

use std::{cell::Cell, collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use isms_hostile::{Ablated, Ablation, Outcome, Probe, Report, catalogue, last_ablation};
use serde::Deserialize;

use super::guest::{Boot, Clock, Equipment, Guest};
use crate::{
    command,
    progress::{Bar, Steps},
    workspace,
};

const LAYERS: &str = include_str!("../../../policy/layers.toml");
/// What the suite inside says before and after a probe, and at its end.
const BEGIN: &str = "probe ";
const END: &str = "outcome ";
const DONE: &str = "done";

/// Longer than a guest on hardware is ever silent between probes.
const SILENCE_MAX: Duration = Duration::from_secs(20);

const CONSOLE: &str = "attacks";

/// How often in a row a machine ends under a probe before the probe is taken to be why.
const LOSSES: u32 = 2;
/// How often in a row a machine may end before it runs any probe.
const BOOTS_MAX: u32 = 3;

/// `policy/layers.toml`.
#[derive(Deserialize)]
struct Layers {
    layer: Vec<Layer>,
}

/// A layer that can be left out.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Layer {
    pub(super) name: String,
    /// What is then so.
    pub(super) without: String,
}

pub(super) fn layers() -> Result<Vec<Layer>> {
    let layers: Layers = toml::from_str(LAYERS).context("policy/layers.toml is wrong")?;
    Ok(layers.layer)
}

/// Runs everything; `only` leaves out just these layers, each by itself (`none` for no layer at all). `keep` is given
/// what is known after each of them: a measurement that is broken off is not in vain.
pub(super) fn run(
    only: &[String],
    mut keep: impl FnMut(&Ablation) -> Result<()>,
) -> Result<(Report, Ablation)> {
    let mut steps = Steps::new(3);
    let guest = steps.run("build the platform with layers that can be left out", prepare)?;
    let probes = catalogue();
    let names: Vec<String> = layers()?.into_iter().map(|layer| layer.name).collect();
    let full = steps.run("attack it with all layers", || attack(&guest, &probes, ""))?;
    let ablation = steps.run("attack it without layers", || {
        let mut ablation =
            compare(&probes, &names, &BTreeMap::new(), guest.kernel_release()).over(&last_ablation(), &[]);
        let all = ["none".to_owned()];
        for name in names.iter().chain(&all) {
            if !only.is_empty() && !only.contains(name) {
                continue;
            }
            let left_out = if name == "none" {
                names.join(",")
            } else {
                name.clone()
            };
            let without = BTreeMap::from([(name.clone(), attack(&guest, &probes, &left_out)?)]);
            let measured = compare(&probes, &names, &without, guest.kernel_release());
            ablation = measured.over(&ablation, std::slice::from_ref(name));
            keep(&ablation)?;
        }
        Ok(ablation)
    })?;
    let mut report = Report::new("native", full);
    report.by_one_layer_only = ablation.by_one_layer_only();
    Ok((report, ablation))
}

fn prepare() -> Result<Guest> {
    let target = workspace::target().join("ablation");
    let executor = target.join("executor");
    for (package, folder) in [("isms", &target), ("isms-executor", &executor)] {
        let mut cargo = command::cargo(["build", "--release", "--package", package, "--bins"]);
        cargo.args(["--features", "isms-sandbox/ablation", "--target-dir"]);
        command::run(cargo.arg(folder))?;
    }
    let probes = isms_hostile::compile(workspace::root(), &workspace::target().join("hostile/probes"))?;
    let mut files: Vec<(String, PathBuf)> = [
        ("isms", target.join("release/isms")),
        ("doee-executor", executor.join("release/doee-executor")),
        ("doee-builder", executor.join("release/doee-builder")),
        (
            "xtask",
            std::env::current_exe().context("cannot find the own binary")?,
        ),
    ]
    .map(|(name, file)| (name.to_owned(), file))
    .into();
    files.extend(
        probes
            .files()
            .map(|(name, file)| (format!("probes/{name}"), file)),
    );
    Guest::prepare("ablation", &files, Equipment::Libraries)
}

/// Runs all probes without some layers, in as many guests as it takes.
pub(super) fn attack(guest: &Guest, probes: &[Probe], left_out: &str) -> Result<Vec<Outcome>> {
    let label = match left_out {
        "" => "all layers",
        one if !one.contains(',') => one,
        _ => "no layer",
    };
    let mut bar = Bar::new(format!("{label:17}"), probes.len() as u64);
    let mut outcomes: Vec<Outcome> = Vec::new();
    // Boots in a row without an outcome: an emulated machine may hang of itself.
    let mut fruitless = 0;
    while outcomes.len() < probes.len() {
        let (before, begun, ended) = (outcomes.len(), Cell::new(0), Cell::new(false));
        let words = format!("isms.without={left_out} isms.from={before}");
        let boot = Boot {
            words: &words,
            clock: Clock::Counted,
            processors: 1,
            silence_max: SILENCE_MAX,
            console: CONSOLE,
        };
        guest.boot(&boot, |line| {
            if let Some(number) = line.strip_prefix(BEGIN) {
                begun.set(number.parse().unwrap_or(0) + 1);
            } else if let Some(Ok(outcome)) = line.strip_prefix(END).map(serde_json::from_str::<Outcome>) {
                // One that was not called is tried again in the next guest.
                if !outcome.ran {
                    begun.set(0);
                } else {
                    outcomes.push(outcome);
                    bar.set(outcomes.len() as u64);
                }
            } else if line == DONE {
                ended.set(true);
            }
        })?;
        if ended.get() {
            break;
        }
        if outcomes.len() > before {
            fruitless = 0;
            continue;
        }
        fruitless += 1;
        match begun.get() {
            number if number == before + 1 && fruitless >= LOSSES => {
                outcomes.push(lost(&probes[before]));
                fruitless = 0;
            }
            _ if fruitless >= BOOTS_MAX => bail!(
                "{label}: probe {before} cannot be called, or the guest ends before; see {}",
                guest.console(CONSOLE).display()
            ),
            _ => {}
        }
    }
    ensure!(
        outcomes.len() == probes.len(),
        "{label}: some probes have no outcome"
    );
    bar.finish(outcomes.len() as u64);
    Ok(outcomes)
}

fn lost(probe: &Probe) -> Outcome {
    Outcome {
        probe: probe.name.clone(),
        attacks: probe.attacks.clone(),
        contained: false,
        succeeded: true,
        seen: "the machine was lost".to_owned(),
        harm: vec!["the machine was lost".to_owned()],
        ran: true,
        spoilt: true,
    }
}

fn compare(
    probes: &[Probe],
    layers: &[String],
    without: &BTreeMap<String, Vec<Outcome>>,
    kernel: String,
) -> Ablation {
    let ablated = |number: usize| {
        let succeeds_without = |layer: &&String| without.get(*layer).is_some_and(|of| of[number].succeeded);
        let none = without.get("none").map(|of| &of[number]);
        Ablated {
            probe: probes[number].name.clone(),
            attacks: probes[number].attacks.clone(),
            stopped_by: layers.iter().filter(succeeds_without).cloned().collect(),
            succeeds_with_none: none.is_some_and(|outcome| outcome.succeeded),
            seen_with_none: none.map(tell).unwrap_or_default(),
        }
    };
    Ablation {
        kernel,
        layers: layers.to_vec(),
        probes: (0..probes.len()).map(ablated).collect(),
    }
}

fn tell(outcome: &Outcome) -> String {
    match outcome.harm.first() {
        Some(harm) => harm.clone(),
        None => outcome.seen.clone(),
    }
}

/// The part that runs in the guest: the suite from probe `from` on, until one spoils it.
pub(super) mod inside {
    use std::{path::Path, process::ExitCode};

    use anyhow::{Context, Result};
    use isms_hostile::{Backend, Binaries, Suite, catalogue};

    use super::{BEGIN, DONE, END};
    use crate::{
        hostile::{SETTINGS, target},
        platform::{Listen, Platform},
    };

    pub(in crate::hostile) fn run(from: &str, folder: &Path) -> Result<ExitCode> {
        let from: usize = from.parse().context("--inside needs a number")?;
        let platform = Platform::start(folder, Listen::ANY, SETTINGS)?;
        let probes = catalogue();
        let suite = Suite {
            target: &target(&platform, folder),
            binaries: &Binaries::at(folder.join("probes")),
            backend: &Backend::native(),
            probes: probes.get(from..).unwrap_or_default(),
            throwaway: true,
        };
        isms_hostile::run(
            &suite,
            |number, _| println!("{BEGIN}{}", from + number),
            |_, outcome| {
                println!("{END}{}", serde_json::to_string(outcome).unwrap_or_default());
                if outcome.spoilt || !outcome.ran {
                    // The machine is thrown away; nothing here is worth being put in order.
                    std::process::exit(0);
                }
            },
        )?;
        println!("{DONE}");
        Ok(ExitCode::SUCCESS)
    }
}
