//! Builds what runs, and stages it as an installation has it: host, executor and builder in one folder.
//!
//! The executor is built by itself in a target directory of its own: a build of the whole workspace
//! would unify features and link the roles' I/O into it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{command, workspace};

/// How binaries are compiled.
#[derive(Clone, Copy)]
pub(crate) enum Profile {
    /// Quick to build; what the tests run.
    Debug,
    /// What users run, what is measured.
    Release,
}

impl Profile {
    fn folder(self) -> &'static str {
        match self {
            Profile::Debug => "debug",
            Profile::Release => "release",
        }
    }

    /// What is built to get `isms`. For the tests it is everything that they will ask cargo for, so that
    /// the dependencies are compiled once, with one set of features.
    fn host(self) -> &'static [&'static str] {
        match self {
            Profile::Debug => &["--workspace", "--exclude", "xtask", "--bins", "--tests"],
            Profile::Release => &["--package", "isms", "--bins"],
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Profile::Debug => &[],
            Profile::Release => &["--release"],
        }
    }
}

/// Builds `isms` and the executor's binaries; returns the folder that holds all of them.
pub(crate) fn stage(profile: Profile) -> Result<PathBuf> {
    let stage = workspace::target().join("stage").join(profile.folder());
    fs::create_dir_all(&stage).with_context(|| format!("cannot create {}", stage.display()))?;
    let executor = executor(profile)?;
    command::run(
        command::cargo(["build"])
            .args(profile.host())
            .args(profile.flags()),
    )?;
    copy_binaries(&executor, &["doee-executor", "doee-builder"], &stage)?;
    copy_binaries(&workspace::target().join(profile.folder()), &["isms"], &stage)?;
    Ok(stage)
}

/// Builds the integration tests of a package with what [`stage`] builds for tests; returns their binary.
pub(crate) fn test_binary(package: &str) -> Result<PathBuf> {
    let mut build = command::cargo(["build", "--message-format=json-render-diagnostics"]);
    build.args(Profile::Debug.host()).stderr(Stdio::inherit());
    let output = build.output().context("cannot start cargo")?;
    ensure!(output.status.success(), "the tests do not build");
    let text = String::from_utf8_lossy(&output.stdout);
    let manifest = format!("/{package}/Cargo.toml");
    let is_it = |message: &Value| {
        let path = message["manifest_path"].as_str().unwrap_or_default();
        path.ends_with(&manifest) && message["target"]["kind"][0] == "test"
    };
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(is_it)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo names no test binary of {package}"))
}

/// Builds the executor as users run it; returns its path.
pub(crate) fn executor_release() -> Result<PathBuf> {
    Ok(executor(Profile::Release)?.join("doee-executor"))
}

/// Builds the executor's binaries; returns the folder that holds them.
fn executor(profile: Profile) -> Result<PathBuf> {
    let target = workspace::target().join("executor");
    let mut build = command::cargo(["build", "--package", "isms-executor", "--bins", "--target-dir"]);
    command::run(build.arg(&target).args(profile.flags()))?;
    Ok(target.join(profile.folder()))
}

fn copy_binaries(from: &Path, names: &[&str], stage: &Path) -> Result<()> {
    for name in names {
        let (source, target, fresh) = (
            from.join(name),
            stage.join(name),
            stage.join(format!("{name}.new")),
        );
        fs::copy(&source, &fresh).with_context(|| format!("cannot copy {}", source.display()))?;
        // By rename, because a running binary cannot be written to.
        fs::rename(&fresh, &target).with_context(|| format!("cannot replace {}", target.display()))?;
    }
    Ok(())
}
