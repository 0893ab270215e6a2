//! Records that are appended together.

use crate::format::{RECORD_HEADER_LEN, batch_len, push_record};

/// Records that become durable together: after a crash all of them are there, or none is.
#[derive(Clone, Debug, Default)]
pub struct Group {
    records: Vec<u8>,
    count: u32,
}

impl Group {
    /// Makes an empty group.
    pub fn new() -> Group {
        Group::default()
    }

    /// Makes a group of one record.
    pub fn of(kind: u8, payload: &[u8]) -> Group {
        let mut group = Group {
            records: Vec::with_capacity(RECORD_HEADER_LEN + payload.len()),
            count: 0,
        };
        group.push(kind, payload);
        group
    }

    /// Adds a record behind the others. What is too long for the log is refused by
    /// [`Journal::append`](crate::Journal::append).
    pub fn push(&mut self, kind: u8, payload: &[u8]) {
        push_record(&mut self.records, kind, payload);
        self.count += 1;
    }

    /// Bytes that the group takes in a batch.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// True when no record was pushed.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Number of records.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    pub(crate) fn records(&self) -> &[u8] {
        &self.records
    }

    /// Bytes that are set aside for the group: those of a batch of its own. In a batch with others it
    /// takes less.
    pub(crate) fn cost(&self) -> u64 {
        batch_len(self.records.len())
    }
}
