//! The latest log lines of every Doee, in bounded memory.
//!
//! One ring per Doee, lines numbered from 0 within it. A ring that is full forgets its oldest line;
//! when all rings together are full, the longest ring does, so one noisy Doee cannot push out the
//! others. What a reader missed is counted and told. A follower is only a position: it holds no
//! lines, so a slow one costs nothing and loses the oldest lines instead.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use isms_protocol::{ProjectId, gate::LogRecord};
use serde_json::json;
use tokio::sync::watch;

use crate::config::LogLimits;

/// Memory that a line takes besides its text.
const LINE_OVERHEAD: usize = 48;
/// Bytes that a reader takes at a time.
const READ_LEN: usize = 32 * 1024;

/// Whose log it is: project and name of the Doee.
pub(crate) type LogKey = (ProjectId, String);

/// The latest log lines of every Doee.
pub(crate) struct LogStore {
    limits: LogLimits,
    inner: Mutex<Inner>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Inner {
    rings: HashMap<LogKey, Ring>,
    len: usize,
    dropped: u64,
}

/// Lines as NDJSON.
#[derive(Default)]
struct Ring {
    lines: VecDeque<Box<[u8]>>,
    /// Number of the oldest line that is still there.
    first: u64,
    len: usize,
}

/// What a reader gets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// Lines, and the position after them.
    Lines(Bytes, u64),
    /// None after this position yet.
    NothingYet,
    /// The log is gone, with its project.
    Gone,
}

/// How much the store holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Bytes held.
    pub(crate) len: usize,
    /// Lines forgotten or refused so far.
    pub(crate) dropped: u64,
}

impl LogStore {
    /// Makes an empty store.
    pub(crate) fn new(limits: LogLimits) -> LogStore {
        LogStore {
            limits,
            inner: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }

    /// Takes lines in.
    pub(crate) fn append(&self, records: Vec<LogRecord>) {
        let mut inner = self.inner();
        for record in records {
            let line = encode(&record);
            inner.append((record.project, record.doee), line, &self.limits);
        }
        drop(inner);
        self.changed.send_replace(());
    }

    /// The position at which the last `tail` lines begin. The log exists from now on.
    pub(crate) fn open(&self, key: &LogKey, tail: u64) -> u64 {
        let mut inner = self.inner();
        if inner.rings.len() < self.limits.doees_max {
            inner.rings.entry(key.clone()).or_default();
        }
        inner.rings.get(key).map_or(0, |ring| {
            (ring.first + ring.lines.len() as u64).saturating_sub(tail)
        })
    }

    /// Reads some lines from a position on.
    pub(crate) fn read(&self, key: &LogKey, from: u64) -> Read {
        match self.inner().rings.get(key) {
            Some(ring) => ring.read(from),
            None => Read::Gone,
        }
    }

    /// Tells of each change; look before waiting.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Forgets the logs of a project.
    pub(crate) fn forget(&self, project: ProjectId) {
        let mut inner = self.inner();
        inner.rings.retain(|(owner, _), _| *owner != project);
        inner.len = inner.rings.values().map(|ring| ring.len).sum();
        drop(inner);
        self.changed.send_replace(());
    }

    /// How much the store holds.
    pub(crate) fn usage(&self) -> Usage {
        let inner = self.inner();
        Usage {
            len: inner.len,
            dropped: inner.dropped,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Lengths are kept beside the lines in one statement sequence that cannot panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn append(&mut self, key: LogKey, line: Box<[u8]>, limits: &LogLimits) {
        if !self.rings.contains_key(&key) && self.rings.len() >= limits.doees_max {
            self.dropped += 1;
            return;
        }
        let ring = self.rings.entry(key).or_default();
        let before = ring.len;
        ring.len += line.len() + LINE_OVERHEAD;
        ring.lines.push_back(line);
        while ring.len > limits.doee_len_max {
            self.dropped += ring.forget_oldest();
        }
        self.len = self.len + ring.len - before;
        while self.len > limits.len_max {
            let Some(longest) = self.rings.values_mut().max_by_key(|ring| ring.len) else {
                return;
            };
            let before = longest.len;
            self.dropped += longest.forget_oldest();
            self.len -= before - longest.len;
        }
    }
}

impl Ring {
    fn read(&self, from: u64) -> Read {
        let end = self.first + self.lines.len() as u64;
        if from >= end {
            return Read::NothingYet;
        }
        let mut text = Vec::new();
        let start = from.max(self.first);
        if start > from {
            text.extend_from_slice(json!({ "dropped": start - from }).to_string().as_bytes());
            text.push(b'\n');
        }
        let mut next = start;
        for line in self.lines.iter().skip((start - self.first) as usize) {
            if !text.is_empty() && text.len() + line.len() > READ_LEN {
                break;
            }
            text.extend_from_slice(line);
            next += 1;
        }
        Read::Lines(text.into(), next)
    }

    /// Forgets one line; returns how many it forgot.
    fn forget_oldest(&mut self) -> u64 {
        let Some(line) = self.lines.pop_front() else {
            return 0;
        };
        self.len -= line.len() + LINE_OVERHEAD;
        self.first += 1;
        1
    }
}

fn encode(record: &LogRecord) -> Box<[u8]> {
    let process = (!record.process.is_none()).then_some(record.process);
    let line = json!({
        "at_us": record.at_us,
        "level": record.level,
        "version": record.version,
        "process": process,
        "text": record.text,
    });
    let mut line = line.to_string();
    line.push('\n');
    line.into_bytes().into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use isms_protocol::{DoeeVersion, ProcessId, worker::LogLevel};

    use super::*;

    const PROJECT: ProjectId = ProjectId::from_bytes([1; 16]);

    fn record(doee: &str, text: &str) -> LogRecord {
        LogRecord {
            project: PROJECT,
            project_name: "p".into(),
            doee: doee.into(),
            version: DoeeVersion::NONE,
            process: ProcessId::NONE,
            at_us: 1,
            level: LogLevel::Info,
            text: text.into(),
        }
    }

    fn key(doee: &str) -> LogKey {
        (PROJECT, doee.into())
    }

    fn texts(store: &LogStore, doee: &str, tail: u64) -> Vec<String> {
        let mut position = store.open(&key(doee), tail);
        let mut texts = Vec::new();
        while let Read::Lines(lines, next) = store.read(&key(doee), position) {
            for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
                let line: serde_json::Value = serde_json::from_slice(line).expect("json");
                let dropped = line["dropped"].as_u64().map(|count| format!("dropped {count}"));
                texts.push(dropped.unwrap_or_else(|| line["text"].as_str().expect("text").to_owned()));
            }
            position = next;
        }
        texts
    }

    /// A store in which a Doee has room for `lines` lines of one character.
    fn store(lines: usize) -> LogStore {
        let line_len = encode(&record("d", "a")).len() + LINE_OVERHEAD;
        LogStore::new(LogLimits {
            len_max: 2 * lines * line_len,
            doee_len_max: lines * line_len,
            doees_max: 3,
            followers_max: 1,
        })
    }

    #[test]
    fn the_tail_is_read_in_order() {
        let store = store(10);
        store.append(vec![
            record("d", "a"),
            record("e", "x"),
            record("d", "b"),
            record("d", "c"),
        ]);
        assert_eq!(texts(&store, "d", 2), ["b", "c"]);
        assert_eq!(texts(&store, "d", 100), ["a", "b", "c"]);
        assert_eq!(texts(&store, "d", 0), [""; 0]);
    }

    #[test]
    fn a_full_ring_forgets_its_oldest_lines_and_says_how_many() {
        let store = store(2);
        store.append(["a", "b", "c", "d"].map(|text| record("d", text)).into());
        assert_eq!(texts(&store, "d", 100), ["dropped 2", "c", "d"]);
        assert_eq!(texts(&store, "d", 1), ["d"]);
        assert_eq!(store.usage().dropped, 2);
    }

    #[test]
    fn when_all_is_full_the_longest_ring_gives_way() {
        let store = store(4);
        store.append(["a", "b", "c", "d"].map(|text| record("d", text)).into());
        store.append(["v", "w", "x", "y"].map(|text| record("e", text)).into());
        store.append(vec![record("f", "z")]);
        let lines = texts(&store, "d", 100).len() + texts(&store, "e", 100).len();
        assert_eq!(lines, 8, "seven lines, and one remark that a line was dropped");
        assert_eq!(texts(&store, "f", 100), ["z"]);
    }

    #[test]
    fn a_line_over_the_limit_leaves_an_empty_ring_and_a_count() {
        let store = store(1);
        store.append(vec![record("d", "far longer than the room of one character")]);
        assert_eq!(store.usage(), Usage { len: 0, dropped: 1 });
        store.append(vec![record("d", "b")]);
        assert_eq!(texts(&store, "d", 100), ["dropped 1", "b"]);
    }

    #[test]
    fn one_doee_too_many_is_counted() {
        let store = store(10);
        store.append(["a", "b", "c", "d"].map(|doee| record(doee, "x")).into());
        assert_eq!(texts(&store, "d", 100), [""; 0]);
        assert_eq!(store.usage().dropped, 1);
    }

    #[test]
    fn a_forgotten_projects_readers_learn_that_it_is_gone() {
        let store = store(10);
        store.append(vec![record("d", "a")]);
        store.forget(PROJECT);
        assert_eq!(store.read(&key("d"), 0), Read::Gone);
        assert_eq!(store.usage().len, 0);
    }

    #[test]
    fn long_logs_are_read_in_pieces() {
        let store = LogStore::new(LogLimits::default());
        let text = "x".repeat(4000);
        store.append((0..40).map(|_| record("d", &text)).collect());
        let Read::Lines(lines, next) = store.read(&key("d"), 0) else {
            panic!("expected lines")
        };
        assert!(lines.len() <= READ_LEN);
        assert_eq!(next, 7);
    }
}
