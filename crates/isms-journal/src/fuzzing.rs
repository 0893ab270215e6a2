//! For the fuzz target: makes the checksums of a segment file right, so that what they guard is reached.

use crate::format::{BATCH_HEADER_LEN, BATCHES_BEGIN, RECORD_HEADER_LEN, SECTOR_LEN, checksum, seed};

/// Seals the header of the segment, and each batch that has its magic number at a sector's beginning.
pub fn seal(file: &mut [u8]) {
    file[..8].copy_from_slice(b"ISMSJRNL");
    let sum = checksum(checksum(0, &file[..12]), &file[16..64]);
    file[12..16].copy_from_slice(&sum.to_le_bytes());
    let log_id = u128::from_le_bytes(file[16..32].try_into().expect("16 bytes"));
    let sequence = u64::from_le_bytes(file[32..40].try_into().expect("8 bytes"));
    let seed = seed(log_id, sequence);
    for offset in (BATCHES_BEGIN as usize..file.len()).step_by(SECTOR_LEN as usize) {
        let batch = &mut file[offset..];
        if batch.starts_with(b"JBAT") {
            seal_batch(batch, offset as u32, seed);
        }
    }
}

fn seal_batch(batch: &mut [u8], offset: u32, seed: u32) {
    batch[32..36].copy_from_slice(&offset.to_le_bytes());
    let mut sum = checksum(seed, &batch[8..BATCH_HEADER_LEN]);
    batch[4..8].copy_from_slice(&sum.to_le_bytes());
    let records_len = u32::from_le_bytes(batch[8..12].try_into().expect("4 bytes")) as usize;
    let mut rest = &mut batch[BATCH_HEADER_LEN..];
    let len = records_len.min(rest.len());
    rest = &mut rest[..len];
    while rest.len() >= RECORD_HEADER_LEN {
        let payload_len = u32::from_le_bytes(rest[4..8].try_into().expect("4 bytes")) as usize;
        let len = payload_len.saturating_add(RECORD_HEADER_LEN).min(rest.len());
        let (record, behind) = rest.split_at_mut(len);
        sum = checksum(sum, &record[4..]);
        record[..4].copy_from_slice(&sum.to_le_bytes());
        rest = behind;
    }
}
