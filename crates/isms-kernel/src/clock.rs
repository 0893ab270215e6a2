//! Time as the core sees it: a number that is passed in. Nothing here reads a clock.

use std::time::Duration;

use serde::{Deserialize, Serialize};

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

/// A point of the calendar's clock, in µs since 1970 (UTC). It may jump; it is what is left of a time after a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Unix(pub u64);

/// What the calendar's clock shows at a moment, as far as it was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Calendar {
    /// Its lead over the monotonic clock in µs.
    ahead_us: i64,
}

impl Calendar {
    pub(crate) fn set(&mut self, now: Moment, shows: Unix) {
        let difference = i128::from(shows.0) - i128::from(now.0);
        self.ahead_us = difference.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
    }

    pub(crate) fn at(self, moment: Moment) -> Unix {
        Unix(moment.0.saturating_add_signed(self.ahead_us))
    }

    /// Its lead over the monotonic clock in µs.
    pub(crate) fn ahead_us(self) -> i64 {
        self.ahead_us
    }

    pub(crate) fn moment(self, unix: Unix) -> Moment {
        Moment(unix.0.saturating_add_signed(self.ahead_us.saturating_neg()))
    }
}
