//! Time as the core sees it: a number that is passed in. Nothing here reads a clock.

use std::time::Duration;

/// A point of the monotonic clock, in µs since an arbitrary start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// The moment this long after.
    pub fn after(self, duration: Duration) -> Moment {
        self.after_us(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
    }

    /// The moment this many µs after.
    pub fn after_us(self, duration_us: u64) -> Moment {
        Moment(self.0.saturating_add(duration_us))
    }

    /// The µs that have passed since an earlier moment; 0 when it lies ahead.
    pub fn us_since(self, earlier: Moment) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
