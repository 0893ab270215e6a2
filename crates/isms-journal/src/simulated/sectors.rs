//! The sectors of one simulated file.

use std::collections::BTreeSet;

use isms_simulation::Random;

use crate::format::SECTOR_LEN;

const SECTOR: usize = SECTOR_LEN as usize;

/// A file as it is seen and as it is on the platter.
///
/// Of a sector that was written twice since it was synced only the later content waits; that the
/// earlier one alone reaches the platter is possible as well, so a write settles that by chance.
#[derive(Clone, Debug)]
pub(super) struct Content {
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that wait to be written.
    dirty: BTreeSet<usize>,
    /// Sectors that count as written and are not.
    lost: BTreeSet<usize>,
}

impl Content {
    pub(super) fn of(bytes: &[u8]) -> Content {
        Content {
            seen: bytes.to_vec(),
            durable: bytes.to_vec(),
            dirty: BTreeSet::new(),
            lost: BTreeSet::new(),
        }
    }

    pub(super) fn seen(&self) -> &[u8] {
        &self.seen
    }

    pub(super) fn extend(&mut self, len: usize) {
        self.seen.resize(len.max(self.seen.len()), 0);
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        self.extend(end);
        // Every third sector that waits already goes to the platter now, as writeback does at any time.
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            if self.dirty.contains(&sector) && sector % 3 == 0 {
                self.persist(sector);
            }
        }
        self.seen[offset..end].copy_from_slice(bytes);
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            self.dirty.insert(sector);
            self.lost.remove(&sector);
        }
    }

    pub(super) fn sync(&mut self) {
        self.durable.resize(self.seen.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            self.persist(sector);
        }
    }

    /// Some of what waits is written, the rest is lost although it counts as written.
    pub(super) fn fail_sync(&mut self, random: &mut Random) {
        for sector in std::mem::take(&mut self.dirty) {
            if random.percent(30) {
                self.persist(sector);
            } else {
                self.lost.insert(sector);
            }
        }
    }

    /// Shows what is on the platter of what counts as written.
    pub(super) fn forget_clean(&mut self) {
        for sector in std::mem::take(&mut self.lost) {
            let range = range(sector, self.seen.len());
            let mut bytes = self.durable.get(range.start..).unwrap_or_default().to_vec();
            bytes.resize(range.len(), 0);
            self.seen[range].copy_from_slice(&bytes);
        }
    }

    pub(super) fn crash(&mut self, random: &mut Random, chance: u64) {
        if self.durable.len() < self.seen.len() && random.percent(50) {
            self.durable.resize(self.seen.len(), 0);
        }
        for sector in std::mem::take(&mut self.dirty) {
            if random.percent(chance) {
                self.persist(sector);
            }
        }
        self.lost.clear();
        self.seen.clone_from(&self.durable);
    }

    pub(super) fn flip(&mut self, offset: usize, bit: u8) {
        self.seen[offset] ^= 1 << (bit % 8);
        if let Some(byte) = self.durable.get_mut(offset) {
            *byte ^= 1 << (bit % 8);
        }
    }

    /// Carries a sector to the platter, as far as the file is long there.
    fn persist(&mut self, sector: usize) {
        let range = range(sector, self.durable.len().min(self.seen.len()));
        if !range.is_empty() {
            self.durable[range.clone()].copy_from_slice(&self.seen[range]);
        }
    }
}

fn range(sector: usize, len: usize) -> std::ops::Range<usize> {
    (sector * SECTOR).min(len)..((sector + 1) * SECTOR).min(len)
}
