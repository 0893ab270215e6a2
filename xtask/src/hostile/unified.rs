//! `cargo xtask guest`: the sandbox's tests and the hostile suite under control groups of version 2, as root with a
//! hierarchy of its own and as an ordinary user with a group that was delegated to it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, ensure};
use isms_hostile::{Report, catalogue};
use serde_json::Value;

use super::{ablation, guest::Guest, show};
use crate::{
    build::{self, Profile},
    command, install,
    progress::Steps,
    workspace,
};

/// Runs all three; the exit code is 0 only when every test passed and every probe was contained.
pub(crate) fn run() -> Result<ExitCode> {
    let mut steps = Steps::new(4);
    if let Err(error) = install::ensure_all(&[&install::QEMU]) {
        eprintln!("SKIPPED: there is no virtual machine: {error:#}");
        return Ok(ExitCode::SUCCESS);
    }
    let guest = steps.run("build", prepare)?;
    steps.run("test the sandbox as root", || test(&guest, "tests"))?;
    steps.run(
        "test the sandbox as an ordinary user with a delegated group",
        || test(&guest, "user-tests"),
    )?;
    let outcomes = steps.run("attack the platform", || {
        ablation::attack(&guest, &catalogue(), "")
    })?;
    let report = Report::new("native", outcomes);
    show(&report, false)?;
    Ok(if report.is_contained() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn prepare() -> Result<Guest> {
    install::ensure_all(&[&install::C_COMPILER])?;
    let stage = build::stage(Profile::Release)?;
    let compiled = workspace::target().join("hostile");
    let probes = isms_hostile::compile(workspace::root(), &compiled.join("probes"))?;
    let (executor, library) = compile_for_tests(&compiled)?;
    let mut files: Vec<(String, PathBuf)> = ["isms", "doee-executor", "doee-builder"]
        .map(|name| (name.to_owned(), stage.join(name)))
        .into();
    files.push((
        "xtask".to_owned(),
        std::env::current_exe().context("cannot find the own binary")?,
    ));
    files.push(("tests".to_owned(), sandbox_tests()?));
    files.push(("compiled/executor".to_owned(), executor));
    files.push(("compiled/doee.so".to_owned(), library));
    files.extend(
        probes
            .files()
            .map(|(name, file)| (format!("probes/{name}"), file)),
    );
    Guest::prepare("unified", &files)
}

/// What the sandbox's tests would compile if there were a compiler in the guest.
fn compile_for_tests(folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let (executor, library) = (folder.join("executor"), folder.join("doee.so"));
    let source = workspace::root().join("crates/isms-sandbox/tests/it/executor.c");
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-o"]).arg(&executor).arg(source);
    command::run(cc.args(["-ldl", "-lpthread"]))?;
    let source = folder.join("doee.c");
    fs::write(&source, "int doee(void) { return 7; }\n").context("cannot write a source")?;
    let mut cc = Command::new("cc");
    command::run(cc.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source))?;
    Ok((executor, library))
}

/// Builds the integration tests of isms-sandbox and finds their binary.
fn sandbox_tests() -> Result<PathBuf> {
    let mut cargo = command::cargo([
        "test",
        "--package",
        "isms-sandbox",
        "--test",
        "it",
        "--no-run",
        "--message-format=json",
    ]);
    let output = cargo.output().context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "the tests do not build: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let built = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "it")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    built.context("cargo names no test binary")
}

/// Runs them inside; all must pass, and none may be skipped for want of isolation.
fn test(guest: &Guest, run: &str) -> Result<()> {
    let (mut result, mut skipped) = (None, Vec::new());
    guest.boot(&format!("isms.run={run}"), |line| {
        if line.starts_with("test ") && !line.contains("SKIPPED: ") {
            eprintln!("    {line}");
        }
        if line.starts_with("test result: ") {
            result = Some(line.to_owned());
        }
        if line.contains("SKIPPED: ") {
            skipped.push(line.to_owned());
        }
    })?;
    for line in skipped {
        eprintln!("    {line}");
    }
    let result =
        result.with_context(|| format!("the tests did not end; see {}", guest.console().display()))?;
    ensure!(
        result.starts_with("test result: ok"),
        "{result}; see {}",
        guest.console().display()
    );
    Ok(())
}
