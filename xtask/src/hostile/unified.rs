//! The sandbox's tests and the hostile suite in a guest, under control groups of version 2: as root with a hierarchy of
//! its own, and the tests also as an ordinary user with a group that was delegated to it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};
use isms_hostile::catalogue;

use super::{
    ablation,
    guest::{Equipment, Guest},
    identities,
};
use crate::{
    build::{self, Profile},
    command, install, ledger,
    progress::Steps,
    report::Report,
    workspace,
};

/// What the guest's part of the tests is called in a report.
const NAME: &str = "guest";

/// The tests that run where a guest is emulated and everything would take too long: those of control groups.
const ESSENTIAL: &str = "limits::";

/// How much is tested.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything, however long an emulated guest takes.
    All,
    /// Everything where it runs on the hardware, else the [`ESSENTIAL`].
    Quick,
}

/// `cargo xtask guest`: builds and tests; the exit code is 0 only when nothing failed.
pub(crate) fn run(part: Part) -> Result<ExitCode> {
    let mut steps = Steps::new(2);
    ledger::forget(NAME);
    let binaries = steps.run("build", || build::stage(Profile::Debug))?;
    let report = steps.run("test in a virtual machine", || test(&binaries, part))?;
    if part == Part::All {
        eprintln!("{}", ledger::keep(NAME, &report));
    }
    println!("{report}");
    Ok(if report.is_success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Tests what was built for the tests. Where no guest can be had that is one test, skipped.
pub(crate) fn test(binaries: &Path, part: Part) -> Result<Report> {
    let mut report = Report::default();
    if let Err(error) = install::ensure_guest() {
        report.add_skipped(NAME, &format!("{error:#}"));
        return Ok(report);
    }
    let tests = build::test_binary("isms-sandbox")?;
    let guest = prepare(binaries, &tests)?;
    let quick = part == Part::Quick && !guest.is_accelerated();
    let filter = if quick { ESSENTIAL } else { "" };
    report.add(identities::test(&guest, &tests, filter)?);
    if quick {
        let reason =
            format!("without hardware virtualisation only {ESSENTIAL} runs; `cargo xtask guest` runs all");
        report.add_skipped(NAME, &reason);
        return Ok(report);
    }
    let outcomes = ablation::attack(&guest, &catalogue(), "")?;
    let attacked = isms_hostile::Report::new("native", outcomes);
    eprintln!("    {attacked}, under control groups of version 2");
    if attacked.is_contained() {
        // By this name a run with less of it has skipped it.
        report.add_passed(NAME);
    } else {
        eprintln!("{}", attacked.table(false));
        report.add_failure(format!("{NAME}: {attacked}"));
    }
    Ok(report)
}

fn prepare(binaries: &Path, tests: &Path) -> Result<Guest> {
    if let Err(error) = install::ensure_apptainer() {
        eprintln!("no Apptainer, so tests on it will skip: {error:#}");
    }
    let compiled = workspace::target().join("hostile");
    let probes = isms_hostile::compile(workspace::root(), &compiled.join("probes"))?;
    let (executor, library) = compile_for_tests(&compiled)?;
    let mut files: Vec<(String, PathBuf)> = ["isms", "doee-executor", "doee-builder"]
        .map(|name| (name.to_owned(), binaries.join(name)))
        .into();
    files.push((
        "xtask".to_owned(),
        std::env::current_exe().context("cannot find the own binary")?,
    ));
    files.push(("tests".to_owned(), tests.to_owned()));
    files.push(("compiled/executor".to_owned(), executor));
    files.push(("compiled/doee.so".to_owned(), library));
    files.extend(
        probes
            .files()
            .map(|(name, file)| (format!("probes/{name}"), file)),
    );
    Guest::prepare("unified", &files, Equipment::Images)
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
