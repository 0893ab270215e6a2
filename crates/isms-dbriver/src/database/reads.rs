//! What durable calls have read here since they last wrote, and what was refused to them.
//!
//! A transaction that does not write leaves nothing on the disk. Its answer is remembered until the call writes, and goes
//! into the inbox with that: so what may have decided an effect is repeated with it, and a call that is run again comes
//! by itself to where it was. Remembering is a favour and no promise: what is forgotten, by a kill or for want of room,
//! is read again, and a call that writes something else for it is refused by the inbox.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hashlink::LinkedHashMap;
use isms_protocol::ProcessId;

use super::inbox::{DurableRequest, Told};
use crate::config::{INBOX_ANSWER_LEN_MAX, READS_LEN_MAX, READS_OF_CALL_LEN_MAX, READS_OF_CALL_MAX};

/// What a read costs beside its answer.
const READ_COST: usize = 128;

/// A transaction that wrote nothing, and what it was told.
pub(crate) type Read = (DurableRequest, Told);

/// The reads of the durable calls of one database; the calls that read last stand last.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    calls: LinkedHashMap<ProcessId, Vec<Read>>,
    bytes: usize,
}

impl Reads {
    /// Forgets what an earlier attempt was told after it knew the answer of the transaction that now begins: this one
    /// may go another way from here.
    pub(crate) fn begin(&mut self, request: &DurableRequest) {
        let mut reads = self.take(request.invocation);
        reads.retain(|(earlier, _)| earlier.sequence.settled < request.sequence.number);
        self.put(request.invocation, reads);
    }

    /// Remembers a read in the place of an earlier one of the same number, as far as there is room.
    pub(crate) fn remember(&mut self, request: DurableRequest, told: Told) {
        let invocation = request.invocation;
        let mut reads = self.take(invocation);
        // What an earlier attempt has seen is not what this one decides by.
        reads.retain(|(earlier, _)| earlier.sequence.number != request.sequence.number);
        let room = READS_OF_CALL_LEN_MAX.saturating_sub(reads.iter().map(cost).sum());
        let read = (request, told);
        if read.1.bytes().len() <= INBOX_ANSWER_LEN_MAX
            && cost(&read) <= room
            && reads.len() < READS_OF_CALL_MAX
        {
            reads.push(read);
        }
        self.put(invocation, reads);
        while self.bytes > READS_LEN_MAX
            && let Some((_, forgotten)) = self.calls.pop_front()
        {
            self.bytes -= forgotten.iter().map(cost).sum::<usize>();
        }
    }

    /// What a call has read.
    pub(crate) fn of(&self, invocation: ProcessId) -> Vec<Read> {
        self.calls.get(&invocation).cloned().unwrap_or_default()
    }

    /// Forgets reads that are in the inbox now.
    pub(crate) fn forget(&mut self, invocation: ProcessId, recorded: &[u32]) {
        let mut reads = self.take(invocation);
        reads.retain(|(read, _)| !recorded.contains(&read.sequence.number));
        self.put(invocation, reads);
    }

    fn take(&mut self, invocation: ProcessId) -> Vec<Read> {
        let reads = self.calls.remove(&invocation).unwrap_or_default();
        self.bytes -= reads.iter().map(cost).sum::<usize>();
        reads
    }

    fn put(&mut self, invocation: ProcessId, reads: Vec<Read>) {
        if !reads.is_empty() {
            self.bytes += reads.iter().map(cost).sum::<usize>();
            self.calls.insert(invocation, reads);
        }
    }
}

/// Locks what a database's readers and its writer share.
pub(crate) fn lock(reads: &Mutex<Reads>) -> MutexGuard<'_, Reads> {
    reads.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cost((_, told): &Read) -> usize {
    READ_COST + told.bytes().len()
}

#[cfg(test)]
mod tests {
    use isms_protocol::dbriver::Sequence;

    use super::*;

    fn read(call: u8, number: u32) -> DurableRequest {
        DurableRequest {
            invocation: ProcessId::from_bytes([call; 16]),
            sequence: Sequence {
                number,
                settled: number - 1,
            },
            hash: [0; 32],
        }
    }

    fn answers(reads: &Reads, call: u8) -> Vec<(u32, usize)> {
        let of = reads.of(ProcessId::from_bytes([call; 16]));
        of.iter()
            .map(|(read, told)| (read.sequence.number, told.bytes().len()))
            .collect()
    }

    fn of_len(len: usize) -> Told {
        Told::Answer(vec![0; len].into())
    }

    #[test]
    fn a_number_has_the_answer_that_came_last_until_it_is_recorded() {
        let mut reads = Reads::default();
        reads.remember(read(1, 1), of_len(10));
        reads.remember(read(1, 2), of_len(20));
        reads.remember(read(1, 1), of_len(30));
        assert_eq!(answers(&reads, 1), [(2, 20), (1, 30)]);
        // Too long to be kept, and the one before is not what was answered last.
        reads.remember(read(1, 2), of_len(INBOX_ANSWER_LEN_MAX + 1));
        assert_eq!(answers(&reads, 1), [(1, 30)]);
        reads.remember(read(1, 3), of_len(40));
        reads.forget(ProcessId::from_bytes([1; 16]), &[1]);
        assert_eq!(answers(&reads, 1), [(3, 40)]);
        reads.forget(ProcessId::from_bytes([1; 16]), &[3]);
        assert_eq!((reads.bytes, reads.calls.len()), (0, 0));
    }

    #[test]
    fn what_an_earlier_attempt_was_told_later_is_not_what_this_one_decides_by() {
        let mut reads = Reads::default();
        let mut beside = read(1, 3);
        beside.sequence.settled = 1;
        for told in [read(1, 1), read(1, 2), beside, read(1, 4)] {
            reads.remember(told, of_len(1));
        }
        reads.begin(&read(1, 5));
        assert_eq!(answers(&reads, 1).len(), 4);
        // The third was begun without knowing how the second would end.
        reads.begin(&read(1, 2));
        assert_eq!(answers(&reads, 1), [(1, 1), (2, 1), (3, 1)]);
        reads.begin(&read(2, 1));
        reads.begin(&read(1, 1));
        assert_eq!(answers(&reads, 1), [(1, 1)]);
    }

    #[test]
    fn a_call_has_its_room_and_the_calls_that_read_longest_ago_make_room() {
        let mut reads = Reads::default();
        for number in 1..=10 {
            reads.remember(read(1, number), of_len(INBOX_ANSWER_LEN_MAX));
        }
        let of_one = READS_OF_CALL_LEN_MAX / (INBOX_ANSWER_LEN_MAX + READ_COST);
        assert_eq!(answers(&reads, 1).len(), of_one);
        for call in 2..=200 {
            for number in 1..=10 {
                reads.remember(read(call, number), of_len(INBOX_ANSWER_LEN_MAX));
            }
        }
        assert!(reads.bytes <= READS_LEN_MAX);
        let kept = (1..=200).filter(|call| !answers(&reads, *call).is_empty());
        let kept: Vec<u8> = kept.collect();
        assert!(kept.len() >= READS_LEN_MAX / READS_OF_CALL_LEN_MAX && kept.is_sorted());
        assert_eq!(kept.last(), Some(&200));
        assert_eq!(usize::from(200 - kept[0]) + 1, kept.len());
    }
}
