//! The bytes of segments, batches and records. All numbers are little-endian.
//!
//! A segment begins with a header in a page of its own; batches follow, each at the beginning of a
//! sector, so that no write changes a sector that holds acknowledged bytes. A batch is a header and
//! records one after the other; it counts as a whole or not at all.
//!
//! Checksums are CRC-32C and chained: a segment's seed is made of the log's id and the segment's sequence
//! number, a batch header's checksum begins with the seed, its first record's with the header's, each
//! further record's with the one before. So what another log or an earlier life of the file has left
//! is never taken for a batch, nor are records of two batches ever mixed; and whoever chooses a payload
//! cannot make it look like a batch without knowing the log's id.

use crc::{CRC_32_ISCSI, Crc, Table};

use crate::{
    Lsn,
    planted::{Bug, planted},
};

/// The unit that a disk writes whole or not at all.
pub(crate) const SECTOR_LEN: u32 = 512;

/// Where the first batch of a segment begins.
pub(crate) const BATCHES_BEGIN: u32 = 4096;

/// Bytes for batches behind a position. The last sector is kept free, so that the last batch as well has an
/// anchor behind it.
pub(crate) fn room(segment_len: u32, position: u32) -> u64 {
    u64::from(segment_len.saturating_sub(position)).saturating_sub(u64::from(SECTOR_LEN))
}

/// Length of a segment's header.
pub(crate) const SEGMENT_HEADER_LEN: usize = 64;

/// Length of a batch's header.
pub(crate) const BATCH_HEADER_LEN: usize = 40;

/// Length of what stands before each payload.
pub(crate) const RECORD_HEADER_LEN: usize = 20;

/// The format that this code writes, and the newest that it reads.
pub(crate) const VERSION: u32 = 1;

const SEGMENT_MAGIC: [u8; 8] = *b"ISMSJRNL";
const BATCH_MAGIC: [u8; 4] = *b"JBAT";
const FLAG_ANCHOR: u32 = 1;

/// Sequence and log sequence numbers above it are taken for damage; nothing overflows below.
const NUMBER_MAX: u64 = 1 << 62;

static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// CRC-32C of the bytes, begun with another checksum.
pub(crate) fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    let mut digest = CRC.digest();
    digest.update(&seed.to_le_bytes());
    digest.update(bytes);
    digest.finalize()
}

/// What stands at the beginning of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) log_id: u128,
    pub(crate) sequence: u64,
    pub(crate) first_lsn: Lsn,
    /// Sequence of the oldest segment that was needed when the header was written.
    pub(crate) oldest: u64,
    pub(crate) segment_len: u32,
}

/// What the first bytes of a file turn out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeaderRead {
    /// Nothing was ever written.
    Blank,
    /// Something was, and it is not a header.
    Damaged,
    /// The header of a format that only newer code reads.
    Newer { version: u32 },
    /// A header.
    Valid(SegmentHeader),
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut bytes = [0; SEGMENT_HEADER_LEN];
        bytes[..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.log_id.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.first_lsn.0.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.oldest.to_le_bytes());
        bytes[56..60].copy_from_slice(&self.segment_len.to_le_bytes());
        let sum = header_checksum(&bytes);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads a header. Magic, version and checksum stand in the same place in every version to come.
    pub(crate) fn decode(bytes: &[u8; SEGMENT_HEADER_LEN]) -> HeaderRead {
        if bytes.iter().all(|byte| *byte == 0) {
            return HeaderRead::Blank;
        }
        if bytes[..8] != SEGMENT_MAGIC || u32_at(bytes, 12) != header_checksum(bytes) {
            return HeaderRead::Damaged;
        }
        let version = u32_at(bytes, 8);
        if version > VERSION {
            return HeaderRead::Newer { version };
        }
        let header = SegmentHeader {
            log_id: u128::from(u64_at(bytes, 16)) | u128::from(u64_at(bytes, 24)) << 64,
            sequence: u64_at(bytes, 32),
            first_lsn: Lsn(u64_at(bytes, 40)),
            oldest: u64_at(bytes, 48),
            segment_len: u32_at(bytes, 56),
        };
        let sane = version == VERSION
            && header.sequence < NUMBER_MAX
            && header.first_lsn.0 < NUMBER_MAX
            && header.oldest <= header.sequence;
        if sane {
            HeaderRead::Valid(header)
        } else {
            HeaderRead::Damaged
        }
    }

    /// Where the checksums of the segment's batches begin.
    pub(crate) fn seed(&self) -> u32 {
        seed(self.log_id, self.sequence)
    }
}

/// Where the checksums of a segment's batches begin. Two segments of one log never share it, since a
/// CRC of 32 bits tells numbers that differ in 32 bits apart.
pub(crate) fn seed(log_id: u128, sequence: u64) -> u32 {
    let mut bytes = [0; 24];
    bytes[..16].copy_from_slice(&log_id.to_le_bytes());
    bytes[16..].copy_from_slice(&sequence.to_le_bytes());
    checksum(0, &bytes)
}

fn header_checksum(bytes: &[u8; SEGMENT_HEADER_LEN]) -> u32 {
    checksum(checksum(0, &bytes[..12]), &bytes[16..])
}

/// What stands before the records of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    /// Length of all records in bytes.
    pub(crate) records_len: u32,
    /// Number of records.
    pub(crate) count: u32,
    /// The first record's number. A batch is written when everything before it was synced, so this is
    /// the synced frontier as well.
    pub(crate) first_lsn: Lsn,
    /// Sequence of the oldest segment that is needed once the batch counts.
    pub(crate) oldest: u64,
    /// Where in its file the batch stands.
    pub(crate) offset: u32,
    /// An anchor holds no record: it says that everything before it was synced, and the next batch
    /// takes its place.
    pub(crate) is_anchor: bool,
}

impl BatchHeader {
    /// Encodes the header; the second value is its checksum, with which that of the first record begins.
    pub(crate) fn encode(&self, seed: u32) -> ([u8; BATCH_HEADER_LEN], u32) {
        let mut bytes = [0; BATCH_HEADER_LEN];
        bytes[..4].copy_from_slice(&BATCH_MAGIC);
        bytes[8..12].copy_from_slice(&self.records_len.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.count.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first_lsn.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.oldest.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.offset.to_le_bytes());
        let flags = if self.is_anchor { FLAG_ANCHOR } else { 0 };
        bytes[36..40].copy_from_slice(&flags.to_le_bytes());
        let sum = checksum(seed, &bytes[8..]);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        (bytes, sum)
    }

    /// Reads a header that stands at this offset; nothing when there is none.
    pub(crate) fn decode(bytes: &[u8], seed: u32, offset: u32) -> Option<(BatchHeader, u32)> {
        let bytes = bytes.get(..BATCH_HEADER_LEN)?;
        if bytes[..4] != BATCH_MAGIC {
            return None;
        }
        let sum = u32_at(bytes, 4);
        let flags = u32_at(bytes, 36);
        let header = BatchHeader {
            records_len: u32_at(bytes, 8),
            count: u32_at(bytes, 12),
            first_lsn: Lsn(u64_at(bytes, 16)),
            oldest: u64_at(bytes, 24),
            offset: u32_at(bytes, 32),
            is_anchor: flags == FLAG_ANCHOR,
        };
        let sane = sum == checksum(seed, &bytes[8..])
            && header.offset == offset
            && flags <= FLAG_ANCHOR
            && (!header.is_anchor || header.count == 0)
            && (header.count == 0) == (header.records_len == 0)
            && header.first_lsn.0 < NUMBER_MAX
            && header.oldest < NUMBER_MAX;
        sane.then_some((header, sum))
    }

    /// Bytes that the batch takes, up to the next sector.
    pub(crate) fn len(&self) -> u64 {
        batch_len(self.records_len as usize)
    }
}

/// Bytes that a batch with records of this length takes, up to the next sector.
pub(crate) fn batch_len(records_len: usize) -> u64 {
    ((BATCH_HEADER_LEN + records_len) as u64).next_multiple_of(u64::from(SECTOR_LEN))
}

/// Appends a record whose number and checksum are not known yet.
pub(crate) fn push_record(bytes: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    // A longer payload is refused by its group's length before anybody reads this.
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&[kind, 0, 0, 0]);
    bytes.extend_from_slice(payload);
}

/// Numbers the records that were pushed, and seals each with its checksum; returns the last one's.
pub(crate) fn seal_records(records: &mut [u8], mut lsn: Lsn, mut sum: u32) -> u32 {
    let mut rest = records;
    while !rest.is_empty() {
        let len = RECORD_HEADER_LEN + u32_at(rest, 4) as usize;
        let (record, behind) = rest.split_at_mut(len);
        record[8..16].copy_from_slice(&lsn.0.to_le_bytes());
        sum = checksum(sum, &record[4..]);
        record[..4].copy_from_slice(&sum.to_le_bytes());
        lsn = lsn.next();
        rest = behind;
    }
    sum
}

/// A record as it is read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its number; the numbers of a log have no gaps.
    pub lsn: Lsn,
    /// What the owner called it.
    pub kind: u8,
    /// What the owner wrote.
    pub payload: &'a [u8],
}

/// Reads the record at the beginning of `bytes`, which is to have this number; with it the checksum that
/// the next one's begins with, and what follows. Nothing when it is damaged.
pub(crate) fn read_record(bytes: &[u8], lsn: Lsn, sum: u32) -> Option<(Record<'_>, u32, &[u8])> {
    let header = bytes.get(..RECORD_HEADER_LEN)?;
    let len = RECORD_HEADER_LEN.checked_add(u32_at(header, 4) as usize)?;
    let (record, rest) = bytes.split_at_checked(len)?;
    let expected = checksum(sum, &record[4..]);
    let intact = u32_at(record, 0) == expected && u64_at(record, 8) == lsn.0 && record[17..20] == [0; 3];
    let read = Record {
        lsn,
        kind: record[16],
        payload: &record[RECORD_HEADER_LEN..],
    };
    (intact || planted(Bug::AcceptsTorn)).then_some((read, expected, rest))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
