//! The probes as projects: compiled once, then one Doee for each, so that each has a worker to itself.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use toml::{Table, Value};

use crate::{Backend, Probe, Target};

/// Doees of one project; its manifest has a limit.
const PROBES_PER_PROJECT: usize = 27;
/// Memory of a probe's worker.
const MEMORY_MB: i64 = 64;

/// Sources of each shared object, with what it defines.
const OBJECTS: &[(&str, &[&str], &[&str])] = &[
    (
        "probes",
        &[
            "main.c",
            "files.c",
            "processes.c",
            "network.c",
            "namespaces.c",
            "kernel.c",
            "resources.c",
            "workers.c",
        ],
        &[],
    ),
    ("constructor", &["constructor.c"], &[]),
    ("spinning", &["constructor.c"], &["-DSPIN"]),
    ("neighbour", &["neighbour.c"], &[]),
];

/// Folder of the compiled probes.
#[derive(Clone, Debug)]
pub struct Binaries(PathBuf);

impl Binaries {
    /// Those that were compiled before, for instance on another machine.
    pub fn at(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// Each file, with its name.
    pub fn files(&self) -> impl Iterator<Item = (String, PathBuf)> {
        OBJECTS
            .iter()
            .map(|(name, ..)| (format!("{name}.so"), self.path(name)))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.so"))
    }
}

/// Compiles all probes into `folder`. `repository` is its root.
pub fn compile(repository: &Path, folder: &Path) -> Result<Binaries> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let binaries = Binaries(folder.to_owned());
    for (name, sources, defines) in OBJECTS {
        let mut cc = Command::new("cc");
        cc.args(["-std=c17", "-O1", "-fPIC", "-shared", "-pthread", "-w"])
            .args(*defines)
            .arg("-I")
            .arg(repository.join("sdk/c/include"))
            .arg("-o")
            .arg(binaries.path(name))
            .args(
                sources
                    .iter()
                    .map(|source| repository.join("hostile/probes").join(source)),
            );
        let output = cc.output().context("cannot start cc")?;
        if !output.status.success() {
            bail!(
                "cannot compile the probes:\n{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    Ok(binaries)
}

/// A project in the making: its folder is removed when this is dropped.
pub(crate) struct Projects<'a> {
    pub(crate) target: &'a Target,
    pub(crate) binaries: &'a Binaries,
    pub(crate) backend: &'a Backend,
    /// Where folders are made.
    pub(crate) scratch: &'a Path,
}

impl Projects<'_> {
    /// Deploys the neighbour, which has a database and a secret.
    pub(crate) fn deploy_neighbour(&self, secret: &str) -> Result<()> {
        let mut params = Table::new();
        params.insert("secret".to_owned(), secret.into());
        let mut doee = self.doee("neighbour", params);
        let one = Table::from_iter([("min".to_owned(), 1.into()), ("max".to_owned(), 1.into())]);
        doee.insert("workers".to_owned(), one.into());
        let mut manifest = manifest("neighbour", [("neighbour".to_owned(), doee)]);
        manifest.push_str("[database.data]\nkind = \"sql\"\n");
        self.deploy("neighbour", &manifest, &["neighbour"])
    }

    /// Deploys probes; each is told what there is to attack. Returns the path of each, in order.
    pub(crate) fn deploy_probes(&self, probes: &[Probe], targets: &Table) -> Result<Vec<String>> {
        let mut paths = Vec::new();
        for (number, probes) in probes.chunks(PROBES_PER_PROJECT).enumerate() {
            let project = format!("hostile-{number}");
            let doees = probes
                .iter()
                .map(|probe| (probe.name.clone(), self.probe(probe, targets)));
            let objects: Vec<&str> = OBJECTS.iter().map(|(name, ..)| *name).collect();
            self.deploy(&project, &manifest(&project, doees), &objects)?;
            paths.extend(probes.iter().map(|probe| format!("/{project}/{}", probe.name)));
        }
        Ok(paths)
    }

    fn probe(&self, probe: &Probe, targets: &Table) -> Table {
        let mut params = targets.clone();
        params.insert("probe".to_owned(), probe.name.as_str().into());
        let memory = probe.manifest.get("memory_mb").and_then(Value::as_integer);
        params.insert("memory_mb".to_owned(), memory.unwrap_or(MEMORY_MB).into());
        let mut doee = self.doee(&probe.binary, params);
        doee.extend(probe.manifest.clone());
        doee
    }

    fn doee(&self, binary: &str, params: Table) -> Table {
        let mut doee = Table::new();
        doee.insert("binary".to_owned(), format!("{binary}.so").into());
        doee.insert("memory_mb".to_owned(), MEMORY_MB.into());
        let one = Table::from_iter([("min".to_owned(), 0.into()), ("max".to_owned(), 1.into())]);
        doee.insert("workers".to_owned(), one.into());
        doee.insert("params".to_owned(), params.into());
        if let Some(image) = &self.backend.image {
            doee.insert("isolation".to_owned(), self.backend.isolation.as_str().into());
            let name = image
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            doee.insert("image".to_owned(), name.into());
        }
        doee
    }

    fn deploy(&self, name: &str, manifest: &str, objects: &[&str]) -> Result<()> {
        let folder = self.scratch.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        fs::write(folder.join("project.toml"), manifest).context("cannot write a manifest")?;
        for object in objects {
            fs::copy(self.binaries.path(object), folder.join(format!("{object}.so")))
                .with_context(|| format!("cannot copy {object}.so"))?;
        }
        if let Some(image) = &self.backend.image {
            let place = folder.join(image.file_name().context("an image without a name")?);
            fs::copy(image, place).with_context(|| format!("cannot copy {}", image.display()))?;
        }
        let output = self
            .target
            .command(&["deploy"])
            .arg(&folder)
            .output()
            .context("cannot start isms deploy")?;
        fs::remove_dir_all(&folder).context("cannot remove a project's folder")?;
        if !output.status.success() {
            bail!(
                "{name} cannot be deployed: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }
}

impl Target {
    /// `isms` with this platform as its own.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.isms);
        command
            .args(arguments)
            .env("ISMS_URL", format!("http://{}", self.gate))
            .env("ISMS_TOKEN", &self.token);
        command
    }
}

/// A manifest of Doees with a route for each.
fn manifest(project: &str, doees: impl IntoIterator<Item = (String, Table)>) -> String {
    let doees = Table::from_iter(doees.into_iter().map(|(name, doee)| (name, doee.into())));
    let mut text = format!("[project]\nname = \"{project}\"\n\n");
    for name in doees.keys() {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "[[trigger]]\nhttp = \"GET /{name}\"\nauth = \"none\"\ndoee = \"{name}\"\n\n"
        );
    }
    text + &Table::from_iter([("doee".to_owned(), doees.into())]).to_string()
}
