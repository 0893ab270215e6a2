//! Log lines on their way from workers to Control Gate: bounded per invocation, sent in batches.

use isms_ipc::Link;
use isms_protocol::{
    Header, Kind, Message, ProcessId, Service,
    doer::DoeeSpec,
    gate::{self, LogRecord, LogRecords},
    limits::{INLINE_LEN_MAX, LOG_LEN_MAX, LOG_LINE_LEN_MAX},
    worker::{LogLevel, LogLine},
};

use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of a record beside its text, roughly.
const RECORD_OVERHEAD: usize = 200;

/// Lines that wait to be sent together.
#[derive(Debug, Default)]
pub(crate) struct LogBatch {
    records: Vec<LogRecord>,
    len: usize,
}

impl LogBatch {
    /// Adds a line; sends what has gathered when it fills a message.
    pub(crate) fn push(&mut self, link: &Link, spec: &DoeeSpec, process: ProcessId, mut line: LogLine) {
        line.text
            .truncate(line.text.floor_char_boundary(LOG_LINE_LEN_MAX));
        let len = line.text.len() + RECORD_OVERHEAD;
        if self.len + len > INLINE_LEN_MAX {
            self.flush(link);
        }
        self.len += len;
        self.records.push(LogRecord {
            project: spec.project,
            project_name: spec.project_name.clone(),
            doee: spec.name.clone(),
            version: spec.version,
            process,
            at_us: now_us(),
            level: line.level,
            text: line.text,
        });
    }

    /// Sends what has gathered. Logs for display may be dropped: the Kernel counts what it drops.
    pub(crate) fn flush(&mut self, link: &Link) {
        if self.records.is_empty() {
            return;
        }
        let records = LogRecords {
            records: std::mem::take(&mut self.records),
        };
        self.len = 0;
        let mut header = Header::new(Kind::Event, Service::Doer, Service::Gate);
        header.operation = gate::Operation::Log as u16;
        if link.send(Message::with_body(header, &records)).is_err() {
            tracing::debug!(
                lines = records.records.len(),
                "log lines were dropped, the kernel is not there"
            );
        }
    }
}

/// What one invocation, or one worker outside of invocations, may still log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogBudget {
    left: usize,
}

/// What becomes of a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Keep,
    /// The last line, which says that more were dropped.
    Cut,
    Drop,
}

impl LogBudget {
    pub(crate) fn new() -> LogBudget {
        LogBudget { left: LOG_LEN_MAX }
    }

    pub(crate) fn admit(&mut self, line_len: usize) -> Admission {
        if self.left == 0 {
            return Admission::Drop;
        }
        match self.left.checked_sub(line_len.max(1)) {
            Some(left) => {
                self.left = left;
                Admission::Keep
            }
            None => {
                self.left = 0;
                Admission::Cut
            }
        }
    }
}

/// The line in whose place the rest of a log is dropped.
pub(crate) fn cut_line() -> LogLine {
    LogLine {
        level: LogLevel::Warn,
        text: format!("log cut: more than {LOG_LEN_MAX} bytes"),
    }
}

fn now_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |age| age.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_once() {
        let mut budget = LogBudget::new();
        assert_eq!(budget.admit(LOG_LEN_MAX - 1), Admission::Keep);
        assert_eq!(budget.admit(2), Admission::Cut);
        assert_eq!(budget.admit(1), Admission::Drop);
        assert_eq!(budget.admit(0), Admission::Drop);
    }

    #[test]
    fn empty_lines_use_the_budget_up_as_well() {
        let mut budget = LogBudget::new();
        let kept = (0..2 * LOG_LEN_MAX)
            .filter(|_| budget.admit(0) == Admission::Keep)
            .count();
        assert_eq!(kept, LOG_LEN_MAX);
    }
}
