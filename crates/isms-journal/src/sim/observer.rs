//! Notes what passed between the log and its owner, and says what an opening may show.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Lsn, Record};

/// A record begins an object, states it anew, or ends it.
pub(super) const BEGIN: u8 = 1;
pub(super) const STATE: u8 = 2;
pub(super) const END: u8 = 3;

/// A record that was appended, or came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: u8,
    pub(super) payload: Vec<u8>,
}

impl Entry {
    pub(super) fn of(record: Record<'_>) -> Entry {
        Entry {
            kind: record.kind,
            payload: record.payload.to_vec(),
        }
    }

    /// The object stands in the first bytes of every payload.
    pub(super) fn object(&self) -> u64 {
        let bytes = self.payload.get(..8).expect("a payload names its object");
        u64::from_le_bytes(bytes.try_into().unwrap())
    }
}

/// Live objects, each with the length of what was said of it last.
pub(super) fn live<'a>(entries: impl Iterator<Item = &'a Entry>) -> BTreeMap<u64, usize> {
    let mut live = BTreeMap::new();
    for entry in entries {
        match entry.kind {
            END => live.remove(&entry.object()),
            _ => live.insert(entry.object(), entry.payload.len()),
        };
    }
    live
}

/// What was appended since the beginning, as far as it was not lost.
#[derive(Default)]
pub(super) struct Observer {
    history: Vec<Entry>,
    /// Numbers of the first records of groups.
    starts: BTreeSet<u64>,
    /// All below it was acknowledged.
    durable: u64,
    /// For each release the number of the record that would have come next.
    releases: Vec<(u64, u64)>,
}

impl Observer {
    pub(super) fn next_lsn(&self) -> u64 {
        self.history.len() as u64 + 1
    }

    pub(super) fn appended(&mut self, first: Lsn, entries: Vec<Entry>) {
        assert_eq!(first.0, self.next_lsn(), "numbers have no gaps");
        self.starts.insert(first.0);
        self.history.extend(entries);
    }

    pub(super) fn acknowledged(&mut self, below: Lsn) {
        assert!(
            below.0 > self.durable,
            "acknowledgements come in order, each once"
        );
        assert!(
            below.0 <= self.next_lsn(),
            "what was not appended is acknowledged"
        );
        self.durable = below.0;
    }

    pub(super) fn released(&mut self, below: Lsn) {
        self.releases.push((self.next_lsn(), below.0));
    }

    pub(super) fn is_all_durable(&self) -> bool {
        self.durable.max(1) == self.next_lsn()
    }

    /// Checks what came back; returns how many records are lost.
    pub(super) fn check(&self, replayed: &[(u64, Entry)], next_lsn: Lsn) -> u64 {
        let next = next_lsn.0;
        assert!(
            next >= self.durable,
            "{next}..{} was acknowledged and is lost",
            self.durable
        );
        assert!(next <= self.next_lsn(), "more came back than was appended");
        let is_boundary = next == self.next_lsn() || self.starts.contains(&next);
        assert!(is_boundary, "a part of a group came back, up to {next}");
        let first = next - replayed.len() as u64;
        let effective = self.releases.iter().filter(|(at, _)| *at <= next);
        let released = effective.map(|(_, below)| *below).max().unwrap_or(1);
        assert!(
            first <= released,
            "{released}..{first} was not released and is lost"
        );
        for (index, (lsn, entry)) in replayed.iter().enumerate() {
            assert_eq!(*lsn, first + index as u64, "numbers come back in order");
            let appended = &self.history[*lsn as usize - 1];
            assert!(entry == appended, "record {lsn} is not what was appended");
        }
        let expected = live(self.history[..next as usize - 1].iter());
        let recovered = live(replayed.iter().map(|(_, entry)| entry));
        // An object that ended in what was given up cannot come back, since its beginning was before.
        assert_eq!(recovered, expected, "the state that was replayed is another one");
        self.next_lsn() - next
    }

    /// Forgets what is lost: if it came back later, it would not be what is expected there.
    pub(super) fn cut(&mut self, next_lsn: Lsn) {
        self.history.truncate(next_lsn.0 as usize - 1);
        self.starts.split_off(&next_lsn.0);
        self.releases.retain(|(at, _)| *at <= next_lsn.0);
        self.durable = next_lsn.0;
    }

    /// Live objects.
    pub(super) fn live(&self) -> BTreeMap<u64, usize> {
        live(self.history.iter())
    }
}
