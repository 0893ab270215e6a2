//! Bugs that the mutation test plants, to show that the simulation finds them.

/// A bug at a place where a mistake is easily made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Records are acknowledged after the write, before the sync.
    AcksBeforeSync,
    /// The name of a new segment file is not synced.
    SkipsDirectorySync,
    /// A segment is wiped for its next use before the records that replace its own are synced.
    RecyclesEarly,
    /// Recovery takes the records of a batch without their checksums.
    AcceptsTorn,
    /// Recovery goes on behind a record that is damaged.
    SkipsCorrupt,
    /// Recovery leaves on the disk what it has cut.
    KeepsCutTail,
    /// Recovery believes that what it reads is on the disk.
    TrustsCache,
    /// A sync that failed is tried again, and believed.
    RetriesSync,
    /// The first batch of a segment is written together with its header.
    SkipsHeaderSync,
    /// New work may use the reserve.
    IgnoresReserve,
}

isms_simulation::plantable!(Bug);
