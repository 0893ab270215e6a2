//! What is left of durable calls when a journal is read again.
//!
//! Replaying is a fold: an entry that states a call replaces whatever was known of it, the others change what is known
//! and mean nothing where nothing is. So it gives the same when older entries of a call are still there, or not.

use std::collections::BTreeMap;

use isms_journal::{Journal, Lsn, OpenError, Options, Record, Report, Storage, Writer};
use isms_protocol::ProcessId;

use super::{Ended, Entry, Open};

/// A journal that was read: the calls in it, and how to write on.
#[derive(Debug)]
pub struct Recovery {
    pub(crate) journal: Journal,
    pub(crate) calls: BTreeMap<ProcessId, (Lsn, Recovered)>,
    /// What the journal itself has found.
    pub report: Report,
}

/// A call that was in the journal.
#[derive(Debug)]
pub(crate) enum Recovered {
    Open(Box<Open>),
    Ended(Box<Ended>),
}

/// Why a journal cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The log is damaged or cannot be used.
    #[error("cannot open the journal of durable calls")]
    Open(#[from] OpenError),
    /// A record is intact and makes no sense to this version.
    #[error("record {lsn} of the journal was written by a newer version; use that one")]
    Unknown {
        /// Its number.
        lsn: Lsn,
    },
}

impl Recovery {
    /// Reads a journal, or makes one.
    pub fn open<S: Storage>(storage: S, options: &Options) -> Result<(Recovery, Writer<S>), RecoveryError> {
        let mut calls = BTreeMap::new();
        let mut unknown = None;
        let replay = |record: Record<'_>| match Entry::decode(record.kind, record.payload) {
            Some(entry) => apply(&mut calls, record.lsn, entry),
            None => unknown = unknown.or(Some(record.lsn)),
        };
        let (journal, writer, report) = isms_journal::open(storage, options, replay)?;
        if let Some(lsn) = unknown {
            return Err(RecoveryError::Unknown { lsn });
        }
        let recovery = Recovery {
            journal,
            calls,
            report,
        };
        Ok((recovery, writer))
    }
}

impl Recovery {
    /// Calls, results and dead letters that there are.
    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }
}

fn apply(calls: &mut BTreeMap<ProcessId, (Lsn, Recovered)>, lsn: Lsn, entry: Entry) {
    let process = entry.process();
    let mut open = |change: &mut dyn FnMut(&mut Open)| {
        if let Some((_, Recovered::Open(open))) = calls.get_mut(&process) {
            change(open);
        }
    };
    match entry {
        Entry::Failed(failed) => open(&mut |open| {
            open.failures = failed.failures;
            open.retry_at = failed.retry_at;
        }),
        Entry::Dead(dead) => open(&mut |open| {
            open.failures = dead.failures;
            open.dead = Some((dead.at, dead.answer.clone()));
        }),
        Entry::Open(open) => {
            calls.insert(process, (lsn, Recovered::Open(open)));
        }
        Entry::Ended(ended) => {
            calls.insert(process, (lsn, Recovered::Ended(ended)));
        }
        Entry::Gone(_) => {
            calls.remove(&process);
        }
    }
}
