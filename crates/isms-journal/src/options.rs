//! Sizes of a log, chosen by its owner.

use crate::{
    format::{BATCHES_BEGIN, RECORD_HEADER_LEN, SECTOR_LEN, batch_len, room},
    limits::{BATCH_LEN_MAX, PAYLOAD_LEN_MAX, SEGMENT_LEN_MAX, SEGMENTS_MAX, SEGMENTS_MIN},
};

/// Sizes of a log. They may differ from one opening to the next.
#[derive(Clone, Debug)]
pub struct Options {
    /// A random number, by which a new log tells its files from those of others. A log that is there
    /// keeps its own.
    pub new_log_id: u128,
    /// Bytes of a segment file, a multiple of 4096.
    pub segment_len: u32,
    /// Segment files at most, unused ones included.
    pub segments_max: u32,
    /// Bytes of a group at most, 20 for each record besides its payload.
    pub group_len_max: u32,
    /// Bytes that may wait for the writer, each group rounded up to 512.
    pub queue_len_max: u32,
}

impl Options {
    /// Segments of 16 MiB, 1 GiB at most, groups of the longest payload, 8 MiB in the queue.
    pub fn new(new_log_id: u128) -> Options {
        Options {
            new_log_id,
            segment_len: 16 << 20,
            segments_max: 64,
            group_len_max: (PAYLOAD_LEN_MAX + RECORD_HEADER_LEN) as u32,
            queue_len_max: 8 << 20,
        }
    }

    /// So small that a test soon has many segments, full ones, and none left.
    #[cfg(test)]
    pub(crate) fn small(new_log_id: u128) -> Options {
        Options {
            segment_len: 40 << 10,
            segments_max: 8,
            group_len_max: 8000,
            queue_len_max: 24 << 10,
            ..Options::new(new_log_id)
        }
    }

    pub(crate) fn check(&self) -> Result<(), OptionsError> {
        let segment_len_min = u64::from(BATCHES_BEGIN + SECTOR_LEN) + 4 * self.group_cost_max();
        if self.group_len_max as usize > BATCH_LEN_MAX {
            Err(OptionsError::GroupLen { max: BATCH_LEN_MAX })
        } else if !self.segment_len.is_multiple_of(BATCHES_BEGIN)
            || self.segment_len > SEGMENT_LEN_MAX
            || u64::from(self.segment_len) < segment_len_min
        {
            Err(OptionsError::SegmentLen {
                min: segment_len_min.next_multiple_of(u64::from(BATCHES_BEGIN)),
            })
        } else if !(SEGMENTS_MIN..=SEGMENTS_MAX).contains(&self.segments_max) {
            Err(OptionsError::Segments)
        } else if u64::from(self.queue_len_max) < self.group_cost_max() {
            Err(OptionsError::QueueLen {
                min: self.group_cost_max(),
            })
        } else {
            Ok(())
        }
    }

    /// Bytes that the longest group takes.
    pub(crate) fn group_cost_max(&self) -> u64 {
        batch_len(self.group_len_max as usize)
    }

    /// Bytes of an unused segment that can be promised: a group that does not fit the rest of a segment
    /// leaves that rest, which is shorter than itself, unused.
    pub(crate) fn usable(&self, segment_len: u32, position: u32) -> u64 {
        room(segment_len, position).saturating_sub(self.group_cost_max())
    }

    /// The same of a segment of the length chosen.
    pub(crate) fn usable_segment(&self) -> u64 {
        self.usable(self.segment_len, BATCHES_BEGIN)
    }
}

/// Why sizes do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Groups may not be that long.
    #[error("group_len_max is above {max}")]
    GroupLen {
        /// Most bytes.
        max: usize,
    },
    /// Segments may not be that short or long.
    #[error("segment_len is no multiple of 4096 from {min} to {SEGMENT_LEN_MAX}")]
    SegmentLen {
        /// Fewest bytes for groups of this length.
        min: u64,
    },
    /// There may not be so few or many segments.
    #[error("segments_max is not within {SEGMENTS_MIN}..={SEGMENTS_MAX}")]
    Segments,
    /// The queue does not hold the longest group.
    #[error("queue_len_max is below {min}")]
    QueueLen {
        /// Fewest bytes.
        min: u64,
    },
}
