//! A Doee's log lines: bounded in length, and together by a budget for each call.

use isms_doee_sys as sys;
use isms_protocol::limits::{LOG_LEN_MAX, LOG_LINE_LEN_MAX};
use isms_protocol::worker::{LogLevel, LogLine};

use crate::limits::LOG_LINE_COST;
use crate::refusal::Refusal;

/// What one run of a function may still log.
#[derive(Debug)]
pub(crate) struct LogBudget {
    left: usize,
    cut: bool,
}

impl LogBudget {
    pub(crate) fn new() -> LogBudget {
        LogBudget {
            left: LOG_LEN_MAX,
            cut: false,
        }
    }

    /// Turns text into the lines to send. The first text over the budget becomes a line that says so,
    /// all later ones become none.
    pub(crate) fn lines(&mut self, level: LogLevel, text: &[u8]) -> Vec<LogLine> {
        let mut lines = Vec::new();
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        for line in text.split(|byte| *byte == b'\n') {
            if self.cut {
                break;
            }
            let line = cut_line(line);
            let cost = line.len() + LOG_LINE_COST;
            if cost > self.left {
                self.cut = true;
                let text = format!(
                    "the log is cut here: one call logs at most {} KiB",
                    LOG_LEN_MAX / 1024
                );
                lines.push(LogLine {
                    level: LogLevel::Warn,
                    text,
                });
            } else {
                self.left -= cost;
                lines.push(LogLine { level, text: line });
            }
        }
        lines
    }
}

fn cut_line(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut text = String::from_utf8_lossy(&line[..line.len().min(LOG_LINE_LEN_MAX)]).into_owned();
    text.truncate(text.floor_char_boundary(LOG_LINE_LEN_MAX));
    text
}

/// Reads a level as the ABI numbers it.
pub(crate) fn level(number: u32) -> Result<LogLevel, Refusal> {
    match number {
        sys::LOG_DEBUG => Ok(LogLevel::Debug),
        sys::LOG_INFO => Ok(LogLevel::Info),
        sys::LOG_WARN => Ok(LogLevel::Warn),
        sys::LOG_ERROR => Ok(LogLevel::Error),
        _ => Err(Refusal::invalid(format!("{number} is no log level"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lines: Vec<LogLine>) -> Vec<String> {
        lines.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn a_text_of_several_lines_becomes_several_lines() {
        let lines = LogBudget::new().lines(LogLevel::Info, b"one\r\ntwo\n");
        assert_eq!(texts(lines), ["one", "two"]);
    }

    #[test]
    fn a_line_is_cut_at_a_character_and_broken_text_is_repaired() {
        let mut long = "x".repeat(LOG_LINE_LEN_MAX - 1);
        long.push('é');
        let mut budget = LogBudget::new();
        assert_eq!(
            texts(budget.lines(LogLevel::Info, long.as_bytes()))[0].len(),
            LOG_LINE_LEN_MAX - 1
        );
        assert_eq!(texts(budget.lines(LogLevel::Info, b"a\xffb")), ["a\u{fffd}b"]);
    }

    #[test]
    fn a_flood_ends_with_one_line_that_says_so() {
        let mut budget = LogBudget::new();
        let mut lines = Vec::new();
        for _ in 0..100_000 {
            lines.extend(budget.lines(LogLevel::Info, b""));
        }
        assert_eq!(lines.len(), LOG_LEN_MAX / LOG_LINE_COST + 1);
        assert_eq!(lines.last().map(|line| line.level), Some(LogLevel::Warn));
    }
}
