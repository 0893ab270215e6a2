//! Progress for people: steps with their durations, and a bar.
//!
//! Everything goes to stderr. On a terminal the bar redraws one line, at most ten times a second; in
//! a log it prints a line every few seconds. Nothing here reads the terminal's size or uses colour.

use std::{
    io::{IsTerminal, Write, stderr},
    time::{Duration, Instant},
};

use anyhow::Result;

const REDRAW_INTERVAL: Duration = Duration::from_millis(100);
const LOG_INTERVAL: Duration = Duration::from_secs(5);
const BAR_CELLS: u64 = 30;

/// A numbered series of steps, each announced and timed.
pub(crate) struct Steps {
    total: usize,
    done: usize,
    started: Instant,
}

impl Steps {
    /// Starts a series of `total` steps.
    pub(crate) fn new(total: usize) -> Steps {
        Steps {
            total,
            done: 0,
            started: Instant::now(),
        }
    }

    /// Runs a step and says how long it took, or that it failed and why.
    pub(crate) fn run<T>(&mut self, title: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        self.done += 1;
        let number = format!("[{}/{}]", self.done, self.total);
        eprintln!("{number} {title} …");
        let started = Instant::now();
        let outcome = step();
        let duration = seconds(started.elapsed());
        match &outcome {
            Ok(_) => eprintln!("{number} {title}: done in {duration}"),
            Err(error) => eprintln!("{number} {title}: FAILED after {duration}: {error:#}"),
        }
        outcome
    }

    /// Time since the series began, for people.
    pub(crate) fn elapsed(&self) -> String {
        seconds(self.started.elapsed())
    }
}

/// A bar of work whose amount is known.
pub(crate) struct Bar {
    label: String,
    total: u64,
    terminal: bool,
    started: Instant,
    drawn: Option<Instant>,
}

impl Bar {
    /// Starts a bar of `total` units.
    pub(crate) fn new(label: impl Into<String>, total: u64) -> Bar {
        let terminal = stderr().is_terminal();
        Bar {
            label: label.into(),
            total,
            terminal,
            started: Instant::now(),
            drawn: None,
        }
    }

    /// Shows that `done` units are done; draws only as often as a reader can follow.
    pub(crate) fn set(&mut self, done: u64) {
        let interval = if self.terminal {
            REDRAW_INTERVAL
        } else {
            LOG_INTERVAL
        };
        if self.drawn.unwrap_or(self.started).elapsed() >= interval {
            self.draw(done);
        }
    }

    /// Draws the last state and ends the line.
    pub(crate) fn finish(mut self, done: u64) {
        self.draw(done);
        if self.terminal {
            eprintln!();
        }
    }

    fn draw(&mut self, done: u64) {
        self.drawn = Some(Instant::now());
        let line = render(&self.label, done, self.total, self.started.elapsed());
        if self.terminal {
            eprint!("\r{line}\x1b[K");
            // A terminal that is gone is no reason to stop working.
            let _ = stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }
}

fn render(label: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let share = |of: u64| {
        done.min(total)
            .saturating_mul(of)
            .checked_div(total)
            .unwrap_or(of)
    };
    let cells = share(BAR_CELLS);
    let bar: String = (0..BAR_CELLS)
        .map(|cell| if cell < cells { '#' } else { '.' })
        .collect();
    let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
    format!(
        "{label} [{bar}] {:3} %  {done}/{total}  {rate:.0}/s  {}",
        share(100),
        seconds(elapsed)
    )
}

/// A duration for people: `0.4 s`, `12.3 s`, `3 min 05 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    match duration.as_secs() {
        0..=99 => format!("{:.1} s", duration.as_secs_f64()),
        whole => format!("{} min {:02} s", whole / 60, whole % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_share_count_rate_and_time() {
        let line = render("replay", 50, 200, Duration::from_secs(2));
        assert_eq!(
            line,
            "replay [#######.......................]  25 %  50/200  25/s  2.0 s"
        );
    }

    #[test]
    fn a_bar_of_nothing_is_full_and_one_beyond_its_end_stays_full() {
        assert!(render("x", 0, 0, Duration::ZERO).contains("100 %"));
        assert!(render("x", 9, 3, Duration::ZERO).contains("100 %"));
    }

    #[test]
    fn long_durations_are_told_in_minutes() {
        assert_eq!(seconds(Duration::from_millis(12_340)), "12.3 s");
        assert_eq!(seconds(Duration::from_secs(185)), "3 min 05 s");
    }
}
