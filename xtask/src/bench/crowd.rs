//! A thousand idle workers: how long their start takes, and what others notice of it.

use std::{
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use super::{Extent, Figures, memory, wrk};
use crate::{
    command,
    platform::{Listen, Platform},
    workspace,
};

const WORKERS: usize = 1000;
/// A start that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at the processes, each of which reads some thousand files.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Calls one Doee before and while a pool of a thousand sandboxes fills.
pub(super) fn measure(binaries: &Path, extent: Extent, figures: &mut Figures) -> Result<()> {
    let mut platform = Platform::start(binaries, Listen::ANY, "")?;
    let project = workspace::root().join("benches/project");
    let mut deploy = platform.isms();
    deploy
        .arg("deploy")
        .arg(project)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command::run(&mut deploy)?;
    let quiet = wrk::run(&noop(&platform), 1, extent.load_s)?;
    let settings = format!("[workers]\nmax = {}\npool = {WORKERS}\n", WORKERS + 8);
    platform.restart(&settings)?;
    let started = Instant::now();
    let url = noop(&platform);
    let seconds = extent.load_s;
    let load = thread::spawn(move || wrk::once(&url, 1, seconds));
    while memory::executors(platform.pid()) < WORKERS {
        if started.elapsed() > PATIENCE {
            bail!("{WORKERS} workers did not start within {PATIENCE:?}");
        }
        thread::sleep(LOOK_INTERVAL);
    }
    figures.push("idle_1000_start_s", "s", started.elapsed().as_secs_f64());
    let Ok(crowded) = load.join() else {
        bail!("the load broke off")
    };
    figures.push("idle_1000_p99_ratio", "", crowded?.p99_us / quiet.p99_us);
    Ok(())
}

fn noop(platform: &Platform) -> String {
    format!("http://{}/bench/noop", platform.http)
}
