//! A thousand idle workers: how long their start takes, and what others notice of it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use super::{Bench, Figures, memory, wrk};
use crate::platform::{Listen, Platform};

const WORKERS: usize = 1000;
/// A start that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at the processes, each of which reads some thousand files.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Seconds of load that are looked at together; the worst ones count.
const WINDOW_S: u32 = 1;

/// Calls one Doee before and while a pool of a thousand sandboxes fills.
pub(super) fn measure(bench: &Bench<'_>, figures: &mut Figures) -> Result<()> {
    (0..bench.extent.crowds).try_for_each(|_| measure_once(bench, figures))
}

fn measure_once(bench: &Bench<'_>, figures: &mut Figures) -> Result<()> {
    let &Bench { binaries, extent, .. } = bench;
    let mut platform = Platform::start(binaries, Listen::ANY, "")?;
    super::deploy(&platform)?;
    wrk::once(&noop(&platform), 1, WINDOW_S)?;
    let mut windows = extent.load_s;
    let quiet = worst_p99(&noop(&platform), || {
        windows -= 1;
        windows > 0
    })?;
    let settings = format!("[workers]\nmax = {}\npool = {WORKERS}\n", WORKERS + 8);
    platform.restart(&settings)?;
    let started = Instant::now();
    let url = noop(&platform);
    let full = AtomicBool::new(false);
    let (started_in, crowded) = thread::scope(|scope| {
        let load = scope.spawn(|| worst_p99(&url, || !full.load(Ordering::Relaxed)));
        let filled = fill(&platform, started);
        full.store(true, Ordering::Relaxed);
        (filled, load.join())
    });
    figures.push("idle_1000_start_s", "s", started_in?.as_secs_f64());
    let Ok(crowded) = crowded else {
        bail!("the load broke off")
    };
    figures.push("idle_1000_p99_ratio", "", crowded? / quiet);
    Ok(())
}

/// Waits until all workers are there.
fn fill(platform: &Platform, started: Instant) -> Result<Duration> {
    while memory::executors(platform.pid()) < WORKERS {
        if started.elapsed() > PATIENCE {
            bail!("{WORKERS} workers did not start within {PATIENCE:?}");
        }
        thread::sleep(LOOK_INTERVAL);
    }
    Ok(started.elapsed())
}

/// The worst of the windows' 99th percentiles, in µs.
fn worst_p99(url: &str, mut goes_on: impl FnMut() -> bool) -> Result<f64> {
    let mut worst = 0.0_f64;
    loop {
        worst = worst.max(wrk::once(url, 1, WINDOW_S)?.p99_us);
        if !goes_on() {
            return Ok(worst);
        }
    }
}

fn noop(platform: &Platform) -> String {
    format!("http://{}/bench/noop", platform.http)
}
