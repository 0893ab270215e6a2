//! `cargo xtask hostile`: attacks that run as Doees on a real platform, one after another, and whether each was
//! contained.

mod ablation;
mod archive;
mod guest;
mod identities;
mod table;
mod unified;

use std::{
    fs,
    io::{IsTerminal, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail, ensure};
use isms_hostile::{Ablation, Backend, Report, Suite, Target, catalogue};

use crate::{
    build::{self, Profile},
    image, install,
    platform::{Listen, Platform},
    progress::{Bar, Steps},
    workspace,
};

/// An empty worker that is not wanted any more goes at once, so that hundreds of probes need few at a time.
const SETTINGS: &str = "[workers]\nidle_s = 1\n";

/// What was asked for on the command line.
#[derive(Debug, Default)]
struct Options {
    backend: Option<String>,
    image: Option<PathBuf>,
    /// Folder of binaries that are built already.
    binaries: Option<PathBuf>,
    json: bool,
    /// In a virtual machine, with layers left out.
    ablation: bool,
    /// Only these layers.
    only: Vec<String>,
    /// Write down what came of it.
    save: bool,
    /// This is the part in the guest; from which probe on.
    inside: Option<String>,
}

impl Options {
    fn parse(words: &[&str]) -> Result<Options> {
        let mut options = Options::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value"));
            match *word {
                "--backend" => options.backend = Some((*value()?).to_owned()),
                "--image" => options.image = Some(value()?.into()),
                "--binaries" => options.binaries = Some(value()?.into()),
                "--ablation" => options.ablation = true,
                "--only" => options.only.push((*value()?).to_owned()),
                "--save" => options.save = true,
                "--inside" => options.inside = Some((*value()?).to_owned()),
                "--json" => options.json = true,
                other => bail!("unknown option {other}; `cargo xtask help` lists them"),
            }
        }
        Ok(options)
    }

    /// The backend; none, when it is Apptainer with an image that has to be made first.
    fn backend(&self) -> Result<Option<Backend>> {
        match (self.backend.as_deref().unwrap_or("native"), &self.image) {
            ("native", None) => Ok(Some(Backend::native())),
            ("native", Some(_)) => bail!("--image goes with --backend apptainer"),
            ("apptainer", Some(image)) => {
                ensure!(image.exists(), "there is no image {}", image.display());
                Ok(Some(Backend::apptainer(image.clone())))
            }
            ("apptainer", None) => Ok(None),
            (other, _) => bail!("unknown backend {other}; there are native and apptainer"),
        }
    }
}

/// Runs what the words behind `hostile` ask for; the exit code is 0 only when every probe was contained.
pub(crate) fn run(words: &[&str]) -> Result<ExitCode> {
    let options = Options::parse(words)?;
    if let (Some(from), Some(folder)) = (&options.inside, &options.binaries) {
        return ablation::inside::run(from, folder);
    }
    if options.ablation {
        return without_layers(&options);
    }
    let backend = options.backend()?;
    let report = on_this_machine(backend, options.binaries.as_deref())?;
    show(&report, options.json)?;
    Ok(if report.is_contained() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn show(report: &Report, json: bool) -> Result<()> {
    if json {
        println!(
            "{}",
            serde_json::to_string_pretty(report).context("a report is JSON")?
        );
    } else {
        print!("{}", report.table(stdout().is_terminal()));
        println!("{report}");
    }
    Ok(())
}

/// Attacks a platform in a guest, with all layers and without; what is saved is a table in docs/ and its data.
fn without_layers(options: &Options) -> Result<ExitCode> {
    let layers = ablation::layers()?;
    let save = |ablation: &Ablation| {
        if !options.save {
            return Ok(());
        }
        let data = serde_json::to_string_pretty(ablation).context("an ablation is JSON")? + "\n";
        let page = table::page(ablation, &layers);
        for (path, text) in [("hostile/ablation.json", data), (table::PAGE, page)] {
            fs::write(workspace::root().join(path), text).with_context(|| format!("cannot write {path}"))?;
        }
        Ok(())
    };
    let (report, ablation) = ablation::run(&options.only, save)?;
    let page = table::page(&ablation, &layers);
    if !options.json {
        println!("{page}");
    }
    show(&report, options.json)?;
    Ok(if report.is_contained() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

pub(crate) use unified::{Part, run as run_in_guest, test as test_in_guest};

/// Builds, starts a platform and attacks it.
fn on_this_machine(backend: Option<Backend>, built: Option<&Path>) -> Result<Report> {
    let mut steps = Steps::new(4);
    steps.run("tools", || {
        install::ensure_all(&[&install::C_COMPILER])?;
        if backend.is_none() {
            install::ensure_apptainer()?;
            install::ensure_all(&[&install::MKSQUASHFS])?;
        }
        Ok(())
    })?;
    let (folder, binaries, backend) = steps.run("build", || {
        let folder = match built {
            Some(folder) => folder.to_owned(),
            None => build::stage(Profile::Release)?,
        };
        let probes = isms_hostile::compile(workspace::root(), &workspace::target().join("hostile/probes"))?;
        let backend = match backend {
            Some(backend) => backend,
            None => Backend::apptainer(image::minimal(&folder.join("doee-executor"), "hostile")?),
        };
        Ok((folder, probes, backend))
    })?;
    let platform = steps.run("start the platform", || {
        Platform::start(&folder, Listen::ANY, SETTINGS)
    })?;
    let probes = catalogue();
    let outcomes = steps.run("attack it", || {
        let mut bar = Bar::new("probes", probes.len() as u64);
        let suite = Suite {
            target: &target(&platform, &folder),
            binaries: &binaries,
            backend: &backend,
            probes: &probes,
            throwaway: false,
        };
        let outcomes = isms_hostile::run(&suite, |_, _| {}, |done, _| bar.set(done as u64 + 1))?;
        bar.finish(outcomes.len() as u64);
        Ok(outcomes)
    })?;
    Ok(Report::new(&backend.isolation, outcomes))
}

fn target(platform: &Platform, binaries: &Path) -> Target {
    Target {
        http: platform.http.clone(),
        gate: platform.gate.clone(),
        token: platform.token(),
        data: platform.data().to_owned(),
        isms: binaries.join("isms"),
        supervisor: platform.pid(),
    }
}
