//! Every limit of the log that is not an option.

/// Longest payload of a record in bytes: a body of 1 MiB, and two messages and what the owner notes beside it.
pub const PAYLOAD_LEN_MAX: usize = (1 << 20) + 3 * (1 << 16);

/// Longest segment file in bytes; a file that claims more is refused.
pub const SEGMENT_LEN_MAX: u32 = 1 << 30;

/// Most segment files of one log.
pub const SEGMENTS_MAX: u32 = 4096;

/// Fewest: the head, one that is compacted, one for new work, and those in reserve.
pub const SEGMENTS_MIN: u32 = 6;

/// Bytes of records that are written and synced at once, unless a single group is longer.
pub(crate) const BATCH_LEN_TARGET: usize = 1 << 20;

/// Longest batch that is read back: bounds the memory of recovery.
pub(crate) const BATCH_LEN_MAX: usize = 4 << 20;

/// Segments in reserve, with [`RESERVE_COMPACTION`], that new work may not use.
pub(crate) const RESERVE_NEW: u64 = 3;

/// Segments in reserve that completions may not use either. What a compaction writes is at most what one
/// segment holds, and with what is lost at the ends of batches and segments less than two.
pub(crate) const RESERVE_COMPACTION: u64 = 2;

/// Unused segments that the writer keeps ready: the reserve and the next one.
pub(crate) const SPARES_READY: usize = 4;

/// Bytes of zeros that are written to a fresh segment at once, while nothing else is to be done.
pub(crate) const WARM_LEN: u32 = 256 << 10;

/// Records that may be rewritten for each record appended, when space is short.
pub(crate) const REWRITE_FACTOR_PRESSED: i64 = 8;
