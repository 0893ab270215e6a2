//! When a role that died may start again: at once the first time, then later and later, and after too
//! many deaths in a row only after a long pause (the crash-loop breaker).

use std::time::{Duration, Instant};

/// A run this long forgives the deaths before it.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// Pauses double from the first to the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
/// Deaths in a row after which the breaker opens.
const DEATHS_MAX: u32 = 12;
/// Pause while the breaker is open.
const BREAKER_PAUSE: Duration = Duration::from_secs(30);

/// The deaths of one role.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RestartPolicy {
    deaths: u32,
}

/// What a death leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) pause: Duration,
    /// True when the breaker has opened: a person should look.
    pub(crate) looping: bool,
}

impl RestartPolicy {
    /// Notes a death at `now` of a process started at `started`.
    pub(crate) fn died(&mut self, started: Instant, now: Instant) -> Verdict {
        if now.saturating_duration_since(started) >= STABLE_AFTER {
            self.deaths = 0;
        }
        let deaths = self.deaths;
        self.deaths += 1;
        if self.deaths > DEATHS_MAX {
            self.deaths = 0;
            return Verdict {
                pause: BREAKER_PAUSE,
                looping: true,
            };
        }
        let pause = match deaths {
            0 => Duration::ZERO,
            _ => PAUSE.0.saturating_mul(1 << (deaths - 1).min(16)).min(PAUSE.1),
        };
        Verdict {
            pause,
            looping: false,
        }
    }

    /// Deaths in a row.
    pub(crate) fn deaths(&self) -> u32 {
        self.deaths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_a_stable_run_forgives() {
        let start = Instant::now();
        let mut policy = RestartPolicy::default();
        let pauses: Vec<u128> = (0..4)
            .map(|_| policy.died(start, start).pause.as_millis())
            .collect();
        assert_eq!(pauses, [0, 20, 40, 80]);
        assert_eq!(policy.died(start, start + STABLE_AFTER).pause, Duration::ZERO);
    }

    #[test]
    fn the_breaker_opens_after_too_many_deaths_and_closes_again() {
        let start = Instant::now();
        let mut policy = RestartPolicy::default();
        for _ in 0..DEATHS_MAX {
            assert!(!policy.died(start, start).looping);
        }
        assert_eq!(
            policy.died(start, start),
            Verdict {
                pause: BREAKER_PAUSE,
                looping: true
            }
        );
        assert_eq!(policy.died(start, start).pause, Duration::ZERO);
    }
}
