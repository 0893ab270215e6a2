//! The status page: memory that the Doer and one executor share, by which calls are sent ahead of their turn and
//! taken back.
//!
//! The executor runs calls one after the other, in the order in which they were sent. A call's word, found by the
//! id that its request has on the data channel, goes from *queued* to *begun* by the executor or to *recalled*
//! by the Doer, by compare-and-swap, so exactly one of them wins. What was recalled may run elsewhere, what
//! has begun never does. A second word a slot takes how long the call ran.
//!
//! The executor's process may write anything at any time. A page that lies can make its own Doee's calls run
//! twice or fail, and nothing else: the Doer reads it for nothing but these two decisions and the number of
//! calls that it sends ahead.

use std::{
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    time::Duration,
};

/// Calls that have a slot at a time: a call sent while another one holds its slot would take it away.
pub const STATUS_SLOTS: usize = 64;
/// Words of a page.
pub const STATUS_WORDS: usize = 2 * STATUS_SLOTS;

const STATE_BITS: u32 = 2;
const QUEUED: u32 = 1;
const BEGUN: u32 = 2;
const RECALLED: u32 = 3;

/// The page over the memory that holds it.
#[derive(Debug)]
pub struct StatusPage<M> {
    words: M,
}

impl<M: AsRef<[AtomicU32]>> StatusPage<M> {
    /// A page over at least [`STATUS_WORDS`] words; `None` over fewer.
    pub fn new(words: M) -> Option<StatusPage<M>> {
        (words.as_ref().len() >= STATUS_WORDS).then_some(StatusPage { words })
    }

    /// The Doer is about to send a call.
    pub fn queue(&self, call: u64) {
        self.word(call).store(value(call, QUEUED), SeqCst);
    }

    /// The executor begins a call; false when it was recalled.
    pub fn begin(&self, call: u64) -> bool {
        self.swap(call, BEGUN)
    }

    /// The Doer takes a call back; false when it has begun.
    pub fn recall(&self, call: u64) -> bool {
        self.swap(call, RECALLED)
    }

    /// True when the executor has begun the call.
    pub fn has_begun(&self, call: u64) -> bool {
        self.word(call).load(SeqCst) == value(call, BEGUN)
    }

    /// The executor tells how long a call ran.
    pub fn set_run_time(&self, call: u64, run_time: Duration) {
        let micros = u32::try_from(run_time.as_micros()).unwrap_or(u32::MAX);
        self.run_word(call).store(micros, SeqCst);
    }

    /// How long a call ran, as its executor says.
    pub fn run_time(&self, call: u64) -> Duration {
        Duration::from_micros(self.run_word(call).load(SeqCst).into())
    }

    fn swap(&self, call: u64, to: u32) -> bool {
        self.word(call)
            .compare_exchange(value(call, QUEUED), value(call, to), SeqCst, SeqCst)
            .is_ok()
    }

    fn word(&self, call: u64) -> &AtomicU32 {
        &self.words.as_ref()[slot(call)]
    }

    fn run_word(&self, call: u64) -> &AtomicU32 {
        &self.words.as_ref()[STATUS_SLOTS + slot(call)]
    }
}

/// True when two calls have their words in the same place, so that they must not be under way together.
pub fn share_a_slot(first: u64, second: u64) -> bool {
    slot(first) == slot(second)
}

fn slot(call: u64) -> usize {
    (call % STATUS_SLOTS as u64) as usize
}

/// Of an id as much as tells those apart that can be under way together.
fn value(call: u64, state: u32) -> u32 {
    (call as u32) << STATE_BITS | state
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn page() -> StatusPage<Vec<AtomicU32>> {
        StatusPage::new((0..STATUS_WORDS).map(|_| AtomicU32::new(0)).collect()).unwrap()
    }

    #[test]
    fn a_call_is_begun_or_recalled_and_never_both() {
        let page = page();
        page.queue(1);
        assert!(!page.has_begun(1));
        assert!(page.begin(1));
        assert!(page.has_begun(1));
        assert!(!page.recall(1) && !page.begin(1));
        page.queue(2);
        assert!(page.recall(2));
        assert!(!page.begin(2) && !page.has_begun(2));
    }

    #[test]
    fn what_was_never_queued_neither_begins_nor_is_recalled() {
        let page = page();
        assert!(!page.begin(0) && !page.recall(0));
        page.queue(3);
        assert!(
            !page.begin(3 + STATUS_SLOTS as u64),
            "another call of the same slot"
        );
    }

    #[test]
    fn ids_of_any_size_have_a_word() {
        let page = page();
        page.queue(u64::MAX);
        page.queue(0);
        assert!(page.begin(u64::MAX) && page.recall(0));
    }

    #[test]
    fn a_page_needs_all_its_words() {
        assert!(StatusPage::new(vec![]).is_none());
    }

    #[test]
    fn run_times_are_kept_by_call() {
        let page = page();
        page.set_run_time(1, Duration::from_micros(7));
        page.set_run_time(2, Duration::from_secs(1 << 40));
        assert_eq!(page.run_time(1), Duration::from_micros(7));
        assert_eq!(page.run_time(2), Duration::from_micros(u32::MAX.into()));
    }

    #[test]
    fn under_contention_each_call_has_one_winner() {
        let page = Arc::new(page());
        for call in 0..2_000 {
            page.queue(call);
            let executor = {
                let page = Arc::clone(&page);
                std::thread::spawn(move || page.begin(call))
            };
            let recalled = page.recall(call);
            assert_ne!(executor.join().unwrap(), recalled, "call {call}");
        }
    }
}
