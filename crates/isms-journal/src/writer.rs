//! The half of a log that waits for the disk.
//!
//! A step takes what has arrived, writes it as one batch, syncs it and tells the owner; then there is
//! the next step. Nothing is written before what precedes it was synced, so one batch at most is on its
//! way. See the head of the crate for what that is good for.

use std::{io, sync::Arc, thread};

use crate::{
    Group, Lsn, Options, Storage,
    format::{
        self, BATCH_HEADER_LEN, BATCHES_BEGIN, BatchHeader, SECTOR_LEN, SegmentHeader, seal_records, seed,
    },
    limits::{BATCH_LEN_TARGET, RESERVE_NEW, REWRITE_FACTOR_PRESSED, SPARES_READY},
    planted::{Bug, planted},
    queue::{Growth, Queue, Rewritten, Space, Taken},
    segments::{self, Live, Segments},
    storage::is_full,
};

/// What the owner hears from the writer's thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// All records below this number are durable.
    Durable {
        /// The first that is not.
        below: Lsn,
    },
    /// The owner shall append anew what is live of the records below this number, and release them. Not
    /// asked again before that.
    Compact {
        /// The first number of the second segment.
        below: Lsn,
    },
    /// The log has stopped: what is not durable by now will not be acknowledged any more.
    Stopped(Stop),
}

/// Why a log has stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// A sync failed; what it was to make durable may be lost although it can still be read.
    #[error("cannot sync {file}: {cause}")]
    Sync {
        /// The file, or `.` for the directory.
        file: String,
        /// What the system said.
        cause: String,
    },
    /// A write failed, and not for want of space.
    #[error("cannot write {file}: {cause}")]
    Write {
        /// The file.
        file: String,
        /// What the system said.
        cause: String,
    },
    /// A new segment could not be made, and not for want of space.
    #[error("cannot create a segment: {cause}")]
    Create {
        /// What the system said.
        cause: String,
    },
    /// The writer was dropped, or its thread has panicked.
    #[error("the journal's writer is gone")]
    Gone,
}

/// What a step has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something was done, and there may be more.
    Worked,
    /// There is nothing to do until the owner calls.
    Idle,
    /// The disk is full in spite of what was set aside: goes on when a refused append asks for it.
    Blocked,
    /// The owner has closed the log, and everything is durable.
    Closed,
    /// The log has stopped.
    Stopped,
}

/// A batch that was taken from the queue and is not durable.
#[derive(Debug)]
struct Batch {
    count: u32,
    len: u32,
    /// What the groups had set aside.
    cost: u64,
    len_of_records: i64,
    rewritten: Rewritten,
}

/// Writes a log.
#[derive(Debug)]
pub struct Writer<S: Storage> {
    storage: S,
    options: Options,
    queue: Arc<Queue>,
    log_id: u128,
    segments: Segments<S::File>,
    /// Where in the head the next batch begins.
    position: u32,
    next_lsn: Lsn,
    /// Sequence of the oldest segment that is needed, as the next batch will say.
    oldest: u64,
    /// The same as a durable batch or header says.
    stamped: u64,
    has_anchor: bool,
    growth: Growth,
    /// Was written to a disk that was full.
    unwritten: Option<Batch>,
    is_blocked: bool,
    /// The compaction that was asked for.
    asked: Option<Lsn>,
    /// Bytes and records that may be rewritten, earned by others that were appended. Where one is below zero a
    /// compaction is not asked for.
    bytes_earned: i64,
    records_earned: i64,
    buffer: Vec<u8>,
}

/// Where recovery has ended.
pub(crate) struct Tail<F> {
    pub(crate) log_id: u128,
    pub(crate) segments: Segments<F>,
    pub(crate) position: u32,
    pub(crate) next_lsn: Lsn,
    pub(crate) oldest: u64,
}

impl<S: Storage> Writer<S> {
    pub(crate) fn new(storage: S, options: Options, tail: Tail<S::File>) -> Result<Writer<S>, Stop> {
        let mut writer = Writer {
            storage,
            queue: Arc::new(Queue::new(options.clone(), Space::default())),
            options,
            log_id: tail.log_id,
            segments: tail.segments,
            position: tail.position,
            next_lsn: tail.next_lsn,
            oldest: tail.oldest,
            stamped: tail.oldest,
            has_anchor: true,
            growth: Growth::Possible,
            unwritten: None,
            is_blocked: false,
            asked: None,
            bytes_earned: 0,
            records_earned: 0,
            buffer: Vec::new(),
        };
        // Enough to go through everything that is there once.
        (writer.bytes_earned, writer.records_earned) = writer.extent();
        writer.grow()?;
        writer.tell(0);
        Ok(writer)
    }

    pub(crate) fn queue(&self) -> Arc<Queue> {
        Arc::clone(&self.queue)
    }

    pub(crate) fn segments(&self) -> &Segments<S::File> {
        &self.segments
    }

    /// Steps on a thread of its own until the log is closed or has stopped.
    ///
    /// The sink is called from that thread, in order, and should hand on and return.
    pub fn spawn(mut self, mut sink: impl FnMut(Event) + Send + 'static) -> io::Result<WriterThread> {
        let run = move || {
            loop {
                match self.step(&mut sink) {
                    Step::Worked => {}
                    Step::Idle => self.queue.wait(false),
                    Step::Blocked => self.queue.wait(true),
                    Step::Closed | Step::Stopped => break,
                }
            }
        };
        let thread = thread::Builder::new().name("journal".into()).spawn(run)?;
        Ok(WriterThread(thread))
    }

    /// Takes what has arrived, makes it durable and says so; does some upkeep when nothing has.
    pub fn step(&mut self, sink: &mut dyn FnMut(Event)) -> Step {
        if self.queue.stopped().is_some() {
            return Step::Stopped;
        }
        match self.try_step(sink) {
            Ok(step) => step,
            Err(stop) => {
                self.queue.stop(stop.clone());
                sink(Event::Stopped(stop));
                Step::Stopped
            }
        }
    }

    fn try_step(&mut self, sink: &mut dyn FnMut(Event)) -> Result<Step, Stop> {
        let wanted = self.queue.wanted();
        if wanted.space && self.growth == Growth::DiskFull {
            self.growth = Growth::Possible;
        }
        if self.is_blocked && !wanted.space {
            // At the end there is nobody left to ask for another try.
            let is_over = self.queue.is_closed();
            return Ok(if is_over { Step::Closed } else { Step::Blocked });
        }
        if wanted.space {
            self.grow()?;
            self.tell(0);
        }
        if let Some(batch) = self.unwritten.take() {
            return self.commit(batch, sink);
        }
        if wanted.compaction {
            self.ask(true, sink);
        }
        let room = format::room(self.segments.head().slot.len, self.position);
        let taken = self.queue.take(room, BATCH_LEN_TARGET);
        if let Some(below) = taken.released {
            self.release(below);
        }
        let has_mark = taken.groups.is_empty() && self.oldest > self.stamped;
        if taken.needs_segment || (has_mark && room < u64::from(SECTOR_LEN)) {
            self.roll()
        } else if has_mark || !taken.groups.is_empty() {
            let batch = self.build(&taken);
            self.commit(batch, sink)
        } else {
            self.idle(taken.is_closed, sink)
        }
    }

    /// Leaves an anchor, then prepares files, one piece at a time.
    fn idle(&mut self, is_closed: bool, sink: &mut dyn FnMut(Event)) -> Result<Step, Stop> {
        if !self.has_anchor {
            // Nobody waits for it: whether it could be written is seen at the next batch.
            let _ = self.write_anchor();
            self.has_anchor = true;
        }
        if is_closed {
            self.sync_head()?;
            return Ok(Step::Closed);
        }
        self.ask(false, sink);
        let cold = self.segments.spares.iter_mut().rev();
        let Some(spare) = cold.into_iter().find(|spare| spare.cold_from < spare.slot.len) else {
            return Ok(Step::Idle);
        };
        match segments::warm(&mut self.storage, spare) {
            Ok(()) => {}
            // It only made the file faster.
            Err(error) if is_full(&error) => spare.cold_from = spare.slot.len,
            Err(error) => {
                return Err(Stop::Sync {
                    file: spare.slot.name.clone(),
                    cause: error.to_string(),
                });
            }
        }
        Ok(Step::Worked)
    }

    fn release(&mut self, below: Lsn) {
        self.oldest = self.oldest.max(self.segments.oldest_from(below));
        if self.asked.is_some_and(|asked| asked <= below) {
            self.asked = None;
        }
        if planted(Bug::RecyclesEarly) {
            for dead in self
                .segments
                .live
                .iter()
                .filter(|live| live.sequence < self.oldest)
            {
                let _ = self
                    .storage
                    .write_at(&dead.slot.file, 0, &[0; BATCHES_BEGIN as usize]);
                let _ = self.storage.sync_data(&dead.slot.file);
            }
        }
    }

    /// Encodes a batch into the buffer.
    fn build(&mut self, taken: &Taken) -> Batch {
        let sum = |of: fn(&Group) -> u64| taken.groups.iter().map(of).sum::<u64>();
        let records_len = sum(|group| group.len() as u64);
        let header = BatchHeader {
            // A batch fits a segment, whose length is a u32.
            records_len: records_len as u32,
            count: sum(|group| u64::from(group.count())) as u32,
            first_lsn: self.next_lsn,
            oldest: self.oldest,
            offset: self.position,
            is_anchor: false,
        };
        let (bytes, chain) = header.encode(seed(self.log_id, self.segments.head().sequence));
        self.buffer.clear();
        self.buffer.extend_from_slice(&bytes);
        for group in &taken.groups {
            self.buffer.extend_from_slice(group.records());
        }
        seal_records(&mut self.buffer[BATCH_HEADER_LEN..], self.next_lsn, chain);
        self.buffer.resize(header.len() as usize, 0);
        Batch {
            count: header.count,
            len: header.len() as u32,
            cost: sum(Group::cost),
            len_of_records: records_len as i64,
            rewritten: taken.rewritten,
        }
    }

    /// Writes and syncs the batch in the buffer, then tells of it.
    fn commit(&mut self, batch: Batch, sink: &mut dyn FnMut(Event)) -> Result<Step, Stop> {
        let slot = &self.segments.head().slot;
        if let Err(error) = self
            .storage
            .write_at(&slot.file, u64::from(self.position), &self.buffer)
        {
            let stop = write_failed(&slot.name, &error);
            self.unwritten = Some(batch);
            return self.block(&error, stop);
        }
        let below = self.next_lsn.plus(batch.count);
        if batch.count > 0 && planted(Bug::AcksBeforeSync) {
            sink(Event::Durable { below });
        }
        self.sync_head()?;
        self.is_blocked = false;
        self.has_anchor = false;
        self.position += batch.len;
        self.next_lsn = below;
        self.stamp()?;
        self.earn(&batch);
        self.tell(batch.cost);
        if batch.count > 0 && !planted(Bug::AcksBeforeSync) {
            sink(Event::Durable { below });
        }
        self.ask(false, sink);
        Ok(Step::Worked)
    }

    /// Makes a spare the head. Its header is synced before anything is written behind it, so that a file
    /// whose header is lost holds nothing.
    fn roll(&mut self) -> Result<Step, Stop> {
        let spare = self.segments.spares.pop();
        let spare = spare.expect("what was admitted has its space");
        let header = SegmentHeader {
            log_id: self.log_id,
            sequence: self.segments.head().sequence + 1,
            first_lsn: self.next_lsn,
            oldest: self.oldest,
            segment_len: spare.slot.len,
        };
        if let Err(error) = segments::write_header(&mut self.storage, &spare.slot, &header) {
            let stop = write_failed(&spare.slot.name, &error);
            self.segments.spares.push(spare);
            return self.block(&error, stop);
        }
        self.segments.live.push_back(Live {
            slot: spare.slot,
            sequence: header.sequence,
            first_lsn: header.first_lsn,
        });
        if !planted(Bug::SkipsHeaderSync) {
            self.sync_head()?;
        }
        self.position = BATCHES_BEGIN;
        self.has_anchor = false;
        self.is_blocked = false;
        self.stamp()?;
        self.tell(0);
        Ok(Step::Worked)
    }

    /// Notes that what was just synced says which segment is the oldest.
    fn stamp(&mut self) -> Result<(), Stop> {
        self.stamped = self.oldest;
        self.segments.recycle(self.stamped);
        let keep = SPARES_READY.max(self.segments.live.len());
        let surplus = self.segments.spares.len().saturating_sub(keep);
        for spare in self.segments.spares.drain(..surplus) {
            // A file that stays is found at the next opening.
            let _ = self.storage.remove(&spare.slot.name);
        }
        self.grow()
    }

    /// Adds segments until enough are ready.
    fn grow(&mut self) -> Result<(), Stop> {
        let segments_max = self.options.segments_max as usize;
        let mut created = false;
        while self.growth != Growth::DiskFull
            && self.segments.spares.len() < SPARES_READY
            && self.segments.count() < segments_max
        {
            let number = self.segments.next_number;
            match segments::create(&mut self.storage, number, self.options.segment_len) {
                Ok(spare) => {
                    self.segments.next_number += 1;
                    self.segments.spares.insert(0, spare);
                    created = true;
                }
                Err(error) if is_full(&error) => {
                    self.segments.next_number += 1;
                    self.growth = Growth::DiskFull;
                }
                Err(error) => {
                    return Err(Stop::Create {
                        cause: error.to_string(),
                    });
                }
            }
        }
        if created && !planted(Bug::SkipsDirectorySync) {
            self.storage.sync_directory().map_err(|error| Stop::Sync {
                file: ".".into(),
                cause: error.to_string(),
            })?;
        }
        if self.segments.spares.len() >= SPARES_READY {
            self.growth = Growth::Possible;
        } else if self.segments.count() >= segments_max {
            self.growth = Growth::AtMaximum;
        }
        Ok(())
    }

    /// What the live segments take, and how many records they hold.
    fn extent(&self) -> (i64, i64) {
        let live = &self.segments.live;
        let len: i64 = live.iter().map(|live| i64::from(live.slot.len)).sum();
        (len, (self.next_lsn.0 - live[0].first_lsn.0) as i64)
    }

    /// Notes what a batch pays for, at most one round through the whole log, and what it has cost.
    fn earn(&mut self, batch: &Batch) {
        let (len, count) = self.extent();
        let Rewritten { bytes, records } = batch.rewritten;
        let appended = batch.len_of_records - bytes;
        self.bytes_earned = (self.bytes_earned + appended - bytes).min(len);
        let appended = (i64::from(batch.count) - records) * REWRITE_FACTOR_PRESSED;
        self.records_earned = (self.records_earned + appended - records).min(count);
    }

    fn is_pressed(&self) -> bool {
        let free = self.segments.free(&self.options, self.position);
        let is_short = free < (RESERVE_NEW + 2) * self.options.usable_segment();
        let cannot_grow =
            self.growth != Growth::Possible || self.segments.count() >= self.options.segments_max as usize;
        cannot_grow && is_short
    }

    /// Asks for a compaction when one is due, and paid for. While there is space the cost counts in bytes, so
    /// that at most as much is rewritten as is appended. When space is short it counts in records: then
    /// the ends of all objects pay for going through all of them, however long they are, and a log
    /// that is full of what is dead does not stay full.
    fn ask(&mut self, is_starved: bool, sink: &mut dyn FnMut(Event)) {
        let live = &self.segments.live;
        if self.asked.is_some() || live.len() < 2 || self.oldest > live[0].sequence {
            return;
        }
        let is_long = live.len() > self.options.segments_max as usize / 2;
        let due_for_space = self.records_earned >= 0 && self.is_pressed();
        if is_starved || due_for_space || (self.bytes_earned >= 0 && is_long) {
            let below = live[1].first_lsn;
            self.asked = Some(below);
            sink(Event::Compact { below });
        }
    }

    /// Tells the owner's half how much space there is, and how much is set aside no longer.
    fn tell(&mut self, committed: u64) {
        let space = Space {
            free: self.segments.free(&self.options, self.position),
            live_segments: self.segments.live.len() as u32,
            spare_segments: self.segments.spares.len() as u32,
            growth: self.growth,
            is_blocked: self.is_blocked,
        };
        self.queue.found(space, committed);
    }

    fn block(&mut self, error: &io::Error, stop: Stop) -> Result<Step, Stop> {
        if !is_full(error) {
            return Err(stop);
        }
        self.is_blocked = true;
        self.tell(0);
        Ok(Step::Blocked)
    }

    fn write_anchor(&mut self) -> io::Result<()> {
        let head = self.segments.head();
        let seed = seed(self.log_id, head.sequence);
        let bytes = anchor(seed, self.next_lsn, self.stamped, self.position);
        self.storage
            .write_at(&head.slot.file, u64::from(self.position), &bytes)
    }

    fn sync_head(&mut self) -> Result<(), Stop> {
        let slot = &self.segments.head().slot;
        let mut synced = self.storage.sync_data(&slot.file);
        if planted(Bug::RetriesSync) && synced.is_err() {
            synced = self.storage.sync_data(&slot.file);
        }
        synced.map_err(|error| Stop::Sync {
            file: slot.name.clone(),
            cause: error.to_string(),
        })
    }
}

impl<S: Storage> Drop for Writer<S> {
    fn drop(&mut self) {
        self.queue.stop(Stop::Gone);
    }
}

/// The sector that says that everything before it was synced.
pub(crate) fn anchor(seed: u32, next_lsn: Lsn, oldest: u64, offset: u32) -> [u8; SECTOR_LEN as usize] {
    let header = BatchHeader {
        records_len: 0,
        count: 0,
        first_lsn: next_lsn,
        oldest,
        offset,
        is_anchor: true,
    };
    let mut bytes = [0; SECTOR_LEN as usize];
    bytes[..BATCH_HEADER_LEN].copy_from_slice(&header.encode(seed).0);
    bytes
}

fn write_failed(file: &str, error: &io::Error) -> Stop {
    Stop::Write {
        file: file.to_owned(),
        cause: error.to_string(),
    }
}

/// The thread of a writer.
#[derive(Debug)]
pub struct WriterThread(thread::JoinHandle<()>);

impl WriterThread {
    /// Waits until the writer has ended; the [`Journal`](crate::Journal) must be dropped before. The error is
    /// that of a sink that panicked.
    pub fn join(self) -> thread::Result<()> {
        self.0.join()
    }
}
