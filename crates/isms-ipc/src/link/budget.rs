//! How much all streams of a connection together may have in flight towards this side.
//!
//! The Kernel keeps what this side has not read yet, and gives up a connection that leaves too much
//! unread. Windows alone do not prevent that: sixty-four of them are all that is allowed.
//!
//! Invariants: credit that was granted and is not used stays within three quarters of
//! `CONNECTION_UNSENT_MAX`, for as many streams as an edge has connections; every stream gets some,
//! however long others sit on theirs. The last quarter is for other messages, and for what is still
//! under way of streams that were given up.

use std::sync::atomic::{AtomicUsize, Ordering};

use isms_protocol::limits::{CONNECTION_UNSENT_MAX, HTTP_CONNECTIONS_MAX, STREAM_WINDOW};

/// Bytes in flight beyond which a stream gets the least window only.
const IN_FLIGHT_MAX: usize = CONNECTION_UNSENT_MAX / 2;
/// A window is at most one so-manieth of what is left, so that there is always some left for the next.
const SHARE: usize = 8;
/// The least window of a stream.
const WINDOW_MIN: u32 = (CONNECTION_UNSENT_MAX / 4 / HTTP_CONNECTIONS_MAX) as u32;

/// The credit of a connection's streams that was granted and is not used.
#[derive(Debug, Default)]
pub(super) struct Budget {
    in_flight: AtomicUsize,
}

impl Budget {
    /// Grants a stream what its window has room for, when `held` bytes of it are granted or wait to be
    /// read; 0 when that is not worth a message.
    pub(super) fn grant(&self, held: u32) -> u32 {
        let mut granted = 0;
        let update = |in_flight| {
            granted = worthwhile(window(in_flight), held)?;
            Some(in_flight + granted as usize)
        };
        match self
            .in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, update)
        {
            Ok(_) => granted,
            Err(_) => 0,
        }
    }

    /// Takes note of credit that was used, or never will be.
    pub(super) fn release(&self, bytes: u32) {
        self.in_flight.fetch_sub(bytes as usize, Ordering::Relaxed);
    }
}

fn window(in_flight: usize) -> u32 {
    let share = IN_FLIGHT_MAX.saturating_sub(in_flight) / SHARE;
    u32::try_from(share).map_or(STREAM_WINDOW, |share| share.clamp(WINDOW_MIN, STREAM_WINDOW))
}

fn worthwhile(window: u32, held: u32) -> Option<u32> {
    let room = window.saturating_sub(held);
    (room >= WINDOW_MIN.max(window / 4)).then_some(room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_streams_have_whole_windows() {
        let budget = Budget::default();
        for stream in 0..25 {
            assert_eq!(budget.grant(0), STREAM_WINDOW, "stream {stream}");
        }
        assert!(budget.grant(0) < STREAM_WINDOW);
    }

    #[test]
    fn however_many_sit_on_their_credit_the_next_gets_some_and_the_sum_is_bounded() {
        let budget = Budget::default();
        let mut sum = 0;
        for stream in 0..HTTP_CONNECTIONS_MAX {
            let granted = budget.grant(0);
            assert!(granted >= WINDOW_MIN, "stream {stream} got {granted}");
            sum += granted as usize;
        }
        assert!(sum <= CONNECTION_UNSENT_MAX / 4 * 3, "{sum} bytes are in flight");
    }

    #[test]
    fn what_is_used_can_be_granted_again() {
        let budget = Budget::default();
        let granted: Vec<_> = (0..1000).map(|_| budget.grant(0)).collect();
        assert_eq!(budget.grant(0), WINDOW_MIN);
        granted.into_iter().for_each(|bytes| budget.release(bytes));
        assert_eq!(budget.grant(0), STREAM_WINDOW);
    }

    #[test]
    fn less_than_a_quarter_window_is_not_granted() {
        let budget = Budget::default();
        assert_eq!(budget.grant(STREAM_WINDOW / 4 * 3 + 1), 0);
        assert_eq!(budget.grant(STREAM_WINDOW / 4 * 3), STREAM_WINDOW / 4);
        (0..1000).for_each(|_| _ = budget.grant(0));
        assert_eq!((budget.grant(1), budget.grant(0)), (0, WINDOW_MIN));
        // A window that has shrunk since it was granted.
        assert_eq!(budget.grant(STREAM_WINDOW), 0);
    }
}
