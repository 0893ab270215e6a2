//! `cargo xtask bench`: figures of one run, yardsticks beside them (benches/README.md explains each).

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    build::{self, Profile},
    command, install,
    platform::{Listen, Platform},
    progress::Steps,
    workspace,
};

mod ahead;
mod containers;
mod contention;
mod crowd;
mod deployed;
mod durable;
mod memory;
mod traces;
mod wrk;

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    rounds: usize,
    load_s: u32,
    samples: usize,
    starts: usize,
    crowds: usize,
}

impl Extent {
    /// Medians of five rounds.
    pub(crate) const FULL: Extent = Extent {
        rounds: 5,
        load_s: 3,
        samples: 100,
        starts: 5,
        crowds: 3,
    };
    /// One round, for a first look.
    pub(crate) const QUICK: Extent = Extent {
        rounds: 1,
        load_s: 1,
        samples: 30,
        starts: 1,
        crowds: 1,
    };
}

/// One measured value.
struct Sample {
    name: String,
    unit: String,
    value: f64,
}

/// All samples, by figure, in order of first appearance.
#[derive(Default)]
struct Figures {
    order: Vec<String>,
    samples: BTreeMap<String, (String, Vec<f64>)>,
}

impl Figures {
    fn add(&mut self, sample: Sample) {
        if !self.samples.contains_key(&sample.name) {
            self.order.push(sample.name.clone());
        }
        self.samples
            .entry(sample.name)
            .or_insert((sample.unit, Vec::new()))
            .1
            .push(sample.value);
    }

    fn push(&mut self, name: &str, unit: &str, value: f64) {
        self.add(Sample {
            name: name.to_owned(),
            unit: unit.to_owned(),
            value,
        });
    }

    fn median(&self, name: &str) -> Option<f64> {
        let mut values = self.samples.get(name)?.1.clone();
        values.sort_by(f64::total_cmp);
        Some(values[values.len() / 2])
    }

    fn rows(&self) -> Vec<Value> {
        let row = |name: &String| {
            let (unit, values) = &self.samples[name];
            // Ratios are small numbers.
            let digits = if unit.is_empty() { 100.0 } else { 10.0 };
            let value = (self.median(name).unwrap_or(0.0) * digits).round() / digits;
            json!({ "name": name, "unit": unit, "value": value, "n": values.len() })
        };
        self.order.iter().map(row).collect()
    }
}

/// What is measured together, by the name under which it can be asked for alone.
type Part = fn(&Bench<'_>, &mut Figures) -> Result<()>;
const PARTS: [(&str, Part); 9] = [
    ("starts", starts),
    ("calls", rounds),
    ("containers", containers::measure),
    ("contention", contention::measure),
    ("durable", durable::measure),
    ("ahead", ahead::measure),
    ("deployed", deployed::measure),
    ("crowd", crowd::measure),
    ("traces", traces::measure),
];

/// What every part needs.
struct Bench<'a> {
    binaries: &'a Path,
    /// The function that does nothing, compiled.
    noop: &'a Path,
    extent: Extent,
}

/// Measures the named parts, or all, prints the table and writes `target/bench/results.json`.
pub(crate) fn run(arguments: &[&str]) -> Result<ExitCode> {
    let is_quick = arguments.contains(&"--quick");
    let named: Vec<&str> = arguments
        .iter()
        .copied()
        .filter(|argument| *argument != "--quick")
        .collect();
    for name in &named {
        let names = PARTS.map(|(name, _)| name).join(", ");
        ensure!(
            PARTS.iter().any(|(part, _)| part == name),
            "there is no part {name} of the bench; choose from: {names}"
        );
    }
    let parts = PARTS
        .iter()
        .filter(|(name, _)| named.is_empty() || named.contains(name));
    let mut steps = Steps::new(3 + parts.clone().count());
    steps.run("tools", || {
        install::ensure_all(&[&install::C_COMPILER, &install::CPP_COMPILER, &install::WRK])
    })?;
    let binaries = steps.run("build", || {
        command::run(&mut command::cargo([
            "build",
            "--release",
            "--package",
            "isms-bench",
        ]))?;
        build::stage(Profile::Release)
    })?;
    let results = workspace::target().join("bench");
    fs::create_dir_all(&results).with_context(|| format!("cannot create {}", results.display()))?;
    let mut figures = Figures::default();
    let bench = Bench {
        binaries: &binaries,
        noop: &compile_noop(&results)?,
        extent: if is_quick { Extent::QUICK } else { Extent::FULL },
    };
    for (name, measure) in parts {
        steps.run(name, || measure(&bench, &mut figures))?;
    }
    let path = results.join("results.json");
    steps.run("results", || {
        fs::write(&path, serde_json::to_string_pretty(&figures.rows())?)
            .with_context(|| format!("cannot write {}", path.display()))
    })?;
    print(&figures);
    eprintln!("\nwritten to {}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// From `isms up` to its ready line; and what an idle platform takes.
fn starts(bench: &Bench<'_>, figures: &mut Figures) -> Result<()> {
    for _ in 0..bench.extent.starts {
        let started = Instant::now();
        let platform = Platform::start(bench.binaries, Listen::ANY, "")?;
        figures.push("ready_ms", "ms", started.elapsed().as_secs_f64() * 1e3);
        memory::settle(platform.pid());
        figures.push("platform_idle_mb", "MB", memory::pss_mb(platform.pid())?);
    }
    Ok(())
}

fn rounds(bench: &Bench<'_>, figures: &mut Figures) -> Result<()> {
    let platform = Platform::start(bench.binaries, Listen::ANY, "")?;
    deploy(&platform)?;
    let hello = AxumHello::start()?;
    let count = bench.extent.rounds;
    for round in 1..=count {
        eprintln!("      round {round} of {count}");
        one_round(&platform, &hello, bench, figures)?;
    }
    let kib = memory::worker_kib(platform.pid())?;
    figures.push("idle_worker_kib", "KiB", kib);
    Ok(())
}

/// Deploys what is called here.
fn deploy(platform: &Platform) -> Result<()> {
    let mut deploy = platform.isms();
    deploy
        .arg("deploy")
        .arg(workspace::root().join("benches/project"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command::run(&mut deploy)
}

fn one_round(platform: &Platform, hello: &AxumHello, bench: &Bench<'_>, figures: &mut Figures) -> Result<()> {
    let Bench {
        binaries,
        noop,
        extent,
    } = bench;
    let samples = extent.samples.to_string();
    for sample in probe(&["uds-echo", "5000"])? {
        figures.add(sample);
    }
    let axum = format!("http://{}/", hello.address);
    let doee_url = |path: &str| format!("http://{}/bench/{path}", platform.http);
    let one = wrk::run(&axum, 1, extent.load_s)?;
    figures.push("axum_hello_c1_p50", "µs", one.p50_us);
    let one = wrk::run(&doee_url("noop"), 1, extent.load_s)?;
    figures.push("warm_http_cpp_c1_p50", "µs", one.p50_us);
    figures.push("warm_http_cpp_c1_p99", "µs", one.p99_us);
    figures.push(
        "warm_select_c1_p50",
        "µs",
        wrk::run(&doee_url("select"), 1, extent.load_s)?.p50_us,
    );
    for sample in probe(&["fdatasync", &platform.data().to_string_lossy(), &samples])? {
        figures.add(sample);
    }
    figures.push(
        "warm_insert_c1_p50",
        "µs",
        wrk::run(&doee_url("insert"), 1, extent.load_s)?.p50_us,
    );
    figures.push(
        "axum_hello_c64_rate",
        "1/s",
        wrk::run(&axum, 64, extent.load_s)?.rate,
    );
    figures.push(
        "warm_http_cpp_c16_rate",
        "1/s",
        wrk::run(&doee_url("noop"), 16, extent.load_s)?.rate,
    );
    figures.push(
        "warm_http_cpp_c64_rate",
        "1/s",
        wrk::run(&doee_url("noop"), 64, extent.load_s)?.rate,
    );
    for sample in probe(&[
        "sandbox",
        &binaries.to_string_lossy(),
        &noop.to_string_lossy(),
        &samples,
    ])? {
        figures.add(sample);
    }
    Ok(())
}

fn bench_binary() -> PathBuf {
    workspace::target().join("release/isms-bench")
}

/// Runs a probe of the bench binary.
fn probe(arguments: &[&str]) -> Result<Vec<Sample>> {
    let output = Command::new(bench_binary())
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start isms-bench")?;
    ensure!(
        output.status.success(),
        "isms-bench {} failed: {}",
        arguments.join(" "),
        output.status
    );
    let text = String::from_utf8(output.stdout).context("isms-bench printed no text")?;
    text.lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line)?;
            let field = |name: &str| {
                row[name]
                    .as_str()
                    .map(str::to_owned)
                    .with_context(|| format!("no {name}"))
            };
            let value = row["value"].as_f64().context("no value")?;
            Ok(Sample {
                name: field("name")?,
                unit: field("unit")?,
                value,
            })
        })
        .collect()
}

/// The yardstick server; dropped, it is killed.
struct AxumHello {
    address: String,
    process: Child,
}

impl AxumHello {
    fn start() -> Result<AxumHello> {
        let mut process = Command::new(bench_binary())
            .arg("axum-hello")
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start isms-bench axum-hello")?;
        let stdout = process.stdout.take().context("it has no stdout")?;
        let mut address = String::new();
        BufReader::new(stdout).read_line(&mut address)?;
        Ok(AxumHello {
            address: address.trim().to_owned(),
            process,
        })
    }
}

impl Drop for AxumHello {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The function that does nothing, as the builder compiles it.
fn compile_noop(folder: &Path) -> Result<PathBuf> {
    let binary = folder.join("noop.so");
    let root = workspace::root();
    let mut compiler = Command::new("c++");
    compiler
        .args([
            "-std=c++20",
            "-O2",
            "-fPIC",
            "-shared",
            "-fvisibility=hidden",
            "-static-libstdc++",
            "-static-libgcc",
        ])
        .arg("-I")
        .arg(root.join("sdk/c/include"))
        .arg("-I")
        .arg(root.join("sdk/cpp/include"))
        .arg("-o")
        .arg(&binary)
        .arg(root.join("benches/project/doees/noop/noop.cpp"));
    command::run(&mut compiler)?;
    Ok(binary)
}

/// The targets: a figure, its bound as a text, and the bound's value from the same run.
fn targets(figures: &Figures) -> Vec<(&'static str, String, f64)> {
    let of = |name: &str| figures.median(name).unwrap_or(f64::NAN);
    vec![
        (
            "warm_http_cpp_c1_p50",
            "≤ 3 × axum hello".into(),
            3.0 * of("axum_hello_c1_p50"),
        ),
        (
            "warm_http_cpp_c64_rate",
            "≥ 0.3 × axum hello".into(),
            0.3 * of("axum_hello_c64_rate"),
        ),
        (
            "warm_select_c1_p50",
            "≤ 2.2 × no-op".into(),
            2.2 * of("warm_http_cpp_c1_p50"),
        ),
        ("warm_insert_c1_p50", "≤ select bound + 2 × fdatasync".into(), {
            2.2 * of("warm_http_cpp_c1_p50") + 2.0 * of("fdatasync_p50")
        }),
        (
            "cold_native_p50",
            "≤ 2.5 × fork+exec".into(),
            2.5 * of("fork_exec_p50"),
        ),
        ("pool_first_reply_p50", "≤ 0.5 ms".into(), 500.0),
        ("idle_worker_kib", "≤ 512 KiB".into(), 512.0),
        ("apptainer_warm_ratio", "≤ 1.2".into(), 1.2),
        ("priority_p99_ratio", "≤ 2".into(), 2.0),
        ("idle_1000_start_s", "≤ 10 s".into(), 10.0),
        ("idle_1000_p99_ratio", "≤ 2".into(), 2.0),
        ("platform_idle_mb", "≤ 80 MB".into(), 80.0),
        ("ready_ms", "≤ 2 s".into(), 2000.0),
        ("trace_cost_ratio", "≤ 1.03".into(), 1.03),
        ("trace_cost_p50_ratio", "≤ 1.03".into(), 1.03),
    ]
}

fn print(figures: &Figures) {
    let targets = targets(figures);
    println!("\n{:<24} {:>12} {:<4} target", "figure", "median", "unit");
    for row in figures.rows() {
        let (name, value) = (
            row["name"].as_str().unwrap_or(""),
            row["value"].as_f64().unwrap_or(0.0),
        );
        let target = targets
            .iter()
            .find(|(figure, ..)| *figure == name)
            .map(|(_, text, bound)| {
                let met = if text.starts_with('≥') {
                    value >= *bound
                } else {
                    value <= *bound
                };
                format!("{} {text} = {bound:.1}", if met { "met   " } else { "MISSED" })
            });
        println!(
            "{name:<24} {value:>12} {:<4} {}",
            row["unit"].as_str().unwrap_or(""),
            target.unwrap_or_default()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_median_of_its_samples_and_keeps_its_place() {
        let mut figures = Figures::default();
        for value in [3.0, 1.0, 2.0] {
            figures.push("b", "µs", value);
        }
        figures.push("a", "ms", 1.25);
        let rows = figures.rows();
        assert_eq!(
            rows[0],
            json!({ "name": "b", "unit": "µs", "value": 2.0, "n": 3 })
        );
        assert_eq!(
            rows[1],
            json!({ "name": "a", "unit": "ms", "value": 1.3, "n": 1 })
        );
    }
}
