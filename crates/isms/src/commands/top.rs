//! `isms top`: how calls go, by function and class; live on a terminal, once elsewhere.

use std::{collections::BTreeMap, io::IsTerminal, time::Duration};

use anyhow::Result;
use serde::Deserialize;

use crate::{
    cli::TopArgs,
    client::{Client, Unreachable},
    output::{bold, duration_us, plain, red, table},
};

/// How often a live table is drawn.
const INTERVAL: Duration = Duration::from_secs(2);
const PATH: &str = "/api/v1/calls";

/// What the platform says, as far as it is shown.
#[derive(Clone, Debug, Deserialize)]
struct Calls {
    buckets_us: Vec<u64>,
    calls: Vec<Doee>,
}

#[derive(Clone, Debug, Deserialize)]
struct Doee {
    project_name: Option<String>,
    doee: Option<String>,
    version: Option<String>,
    queued: u64,
    running: u64,
    classes: Vec<Class>,
}

#[derive(Clone, Debug, Deserialize)]
struct Class {
    class: String,
    outcomes: BTreeMap<String, u64>,
    deadlines: BTreeMap<String, u64>,
    waited: Histogram,
    ran: Histogram,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct Histogram {
    counts: Vec<u64>,
}

/// One row: a function, whatever its version, in one class. Sums since the Kernel started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Row {
    queued: u64,
    running: u64,
    ended: u64,
    /// What ended neither with an answer nor by its deadline.
    failed: u64,
    missed: u64,
    waited: Histogram,
    ran: Histogram,
}

/// Rows by function and class, the higher class first.
type Rows = BTreeMap<(String, usize), Row>;

const CLASSES: [&str; 4] = ["realtime", "high", "normal", "batch"];

pub(crate) async fn run(args: &TopArgs) -> Result<()> {
    let client = Client::find(&args.platform)?;
    if args.platform.json {
        println!("{}", client.get::<serde_json::Value>(PATH).await?);
        return Ok(());
    }
    if args.once || !std::io::stdout().is_terminal() {
        let calls: Calls = client.get(PATH).await?;
        print!("{}", once(&rows(&calls), &calls.buckets_us));
        return Ok(());
    }
    watch(&client).await
}

/// Draws until it is interrupted.
async fn watch(client: &Client) -> Result<()> {
    let mut before = Rows::new();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut drawn_at = None;
    loop {
        let now = ticks.tick().await;
        let screen = match client.get::<Calls>(PATH).await {
            Ok(calls) => {
                let rows = rows(&calls);
                let since = drawn_at.replace(now).map(|drawn_at| now - drawn_at);
                let lines = live(&rows, &before, since, &calls.buckets_us);
                before = rows;
                fit(lines, rustix::termios::tcgetwinsize(std::io::stdout()).ok())
            }
            // It may be on its way back.
            Err(error) if error.is::<Unreachable>() => red(&plain(&format!("{error:#}\n"))),
            Err(error) => return Err(error),
        };
        // From the upper left corner on, and nothing of what was there before.
        print!("\x1b[H\x1b[2J{screen}");
        std::io::Write::flush(&mut std::io::stdout())?;
    }
}

fn rows(calls: &Calls) -> Rows {
    let mut rows = Rows::new();
    for doee in &calls.calls {
        let name = match (&doee.project_name, &doee.doee, &doee.version) {
            (Some(project), Some(doee), _) => format!("{project}/{doee}"),
            (_, _, Some(version)) => version.clone(),
            _ => "other".to_owned(),
        };
        for (number, class) in doee.classes.iter().enumerate() {
            let rank = CLASSES.iter().position(|known| *known == class.class);
            let row = rows
                .entry((name.clone(), rank.unwrap_or(CLASSES.len())))
                .or_default();
            // What waits and runs is known of the function, not of the class.
            if number == 0 {
                row.queued += doee.queued;
                row.running += doee.running;
            }
            row.add(class);
        }
    }
    rows
}

/// Everything since the Kernel started.
fn once(rows: &Rows, buckets_us: &[u64]) -> String {
    let cells = rows.iter().map(|((name, rank), row)| {
        let mut cells = vec![name.clone(), class_name(*rank), row.ended.to_string()];
        cells.extend(row.cells(row, buckets_us));
        cells
    });
    table(&heading("CALLS"), &cells.collect::<Vec<_>>())
}

/// What happened since the last time, the busiest first. A line that tells of failures is red.
fn live(rows: &Rows, before: &Rows, since: Option<Duration>, buckets_us: &[u64]) -> Vec<String> {
    let mut changes: Vec<(&(String, usize), &Row, Row)> = rows
        .iter()
        .map(|(key, row)| (key, row, row.since(before.get(key))))
        .collect();
    changes.sort_by_key(|(_, row, change)| std::cmp::Reverse((change.ended, row.running, row.queued)));
    let cells: Vec<Vec<String>> = changes
        .iter()
        .map(|((name, rank), row, change)| {
            let rate = since.map_or_else(
                || "-".to_owned(),
                |since| format!("{:.1}", change.ended as f64 / since.as_secs_f64()),
            );
            let mut cells = vec![name.clone(), class_name(*rank), rate];
            cells.extend(row.cells(change, buckets_us));
            cells
        })
        .collect();
    let text = table(&heading("CALLS/S"), &cells);
    let is_bad = changes
        .iter()
        .map(|(_, _, change)| since.is_some() && change.failed + change.missed > 0);
    let marks = std::iter::once(None).chain(is_bad.map(Some));
    text.lines()
        .zip(marks)
        .map(|(line, mark)| match mark {
            None => bold(line),
            Some(true) => red(line),
            Some(false) => line.to_owned(),
        })
        .collect()
}

/// As many lines as a terminal has, and how many there are more.
fn fit(mut lines: Vec<String>, size: Option<rustix::termios::Winsize>) -> String {
    let height = size.map_or(usize::MAX, |size| usize::from(size.ws_row).max(3));
    // One line is for the rest, one for the cursor.
    if lines.len() > height - 1 {
        let hidden = lines.len() - (height - 2);
        lines.truncate(height - 2);
        lines.push(format!("... and {hidden} more"));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn heading(calls: &'static str) -> [&'static str; 11] {
    [
        "DOEE", "CLASS", calls, "QUEUED", "RUNNING", "FAILED", "MISSED", "WAIT p50", "WAIT p99", "RUN p50",
        "RUN p99",
    ]
}

fn class_name(rank: usize) -> String {
    CLASSES.get(rank).copied().unwrap_or("?").to_owned()
}

impl Row {
    fn add(&mut self, class: &Class) {
        let ended: u64 = class.outcomes.values().sum();
        let of = |numbers: &BTreeMap<String, u64>, name: &str| numbers.get(name).copied().unwrap_or(0);
        let otherwise = ["done", "expired", "timed_out"].map(|name| of(&class.outcomes, name));
        self.ended += ended;
        self.failed += ended.saturating_sub(otherwise.iter().sum());
        self.missed += of(&class.deadlines, "missed_queued") + of(&class.deadlines, "missed_running");
        self.waited.add(&class.waited);
        self.ran.add(&class.ran);
    }

    /// What has come since. A Kernel that was started anew counts from nothing.
    fn since(&self, before: Option<&Row>) -> Row {
        let Some(before) = before.filter(|before| before.ended <= self.ended) else {
            return self.clone();
        };
        Row {
            ended: self.ended.saturating_sub(before.ended),
            failed: self.failed.saturating_sub(before.failed),
            missed: self.missed.saturating_sub(before.missed),
            waited: self.waited.since(&before.waited),
            ran: self.ran.since(&before.ran),
            ..*self
        }
    }

    /// What waits and runs now, and how calls went of late.
    fn cells(&self, lately: &Row, buckets_us: &[u64]) -> Vec<String> {
        let quantile = |times: &Histogram, share| {
            let us = times.quantile_us(buckets_us, share);
            us.map_or_else(|| "-".to_owned(), duration_us)
        };
        vec![
            self.queued.to_string(),
            self.running.to_string(),
            lately.failed.to_string(),
            lately.missed.to_string(),
            quantile(&lately.waited, 0.5),
            quantile(&lately.waited, 0.99),
            quantile(&lately.ran, 0.5),
            quantile(&lately.ran, 0.99),
        ]
    }
}

impl Histogram {
    fn add(&mut self, other: &Histogram) {
        let len = self.counts.len().max(other.counts.len());
        self.counts.resize(len, 0);
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    fn since(&self, before: &Histogram) -> Histogram {
        let before = before.counts.iter().copied().chain(std::iter::repeat(0));
        let counts = self.counts.iter().zip(before);
        Histogram {
            counts: counts.map(|(now, before)| now.saturating_sub(before)).collect(),
        }
    }

    /// Below which this share lies, as if each bucket was filled evenly; above the last bound, that bound.
    fn quantile_us(&self, bounds_us: &[u64], share: f64) -> Option<u64> {
        let all: u64 = self.counts.iter().sum();
        if all == 0 {
            return None;
        }
        let wanted = all as f64 * share;
        let (mut below, mut lower) = (0.0, 0);
        for (&count, &upper) in self.counts.iter().zip(bounds_us) {
            if count > 0 && below + count as f64 >= wanted {
                let part = (wanted - below) / count as f64;
                return Some(lower + ((upper - lower) as f64 * part) as u64);
            }
            (below, lower) = (below + count as f64, upper);
        }
        Some(lower)
    }
}

#[cfg(test)]
mod tests;
