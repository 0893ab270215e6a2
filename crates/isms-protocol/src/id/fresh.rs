//! Fresh UUIDv7s without a system call for each: the Kernel makes one per request.

use std::{
    cell::RefCell,
    time::{SystemTime, UNIX_EPOCH},
};

use uuid::{Builder, Uuid};

/// Random bytes asked of the system at once.
const POOL_LEN: usize = 1024;
/// Random bytes of an id: the version and the variant are laid over them, the counter over the first four.
const RANDOM_LEN: usize = 10;
/// Bits of the counter that orders the ids of one millisecond.
const COUNTER_BITS: u32 = 26;

thread_local! {
    static SOURCE: RefCell<Source> = const { RefCell::new(Source::new()) };
}

/// An id that sorts after all that this thread has made before.
pub(super) fn uuid_v7() -> Uuid {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    SOURCE.with_borrow_mut(|source| source.next(now_ms))
}

struct Source {
    pool: [u8; POOL_LEN],
    used: usize,
    last_ms: u64,
    counter: u32,
}

impl Source {
    const fn new() -> Source {
        Source {
            pool: [0; POOL_LEN],
            used: POOL_LEN,
            last_ms: 0,
            counter: 0,
        }
    }

    fn next(&mut self, now_ms: u64) -> Uuid {
        let mut random: [u8; RANDOM_LEN] = self.random();
        if now_ms > self.last_ms {
            self.last_ms = now_ms;
            // From the lower half of its range, so that it does not run over within its millisecond.
            self.counter = u32::from_be_bytes([random[0], random[1], random[2], random[3]])
                & ((1 << (COUNTER_BITS - 1)) - 1);
        } else {
            self.counter += 1;
            if self.counter >> COUNTER_BITS != 0 {
                self.last_ms += 1;
                self.counter = 0;
            }
        }
        // 12 bits before the variant, 14 behind it.
        let (high, low) = (self.counter >> 14, self.counter & 0x3fff);
        random[..2].copy_from_slice(&(high as u16).to_be_bytes());
        random[2..4].copy_from_slice(&(low as u16).to_be_bytes());
        Builder::from_unix_timestamp_millis(self.last_ms, &random).into_uuid()
    }

    fn random(&mut self) -> [u8; RANDOM_LEN] {
        if self.used + RANDOM_LEN > POOL_LEN {
            getrandom::fill(&mut self.pool).expect("the system gives random bytes");
            self.used = 0;
        }
        let taken = &mut self.pool[self.used..self.used + RANDOM_LEN];
        let random = std::array::from_fn(|index| taken[index]);
        taken.fill(0);
        self.used += RANDOM_LEN;
        random
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_in_the_order_of_their_making_through_equal_and_backward_clocks() {
        let mut source = Source::new();
        let clock = [5, 5, 5, 9, 9, 3, 3, 10];
        let ids: Vec<Uuid> = clock
            .iter()
            .cycle()
            .take(8)
            .map(|now| source.next(*now))
            .collect();
        assert!(ids.is_sorted_by(|earlier, later| earlier < later), "{ids:?}");
        let times: Vec<u64> = ids.iter().map(|id| id.as_u64_pair().0 >> 16).collect();
        assert_eq!(times, [5, 5, 5, 9, 9, 9, 9, 10]);
    }

    #[test]
    fn a_counter_that_runs_over_moves_on_to_the_next_millisecond() {
        let mut source = Source::new();
        source.next(7);
        source.counter = (1 << COUNTER_BITS) - 2;
        let ids = [source.next(7), source.next(7), source.next(7)];
        assert!(ids.is_sorted_by(|earlier, later| earlier < later), "{ids:?}");
        assert_eq!(ids[1].as_u64_pair().0 >> 16, 8);
    }

    #[test]
    fn ids_are_version_7_and_differ_in_their_random_bits() {
        let ids: Vec<Uuid> = (0..1000).map(|_| uuid_v7()).collect();
        assert!(ids.iter().all(|id| id.get_version_num() == 7));
        let mut tails: Vec<u64> = ids
            .iter()
            .map(|id| id.as_u64_pair().1 & 0xffff_ffff_ffff)
            .collect();
        tails.sort_unstable();
        tails.dedup();
        assert_eq!(tails.len(), ids.len());
    }
}
