//! Reads one segment from its first batch on, a batch at a time.

use super::{Damage, OpenError, corrupt, failed};
use crate::{
    Lsn, Record, Storage,
    format::{BATCH_HEADER_LEN, BATCHES_BEGIN, BatchHeader, SECTOR_LEN, SegmentHeader, read_record, room},
    limits::BATCH_LEN_MAX,
    planted::{Bug, planted},
    segments::Slot,
};

/// Bytes that are looked through at once.
const PIECE_LEN: usize = 64 << 10;

/// A walk through a segment.
pub(super) struct Scan<'a, S: Storage> {
    storage: &'a mut S,
    slot: &'a Slot<S::File>,
    seed: u32,
    /// Where the next batch is expected.
    pub(super) position: u32,
    /// The number that its first record has.
    pub(super) next_lsn: Lsn,
    /// Sequence of the oldest segment, as the last batch says, or the header before there is one.
    pub(super) oldest: u64,
    /// Offset and length of the last batch.
    pub(super) last: Option<(u32, u32)>,
    /// An anchor stands at the position.
    pub(super) has_anchor: bool,
    /// A batch with a valid header stands at the position and is not intact: its length.
    pub(super) torn: Option<u64>,
    /// Where it is not intact.
    damaged_at: u64,
    buffer: Vec<u8>,
}

impl<'a, S: Storage> Scan<'a, S> {
    pub(super) fn new(storage: &'a mut S, slot: &'a Slot<S::File>, header: &SegmentHeader) -> Scan<'a, S> {
        Scan {
            storage,
            slot,
            seed: header.seed(),
            position: BATCHES_BEGIN,
            next_lsn: header.first_lsn,
            oldest: header.oldest,
            last: None,
            has_anchor: false,
            torn: None,
            damaged_at: u64::from(BATCHES_BEGIN),
            buffer: Vec::new(),
        }
    }

    /// Hands on the records of the next batch, if there is one that is intact.
    pub(super) fn next_batch(&mut self, replay: &mut dyn FnMut(Record<'_>)) -> Result<bool, OpenError> {
        if self.read_batch(replay)? {
            return Ok(true);
        }
        if planted(Bug::SkipsCorrupt)
            && let Some(offset) = find_batch(self.storage, self.slot, self.seed, self.position + 1)?
        {
            self.position = offset;
            let header = self.read_header()?;
            self.next_lsn = header.map_or(self.next_lsn, |(header, _)| header.first_lsn);
            return self.read_batch(replay);
        }
        Ok(false)
    }

    fn read_batch(&mut self, replay: &mut dyn FnMut(Record<'_>)) -> Result<bool, OpenError> {
        self.damaged_at = u64::from(self.position);
        let Some((header, sum)) = self.read_header()? else {
            return Ok(false);
        };
        let room = room(self.slot.len, self.position);
        let order = header.first_lsn == self.next_lsn && header.oldest >= self.oldest;
        if !order || (!header.is_anchor && header.len() > room) || header.records_len as usize > BATCH_LEN_MAX
        {
            return Err(corrupt(&self.slot.name, self.damaged_at, Damage::Order));
        }
        self.has_anchor = header.is_anchor;
        if header.is_anchor {
            return Ok(false);
        }
        self.buffer.resize(header.records_len as usize, 0);
        let offset = u64::from(self.position) + BATCH_HEADER_LEN as u64;
        let read = self.storage.read_at(&self.slot.file, offset, &mut self.buffer);
        read.map_err(failed("read", &self.slot.name))?;
        // First all, then each: a batch counts as a whole.
        if let Err(damaged) = self.records(&header, sum, &mut |_| {}) {
            self.damaged_at = offset + damaged as u64;
            self.torn = Some(header.len());
            return Ok(false);
        }
        let _ = self.records(&header, sum, replay);
        let len = header.len() as u32;
        self.last = Some((self.position, len));
        self.position += len;
        self.next_lsn = self.next_lsn.plus(header.count);
        self.oldest = header.oldest;
        Ok(true)
    }

    fn read_header(&mut self) -> Result<Option<(BatchHeader, u32)>, OpenError> {
        if u64::from(self.position) + u64::from(SECTOR_LEN) > u64::from(self.slot.len) {
            return Ok(None);
        }
        let mut bytes = [0; BATCH_HEADER_LEN];
        let read = self
            .storage
            .read_at(&self.slot.file, u64::from(self.position), &mut bytes);
        read.map_err(failed("read", &self.slot.name))?;
        Ok(BatchHeader::decode(&bytes, self.seed, self.position))
    }

    /// Goes through the records in the buffer; the error is where one is not intact.
    fn records(
        &self,
        header: &BatchHeader,
        mut sum: u32,
        each: &mut dyn FnMut(Record<'_>),
    ) -> Result<(), usize> {
        let mut rest = &self.buffer[..];
        let mut lsn = self.next_lsn;
        for _ in 0..header.count {
            let at = self.buffer.len() - rest.len();
            let (record, next_sum, behind) = read_record(rest, lsn, sum).ok_or(at)?;
            each(record);
            (sum, rest, lsn) = (next_sum, behind, lsn.next());
        }
        if rest.is_empty() {
            Ok(())
        } else {
            Err(self.buffer.len() - rest.len())
        }
    }

    /// Checks the end of the head: what stands there was on its way, so nothing may stand behind it.
    pub(super) fn check_end(&mut self) -> Result<(), OpenError> {
        let behind = self.position.saturating_add(SECTOR_LEN);
        match find_batch(self.storage, self.slot, self.seed, behind)? {
            Some(_) if !planted(Bug::SkipsCorrupt) => {
                Err(corrupt(&self.slot.name, self.damaged_at, Damage::Record))
            }
            _ => Ok(()),
        }
    }

    /// Checks the end of a segment that another one follows: that was begun when everything before it was
    /// synced.
    pub(super) fn check_continued(&self, next_first: Lsn) -> Result<(), OpenError> {
        if self.next_lsn < next_first && !planted(Bug::SkipsCorrupt) {
            return Err(corrupt(&self.slot.name, self.damaged_at, Damage::Record));
        }
        Ok(())
    }
}

/// Offset of the first valid batch header at a sector from `from` on.
pub(super) fn find_batch<S: Storage>(
    storage: &mut S,
    slot: &Slot<S::File>,
    seed: u32,
    from: u32,
) -> Result<Option<u32>, OpenError> {
    let from = u64::from(from).next_multiple_of(u64::from(SECTOR_LEN));
    find_in(storage, slot, from, |offset, sector| {
        BatchHeader::decode(sector, seed, offset).is_some()
    })
}

/// True when anything but zeros stands where batches do.
pub(super) fn has_bytes<S: Storage>(storage: &mut S, slot: &Slot<S::File>) -> Result<bool, OpenError> {
    let found = find_in(storage, slot, u64::from(BATCHES_BEGIN), |_, sector| {
        sector.iter().any(|byte| *byte != 0)
    })?;
    Ok(found.is_some())
}

/// Offset of the first sector that is looked for; the last one may be shorter.
fn find_in<S: Storage>(
    storage: &mut S,
    slot: &Slot<S::File>,
    from: u64,
    is_it: impl Fn(u32, &[u8]) -> bool,
) -> Result<Option<u32>, OpenError> {
    let mut piece = vec![0; PIECE_LEN];
    let mut offset = from;
    while offset < u64::from(slot.len) {
        let len = PIECE_LEN.min((u64::from(slot.len) - offset) as usize);
        let read = storage.read_at(&slot.file, offset, &mut piece[..len]);
        read.map_err(failed("read", &slot.name))?;
        let sectors = piece[..len].chunks(SECTOR_LEN as usize);
        for (index, sector) in sectors.enumerate() {
            let at = offset as u32 + index as u32 * SECTOR_LEN;
            if is_it(at, sector) {
                return Ok(Some(at));
            }
        }
        offset += len as u64;
    }
    Ok(None)
}
