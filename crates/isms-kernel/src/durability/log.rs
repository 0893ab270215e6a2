//! The Kernel's half of the journal: what was written and is not durable yet, what could not be written yet, and
//! which record states which call.
//!
//! Nothing here waits. New work that finds no room is refused; what must be noted of work that was accepted is kept in
//! order and written as soon as there is room.

use std::collections::{BTreeMap, VecDeque};

use isms_journal::{AppendError, Group, Journal, Lsn, Purpose};
use isms_protocol::{Header, ProcessId};

use super::Entry;

/// Bytes that a compaction writes between two looks at anything else.
const COMPACTION_SLICE: usize = 256 * 1024;

/// What the Kernel waits for before it says or does something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// A call is acknowledged.
    Accepted(ProcessId),
    /// Its end is told, or that it was given up.
    Ended(ProcessId),
    /// It runs again, as somebody asked.
    Replayed(ProcessId),
    /// It is forgotten, as somebody asked.
    Discarded(ProcessId),
    /// Somebody who has asked for something is told that it was done.
    Answer(Box<Header>),
    /// Nobody waits.
    Nothing,
}

/// What an entry is to its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Statement {
    /// States it wholly, instead of what did before.
    Whole,
    /// Changes what was stated.
    Change,
    /// Nothing is left to be stated.
    Last,
}

/// What could not be written yet.
#[derive(Debug)]
struct Deferred {
    group: Group,
    process: ProcessId,
    statement: Statement,
    awaited: Vec<Awaited>,
}

/// The journal of durable calls.
#[derive(Debug)]
pub(crate) struct Log {
    journal: Journal,
    waiting: VecDeque<(Lsn, Awaited)>,
    deferred: VecDeque<Deferred>,
    /// By number the records that state live calls.
    statements: BTreeMap<Lsn, ProcessId>,
    by_process: BTreeMap<ProcessId, Lsn>,
    /// All below this is to be written anew and released.
    compaction: Option<Lsn>,
}

impl Log {
    pub(crate) fn new(journal: Journal) -> Log {
        Log {
            journal,
            waiting: VecDeque::new(),
            deferred: VecDeque::new(),
            statements: BTreeMap::new(),
            by_process: BTreeMap::new(),
            compaction: None,
        }
    }

    /// Why nothing is written any more, if so.
    pub(crate) fn stopped(&self) -> Option<String> {
        self.journal.stopped().map(|stop| stop.to_string())
    }

    /// Notes the record that states a call that was recovered.
    pub(crate) fn recovered(&mut self, process: ProcessId, lsn: Lsn) {
        self.state(process, Some(lsn));
    }

    /// Writes about new work, or refuses it.
    pub(crate) fn begin(&mut self, entry: &Entry, awaited: Awaited) -> Result<(), AppendError> {
        let (kind, payload) = entry.encode();
        let lsn = self
            .journal
            .append(Purpose::New, Group::of(kind, &payload))
            .map_err(|refused| refused.why)?;
        self.waiting.push_back((lsn, awaited));
        self.state(entry.process(), Some(lsn));
        Ok(())
    }

    /// Writes about work that was accepted, now or when there is room.
    pub(crate) fn follow(&mut self, entry: &Entry, statement: Statement, awaited: Awaited) {
        let (kind, payload) = entry.encode();
        self.deferred.push_back(Deferred {
            group: Group::of(kind, &payload),
            process: entry.process(),
            statement,
            awaited: vec![awaited],
        });
        self.write_deferred();
    }

    /// Waits for everything that was written so far, and for what is to be. False if there is nothing to wait for.
    pub(crate) fn await_all(&mut self, awaited: Awaited) -> bool {
        match (self.deferred.back_mut(), self.waiting.back()) {
            (Some(last), _) => last.awaited.push(awaited),
            (None, Some(&(lsn, _))) => self.waiting.push_back((lsn, awaited)),
            (None, None) => return false,
        }
        true
    }

    /// Forgets a call of which nothing need be known after a restart either.
    pub(crate) fn forget(&mut self, process: ProcessId) {
        self.state(process, None);
    }

    /// What waited for these records.
    pub(crate) fn durable(&mut self, below: Lsn) -> Vec<Awaited> {
        let mut awaited = Vec::new();
        while let Some((_, next)) = self.waiting.pop_front_if(|(lsn, _)| *lsn < below) {
            awaited.push(next);
        }
        self.write_deferred();
        awaited
    }

    /// What waited for records that will never be durable.
    pub(crate) fn abandon(&mut self) -> Vec<Awaited> {
        let written = self.waiting.drain(..).map(|(_, awaited)| awaited);
        let deferred = self.deferred.drain(..).flat_map(|deferred| deferred.awaited);
        written.chain(deferred).collect()
    }

    /// The journal wants its oldest records to be written anew.
    pub(crate) fn compact(&mut self, below: Lsn) {
        self.compaction = Some(below);
    }

    /// Writes anew a part of what is stated by the oldest records; `state` gives what a call is now.
    pub(crate) fn compact_some(&mut self, mut state: impl FnMut(ProcessId) -> Option<Entry>) {
        self.write_deferred();
        let mut written = 0;
        while let Some(below) = self.compaction {
            let oldest = self.statements.first_key_value().map(|(&lsn, &id)| (lsn, id));
            let Some((_, process)) = oldest.filter(|(lsn, _)| *lsn < below) else {
                self.journal.release(below);
                self.compaction = None;
                return;
            };
            if written >= COMPACTION_SLICE {
                return;
            }
            let Some(entry) = state(process) else {
                self.state(process, None);
                continue;
            };
            let (kind, payload) = entry.encode();
            written += payload.len();
            match self.journal.append(Purpose::Rewrite, Group::of(kind, &payload)) {
                Ok(lsn) => self.state(process, Some(lsn)),
                // Tried again after the next event of the journal.
                Err(_) => return,
            }
        }
    }

    /// True while there is more to be written than the journal has taken.
    pub(crate) fn is_behind(&self) -> bool {
        !self.deferred.is_empty() || self.compaction.is_some()
    }

    /// Records that are not durable yet and somebody waits for.
    #[cfg(test)]
    pub(crate) fn is_quiet(&self) -> bool {
        self.waiting.is_empty() && self.deferred.is_empty()
    }

    /// True while a record states this call.
    pub(crate) fn states(&self, process: ProcessId) -> bool {
        self.by_process.contains_key(&process)
    }

    fn write_deferred(&mut self) {
        while let Some(deferred) = self.deferred.pop_front() {
            let Deferred {
                group,
                process,
                statement,
                awaited,
            } = deferred;
            match self.journal.append(Purpose::Completion, group) {
                Ok(lsn) => {
                    match statement {
                        Statement::Whole => self.state(process, Some(lsn)),
                        Statement::Change => {}
                        Statement::Last => self.state(process, None),
                    }
                    let awaited = awaited.into_iter().map(|awaited| (lsn, awaited));
                    self.waiting.extend(awaited);
                }
                Err(refused) => {
                    self.deferred.push_front(Deferred {
                        group: refused.group,
                        process,
                        statement,
                        awaited,
                    });
                    return;
                }
            }
        }
    }

    fn state(&mut self, process: ProcessId, lsn: Option<Lsn>) {
        let before = match lsn {
            Some(lsn) => {
                self.statements.insert(lsn, process);
                self.by_process.insert(process, lsn)
            }
            None => self.by_process.remove(&process),
        };
        if let Some(before) = before {
            self.statements.remove(&before);
        }
    }
}
