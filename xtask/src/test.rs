//! `cargo xtask test`: everything that CI checks, in the order in which it fails fastest.
//!
//! A check that fails does not hide the next one, except that nothing runs after a failed build. The
//! last line on stdout holds the counts alone: `N passed, N failed, N skipped`.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    build::{self, Profile},
    command, hostile, image, install, ledger,
    progress::Steps,
    report::Report,
    workspace,
};

/// What a whole run is called where it is kept.
const RUN: &str = "test";

/// How much is tested.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// What CI runs.
    Everything,
    /// All but the tests that start the platform.
    WithoutWholeSystem,
}

/// What was found or installed.
struct Tools {
    /// PATH, with a python3 that imports zmq in front where there is one.
    path: OsString,
    apptainer: bool,
}

/// What tests find in their environment.
struct TestEnvironment {
    /// Folder of `isms`, `doee-executor` and `doee-builder`.
    binaries: PathBuf,
    /// For containers; none where there are no containers.
    image: Option<PathBuf>,
    path: OsString,
}

/// Runs all checks; the exit code is 0 only when nothing failed.
pub(crate) fn run(extent: Extent) -> Result<ExitCode> {
    let mut steps = Steps::new(8);
    let mut report = Report::default();
    ledger::forget(RUN);
    match steps.run("tools", install_tools) {
        Ok(tools) => run_checks(extent, tools, &mut steps, &mut report),
        Err(_) => report.add_failure("tools"),
    }
    eprintln!("finished in {}", steps.elapsed());
    if extent == Extent::Everything && has_nextest() {
        eprintln!("{}", ledger::keep(RUN, &report));
    }
    if report.is_success() {
        eprintln!("next: `cargo xtask demo` shows the platform at work");
    }
    println!("{report}");
    Ok(if report.is_success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run_checks(extent: Extent, tools: Tools, steps: &mut Steps, report: &mut Report) {
    check(steps, report, "format", || {
        command::run(&mut command::cargo(["fmt", "--all", "--check"]))
    });
    check(steps, report, "clippy", clippy);
    tests(steps, report, "xtask and tidy", || {
        libtest(command::cargo(["test", "--package", "xtask"]))
    });
    match steps.run("build", || build(extent, tools)) {
        Ok(environment) => {
            tests(steps, report, "tests", || workspace_tests(extent, &environment));
            tests(steps, report, "documentation tests", doc_tests);
            if extent == Extent::Everything {
                tests(steps, report, "tests in a virtual machine", || {
                    hostile::test_in_guest(&environment.binaries, hostile::Part::Quick)
                });
            }
        }
        Err(_) => report.add_failure("build"),
    }
}

fn build(extent: Extent, tools: Tools) -> Result<TestEnvironment> {
    let binaries = build::stage(Profile::Debug)?;
    let wanted = tools.apptainer && extent == Extent::Everything;
    let image = wanted.then(|| image::minimal(&binaries.join("doee-executor"), "tests"));
    let image = image.and_then(|image| {
        image
            .inspect_err(|error| eprintln!("no image, so tests on one will skip: {error:#}"))
            .ok()
    });
    Ok(TestEnvironment {
        binaries,
        image,
        path: tools.path,
    })
}

/// A step that passes or fails as a whole.
fn check(steps: &mut Steps, report: &mut Report, title: &str, step: impl FnOnce() -> Result<()>) {
    if steps.run(title, step).is_err() {
        report.add_failure(title);
    }
}

/// A step of many tests. One that breaks off, such as by a compiler error, fails as a whole.
fn tests(steps: &mut Steps, report: &mut Report, title: &str, step: impl FnOnce() -> Result<Report>) {
    match steps.run(title, step) {
        Ok(outcome) => report.add(outcome),
        Err(_) => report.add_failure(title),
    }
}

fn install_tools() -> Result<Tools> {
    install::ensure_all(&[
        &install::C_COMPILER,
        &install::CPP_COMPILER,
        &install::PYTHON,
        &install::MKSQUASHFS,
    ])?;
    install::ensure_rust_components()?;
    let apptainer = install::ensure_apptainer()
        .inspect_err(|error| eprintln!("no Apptainer, so tests on it will skip: {error:#}"))
        .is_ok();
    let mut path = env::var_os("PATH").unwrap_or_default();
    match install::ensure_pyzmq() {
        Ok(python) => {
            let folders = std::iter::once(python).chain(env::split_paths(&path));
            path = env::join_paths(folders).context("cannot put Python's environment into PATH")?;
        }
        Err(error) => eprintln!("no pyzmq, so tests against libzmq will skip: {error:#}"),
    }
    Ok(Tools { path, apptainer })
}

fn clippy() -> Result<()> {
    command::run(&mut command::cargo([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))
}

fn workspace_tests(extent: Extent, environment: &TestEnvironment) -> Result<Report> {
    if has_nextest() {
        return nextest(extent, environment);
    }
    let mut test = command::cargo([
        "test",
        "--workspace",
        "--all-targets",
        "--no-fail-fast",
        "--exclude",
        "xtask",
    ]);
    if extent == Extent::WithoutWholeSystem {
        test.args(["--exclude", "isms"]);
    }
    environment.apply(&mut test);
    libtest(test)
}

/// Without it, tests of the same name in two crates cannot be told apart.
fn has_nextest() -> bool {
    command::succeeds(&mut command::cargo(["nextest", "--version"]))
}

fn doc_tests() -> Result<Report> {
    libtest(command::cargo(["test", "--workspace", "--doc", "--no-fail-fast"]))
}

fn nextest(extent: Extent, environment: &TestEnvironment) -> Result<Report> {
    let store = workspace::target().join("nextest");
    let config = nextest_config(&store)?;
    let junit = store.join("xtask/junit.xml");
    remove_if_present(&junit)?;
    let mut test = command::cargo([
        "nextest",
        "run",
        "--profile",
        "xtask",
        "--workspace",
        "--exclude",
        "xtask",
    ]);
    test.arg("--config-file").arg(config);
    if extent == Extent::WithoutWholeSystem {
        test.args(["--exclude", "isms"]);
    }
    environment.apply(&mut test);
    let outcome = command::run(&mut test);
    let Ok(xml) = fs::read_to_string(&junit) else {
        outcome?;
        bail!("nextest wrote no report to {}", junit.display());
    };
    let report = Report::from_junit(&xml);
    if report.is_success() {
        outcome?;
    }
    Ok(report)
}

/// Writes the repository's settings of nextest with one more: its reports go to the target directory,
/// which nextest would otherwise take to be `target` below the root, wherever cargo's is.
fn nextest_config(store: &Path) -> Result<PathBuf> {
    let ours = workspace::root().join(".config/nextest.toml");
    let settings = fs::read_to_string(&ours).with_context(|| format!("cannot read {}", ours.display()))?;
    let config = store.join("config.toml");
    let directory = serde_json::to_string(store).context("the target directory's name is not text")?;
    fs::create_dir_all(store).with_context(|| format!("cannot create {}", store.display()))?;
    fs::write(&config, format!("[store]\ndir = {directory}\n\n{settings}"))
        .with_context(|| format!("cannot write {}", config.display()))?;
    Ok(config)
}

impl TestEnvironment {
    fn apply(&self, command: &mut Command) {
        command
            .env("ISMS_BIN_DIR", &self.binaries)
            .env("PATH", &self.path);
        match &self.image {
            Some(image) => command.env("ISMS_IMAGE", image),
            None => command.env_remove("ISMS_IMAGE"),
        };
    }
}

/// Runs `cargo test`, shows its output as it comes, and counts. What passing tests wrote is read, not shown.
fn libtest(mut test: Command) -> Result<Report> {
    test.args(["--", "--show-output"]).stdout(Stdio::piped());
    let quoted = command::quote(&test);
    let mut child = test.spawn().with_context(|| format!("cannot start `{quoted}`"))?;
    let stdout = child
        .stdout
        .take()
        .context("the output of the tests is not piped")?;
    let mut output = String::new();
    let mut shown = true;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("cannot read the output of the tests")?;
        let line = String::from_utf8_lossy(&line);
        match line.as_ref() {
            "successes:" => shown = false,
            "failures:" => shown = true,
            line => shown |= line.starts_with("test result: "),
        }
        if shown && !line.is_empty() {
            eprintln!("{line}");
        }
        output.push_str(&line);
        output.push('\n');
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for `{quoted}`"))?;
    let report = Report::from_libtest(&output);
    if !status.success() && report.is_success() {
        bail!("`{quoted}` failed before or beside its tests: {status}");
    }
    Ok(report)
}

fn remove_if_present(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(anyhow!(error).context(format!("cannot remove {}", path.display())))
        }
        _ => Ok(()),
    }
}
