//! The owner's half of a log: admits or refuses, and never waits for the disk.
//!
//! What is admitted has its number at once, and its space. Numbers are given here and nowhere else, so
//! the order of admission is the order in the log.

use std::{fmt, sync::Arc};

use crate::{Group, Stop, queue::Queue};

/// The number of a record. The first is 1, and there are no gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The number of the first record of a log.
    pub const FIRST: Lsn = Lsn(1);

    pub(crate) fn next(self) -> Lsn {
        self.plus(1)
    }

    pub(crate) fn plus(self, count: u32) -> Lsn {
        Lsn(self.0 + u64::from(count))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a group is for: how much of the reserve it may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// New work: nothing of the reserve.
    New,
    /// What must be noted about work that was admitted earlier: its results, its end.
    Completion,
    /// Live state that a compaction appends anew: everything. All rewrites of one compaction together are no
    /// longer than the records that they replace, in groups of 4 KiB and more, the last one excepted;
    /// otherwise the reserve is not enough for them.
    Rewrite,
}

/// Why a group was not admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The queue is full, or its space is not ready yet: try again after the next event.
    #[error("the journal's writer does not keep up")]
    Busy,
    /// The log has its largest size, and a compaction has not made room yet.
    #[error("the journal is full")]
    Full,
    /// The log has not its largest size, and the disk has no room for more. It was tried again because of
    /// this refusal: the next group may be admitted.
    #[error("the disk of the journal is full; make space")]
    DiskFull,
    /// The group is empty or longer than `group_len_max`. It will never be admitted.
    #[error("a group of {len} bytes cannot be appended; at most {max} can, and at least one record")]
    Len {
        /// Bytes of the group.
        len: usize,
        /// Most bytes.
        max: usize,
    },
    /// The log has stopped, for good.
    #[error("the journal has stopped; restart to recover what was acknowledged")]
    Stopped(#[source] Stop),
}

/// A group that was not admitted, to be appended again or dropped. Nothing of it is in the log.
#[derive(Debug, thiserror::Error)]
#[error("cannot append to the journal")]
pub struct Refused {
    /// The group as it was.
    pub group: Group,
    /// Why it was refused.
    #[source]
    pub why: AppendError,
}

/// How large the log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Segment files that hold records.
    pub live_segments: u32,
    /// Segment files that are ready to be used.
    pub spare_segments: u32,
    /// Bytes that can be promised to groups, the reserve included.
    pub free_len: u64,
    /// Bytes that wait for the writer.
    pub queued_len: u64,
}

/// Appends to a log. Dropped, it closes the log: the writer ends after what was admitted.
#[derive(Debug)]
pub struct Journal {
    queue: Arc<Queue>,
    next_lsn: Lsn,
    released: Lsn,
}

impl Journal {
    pub(crate) fn new(queue: Arc<Queue>, next_lsn: Lsn) -> Journal {
        let released = Lsn::FIRST;
        Journal {
            queue,
            next_lsn,
            released,
        }
    }

    /// Appends a group and returns the number of its first record. It is durable when
    /// [`Event::Durable`](crate::Event::Durable) says so, and not before.
    pub fn append(&mut self, purpose: Purpose, group: Group) -> Result<Lsn, Refused> {
        let count = group.count();
        match self.queue.admit(purpose, group) {
            Ok(()) => {
                let first = self.next_lsn;
                self.next_lsn = first.plus(count);
                Ok(first)
            }
            Err((group, why)) => Err(Refused { group, why }),
        }
    }

    /// Gives up all records below a number: each is dead, or what it says was appended anew before this
    /// call. Need not wait for events. Segments without other records are used again.
    ///
    /// # Panics
    ///
    /// When there are records below the number that were not appended yet.
    pub fn release(&mut self, below: Lsn) {
        assert!(below <= self.next_lsn, "only what was appended can be released");
        if below > self.released {
            self.released = below;
            self.queue.release(below);
        }
    }

    /// The number that the next record will have.
    pub fn next_lsn(&self) -> Lsn {
        self.next_lsn
    }

    /// How large the log is now.
    pub fn usage(&self) -> Usage {
        self.queue.usage()
    }

    /// Why the log has stopped, if it has.
    pub fn stopped(&self) -> Option<Stop> {
        self.queue.stopped()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.queue.close();
    }
}
