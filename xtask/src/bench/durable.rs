//! Durable calls: how fast they are acknowledged, beside the same calls that are not durable and a sync of the disk; and what
//! a busy journal does to calls that have nothing to do with it.

use std::{thread, time::Duration};

use anyhow::{Result, bail};

use super::{Bench, Figures, probe, wrk};
use crate::platform::{Listen, Platform};

/// Calls in flight at depth.
const DEPTH: u32 = 256;
/// How long calls are accepted at depth: they are accepted faster than they run, and the queue must not be full.
const DEPTH_S: u32 = 1;
/// What the load runs for beside the time that is measured, before and after.
const MARGIN_S: u32 = 1;
/// Results are forgotten at once, so that no number of them that is kept is the limit.
const SETTINGS: &str = "[results]\nkeep_s = 1\n";
/// Asks for an asynchronous call.
const ASYNC: &str = "prefer: respond-async";

pub(super) fn measure(bench: &Bench<'_>, figures: &mut Figures) -> Result<()> {
    let platform = Platform::start(bench.binaries, Listen::ANY, SETTINGS)?;
    super::deploy(&platform)?;
    let url = |path: &str| format!("http://{}/bench/{path}", platform.http);
    let seconds = bench.extent.load_s;
    for _ in 0..bench.extent.rounds {
        for sample in probe(&[
            "fdatasync",
            &platform.data().to_string_lossy(),
            &bench.extent.samples.to_string(),
        ])? {
            figures.add(sample);
        }
        let durable = wrk::with_header(&url("noop"), ASYNC, 1, seconds)?;
        figures.push("async_p50", "µs", durable.p50_us);
        let volatile = wrk::with_header(&url("volatile"), ASYNC, 1, seconds)?;
        figures.push("async_volatile_p50", "µs", volatile.p50_us);
        let depth = wrk::with_header(&url("noop"), ASYNC, DEPTH, DEPTH_S)?;
        figures.push("async_rate", "1/s", depth.rate);
        let depth = wrk::with_header(&url("volatile"), ASYNC, DEPTH, DEPTH_S)?;
        figures.push("async_volatile_rate", "1/s", depth.rate);
        let beside_volatile = beside(&url("select"), &url("volatile"), seconds)?;
        let beside_durable = beside(&url("select"), &url("noop"), seconds)?;
        let ratio = beside_durable.p99_us / beside_volatile.p99_us;
        figures.push("journal_p99_ratio", "", ratio);
    }
    Ok(())
}

/// Calls one, while the other is called asynchronously all the time.
fn beside(measured: &str, load: &str, seconds: u32) -> Result<wrk::Load> {
    thread::scope(|scope| {
        let load = scope.spawn(|| wrk::with_header(load, ASYNC, 1, seconds + 2 * MARGIN_S));
        thread::sleep(Duration::from_secs(MARGIN_S.into()));
        let measured = wrk::once(measured, 1, seconds);
        match load.join() {
            Ok(load) => load.and(measured),
            Err(_) => bail!("the load broke off"),
        }
    })
}
