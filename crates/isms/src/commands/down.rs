//! `isms down`: stops the platform that uses a data directory.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

use crate::{cli::PlatformArgs, data_dir::running_supervisor, settings::default_data_dir};

/// Every wave of the supervisor's stop may take its drain time.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);

pub(crate) fn run(args: &PlatformArgs) -> Result<()> {
    let data = args.data.clone().map_or_else(default_data_dir, Ok)?;
    let Some((pid, _)) = running_supervisor(&data)? else {
        return report(args, false, &format!("no platform runs on {}", data.display()));
    };
    let process = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("the lock file holds no process number")?;
    rustix::process::kill_process(process, Signal::TERM)
        .with_context(|| format!("cannot stop process {pid}; are you its user?"))?;
    let until = Instant::now() + STOP_TIMEOUT;
    while running_supervisor(&data)?.is_some() {
        if Instant::now() > until {
            bail!(
                "process {pid} has not stopped within {} s; its log says what it waits for",
                STOP_TIMEOUT.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    report(args, true, "stopped")
}

fn report(args: &PlatformArgs, stopped: bool, text: &str) -> Result<()> {
    if args.json {
        println!("{}", serde_json::json!({ "stopped": stopped }));
    } else {
        eprintln!("{text}");
    }
    Ok(())
}
