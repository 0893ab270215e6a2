//! Bugs that the mutation test plants, to show that the simulation finds them.
//!
//! Outside this crate's own tests [`planted`] is the constant `false`: no bug can be switched on in
//! a build that serves.

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

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug in every log of this thread, or removes it.
#[cfg(test)]
pub(crate) fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// True when this bug is planted.
#[cfg(test)]
pub(crate) fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Never true: bugs are planted in tests only.
#[cfg(not(test))]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}
