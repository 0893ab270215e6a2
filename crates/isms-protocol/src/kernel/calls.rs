//! How the calls of Doees went, since the Kernel started: counts, deadlines, times.

use serde::{Deserialize, Serialize};

use crate::{Class, DoeeVersion, ProjectId};

/// Upper bounds of the buckets of a [`Histogram`], in µs; a last bucket holds what is above them.
pub const BUCKETS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000, 60_000_000,
];

/// Body of [`super::Operation::Calls`]: which part of the list is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallsAfter {
    /// [`Calls::next`] of the part before; 0 for the first one.
    pub row: u32,
}

/// A part of the list of Doees that were called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    /// As many as fit a message.
    pub doees: Vec<DoeeCalls>,
    /// Where the next part begins; 0 when this is the last one.
    pub next: u32,
}

/// The calls of one version of a Doee.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoeeCalls {
    /// Which; `NONE` for all together of which there is no row.
    pub doee: DoeeVersion,
    /// Whose.
    pub project: ProjectId,
    /// Calls that wait now.
    pub queued: u32,
    /// Calls that the Doer has now.
    pub running: u32,
    /// By class, those classes only in which it was called.
    pub classes: Vec<ClassCalls>,
}

/// The calls of one version of a Doee in one class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassCalls {
    /// Which.
    pub class: Class,
    /// How they ended.
    pub outcomes: Outcomes,
    /// Calls that the Doer answered, well or not, before their deadline.
    pub deadlines_met: u64,
    /// Calls that were still running at their deadline; [`Outcomes::expired`] missed it before they ran.
    pub deadlines_missed: u64,
    /// Time in the queue, of calls whose turn came.
    pub waited: Histogram,
    /// Time from then until the Doer was done with them; not of those that were running when it was lost.
    pub ran: Histogram,
}

/// Calls by how they ended. Each call counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outcomes {
    /// The Doee answered, whatever it said.
    pub done: u64,
    /// The Doer answered with an error.
    pub failed: u64,
    /// The Doer was lost while it ran the call.
    pub crashed: u64,
    /// There was no Doer.
    pub unavailable: u64,
    /// The queue was full, or others needed its room.
    pub refused: u64,
    /// A limit of calls per second was reached.
    pub rate_limited: u64,
    /// Its caller did not want it any more.
    pub cancelled: u64,
    /// Its deadline passed in the queue.
    pub expired: u64,
    /// Its deadline passed while it ran.
    pub timed_out: u64,
}

impl Outcomes {
    /// Names and numbers, in a fixed order.
    pub const fn named(&self) -> [(&'static str, u64); 9] {
        [
            ("done", self.done),
            ("failed", self.failed),
            ("crashed", self.crashed),
            ("unavailable", self.unavailable),
            ("refused", self.refused),
            ("rate_limited", self.rate_limited),
            ("cancelled", self.cancelled),
            ("expired", self.expired),
            ("timed_out", self.timed_out),
        ]
    }
}

/// How long something took, how often.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// How often, by bucket of [`BUCKETS_US`], and above them.
    pub counts: Vec<u64>,
    /// All of it together, in µs.
    pub sum_us: u64,
}
