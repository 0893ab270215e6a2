//! How many calls a worker is sent ahead: as many as it runs in the time that a wake-up costs, else one.
//!
//! A worker with one call at a time sleeps between any two, and each costs the wake-ups of Doer and worker.
//! Sent ahead, short calls run in a row. What is ahead of its turn can no longer be overtaken by a more urgent
//! call, so its sum is bounded by [`AHEAD`]; and it may find the worker blocked by a call that turns out long,
//! so it is recalled after [`STALLED_AFTER`].

use std::time::Duration;

/// Calls that a worker has at most, the running one included.
pub(crate) const CALLS_MAX: u32 = 16;
const _: () = assert!(
    (CALLS_MAX as usize) < isms_protocol::worker::STATUS_SLOTS,
    "a worker's calls each have a place on its status page, and there is a free one for the next"
);
/// Work that a worker is sent ahead at most.
const AHEAD: Duration = Duration::from_micros(200);
/// Calls whose run times must be known before more than one is sent.
const KNOWN_AFTER: u32 = 8;
/// A call that has run for so long blocks what was sent behind it.
pub(super) const STALLED_AFTER: Duration = Duration::from_millis(2);

/// How long a Doee's calls run, and the number of calls for a worker that follows from it.
#[derive(Debug)]
pub(super) struct RunTime {
    average: Duration,
    known: u32,
    depth: u32,
    depth_max: u32,
}

impl RunTime {
    pub(super) fn new(depth_max: u32) -> RunTime {
        RunTime {
            average: Duration::ZERO,
            known: 0,
            depth: 1,
            depth_max,
        }
    }

    /// Calls that a worker may have.
    pub(super) fn depth(&self) -> u32 {
        self.depth
    }

    /// Takes note of a call that took so long. True when the depth has changed.
    pub(super) fn note(&mut self, run_time: Duration) -> bool {
        self.average = match self.known {
            0 => run_time,
            _ => (self.average * 7 + run_time) / 8,
        };
        self.known = self.known.saturating_add(1);
        self.adapt()
    }

    /// Takes note of a call that takes long. True when the depth has changed.
    pub(super) fn note_stalled(&mut self) -> bool {
        self.average = self.average.max(STALLED_AFTER);
        self.adapt()
    }

    /// Down at once; up only when there is some reserve, so that it does not go to and fro.
    fn adapt(&mut self) -> bool {
        let possible = |average: Duration| {
            let count = AHEAD.as_nanos() / average.as_nanos().max(1);
            u32::try_from(count).unwrap_or(u32::MAX).clamp(1, self.depth_max)
        };
        let before = self.depth;
        if self.known >= KNOWN_AFTER {
            self.depth = self
                .depth
                .min(possible(self.average))
                .max(possible(self.average * 3 / 2));
        }
        self.depth != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(micros: u64, count: u32) -> RunTime {
        let mut run_time = RunTime::new(CALLS_MAX);
        for _ in 0..count {
            run_time.note(Duration::from_micros(micros));
        }
        run_time
    }

    #[test]
    fn short_calls_are_sent_ahead_once_they_are_known_to_be_short() {
        assert_eq!(noted(1, KNOWN_AFTER - 1).depth(), 1);
        assert_eq!(noted(1, KNOWN_AFTER).depth(), CALLS_MAX);
        assert_eq!(noted(0, KNOWN_AFTER).depth(), CALLS_MAX);
        assert_eq!(noted(20, KNOWN_AFTER).depth(), 6);
        assert_eq!(noted(200, KNOWN_AFTER).depth(), 1);
        assert_eq!(noted(u64::from(u32::MAX), 100).depth(), 1);
    }

    #[test]
    fn nothing_is_sent_ahead_where_that_is_turned_off() {
        let mut run_time = RunTime::new(1);
        assert!((0..100).all(|_| !run_time.note(Duration::ZERO)));
        assert_eq!(run_time.depth(), 1);
    }

    #[test]
    fn a_call_that_stalls_ends_it_at_once_and_short_ones_bring_it_back() {
        let mut run_time = noted(1, KNOWN_AFTER);
        assert!(run_time.note_stalled());
        assert_eq!(run_time.depth(), 1);
        for _ in 0..100 {
            run_time.note(Duration::from_micros(1));
        }
        assert_eq!(run_time.depth(), CALLS_MAX);
    }

    #[test]
    fn an_average_at_a_border_does_not_change_the_depth_to_and_fro() {
        let mut run_time = noted(65, 100);
        let depth = run_time.depth();
        let changes = (0..1000).filter(|index| run_time.note(Duration::from_micros(60 + 10 * (index % 2))));
        assert!(changes.count() <= 1, "from {depth}");
    }
}
