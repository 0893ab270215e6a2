//! What it gains to send a worker calls before it has answered: one worker with many calls to do, with and without.

use anyhow::Result;

use super::{Bench, Figures, wrk};
use crate::platform::{Listen, Platform};

/// Calls in flight.
const DEPTH: u32 = 64;
const OFF: &str = "[workers]\nsent_ahead = false\n";

pub(super) fn measure(bench: &Bench<'_>, figures: &mut Figures) -> Result<()> {
    let without = Platform::start(bench.binaries, Listen::ANY, OFF)?;
    let with = Platform::start(bench.binaries, Listen::ANY, "")?;
    let load = |platform: &Platform| {
        let url = format!("http://{}/bench/single", platform.http);
        wrk::run(&url, DEPTH, bench.extent.load_s)
    };
    for platform in [&without, &with] {
        super::deploy(platform)?;
    }
    for _ in 0..bench.extent.rounds {
        let (without, with) = (load(&without)?, load(&with)?);
        figures.push("one_worker_c64_rate", "1/s", with.rate);
        figures.push("prefetch_gain", "", with.rate / without.rate);
    }
    Ok(())
}
