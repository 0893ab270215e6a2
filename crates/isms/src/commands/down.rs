//! `isms down`: stops the platform that uses a data directory. That none does is an error: whoever mistypes the
//! directory must not believe that it was stopped.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

use crate::{
    cli::PlatformArgs,
    client::Unreachable,
    data_dir::{FORMAT_FILE, running_supervisor},
    settings::default_data_dir,
};

/// Every wave of the supervisor's stop may take its drain time.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);

pub(crate) fn run(args: &PlatformArgs) -> Result<()> {
    let data = args.data.clone().map_or_else(default_data_dir, Ok)?;
    let Some((pid, _)) = running_supervisor(&data)? else {
        report(args, false, None)?;
        let is_data = data.join(FORMAT_FILE).exists();
        bail!(Unreachable(format!(
            "nothing was stopped: no platform runs on {}{}; name the data directory of the one to stop with --data DIR",
            data.display(),
            if is_data {
                ""
            } else {
                ", which is no data directory"
            }
        )));
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
    report(args, true, Some("stopped"))
}

fn report(args: &PlatformArgs, stopped: bool, text: Option<&str>) -> Result<()> {
    if args.json {
        println!("{}", serde_json::json!({ "stopped": stopped }));
    } else if let Some(text) = text {
        eprintln!("{text}");
    }
    Ok(())
}
