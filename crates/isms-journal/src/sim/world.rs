//! The owner of a log, and everything that befalls both.

use std::collections::BTreeMap;

use super::{
    Tally,
    observer::{BEGIN, END, Entry, Observer, STATE},
};
use isms_simulation::Random;

use crate::{
    AppendError, Event, Group, Journal, Lsn, OpenError, Options, Purpose, Record, SimulatedDisk, Step,
    Writer, format::RECORD_HEADER_LEN, open,
};

/// A rewrite fills groups up to here.
const REWRITE_LEN: usize = 6000;

/// Rounds in which everything must come to rest.
const ROUNDS_MAX: usize = 20_000;

pub(super) struct World {
    random: Random,
    disk: SimulatedDisk,
    log: Option<(Journal, Writer<SimulatedDisk>)>,
    observer: Observer,
    /// Live objects: where each was stated last, and in how many bytes.
    objects: BTreeMap<u64, (Lsn, usize)>,
    next_object: u64,
    serial: u64,
    compaction: Option<Lsn>,
    has_stopped: bool,
    is_calm: bool,
    /// How many in a hundred of the faults that could happen do.
    fault_rate: u64,
    pub(super) tally: Tally,
}

/// Of the log that is simulated.
const LOG_ID: u128 = 0x1234_5678_9abc_def0_1122_3344_5566_7788;

impl World {
    pub(super) fn new(seed: u64) -> World {
        let mut world = World {
            random: Random::new(seed),
            disk: SimulatedDisk::new(seed ^ 0x5eed),
            log: None,
            observer: Observer::default(),
            objects: BTreeMap::new(),
            next_object: 1,
            serial: 0,
            compaction: None,
            has_stopped: false,
            is_calm: false,
            fault_rate: [3, 20, 100][seed as usize % 3],
            tally: Tally::default(),
        };
        world.open();
        world
    }

    pub(super) fn step(&mut self) {
        match self.random.below(1000) {
            0..450 => self.begin(),
            450..560 => self.end(),
            560..900 => self.write(),
            900..940 => self.compact(),
            _ if !self.random.percent(self.fault_rate) => self.write(),
            940..955 => self.disk.power_off_after(self.random.below(12)),
            955..965 => self.lose_power(),
            965..973 => self.kill(),
            973..981 => self.close(),
            981..985 => self.disk.fail_syncs(1),
            985..993 => {
                let capacity = 40 * 1024 * self.random.below(9);
                let is_low = self.random.percent(60);
                self.disk.set_capacity(if is_low { capacity } else { u64::MAX });
            }
            _ => {
                let writable = self.random.below(20_000);
                let is_low = self.random.percent(50);
                self.disk.refuse_writes_after(is_low.then_some(writable));
            }
        }
        if self.has_stopped {
            self.after_stop();
        }
        let files = self.disk.files().len();
        assert!(
            files <= Options::small(LOG_ID).segments_max as usize,
            "{files} files"
        );
    }

    /// Lifts all faults and completes everything.
    pub(super) fn quiesce(&mut self) {
        self.is_calm = true;
        self.lift_faults();
        self.lose_power();
        let mut rounds = 0;
        while !self.objects.is_empty() || !self.observer.is_all_durable() {
            self.end();
            self.compact();
            self.write();
            rounds += 1;
            assert!(rounds < ROUNDS_MAX, "completions starve: {:?}", self.usage());
        }
        let next = self.observer.next_lsn();
        while self.observer.next_lsn() == next {
            self.begin();
            self.compact();
            self.write();
            rounds += 1;
            assert!(rounds < ROUNDS_MAX, "new work starves: {:?}", self.usage());
        }
        while !self.observer.is_all_durable() {
            self.write();
            rounds += 1;
            assert!(rounds < ROUNDS_MAX, "what was admitted is never durable");
        }
        self.close();
    }

    fn usage(&self) -> Option<crate::Usage> {
        self.log.as_ref().map(|(journal, _)| journal.usage())
    }

    fn lift_faults(&mut self) {
        self.disk.set_capacity(u64::MAX);
        self.disk.refuse_writes_after(None);
        self.disk.fail_syncs(0);
    }

    /// A payload: mostly short, now and then long, in few different bytes, so that sectors are alike.
    fn payload(&mut self, object: u64, len: Option<usize>) -> Vec<u8> {
        self.serial += 1;
        let len = len.unwrap_or_else(|| match self.random.below(20) {
            0..14 => 16 + self.random.below(200) as usize,
            14..18 => 16 + self.random.below(2000) as usize,
            _ => 16 + self.random.below(7000) as usize,
        });
        let mut payload = vec![(self.serial % 2) as u8; len];
        payload[..8].copy_from_slice(&object.to_le_bytes());
        payload[8..16].copy_from_slice(&self.serial.to_le_bytes());
        payload
    }

    fn begin(&mut self) {
        let mut entries = Vec::new();
        let mut len = 0;
        for _ in 0..=self.random.below(4) {
            let object = self.next_object;
            let payload = self.payload(object, None);
            len += payload.len() + RECORD_HEADER_LEN;
            if len > 8000 {
                break;
            }
            self.next_object += 1;
            entries.push(Entry { kind: BEGIN, payload });
        }
        self.append(Purpose::New, entries);
    }

    fn end(&mut self) {
        let at = self.random.below(self.next_object);
        let object = self.objects.range(at..).next().or(self.objects.iter().next());
        if let Some((&object, _)) = object {
            let payload = self.payload(object, Some(16));
            self.append(Purpose::Completion, vec![Entry { kind: END, payload }]);
        }
    }

    /// Goes on with the compaction that was asked for: one group, or the release.
    fn compact(&mut self) {
        let Some(below) = self.compaction else { return };
        let mut entries = Vec::new();
        let mut len = 0;
        let old: Vec<_> = self.objects.iter().filter(|(_, (lsn, _))| *lsn < below).collect();
        let old: Vec<_> = old
            .into_iter()
            .map(|(object, (_, len))| (*object, *len))
            .collect();
        for (object, payload_len) in old {
            let payload = self.payload(object, Some(payload_len));
            len += payload.len() + RECORD_HEADER_LEN;
            if len > 8000 || len > REWRITE_LEN && !entries.is_empty() {
                break;
            }
            entries.push(Entry { kind: STATE, payload });
        }
        if !entries.is_empty() {
            self.append(Purpose::Rewrite, entries);
        } else if let Some((journal, _)) = &mut self.log {
            journal.release(below);
            self.observer.released(below);
            self.compaction = None;
            self.tally.compactions += 1;
        }
    }

    fn append(&mut self, purpose: Purpose, entries: Vec<Entry>) {
        let Some((journal, _)) = &mut self.log else { return };
        if entries.is_empty() {
            return;
        }
        let mut group = Group::new();
        entries
            .iter()
            .for_each(|entry| group.push(entry.kind, &entry.payload));
        let first = match journal.append(purpose, group) {
            Ok(first) => first,
            Err(refused) => {
                match refused.why {
                    AppendError::Full => self.tally.full += 1,
                    AppendError::DiskFull => self.tally.disk_full += 1,
                    AppendError::Stopped(_) => assert!(journal.stopped().is_some()),
                    AppendError::Busy => {}
                    AppendError::Len { .. } => panic!("{}", refused.why),
                }
                let is_rewrite = purpose == Purpose::Rewrite;
                let cannot_be = is_rewrite && refused.why == AppendError::Full;
                assert!(!cannot_be, "no room for a rewrite: {:?}", journal.usage());
                return;
            }
        };
        assert!(!self.has_stopped, "a log that has stopped admits");
        self.tally.records += entries.len() as u64;
        for (index, entry) in entries.iter().enumerate() {
            let place = (first.plus(index as u32), entry.payload.len());
            match entry.kind {
                END => self.objects.remove(&entry.object()),
                _ => self.objects.insert(entry.object(), place),
            };
        }
        self.observer.appended(first, entries);
    }

    fn write(&mut self) {
        let Some((_, writer)) = &mut self.log else { return };
        let mut events = Vec::new();
        let before = writer.segments().live[0].sequence;
        let step = writer.step(&mut |event| events.push(event));
        self.tally.recycled += writer.segments().live[0].sequence - before;
        self.tally.blocked += u64::from(step == Step::Blocked);
        for event in events {
            assert!(!self.has_stopped, "after it has stopped the log says {event:?}");
            match event {
                Event::Durable { below } => {
                    self.observer.acknowledged(below);
                    self.tally.durable += 1;
                }
                Event::Compact { below } => self.compaction = Some(below),
                Event::Stopped(_) => {
                    self.has_stopped = true;
                    self.tally.stops += 1;
                }
            }
        }
        assert!(self.has_stopped || step != Step::Stopped);
        assert!(!self.has_stopped || !self.is_calm, "stopped without a fault");
    }

    /// A log that has stopped answers, and acknowledges nothing; then its process is started again.
    fn after_stop(&mut self) {
        for _ in 0..3 {
            self.begin();
            self.write();
        }
        match self.random.below(3) {
            0 => self.kill(),
            _ => self.lose_power(),
        }
    }

    fn lose_power(&mut self) {
        self.log = None;
        self.disk.crash();
        self.tally.losses_of_power += 1;
        self.open();
    }

    /// The process is killed: what it has written is still seen, unless it only counts as written.
    fn kill(&mut self) {
        self.log = None;
        self.tally.kills += 1;
        self.forget_some();
        self.open();
    }

    fn forget_some(&mut self) {
        if self.random.percent(50) {
            self.disk.forget_clean();
        }
    }

    fn close(&mut self) {
        let Some((journal, mut writer)) = self.log.take() else {
            return;
        };
        drop(journal);
        let mut is_closed = false;
        for _ in 0..1000 {
            let step = writer.step(&mut |event| {
                if let Event::Durable { below } = event {
                    self.observer.acknowledged(below);
                }
            });
            match step {
                Step::Worked => {}
                Step::Closed => {
                    is_closed = self.observer.is_all_durable();
                    break;
                }
                Step::Stopped | Step::Blocked => break,
                Step::Idle => panic!("a closed log waits"),
            }
        }
        drop(writer);
        if is_closed {
            self.flip();
        }
        self.open();
    }

    /// A flipped bit of a log that was closed is found, or changes nothing.
    fn flip(&mut self) {
        let disk = self.disk.fork();
        disk.crash();
        let mut files = disk.files();
        files.retain(|(_, len)| *len > 5000);
        for _ in 0..2 {
            let disk = disk.fork();
            let (name, len) = &files[self.random.below(files.len() as u64) as usize];
            let offset = match self.random.below(4) {
                0 => self.random.below(64),
                1 => 4096 + self.random.below(512),
                _ => 4096 + self.random.below(len - 4096),
            };
            disk.flip(name, offset, self.random.below(8) as u8);
            self.tally.flips += 1;
            let mut replayed = Vec::new();
            let note = |record: Record<'_>| replayed.push((record.lsn.0, Entry::of(record)));
            match open(disk, &Options::small(LOG_ID), note) {
                Ok((journal, _, _)) => {
                    let lost = self.observer.check(&replayed, journal.next_lsn());
                    assert_eq!(lost, 0, "a flip in {name} at {offset} cut what was synced");
                }
                Err(OpenError::Corrupt { .. }) => self.tally.flips_found += 1,
                Err(error) => panic!("a flip in {name} at {offset} is taken for: {error}"),
            }
        }
    }

    /// Opens the log and checks it. An opening may fail as well, and is repeated.
    fn open(&mut self) {
        self.log = None;
        for attempt in 0.. {
            if attempt > 5 || self.is_calm {
                self.lift_faults();
            } else if self.random.percent(20) {
                self.disk.power_off_after(self.random.below(60));
            }
            let mut replayed = Vec::new();
            let note = |record: Record<'_>| replayed.push((record.lsn.0, Entry::of(record)));
            match open(self.disk.clone(), &Options::small(LOG_ID), note) {
                Ok((journal, writer, report)) => {
                    self.opened(&replayed, &journal, report.torn.is_some());
                    self.log = Some((journal, writer));
                    return;
                }
                Err(OpenError::Storage { .. } | OpenError::Prepare(_)) if attempt < 10 => {
                    self.tally.failed_openings += 1;
                    match self.random.below(2) {
                        0 => self.disk.crash(),
                        _ => {
                            self.disk.power_off_after(u64::MAX);
                            self.forget_some();
                        }
                    }
                }
                Err(error) => panic!("cannot open: {error:?}"),
            }
        }
    }

    fn opened(&mut self, replayed: &[(u64, Entry)], journal: &Journal, is_torn: bool) {
        self.tally.openings += 1;
        self.tally.torn += u64::from(is_torn);
        self.tally.lost += self.observer.check(replayed, journal.next_lsn());
        self.observer.cut(journal.next_lsn());
        self.has_stopped = false;
        self.compaction = None;
        self.objects.clear();
        for (lsn, entry) in replayed {
            match entry.kind {
                END => self.objects.remove(&entry.object()),
                _ => self
                    .objects
                    .insert(entry.object(), (Lsn(*lsn), entry.payload.len())),
            };
        }
        assert_eq!(self.objects.len(), self.observer.live().len());
    }
}
