//! Urgent calls, one at a time, beside batch calls that want three times what there is.

use std::{thread, time::Duration};

use anyhow::{Result, bail};

use super::{Bench, Figures, wrk};
use crate::platform::{Listen, Platform};

/// Batch calls in flight: three times as many as fill every worker.
const BATCH: u32 = 3 * 64;
/// What the load runs for beside the time that is measured, before and after.
const MARGIN_S: u32 = 1;

/// Where the urgent calls and the batch calls meet, and by which routes they come.
const CASES: [(&str, &str, &str); 3] = [
    ("other", "urgent/noop", "busy"),
    ("same", "urgent/noop", "batch/noop"),
    ("dbriver", "urgent/select", "batch/insert"),
];

/// The 99th percentile of the urgent calls under load over the same without, in each case; and the worst of them.
pub(super) fn measure(bench: &Bench<'_>, figures: &mut Figures) -> Result<()> {
    let platform = Platform::start(bench.binaries, Listen::ANY, "")?;
    super::deploy(&platform)?;
    let url = |path: &str| format!("http://{}/bench/{path}", platform.http);
    for _ in 0..bench.extent.rounds {
        let mut worst = 0.0_f64;
        for (case, urgent, batch) in CASES {
            let seconds = bench.extent.load_s;
            let alone = wrk::run(&url(urgent), 1, seconds)?;
            let crowded = under_load(&url(urgent), &url(batch), seconds)?;
            let ratio = crowded.p99_us / alone.p99_us;
            figures.push(&format!("priority_p99_ratio_{case}"), "", ratio);
            worst = worst.max(ratio);
        }
        figures.push("priority_p99_ratio", "", worst);
    }
    Ok(())
}

/// Calls one while the other is called all the time.
fn under_load(urgent: &str, batch: &str, seconds: u32) -> Result<wrk::Load> {
    thread::scope(|scope| {
        let load = scope.spawn(|| wrk::once(batch, BATCH, seconds + 2 * MARGIN_S));
        thread::sleep(Duration::from_secs(MARGIN_S.into()));
        let measured = wrk::once(urgent, 1, seconds);
        match load.join() {
            Ok(load) => load.and(measured),
            Err(_) => bail!("the load broke off"),
        }
    })
}
