//! What traces cost: the same calls on two platforms, one of which traces as it does by default and the other nothing.

use anyhow::Result;

use super::{Bench, Figures, wrk};
use crate::platform::{Listen, Platform};

/// Pairs of rounds for each round of the other parts: the machine moves by more than what is looked for.
const PAIRS: usize = 6;
/// Calls in flight.
const DEPTH: u32 = 16;
/// How long each side of a pair is loaded: short, so that both meet the same machine.
const SECONDS: u32 = 1;
const OFF: &str = "[traces]\nper_s = 0\n";

pub(super) fn measure(bench: &Bench<'_>, figures: &mut Figures) -> Result<()> {
    let off = Platform::start(bench.binaries, Listen::ANY, OFF)?;
    let on = Platform::start(bench.binaries, Listen::ANY, "")?;
    for platform in [&off, &on] {
        super::deploy(platform)?;
        wrk::once(&url(platform), DEPTH, 2 * SECONDS)?;
    }
    for pair in 0..PAIRS * bench.extent.rounds {
        // What comes second meets a machine that is warmer, or that slows down.
        let (first, second) = if pair % 2 == 0 { (&off, &on) } else { (&on, &off) };
        let deep = both(first, second, DEPTH)?;
        let single = both(first, second, 1)?;
        let [without, with] = if pair % 2 == 0 { [0, 1] } else { [1, 0] };
        figures.push("trace_cost_ratio", "", deep[without].rate / deep[with].rate);
        figures.push(
            "trace_cost_p50_ratio",
            "",
            single[with].p50_us / single[without].p50_us,
        );
    }
    Ok(())
}

fn both(first: &Platform, second: &Platform, connections: u32) -> Result<[wrk::Load; 2]> {
    Ok([
        wrk::once(&url(first), connections, SECONDS)?,
        wrk::once(&url(second), connections, SECONDS)?,
    ])
}

fn url(platform: &Platform) -> String {
    format!("http://{}/bench/noop", platform.http)
}
