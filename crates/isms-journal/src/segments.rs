//! Which file is which part of the log.
//!
//! Files are slots: their names say nothing, their headers say everything, so a file is used again
//! without a change in the directory. The live segments are those from the oldest that is needed to the
//! head, with sequence numbers that follow each other; all others are spares.

use std::{collections::VecDeque, io};

use crate::{
    Lsn, Options, Storage,
    format::{SEGMENT_HEADER_LEN, SegmentHeader},
    limits::WARM_LEN,
};

const PREFIX: &str = "segment-";

/// An open file of the log.
#[derive(Debug)]
pub(crate) struct Slot<F> {
    pub(crate) name: String,
    pub(crate) file: F,
    pub(crate) len: u32,
}

/// A segment that is part of the log.
#[derive(Debug)]
pub(crate) struct Live<F> {
    pub(crate) slot: Slot<F>,
    pub(crate) sequence: u64,
    pub(crate) first_lsn: Lsn,
}

/// A file that can become the next head.
#[derive(Debug)]
pub(crate) struct Spare<F> {
    pub(crate) slot: Slot<F>,
    /// Nothing was ever written from here on: the first write there costs the file system a change of
    /// its own records in each sync, as much again as the sync itself.
    pub(crate) cold_from: u32,
}

/// All files of a log.
#[derive(Debug)]
pub(crate) struct Segments<F> {
    /// From the oldest to the head; never empty.
    pub(crate) live: VecDeque<Live<F>>,
    /// The last is used next: what was used most lately first, what is cold last.
    pub(crate) spares: Vec<Spare<F>>,
    /// The number in the next file's name.
    pub(crate) next_number: u64,
}

impl<F> Segments<F> {
    pub(crate) fn head(&self) -> &Live<F> {
        self.live.back().expect("a log has a head")
    }

    pub(crate) fn count(&self) -> usize {
        self.live.len() + self.spares.len()
    }

    /// Sequence of the oldest segment that holds records from `below` on.
    pub(crate) fn oldest_from(&self, below: Lsn) -> u64 {
        let ends = self.live.iter().skip(1);
        let dead = ends.take_while(|next| next.first_lsn <= below).count();
        self.live[dead].sequence
    }

    /// Makes spares of the segments before this one; the head stays.
    pub(crate) fn recycle(&mut self, oldest: u64) {
        while self.live.len() > 1 && self.live[0].sequence < oldest {
            let slot = self.live.pop_front().expect("there is more than one").slot;
            let cold_from = slot.len;
            self.spares.push(Spare { slot, cold_from });
        }
    }

    /// Bytes that can be promised, the head being written up to this position.
    pub(crate) fn free(&self, options: &Options, position: u32) -> u64 {
        let spares = self.spares.iter().map(|spare| spare.slot.len);
        let spares: u64 = spares
            .map(|len| options.usable(len, crate::format::BATCHES_BEGIN))
            .sum();
        spares + options.usable(self.head().slot.len, position)
    }
}

/// The number in a segment file's name; nothing for files of others.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?;
    let is_ours = digits.len() >= 8 && digits.bytes().all(|byte| byte.is_ascii_digit());
    // A number that another one can follow.
    digits.parse().ok().filter(|number| is_ours && *number < u64::MAX)
}

/// Creates a file with its space, which is durable, so that the reserve is there after a loss of power. The
/// caller syncs the directory before the file is used.
pub(crate) fn create<S: Storage>(storage: &mut S, number: u64, len: u32) -> io::Result<Spare<S::File>> {
    let name = format!("{PREFIX}{number:08}");
    let file = storage.create(&name)?;
    let reserved = storage.preallocate(&file, u64::from(len));
    if let Err(error) = reserved.and_then(|()| storage.sync_data(&file)) {
        // What is left of it is found and used, or removed, at the next opening.
        let _ = storage.remove(&name);
        return Err(error);
    }
    let slot = Slot { name, file, len };
    Ok(Spare { slot, cold_from: 0 })
}

/// Writes the next piece of a cold spare, and syncs it.
pub(crate) fn warm<S: Storage>(storage: &mut S, spare: &mut Spare<S::File>) -> io::Result<()> {
    static ZEROS: [u8; WARM_LEN as usize] = [0; WARM_LEN as usize];
    let len = WARM_LEN.min(spare.slot.len - spare.cold_from);
    let zeros = &ZEROS[..len as usize];
    storage.write_at(&spare.slot.file, u64::from(spare.cold_from), zeros)?;
    storage.sync_data(&spare.slot.file)?;
    spare.cold_from += len;
    Ok(())
}

/// Writes a segment's header, without a sync.
pub(crate) fn write_header<S: Storage>(
    storage: &mut S,
    slot: &Slot<S::File>,
    header: &SegmentHeader,
) -> io::Result<()> {
    let bytes: [u8; SEGMENT_HEADER_LEN] = header.encode();
    storage.write_at(&slot.file, 0, &bytes)
}
