//! Durability: what the journal says of durable calls, and when it is believed.
//!
//! A durable call is acknowledged, and may run, once its [`Open`](entry::Open) is durable; its end is told once its
//! [`Ended`](entry::Ended) or [`Dead`](entry::Dead) is. Whatever state the Kernel is killed in, replaying the journal
//! gives the calls that were acknowledged and have not ended, the results that are kept, and the dead letters; what may
//! have been running is tried again when the Doer has said that it no longer is.
//!
//! Invariants: of each live call exactly one record in the journal states what it *is* (its *statement*); entries behind
//! it say what has changed since; compaction writes statements anew. The order of entries of one call in the journal is
//! that in which they came about.

mod entry;
mod log;
mod recovery;

pub(crate) use entry::{Dead, Ended, Entry, Failed, Key, Open};
pub(crate) use log::{Awaited, Log, Statement};
pub(crate) use recovery::Recovered;
pub use recovery::{Recovery, RecoveryError};
