//! A limit of calls per second: a bucket that fills at the rate and holds what may come at once.
//!
//! Counts in millionths of a call, so that nothing is lost by rounding, however often it is asked.

use crate::clock::Moment;

/// Millionths: a µs at a rate of one per second.
const CALL: u64 = 1_000_000;

/// What is left of a rate.
#[derive(Debug)]
pub(super) struct Bucket {
    rate_max: u32,
    burst: u32,
    level: u64,
    filled_at: Moment,
}

impl Bucket {
    /// A full one, that holds what comes in one second; `None` for a rate of 0, which is no limit.
    pub(super) fn new(rate_max: u32, now: Moment) -> Option<Bucket> {
        (rate_max > 0).then(|| Bucket::with_burst(rate_max, rate_max, now))
    }

    /// A full one, that holds so many.
    pub(super) fn with_burst(rate_max: u32, burst: u32, now: Moment) -> Bucket {
        Bucket {
            rate_max,
            burst,
            level: u64::from(burst) * CALL,
            filled_at: now,
        }
    }

    pub(super) fn burst(&self) -> u32 {
        self.burst
    }

    pub(super) fn rate_max(&self) -> u32 {
        self.rate_max
    }

    /// Takes a call out, if one is in it.
    pub(super) fn take(&mut self, now: Moment) -> bool {
        let taken = self.holds_one(now);
        if taken {
            self.level -= CALL;
        }
        taken
    }

    /// Whether a call is in it.
    pub(super) fn holds_one(&mut self, now: Moment) -> bool {
        let rate = u64::from(self.rate_max);
        let flowed = now.us_since(self.filled_at).saturating_mul(rate);
        self.filled_at = self.filled_at.max(now);
        self.level = self
            .level
            .saturating_add(flowed)
            .min(u64::from(self.burst) * CALL);
        self.level >= CALL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of calls that come every so many µs, how many are accepted.
    fn accepted(bucket: &mut Bucket, from: u64, count: u64, every_us: u64) -> usize {
        let times = (0..count).map(|number| Moment(from + number * every_us));
        times.filter(|&now| bucket.take(now)).count()
    }

    #[test]
    fn a_seconds_worth_may_come_at_once_and_then_as_many_as_the_rate_says() {
        for rate_max in [1, 3, 7, 1000] {
            let mut bucket = Bucket::new(rate_max, Moment(5)).unwrap();
            let rate = rate_max as usize;
            assert_eq!(accepted(&mut bucket, 5, 5_000, 0), rate);
            let later = accepted(&mut bucket, 5 + 100, 100_000, 100);
            assert_eq!(later, 10 * rate, "in ten seconds");
        }
    }

    #[test]
    fn who_was_away_for_long_has_saved_one_second_and_a_clock_that_stands_gives_nothing() {
        let mut bucket = Bucket::new(4, Moment(0)).unwrap();
        assert_eq!(accepted(&mut bucket, 0, 10, 0), 4);
        assert_eq!(accepted(&mut bucket, u64::MAX - 10, 10, 0), 4);
        assert_eq!(
            accepted(&mut bucket, 0, 10, 0),
            0,
            "the clock does not run backwards"
        );
        assert!(Bucket::new(0, Moment(0)).is_none());
    }
}
