//! What people see: colours on a terminal only, tables, durations.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

/// How often a bar is drawn at most.
const REDRAW_INTERVAL: Duration = Duration::from_millis(100);

fn coloured(code: &str, text: &str) -> String {
    if std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

pub(crate) fn red(text: &str) -> String {
    coloured("31", text)
}

pub(crate) fn green(text: &str) -> String {
    coloured("32", text)
}

pub(crate) fn bold(text: &str) -> String {
    coloured("1", text)
}

/// Removes what a terminal would obey: text from elsewhere must not steer it.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|letter| {
            if letter.is_control() && letter != '\n' && letter != '\t' {
                '\u{fffd}'
            } else {
                letter
            }
        })
        .collect()
}

/// Prints what a function answered, and ends its last line.
pub(crate) fn print_payload(payload: &[u8]) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    stdout.write_all(payload)?;
    if !payload.ends_with(b"\n") {
        stdout.write_all(b"\n")?;
    }
    Ok(stdout.flush()?)
}

/// Prints rows below a heading, each column as wide as its widest cell.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let heading: Vec<String> = heading.iter().map(|cell| (*cell).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&heading).chain(rows) {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{:<width$}", plain(cell)));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A length in MiB.
pub(crate) fn mebibytes(len: u64) -> String {
    format!("{:.1} MiB", len as f64 / f64::from(1 << 20))
}

/// How far something is, on one line of a terminal; elsewhere nothing.
pub(crate) struct Bar {
    label: String,
    total: u64,
    terminal: bool,
    drawn: Option<Instant>,
}

impl Bar {
    /// Begins a bar of so many bytes.
    pub(crate) fn new(label: String, total: u64) -> Bar {
        Bar {
            label,
            total,
            terminal: std::io::stderr().is_terminal(),
            drawn: None,
        }
    }

    /// So many bytes are done.
    pub(crate) fn advance(&mut self, done: u64) {
        let now = Instant::now();
        let early = self.drawn.is_some_and(|drawn| now < drawn + REDRAW_INTERVAL);
        if self.terminal && !early {
            self.drawn = Some(now);
            eprint!("\r{}", self.line(done));
            std::io::stderr().flush().ok();
        }
    }

    /// Removes the line.
    pub(crate) fn clear(&mut self) {
        if self.drawn.take().is_some() {
            eprint!("\r\x1b[K");
            std::io::stderr().flush().ok();
        }
    }

    fn line(&self, done: u64) -> String {
        let share = done.saturating_mul(100).checked_div(self.total).unwrap_or(100);
        let cells = share.min(100) as usize / 5;
        format!(
            "{} [{}{}] {share:3} % of {}",
            self.label,
            "#".repeat(cells),
            " ".repeat(20 - cells),
            mebibytes(self.total)
        )
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A short duration with one unit.
pub(crate) fn duration_us(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

/// A duration with one unit.
pub(crate) fn duration_ms(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{:.1} s", ms as f64 / 1e3),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_control_characters_are_shown_not_obeyed() {
        let rows = [
            vec!["a\x1b[31m".to_owned(), "1".to_owned()],
            vec!["bcd".to_owned(), "22".to_owned()],
        ];
        assert_eq!(
            table(&["NAME", "N"], &rows),
            "NAME    N\na\u{fffd}[31m  1\nbcd     22\n"
        );
    }

    #[test]
    fn a_bar_shows_share_and_size() {
        let line = |done, total| Bar::new("up".to_owned(), total).line(done);
        assert_eq!(line(0, 2 << 20), "up [                    ]   0 % of 2.0 MiB");
        assert_eq!(
            line(1 << 20, 2 << 20),
            "up [##########          ]  50 % of 2.0 MiB"
        );
        assert_eq!(
            line(2 << 20, 2 << 20),
            "up [####################] 100 % of 2.0 MiB"
        );
        assert_eq!(line(0, 0), "up [####################] 100 % of 0.0 MiB");
    }

    #[test]
    fn durations_have_one_unit() {
        assert_eq!(duration_us(999), "999 µs");
        assert_eq!(duration_us(1_500), "1.5 ms");
        assert_eq!(duration_us(61_000_000), "61.0 s");
        assert_eq!(duration_ms(12), "12 ms");
        assert_eq!(duration_ms(1_500), "1.5 s");
        assert_eq!(duration_ms(7_200_000), "2 h");
    }
}
