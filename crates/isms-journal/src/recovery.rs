//! Opens a log: finds its segments, replays their records, makes its end safe to write behind.
//!
//! The head is scanned first, without replaying: its last batch says which segment is the oldest that
//! counts. What segments before that hold, whole or half overwritten, is of no interest. Then all live
//! segments are replayed in order, one batch in memory at a time. Nothing is changed before the
//! last record was found intact, so an opening that fails can be repeated. See the head of the crate for
//! the difference between a torn tail and damage.

mod scan;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, io};

use crate::{
    Journal, Lsn, Options, OptionsError, Record, Stop, Storage, Writer,
    format::{BATCHES_BEGIN, HeaderRead, SEGMENT_HEADER_LEN, SegmentHeader, seed},
    limits::SEGMENT_LEN_MAX,
    planted::{Bug, planted},
    segments::{self, Live, Segments, Slot, Spare, number_of},
    writer::{Tail, anchor},
};
use scan::{Scan, find_batch, has_bytes};

/// What an opening has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Segments that hold the log.
    pub segments: u32,
    /// Segment files that are ready to be used.
    pub spare_segments: u32,
    /// Records that were replayed.
    pub records: u64,
    /// Bytes of their payloads.
    pub payload_len: u64,
    /// What was on its way when the log was used last, and was cut. None of it had been acknowledged.
    pub torn: Option<Torn>,
}

/// A batch that was not wholly on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Its file.
    pub file: String,
    /// Where it begins.
    pub offset: u64,
    /// Its length in bytes, as its header says.
    pub len: u64,
}

/// Why a log cannot be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The options do not fit together.
    #[error("wrong options")]
    Options(#[from] OptionsError),
    /// The disk failed.
    #[error("cannot {step} {file}")]
    Storage {
        /// What was tried.
        step: &'static str,
        /// The file, or `.` for the directory.
        file: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A newer version has written the log.
    #[error("{file} has format {found}, and this version knows up to {known}; use the newer version")]
    NewerFormat {
        /// The file.
        file: String,
        /// Its format.
        found: u32,
        /// The newest format that can be read.
        known: u32,
    },
    /// Files of two logs are mixed.
    #[error("{file} belongs to another log than {other}; remove what does not belong here")]
    OtherLog {
        /// One file.
        file: String,
        /// And another.
        other: String,
    },
    /// Something that was acknowledged is damaged or missing.
    #[error("{file} is damaged at offset {offset}: {damage}; restore the directory from a copy")]
    Corrupt {
        /// The file.
        file: String,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        damage: Damage,
    },
    /// The log was replayed, and could not be made ready.
    #[error("cannot prepare the journal")]
    Prepare(#[source] Stop),
}

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A batch or a record is not what was written, and something valid stands behind it.
    #[error("a record before valid ones is not what was written")]
    Record,
    /// A header is valid and contradicts what stands before it.
    #[error("what stands there does not continue what stands before it")]
    Order,
    /// A segment's header is not what was written.
    #[error("the segment's header is not what was written")]
    Header,
    /// The file has not the length that its header says.
    #[error("the file has another length than it was given")]
    Length,
    /// The segment before this one is missing.
    #[error("the segment before this one is missing")]
    Missing,
    /// Another file holds the same segment.
    #[error("another file holds the same segment")]
    Twice,
}

pub(crate) fn failed(step: &'static str, file: &str) -> impl FnOnce(io::Error) -> OpenError {
    let file = file.to_owned();
    move |source| OpenError::Storage { step, file, source }
}

pub(crate) fn corrupt(file: &str, offset: u64, damage: Damage) -> OpenError {
    let file = file.to_owned();
    OpenError::Corrupt { file, offset, damage }
}

/// Opens the log in a directory, or makes one there, and hands each record to `replay`, in order. What was
/// replayed counts when this returns the log, and not before: its end is made durable last.
pub fn open<S: Storage>(
    mut storage: S,
    options: &Options,
    mut replay: impl FnMut(Record<'_>),
) -> Result<(Journal, Writer<S>, Report), OpenError> {
    options.check()?;
    storage.sync_directory().map_err(failed("sync", "."))?;
    let mut files = read_files(&mut storage)?;
    let mut report = Report::default();
    let tail = match files.live.last_key_value() {
        None => create(&mut storage, options, files)?,
        Some((&head, _)) => {
            let end = scan_head(&mut storage, &mut files, head)?;
            replay_all(&mut storage, &mut files, end.oldest, &mut report, &mut replay)?;
            let (slot, header) = &files.live[&head];
            secure_tail(&mut storage, slot, header, &end)?;
            report.torn = end.torn.map(|len| Torn {
                file: slot.name.clone(),
                offset: u64::from(end.position),
                len,
            });
            arrange(&mut storage, options, files, &end)
        }
    };
    let next_lsn = tail.next_lsn;
    let writer = Writer::new(storage, options.clone(), tail).map_err(OpenError::Prepare)?;
    report.segments = writer.segments().live.len() as u32;
    report.spare_segments = writer.segments().spares.len() as u32;
    Ok((Journal::new(writer.queue(), next_lsn), writer, report))
}

/// All segment files, by what their headers say.
struct Files<F> {
    live: BTreeMap<u64, (Slot<F>, SegmentHeader)>,
    blank: Vec<Slot<F>>,
    damaged: Vec<Slot<F>>,
    next_number: u64,
}

fn read_files<S: Storage>(storage: &mut S) -> Result<Files<S::File>, OpenError> {
    let mut files = Files {
        live: BTreeMap::new(),
        blank: Vec::new(),
        damaged: Vec::new(),
        next_number: 1,
    };
    let mut names = storage.list().map_err(failed("list", "."))?;
    names.sort_unstable();
    for name in names {
        let Some(number) = number_of(&name) else { continue };
        files.next_number = files.next_number.max(number + 1);
        let file = storage.open(&name).map_err(failed("open", &name))?;
        let file_len = storage.len(&file).map_err(failed("read", &name))?;
        let mut bytes = [0; SEGMENT_HEADER_LEN];
        if file_len >= SEGMENT_HEADER_LEN as u64 {
            storage
                .read_at(&file, 0, &mut bytes)
                .map_err(failed("read", &name))?;
        }
        let len = u32::try_from(file_len).unwrap_or(u32::MAX);
        if len > SEGMENT_LEN_MAX {
            return Err(corrupt(&name, SEGMENT_LEN_MAX.into(), Damage::Length));
        }
        let slot = Slot { name, file, len };
        match SegmentHeader::decode(&bytes) {
            HeaderRead::Blank => files.blank.push(slot),
            HeaderRead::Damaged => files.damaged.push(slot),
            HeaderRead::Newer { version } => {
                return Err(OpenError::NewerFormat {
                    file: slot.name,
                    found: version,
                    known: crate::format::VERSION,
                });
            }
            HeaderRead::Valid(header) => files.add(slot, header, file_len)?,
        }
    }
    Ok(files)
}

impl<F> Files<F> {
    fn add(&mut self, slot: Slot<F>, header: SegmentHeader, file_len: u64) -> Result<(), OpenError> {
        if let Some((other, first)) = self.live.values().next()
            && first.log_id != header.log_id
        {
            return Err(OpenError::OtherLog {
                file: slot.name,
                other: other.name.clone(),
            });
        }
        let sane = (BATCHES_BEGIN..=SEGMENT_LEN_MAX).contains(&header.segment_len);
        if !sane || file_len != u64::from(header.segment_len) {
            let end = file_len.min(u64::from(header.segment_len));
            return Err(corrupt(&slot.name, end, Damage::Length));
        }
        if self.live.contains_key(&header.sequence) {
            return Err(corrupt(&slot.name, 0, Damage::Twice));
        }
        self.live.insert(header.sequence, (slot, header));
        Ok(())
    }
}

/// Makes the first segment. Files without any valid header are what a creation that was interrupted
/// has left; it has written no batch.
fn create<S: Storage>(
    storage: &mut S,
    options: &Options,
    mut files: Files<S::File>,
) -> Result<Tail<S::File>, OpenError> {
    for slot in files.damaged.iter().chain(&files.blank) {
        if has_bytes(storage, slot)? {
            return Err(corrupt(&slot.name, 0, Damage::Header));
        }
    }
    for slot in files.damaged.drain(..).chain(files.blank.drain(..)) {
        storage.remove(&slot.name).map_err(failed("remove", &slot.name))?;
    }
    let number = files.next_number;
    let head = segments::create(storage, number, options.segment_len);
    let mut head = head.map_err(failed("create a segment in", "."))?;
    if !planted(Bug::SkipsDirectorySync) {
        storage.sync_directory().map_err(failed("sync", "."))?;
    }
    while head.cold_from < head.slot.len {
        segments::warm(storage, &mut head).map_err(failed("write", &head.slot.name))?;
    }
    let slot = head.slot;
    let header = SegmentHeader {
        log_id: options.new_log_id,
        sequence: 1,
        first_lsn: Lsn::FIRST,
        oldest: 1,
        segment_len: slot.len,
    };
    segments::write_header(storage, &slot, &header).map_err(failed("write", &slot.name))?;
    storage
        .sync_data(&slot.file)
        .map_err(failed("sync", &slot.name))?;
    let live = Live {
        slot,
        sequence: 1,
        first_lsn: Lsn::FIRST,
    };
    Ok(Tail {
        log_id: header.log_id,
        segments: Segments {
            live: [live].into(),
            spares: Vec::new(),
            next_number: number + 1,
        },
        position: BATCHES_BEGIN,
        next_lsn: Lsn::FIRST,
        oldest: 1,
    })
}

/// Where the log ends.
struct End {
    position: u32,
    next_lsn: Lsn,
    oldest: u64,
    /// Offset and length of the last batch.
    last: Option<(u32, u32)>,
    /// An anchor says that everything was synced.
    has_anchor: bool,
    torn: Option<u64>,
}

fn scan_head<S: Storage>(storage: &mut S, files: &mut Files<S::File>, head: u64) -> Result<End, OpenError> {
    let (slot, header) = &files.live[&head];
    let mut scan = Scan::new(storage, slot, header);
    while scan.next_batch(&mut |_| {})? {}
    scan.check_end()?;
    let end = End {
        position: scan.position,
        next_lsn: scan.next_lsn,
        oldest: scan.oldest,
        last: scan.last,
        has_anchor: scan.has_anchor,
        torn: scan.torn,
    };
    if end.oldest > head {
        return Err(corrupt(&slot.name, 0, Damage::Order));
    }
    // A segment behind the head whose header is damaged held nothing if only its creation was interrupted.
    let next_seed = seed(header.log_id, head + 1);
    for lost in files.damaged.iter().chain(&files.blank) {
        if find_batch(storage, lost, next_seed, BATCHES_BEGIN)?.is_some() {
            return Err(corrupt(&lost.name, 0, Damage::Header));
        }
    }
    Ok(end)
}

/// Replays the segments from the oldest on, each of which must continue the one before.
fn replay_all<S: Storage>(
    storage: &mut S,
    files: &mut Files<S::File>,
    oldest: u64,
    report: &mut Report,
    replay: &mut impl FnMut(Record<'_>),
) -> Result<(), OpenError> {
    let mut expected: Option<(u64, Lsn)> = None;
    let mut live = files.live.range(oldest..).peekable();
    while let Some((&sequence, (slot, header))) = live.next() {
        let (expected_sequence, first_lsn) = expected.unwrap_or((oldest, header.first_lsn));
        if sequence != expected_sequence {
            return Err(corrupt(&slot.name, 0, Damage::Missing));
        }
        if header.first_lsn != first_lsn && !planted(Bug::SkipsCorrupt) {
            return Err(corrupt(&slot.name, 0, Damage::Order));
        }
        let mut scan = Scan::new(storage, slot, header);
        let mut count = |record: Record<'_>| {
            report.records += 1;
            report.payload_len += record.payload.len() as u64;
            replay(record);
        };
        while scan.next_batch(&mut count)? {}
        if let Some((_, (_, next))) = live.peek() {
            scan.check_continued(next.first_lsn)?;
        }
        expected = Some((sequence + 1, scan.next_lsn));
    }
    Ok(())
}

/// Makes durable what was read of the head, and writes an anchor over what was cut.
///
/// What was read may be known to the page cache alone: a sync may be missing, or may have failed before,
/// and then the next one has nothing to write. Only what was written last can be in that state, so
/// that is written again. It changes no byte, so nothing can be torn by it.
fn secure_tail<S: Storage>(
    storage: &mut S,
    slot: &Slot<S::File>,
    header: &SegmentHeader,
    end: &End,
) -> Result<(), OpenError> {
    let sync = |storage: &mut S| storage.sync_data(&slot.file).map_err(failed("sync", &slot.name));
    if !planted(Bug::TrustsCache) && !end.has_anchor {
        if let Some((offset, len)) = end.last {
            let mut bytes = vec![0; len as usize];
            let offset = u64::from(offset);
            let read = storage.read_at(&slot.file, offset, &mut bytes);
            read.map_err(failed("read", &slot.name))?;
            let written = storage.write_at(&slot.file, offset, &bytes);
            written.map_err(failed("write", &slot.name))?;
        } else {
            segments::write_header(storage, slot, header).map_err(failed("write", &slot.name))?;
        }
        // An anchor that is seen must not be believed before this has succeeded.
        sync(storage)?;
    }
    if !planted(Bug::KeepsCutTail) {
        let bytes = anchor(header.seed(), end.next_lsn, end.oldest, end.position);
        let written = storage.write_at(&slot.file, u64::from(end.position), &bytes);
        written.map_err(failed("write", &slot.name))?;
    }
    sync(storage)
}

/// Sorts live segments and spares. A file of another length than segments have now is removed, once it is
/// not needed.
fn arrange<S: Storage>(
    storage: &mut S,
    options: &Options,
    files: Files<S::File>,
    end: &End,
) -> Tail<S::File> {
    let mut live = std::collections::VecDeque::new();
    let mut spares = Vec::new();
    let mut log_id = options.new_log_id;
    let mut unused = files.blank;
    unused.extend(files.damaged);
    for (sequence, (slot, header)) in files.live {
        log_id = header.log_id;
        if sequence < end.oldest {
            unused.push(slot);
        } else {
            live.push_back(Live {
                slot,
                sequence,
                first_lsn: header.first_lsn,
            });
        }
    }
    for slot in unused {
        let is_wanted = live.len() + spares.len() < options.segments_max as usize;
        if slot.len == options.segment_len && is_wanted {
            // Whether it was written to its end is not known, and costs no more than time.
            let cold_from = slot.len;
            spares.push(Spare { slot, cold_from });
        } else {
            // If it stays, it is found again at the next opening.
            let _ = storage.remove(&slot.name);
        }
    }
    Tail {
        log_id,
        segments: Segments {
            live,
            spares,
            next_number: files.next_number,
        },
        position: end.position,
        next_lsn: end.next_lsn,
        oldest: end.oldest,
    }
}
