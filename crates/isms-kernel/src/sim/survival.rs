//! The journal, its disk, and the ends of the Kernel: killed, or without power.
//!
//! Checked from outside: a durable call that was acknowledged is there after each end, until it has ended; one of which an
//! end was told has that end for ever; no two attempts of one call are at the Doer at the same time.

use std::{collections::VecDeque, rc::Rc};

use isms_journal::{Options, SimulatedDisk, Step, Writer};
use isms_protocol::{
    Flags, Header, Kind, Message, ProcessId, Service,
    kernel::{Operation, Resume, Resumed, ResumedCall},
};
use isms_simulation::Random;

use super::world::{World, doer_index};
use crate::{action::Event, clock::Unix, config::Config, core::Core, durability::Recovery};

/// The call by which a simulated Doer says what it has.
pub(super) const RESUME_CALL: u64 = u64::MAX;

/// Where the simulated calendar's clock begins.
const CALENDAR: u64 = 1_700_000_000_000_000;

/// What survives the Kernel.
pub(super) struct Survivors {
    disk: SimulatedDisk,
    writer: Option<Writer<SimulatedDisk>>,
    events: VecDeque<isms_journal::Event>,
    config: Config,
    last_id: Rc<std::cell::Cell<u128>>,
    /// How far the calendar's clock is ahead of where it would be, in µs.
    jumped: i64,
    /// What the Doer has named, in order, until it is answered.
    named: Vec<ResumedCall>,
    /// The Kernel has ended at least once.
    pub(super) restarted: bool,
}

/// Small enough that runs see full logs and compactions.
fn options() -> Options {
    Options {
        segment_len: 384 << 10,
        segments_max: 8,
        group_len_max: 72 << 10,
        queue_len_max: 256 << 10,
        ..Options::new(7)
    }
}

impl Survivors {
    pub(super) fn new(seed: u64, config: Config) -> Survivors {
        Survivors {
            disk: SimulatedDisk::new(seed),
            writer: None,
            events: VecDeque::new(),
            config,
            last_id: Rc::default(),
            jumped: 0,
            named: Vec::new(),
            restarted: false,
        }
    }

    /// Makes a Kernel from what is on the disk.
    pub(super) fn boot(&mut self, now: crate::Moment) -> Core {
        let last_id = Rc::clone(&self.last_id);
        let ids = Box::new(move || {
            last_id.set(last_id.get() + 1);
            ProcessId::from_bytes(last_id.get().to_be_bytes())
        });
        let mut core = Core::new(self.config.clone(), ids, now).expect("the built-in rights table is valid");
        // Else the new one would meet what was meant for the old one.
        self.disk.fail_syncs(0);
        let opened = Recovery::open(self.disk.clone(), &options());
        let (recovery, writer) = opened.expect("what a crash leaves behind can be opened");
        core.handle(
            now,
            Event::Calendar {
                shows: self.shows(now),
            },
        );
        core.recover(recovery);
        self.writer = Some(writer);
        core
    }

    fn shows(&self, now: crate::Moment) -> Unix {
        Unix((CALENDAR + now.0).saturating_add_signed(self.jumped))
    }

    fn step_writer(&mut self) -> Step {
        let events = &mut self.events;
        let writer = self.writer.as_mut().expect("a Kernel has a writer");
        writer.step(&mut |event| events.push_back(event))
    }
}

impl World {
    /// The journal's thread gets to do something, and the Kernel to hear of it.
    pub(super) fn work_on_journal(&mut self) {
        for _ in 0..self.random.below(4) {
            self.survivors.step_writer();
        }
        if self.random.percent(70) {
            self.hear_journal();
        }
    }

    /// Everything is written that can be.
    pub(super) fn finish_journal(&mut self) -> bool {
        let mut worked = false;
        while self.survivors.step_writer() == Step::Worked {
            worked = true;
        }
        worked | self.hear_journal()
    }

    fn hear_journal(&mut self) -> bool {
        let mut heard = false;
        while let Some(event) = self.survivors.events.pop_front() {
            self.feed(Event::Journal(event));
            heard = true;
        }
        heard
    }

    pub(super) fn journal_has_stopped(&self) -> bool {
        self.core.log.as_ref().is_some_and(|log| log.stopped().is_some())
    }

    /// A sync fails once; from then on nothing is written.
    pub(super) fn fail_sync(&mut self) {
        self.survivors.disk.fail_syncs(1);
    }

    /// No sync fails any more.
    pub(super) fn heal_disk(&mut self) {
        self.survivors.disk.fail_syncs(0);
    }

    /// The calendar's clock is set.
    pub(super) fn jump(&mut self) {
        let by = self.random.below(4_000_000) as i64 - 2_000_000;
        self.survivors.jumped += by;
        let shows = self.survivors.shows(self.now);
        self.feed(Event::Calendar { shows });
    }

    /// The Kernel ends, and with the power everything else as well.
    pub(super) fn end_kernel(&mut self, power: bool) {
        if power {
            let calls = self.random.below(8);
            self.survivors.disk.power_off_after(calls);
        }
        for _ in 0..self.random.below(3) {
            self.survivors.step_writer();
        }
        self.survivors.events.clear();
        self.survivors.restarted = true;
        for actor in 0..self.actors.len() {
            let service = self.actors[actor].service;
            self.observer.lost(service);
            match power || self.random.percent(30) {
                true => self.actors[actor].crash(),
                false => self.actors[actor].disconnect(),
            }
        }
        self.observer.kernel_ended();
        // The old Kernel must be gone before its journal is opened again.
        let nothing = Core::new(
            self.survivors.config.clone(),
            Box::new(ProcessId::generate),
            self.now,
        );
        self.core = nothing.expect("the built-in rights table is valid");
        self.survivors.writer = None;
        if power {
            self.survivors.disk.crash();
        }
        self.core = self.survivors.boot(self.now);
        self.check_survival();
    }

    /// The Doer, which has just been given a durable call, loses the Kernel, or the Kernel the Doer.
    pub(super) fn lose_each_other(&mut self) {
        match self.kernel_ends && self.random.percent(50) {
            true => self.end_kernel(false),
            false => self.cut_doer(),
        }
    }

    /// The Doer's connection ends, and the Doer does not.
    pub(super) fn cut_doer(&mut self) {
        let doer = doer_index();
        if let Some(peer) = self.actors[doer].peer {
            self.actors[doer].disconnect();
            self.observer.lost(Service::Doer);
            self.feed(Event::PeerLost { peer });
        }
    }

    /// A Doer that has registered says what it still has.
    pub(super) fn resume(&mut self) {
        let doer = &self.actors[doer_index()];
        let Some(peer) = doer.peer else { return };
        let named = doer.work.values().map(|work| {
            let Header { process, attempt, .. } = work.header;
            ResumedCall { process, attempt }
        });
        let named: Vec<ResumedCall> = named.collect();
        self.survivors.named.clone_from(&named);
        let header = Header {
            call: RESUME_CALL,
            operation: Operation::Resume as u16,
            ..Header::new(Kind::Request, Service::Doer, Service::Kernel)
        };
        let message = Message::with_body(
            header,
            &Resume {
                calls: named,
                more: false,
            },
        );
        self.feed(Event::PeerMessage { peer, message });
    }

    /// The core has said which calls of the Doer it wants.
    pub(super) fn resumed(&mut self, message: &Message) {
        let Resumed { calls } = message.decode_body().expect("the core encodes its answer");
        let doer = &mut self.actors[doer_index()];
        let mut work: Vec<_> = std::mem::take(&mut doer.work).into_values().collect();
        for (named, call) in self.survivors.named.drain(..).zip(calls) {
            let place = work.iter().position(|work| work.header.process == named.process);
            let mut resumed = work.swap_remove(place.expect("it was named"));
            if call != 0 {
                resumed.header.call = call;
                self.observer.adopted(&resumed.header);
                doer.work.insert(call, resumed);
            }
        }
    }

    /// Nothing that the Doer has is sent to it once more.
    pub(super) fn check_overlap(&self, header: &Header) {
        if !header.flags.contains(Flags::DURABLE) || header.kind != Kind::Request {
            return;
        }
        let doer = &self.actors[doer_index()];
        let has = doer.work.values().map(|work| &work.header);
        let comes = doer.inbox.iter().map(|message| &message.header);
        let comes = comes.filter(|header| header.kind == Kind::Request);
        for other in has.chain(comes) {
            assert!(
                other.process != header.process,
                "two attempts of {} are at the Doer: {other:?}, {header:?}",
                header.process
            );
        }
    }

    /// Every durable call that was acknowledged is there, and has the end that was told.
    pub(super) fn check_survival(&mut self) {
        for (process, ended) in self.observer.durable_calls() {
            let now = self.core.results.get(process).map(|record| {
                let state = self.core.results.state(process, record, self.now);
                state.progress
            });
            match (ended, now) {
                (None, None) => panic!("{process} was acknowledged and is lost"),
                (None, Some(progress)) if progress.has_ended() => self.observer.has_ended(process, progress),
                (None, Some(_)) | (Some(_), None) => {}
                (Some(ended), Some(now)) => assert_eq!(ended, now, "{process} has ended twice"),
            }
        }
    }

    /// Compactions must not lose anything either: the log as it is now says what the Kernel knows.
    pub(super) fn check_log(&mut self) {
        let log = self.core.log.as_ref().expect("simulated Kernels have a journal");
        assert!(log.is_quiet(), "something waits for the journal for ever");
    }
}

/// A body that a journal so small can hold.
pub(super) fn short(random: &mut Random) -> u32 {
    random.below(20_000) as u32
}
