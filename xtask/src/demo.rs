//! `cargo xtask demo`: the platform with the example, fed with real data.

use std::{
    fs,
    io::IsTerminal,
    net::TcpListener,
    path::Path,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    build::{self, Profile},
    command, install,
    platform::{Listen, Platform},
    progress::{Bar, Steps},
    workspace,
};

mod episodes;
mod replay;

use replay::{Monitor, Reading};

/// The machine of the example's data.
const MACHINE: &str = "m1";
/// The ports that README names; others when they are taken.
const PORTS: Listen<'static> = Listen {
    http: "127.0.0.1:8080",
    gate: "127.0.0.1:7070",
};

/// Runs the demo. `once`, or without a terminal, it ends after the replay.
pub(crate) fn run(once: bool) -> Result<ExitCode> {
    let once = once || !std::io::stdout().is_terminal();
    let mut steps = Steps::new(5);
    steps.run("tools", || {
        install::ensure_all(&[&install::C_COMPILER, &install::CPP_COMPILER])
    })?;
    let binaries = steps.run("build", || build::stage(Profile::Release))?;
    // Ctrl-C reaches the platform too; this process stays to clean up after it.
    signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::new(AtomicBool::new(false)))
        .context("cannot handle Ctrl-C")?;
    let mut platform = steps.run("start the platform", || {
        Platform::start(&binaries, ports(once), "")
    })?;
    let example = workspace::root().join("examples/machine-monitor");
    steps.run("deploy examples/machine-monitor", || {
        command::run(
            platform
                .isms()
                .arg("deploy")
                .arg(&example)
                .stdout(std::process::Stdio::null()),
        )
    })?;
    let readings = replay::readings(&example.join("data/machine_temperature_system_failure.csv"))?;
    let monitor = Monitor::new(&platform.http);
    steps.run("replay real data through HTTP, one request at a time", || {
        replay_all(&monitor, &readings)
    })?;
    let labels = fs::read_to_string(example.join("data/labels.json")).context("cannot read the labels")?;
    report(&monitor, &readings, &labels)?;
    if once {
        eprintln!(
            "\ndone in {}; run it in a terminal without --once to keep the platform",
            steps.elapsed()
        );
        return Ok(ExitCode::SUCCESS);
    }
    let token = platform.data().join("admin.token");
    println!("{}", next_steps(&platform.http, &platform.gate, &token));
    platform.wait()?;
    Ok(ExitCode::SUCCESS)
}

/// README's ports if both are free and the demo stays.
fn ports(once: bool) -> Listen<'static> {
    let free = |address: &str| TcpListener::bind(address).is_ok();
    if !once && free(PORTS.http) && free(PORTS.gate) {
        PORTS
    } else {
        Listen::ANY
    }
}

fn replay_all(monitor: &Monitor, readings: &[Reading]) -> Result<()> {
    let mut bar = Bar::new("readings", readings.len() as u64);
    for (index, reading) in readings.iter().enumerate() {
        monitor
            .post(MACHINE, reading)
            .with_context(|| format!("reading {} was not taken", index + 1))?;
        bar.set(index as u64 + 1);
    }
    bar.finish(readings.len() as u64);
    Ok(())
}

/// Prints what came of the replay; fails when a row is missing.
fn report(monitor: &Monitor, readings: &[Reading], labels: &str) -> Result<()> {
    let summary = monitor.summary(MACHINE)?;
    let anomalies = monitor.anomalies(MACHINE)?;
    let windows = episodes::windows(labels)?;
    println!("\n{}", episodes::table(&anomalies, &windows)?);
    println!("summary: {summary}");
    ensure_stored(&summary, readings.len())
}

fn ensure_stored(summary: &Value, sent: usize) -> Result<()> {
    let stored = summary["count"].as_u64().unwrap_or(0);
    ensure!(stored == sent as u64, "{stored} of {sent} readings are stored");
    Ok(())
}

fn next_steps(http: &str, gate: &str, token: &Path) -> String {
    format!(
        "\nThe platform stays until Ctrl-C. Try, in another terminal:\n\
         \n  curl http://{http}/machine-monitor/machines/{MACHINE}/summary\
         \n  export ISMS_URL=http://{gate} ISMS_TOKEN=$(cat {token})\
         \n  {isms} ps\
         \n  {isms} logs machine-monitor/anomaly -f\
         \n  {isms} new hello && {isms} deploy hello && curl http://{http}/hello/\n",
        token = token.display(),
        isms = workspace::target().join("stage/release/isms").display(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reading_that_was_not_stored_fails_the_demo() {
        ensure_stored(&json!({ "count": 22_695 }), 22_695).unwrap();
        let error = ensure_stored(&json!({ "count": 22_694 }), 22_695).unwrap_err();
        assert_eq!(error.to_string(), "22694 of 22695 readings are stored");
        ensure_stored(&json!({}), 22_695).unwrap_err();
    }

    #[test]
    fn the_next_steps_ask_the_running_platform_and_deploy_a_doee_of_ones_own() {
        let text = next_steps("127.0.0.1:1", "127.0.0.1:2", Path::new("d/admin.token"));
        for step in [
            "curl http://127.0.0.1:1/machine-monitor/machines/m1/summary",
            "export ISMS_URL=http://127.0.0.1:2 ISMS_TOKEN=$(cat d/admin.token)",
            "isms new hello",
            "isms deploy hello",
            "curl http://127.0.0.1:1/hello/",
        ] {
            assert!(text.contains(step), "{step} in {text}");
        }
    }
}
