//! A durable log: what was acknowledged is there after the kill of every process, a crash of the
//! system, and a loss of power that drops and tears what was not synced.
//!
//! [`open`] replays what is there and gives two halves: the [`Journal`], with which its owner appends
//! [`Group`]s of records without waiting, and the [`Writer`], which makes them durable on a thread of its own
//! ([`Writer::spawn`]) or one step at a time ([`Writer::step`], for simulations). Whatever was appended
//! while the last sync ran goes into the next write and sync; no timer delays anything. The owner hears
//! of it by [`Event`]s from the writer's thread, in order.
//!
//! # What always holds
//!
//! 1. A record is acknowledged ([`Event::Durable`]) after the `fdatasync` that followed its write, and
//!    after that of the header of its segment, and after the sync of the directory that names the file.
//! 2. A batch is written when everything before it in the log was synced. So at any time at most one
//!    batch is on its way, and the existence of a batch proves that what precedes it was durable once.
//! 3. Records come back as a prefix of what was appended: if one is there, all before it are, down to
//!    what the owner has released. A group comes back whole or not at all.
//! 4. What recovery has cut never comes back: before the log is used again an *anchor* (a batch without
//!    records) has durably replaced it.
//! 5. A segment's file is used again only after a batch that says so was synced; that batch stands behind
//!    every record that the owner appended before it released the segment.
//! 6. After a sync or a write has failed nothing is acknowledged any more, and nothing is tried again: Linux
//!    marks pages clean whose writeback failed, so a second sync would succeed without having
//!    written them.
//! 7. What was admitted can be written: its space, rounded up, was preallocated and set aside before.
//!
//! # Torn or corrupt
//!
//! Recovery meets a batch that is not intact. By (2), if anything valid stands behind it (a later batch or anchor
//! of the segment, or a following segment whose first number does not continue what was read), it
//! had been synced: that is damage to what was acknowledged, and [`open`] refuses with file and offset.
//! If nothing stands behind it, it is the one batch that may have been on its way, and it is cut and reported.
//! One case cannot be told apart on a single disk: damage to the very last acknowledged batch, before
//! anything was written behind it. To keep that small the writer leaves an anchor behind the last batch
//! whenever it has nothing to do (not synced, since nobody waits for it), and a synced one when it is
//! closed. A batch that is found without an anchor behind it may be known to the page cache alone,
//! even after a sync (6): recovery writes it again and syncs it before the log is used.
//!
//! # Bounded size
//!
//! The owner holds the live state, so it is the owner who compacts, by rewriting: when the log has grown, or
//! space is short, [`Event::Compact`] asks for the oldest segment to be given up. The owner appends anew
//! what is still live of the records below the number given ([`Purpose::Rewrite`]), in groups as small as it likes its
//! pauses, and then calls [`Journal::release`]. Checkpoint files were the alternative: they write the whole state
//! at once, need a second format and a second recovery, and tie the size of a pause to the size of the
//! state. Here recovery knows nothing of compaction: it replays the records that are left, in order. That
//! is right as long as a rewritten record states what its object *is* now, not what happened to it, so that replaying
//! it over the older ones, of which none, some or all are still there, gives the same state.
//!
//! The cost is bounded: a compaction is asked for only against what was appended since, a byte for a byte
//! while there is space, eight records for each when it is short. So the end of an object should be a
//! record, even if it could be derived: it pays for the space of the object. Three segments are kept in reserve: new work may use none of
//! them, completions one, rewrites all. So work that was admitted can always be completed,
//! and compacted away, when new work is refused.
//!
//! # Not here
//!
//! No encoding of payloads, no reading at random, no replication, no choice of what to do about damage.

#![forbid(unsafe_code)]

mod directory;
mod format;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod group;
mod journal;
mod limits;
mod options;
mod planted;
mod queue;
mod recovery;
mod segments;
#[cfg(test)]
mod sim;
mod simulated;
mod storage;
mod writer;

pub use directory::{Directory, DirectoryError};
pub use format::Record;
pub use group::Group;
pub use journal::{AppendError, Journal, Lsn, Purpose, Refused, Usage};
pub use limits::{PAYLOAD_LEN_MAX, SEGMENT_LEN_MAX, SEGMENTS_MAX, SEGMENTS_MIN};
pub use options::{Options, OptionsError};
pub use recovery::{Damage, OpenError, Report, Torn, open};
pub use simulated::SimulatedDisk;
pub use storage::Storage;
pub use writer::{Event, Step, Stop, Writer, WriterThread};
