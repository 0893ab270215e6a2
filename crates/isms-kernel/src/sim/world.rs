//! The simulated world: the core, the services around it, the messages on their way, the clock.

use std::{collections::BTreeMap, time::Duration};

use isms_protocol::{
    DoeeVersion, Flags, Header, Incarnation, Kind, Message, Secret, Service, gate,
    kernel::{CallsAfter, Operation, Register, Slots},
    limits,
};
use isms_simulation::Random;
use sha2::{Digest, Sha256};

use super::{
    Tally,
    actor::Actor,
    observer::{Meant, Observer},
    survival::{RESUME_CALL, Survivors},
};
use crate::{
    action::{Action, CloseReason, Event, PeerId},
    clock::Moment,
    config::Config,
    core::Core,
};

/// How long results are kept.
pub(super) const KEEP_S: u32 = 5;
const CONCURRENCY: u32 = 3;
pub(super) const CREDIT: u32 = 24;

pub(super) struct World {
    pub(super) random: Random,
    pub(super) core: Core,
    pub(super) now: Moment,
    pub(super) survivors: Survivors,
    pub(super) actors: Vec<Actor>,
    pub(super) observer: Observer,
    pub(super) meant: BTreeMap<[u8; 8], Meant>,
    pub(super) next_span: u64,
    next_peer: u64,
    /// How often, in 400 moves, a service crashes or breaks the rules; 0 in a quarter of the runs.
    turbulence: u64,
    /// In half of the runs; in the others what is lost with it is not.
    pub(super) kernel_ends: bool,
    /// Of the asynchronous calls, those that are durable.
    pub(super) durable_percent: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        let config = Config {
            request_credit: CREDIT,
            queue_len_max: 6,
            queue_total_max: 14,
            queue_bytes_max: 24 * 1024,
            aging_max_ms: 2_000,
            results_max: 40,
            results_bytes_max: 1024 * 1024,
            results_keep_s: KEEP_S,
            traces_per_s: 50,
            slow_ms: 500,
            ..Config::default()
        };
        let observer = Observer::new(config.aging_max_us());
        let mut random = Random::new(seed);
        let turbulence = random.below(4) * 4;
        let mut survivors = Survivors::new(seed, config);
        let mut world = World {
            turbulence,
            kernel_ends: random.percent(50),
            durable_percent: random.pick(&[0, 30, 90]),
            random,
            core: survivors.boot(Moment(0)),
            now: Moment(0),
            survivors,
            actors: Service::REGISTERED.into_iter().map(Actor::new).collect(),
            observer,
            meant: BTreeMap::new(),
            next_span: 1,
            next_peer: 1,
        };
        (0..world.actors.len()).for_each(|actor| world.connect(actor));
        world
    }

    pub(super) fn tally(&self) -> Tally {
        self.observer.tally
    }

    /// One random move of one part of the world.
    pub(super) fn step(&mut self) {
        let actor = self.random.below(self.actors.len() as u64) as usize;
        if self.random.below(400) < self.turbulence {
            return match self.random.below(30) {
                0..=6 => self.crash(actor),
                7..=10 => self.cut_doer(),
                11..=12 if self.kernel_ends => self.end_kernel(false),
                13..=15 if self.kernel_ends => self.end_kernel(true),
                16 if self.kernel_ends => self.fail_sync(),
                17 => self.jump(),
                _ => self.be_hostile(actor),
            };
        }
        match self.random.below(100) {
            0..=11 => self.ask(actor),
            12..=20 => self.work_on_journal(),
            21..=44 => self.deliver(actor),
            45..=64 => self.receive(actor),
            65..=83 => {
                self.actors[actor].act(&mut self.random, false);
            }
            84..=88 => self.change_slots(),
            89..=92 => {
                let us = self.random.below(50_000);
                self.pass(us);
            }
            93 => {
                let us = self.random.below(4_000_000);
                self.pass(us);
            }
            94 => self.tick(),
            _ => self.connect(actor),
        }
        let alive = self.observer.alive() + self.actors.iter().map(|actor| actor.calls.len()).sum::<usize>();
        assert!(
            self.core.table.len() <= alive + self.core.results.len_and_bytes().0,
            "the table holds processes that nobody knows of"
        );
        let overlooked = self.core.scheduler.overlooked();
        assert_eq!(overlooked, None, "a call waits though there is room for it");
    }

    /// Everybody behaves until nothing is left to do; then nothing may be left.
    pub(super) fn quiesce(&mut self) {
        self.revive_journal();
        // Told anew: what the Kernel heard last may have been a hostile repetition.
        self.actors[doer_index()].slots.clear();
        (0..self.actors.len()).for_each(|actor| self.connect(actor));
        for _ in 0..8 {
            self.finish_journal();
            self.pass(2_000_000);
        }
        self.observer.check_deadlines(self.now);
        for _ in 0..4_000 {
            let mut acted = self.finish_journal();
            // What a hostile service sent before may still get it cut.
            (0..self.actors.len()).for_each(|actor| self.connect(actor));
            self.open_all_slots();
            for actor in 0..self.actors.len() {
                acted |= self.actors[actor].act_on_all(&mut self.random);
                while !self.actors[actor].outbox.is_empty() {
                    self.deliver(actor);
                    acted = true;
                }
                while !self.actors[actor].inbox.is_empty() {
                    self.receive(actor);
                    acted = true;
                }
            }
            if !acted && !self.core.results.all_ended() {
                // Some wait for their next attempt.
                self.pass(500_000);
                acted = true;
            }
            if !acted {
                break;
            }
        }
        self.observer.check_quiet();
        assert!(self.core.results.all_ended(), "asynchronous calls have not ended");
        self.check_log();
        if !self.survivors.restarted {
            self.check_measures();
        }
        // Whatever is on the disk now says the same.
        self.end_kernel(false);
        (0..self.actors.len()).for_each(|actor| self.connect(actor));
        assert!(self.core.results.all_ended(), "calls that had ended run again");
        self.pass(u64::from(KEEP_S) * 1_000_000 + 1);
        (0..self.actors.len()).for_each(|actor| self.connect(actor));
        self.open_all_slots();
        while !self.actors[doer_index()].outbox.is_empty() {
            self.deliver(doer_index());
        }
        self.pass(0);
        self.finish_journal();
        self.check_empty();
    }

    /// A journal that has stopped is opened again by a new Kernel.
    fn revive_journal(&mut self) {
        self.heal_disk();
        self.finish_journal();
        if self.journal_has_stopped() {
            self.end_kernel(false);
        }
    }

    /// Each reply of a Doee was counted once, and what ran is what waited before.
    fn check_measures(&self) {
        let calls = self.core.scheduler.calls(CallsAfter::default());
        let classes: Vec<_> = calls.doees.iter().flat_map(|doee| &doee.classes).collect();
        let done: u64 = classes.iter().map(|class| class.outcomes.done).sum();
        let possible = self.observer.done();
        assert!(
            possible.contains(&done),
            "{done} calls were counted as done, of {possible:?}"
        );
        for class in classes {
            let [waited, ran] = [&class.waited, &class.ran].map(|times| times.counts.iter().sum::<u64>());
            assert!(ran <= waited, "{ran} calls ran of {waited} that began: {class:?}");
        }
    }

    fn check_empty(&mut self) {
        assert_eq!(self.core.table.len(), 0, "the process table is not empty");
        assert!(self.core.timers.is_empty(), "timers are left");
        assert_eq!(
            self.core.results.len_and_bytes(),
            (0, 0),
            "results are kept for too long"
        );
        assert!(self.core.questions.is_empty(), "questions are left");
        assert_eq!(
            (self.core.scheduler.waiting(), self.core.scheduler.waiting_bytes()),
            (0, 0)
        );
        assert!(self.core.orphans.is_empty() && self.core.ready.is_empty());
        for service in Service::REGISTERED {
            let registration = self
                .core
                .services
                .registration(service)
                .expect("everybody is registered");
            assert_eq!(
                registration.unanswered, 0,
                "{service} is charged for calls that have ended"
            );
            assert!(
                registration.calls.is_empty(),
                "{service} has calls that have ended"
            );
            assert_eq!(
                self.core.scheduler.load(service),
                (0, 0),
                "{service} is charged for work that has ended"
            );
        }
        let doees = self.actors[doer_index()]
            .slots
            .values()
            .filter(|slots| slots.capacity > 0)
            .count();
        assert_eq!(
            self.core.scheduler.queue_count(),
            self.actors.len() + doees,
            "queues are left"
        );
    }

    fn connect(&mut self, actor: usize) {
        if self.actors[actor].peer.is_some() {
            return;
        }
        let service = self.actors[actor].service;
        if self.actors[actor].incarnation == Incarnation(0) || self.random.percent(50) {
            self.actors[actor].incarnation.0 += 1;
        }
        let incarnation = self.actors[actor].incarnation;
        let secret = Secret([incarnation.0 as u8; 32]);
        let secret_hash = Sha256::digest(secret.0).into();
        self.feed(Event::Announce {
            service,
            incarnation,
            secret_hash,
        });
        let peer = PeerId(self.next_peer);
        self.next_peer += 1;
        // What was to be said while there was nobody to say it to is not said any more.
        self.actors[actor].disconnect();
        self.actors[actor].peer = Some(peer);
        self.feed(Event::PeerConnected { peer });
        self.observer.registered(service, CONCURRENCY);
        let register = Register {
            service,
            incarnation,
            secret,
            concurrency: CONCURRENCY,
        };
        let header = Header::new(Kind::Register, service, Service::Kernel);
        self.feed(Event::PeerMessage {
            peer,
            message: Message::with_body(header, &register),
        });
        if service == Service::Doer {
            self.resume();
        }
    }

    fn crash(&mut self, actor: usize) {
        if let Some(peer) = self.actors[actor].peer {
            self.actors[actor].crash();
            self.observer.lost(self.actors[actor].service);
            self.feed(Event::PeerLost { peer });
        }
    }

    /// The oldest message of a service reaches the core.
    fn deliver(&mut self, actor: usize) {
        let Some(peer) = self.actors[actor].peer else {
            return;
        };
        let Some(message) = self.actors[actor].outbox.pop_front() else {
            return;
        };
        let sender = self.actors[actor].service;
        if message.header.kind == Kind::Request {
            let header = &message.header;
            if let Some(mut meant) = self.meant.remove(&header.trace.span.0) {
                let sets = header.operation == Operation::SetProject as u16 && sender == Service::Resadmin;
                if header.target == Service::Kernel && sets && !meant.must_fail {
                    let settings = message.decode_body().expect("the simulation encodes settings");
                    self.observer.settings_told(header.project, &settings);
                }
                meant.deadline = (header.remaining_us != 0).then(|| self.now.after_us(header.remaining_us));
                self.observer.asked(sender, header, meant, self.now);
            }
        } else {
            self.observer.told(sender, &message);
            let past = &mut self.actors[actor].past;
            past.push_back(message.clone());
            past.truncate(20);
        }
        self.feed(Event::PeerMessage { peer, message });
    }

    fn receive(&mut self, actor: usize) {
        if let Some(message) = self.actors[actor].inbox.pop_front() {
            self.actors[actor].receive(&message);
            let is_durable =
                message.header.kind == Kind::Request && message.header.flags.contains(Flags::DURABLE);
            if is_durable && self.random.below(80) < self.turbulence {
                self.lose_each_other();
            }
        }
    }

    fn change_slots(&mut self) {
        let doee = self.random.below(3);
        let capacity = self.random.below(4) as u32;
        let mut slots = Slots::all(capacity);
        if self.random.below(2) == 0 {
            for most in &mut slots.lower {
                *most = self.random.below(4) as u32;
            }
        }
        self.tell_slots(version(doee), slots);
    }

    fn open_all_slots(&mut self) {
        for doee in 0..3 {
            if self.actors[doer_index()].slots.get(&version(doee)) != Some(&Slots::all(2)) {
                self.tell_slots(version(doee), Slots::all(2));
            }
        }
    }

    fn tell_slots(&mut self, target_doee: DoeeVersion, slots: Slots) {
        let doer = &mut self.actors[doer_index()];
        if doer.peer.is_some() {
            doer.slots.insert(target_doee, slots);
            let header = Header {
                target_doee,
                ..Header::new(Kind::Slots, Service::Doer, Service::Kernel)
            };
            doer.outbox.push_back(Message::with_body(header, &slots));
        }
    }

    /// A service repeats itself, lies, or talks nonsense.
    fn be_hostile(&mut self, actor: usize) {
        let service = self.actors[actor].service;
        self.actors[actor].hostile = true;
        let past: Vec<Message> = self.actors[actor].past.iter().cloned().collect();
        let nonsense = Header {
            call: self.random.below(40),
            ..Header::new(Kind::Reply, service, Service::Kernel)
        };
        let message = match self.random.below(12) {
            0..=5 if !past.is_empty() => past[self.random.below(past.len() as u64) as usize].clone(),
            6 => Message::bare(Header {
                kind: Kind::StreamEnd,
                flags: Flags::TO_CALLER,
                ..nonsense
            }),
            7 => Message::bare(Header {
                kind: Kind::Cancel,
                ..nonsense
            }),
            8 => Message::bare(Header {
                operation: 99,
                target: Service::Gate,
                kind: Kind::Event,
                ..nonsense
            }),
            9 => {
                let chunk = Message::bare(Header {
                    kind: Kind::StreamChunk,
                    ..nonsense
                });
                chunk.with_raw(vec![0; limits::CHUNK_LEN_MAX])
            }
            10 => Message::bare(Header {
                kind: Kind::Demand,
                ..nonsense
            }),
            11 => Message::bare(Header {
                kind: Kind::Credit,
                ..nonsense
            }),
            _ => {
                let header = Header {
                    operation: gate::Operation::Log as u16,
                    target: Service::Gate,
                    ..nonsense
                };
                Message::bare(Header {
                    kind: Kind::Event,
                    ..header
                })
            }
        };
        self.actors[actor].outbox.push_front(message);
        self.deliver(actor);
    }

    /// Time passes; who lives says so, except that long silence is sometimes not broken.
    fn pass(&mut self, us: u64) {
        let target = self.now.after_us(us);
        let silent = self.random.percent(10) && us > limits::HEARTBEAT_TIMEOUT.as_micros() as u64;
        while self.now < target {
            let step = Duration::from_millis(900);
            self.now = target.min(self.now.after(step));
            for actor in 0..self.actors.len() {
                let Actor {
                    peer: Some(peer),
                    service,
                    ..
                } = self.actors[actor]
                else {
                    continue;
                };
                if !silent {
                    let message = Message::bare(Header::new(Kind::Heartbeat, service, Service::Kernel));
                    self.feed(Event::PeerMessage { peer, message });
                }
            }
            self.tick();
        }
        if self.random.percent(5) {
            let earlier = Moment(self.now.0.saturating_sub(self.random.below(1_000_000)));
            self.core.handle(earlier, Event::Tick);
            self.take_actions();
        }
    }

    fn tick(&mut self) {
        self.feed(Event::Tick);
        if self.actors[doer_index()].peer.is_some() {
            let mut kept = BTreeMap::new();
            for (_, process) in self.core.table.iter() {
                if process.kept && process.is_queued() && !process.has_place() {
                    *kept.entry(process.header.target_doee).or_default() += 1;
                }
            }
            self.observer.check_demand(kept);
        }
    }

    pub(super) fn feed(&mut self, event: Event) {
        self.core.handle(self.now, event);
        self.take_actions();
    }

    fn take_actions(&mut self) {
        let actions: Vec<Action> = self.core.drain_actions().collect();
        for action in actions {
            match action {
                Action::Send { message, .. } if message.header.call == RESUME_CALL => self.resumed(&message),
                Action::Send { peer, message } => {
                    self.check_overlap(&message.header);
                    let to = self.actors.iter_mut().find(|actor| actor.peer == Some(peer));
                    if let Some(to) = to {
                        self.observer.sent(to.service, &message, self.now);
                        to.inbox.push_back(message);
                    }
                }
                Action::Close { peer, reason } => {
                    self.observer.tally.closed += 1;
                    if let Some(cut) = self.actors.iter_mut().find(|actor| actor.peer == Some(peer)) {
                        let deserved = cut.hostile || reason == CloseReason::Silent;
                        assert!(deserved, "{} was cut although it behaved: {reason}", cut.service);
                        self.observer.lost(cut.service);
                        cut.crash();
                    }
                }
                Action::Registered { .. } | Action::Lost { .. } | Action::Heartbeat => {}
            }
        }
        self.observer.check();
        self.check_survival();
        assert!(
            !self.core.results.any_refused(),
            "an asynchronous call was acknowledged and then refused"
        );
        self.core.results.check_parts();
        let (count, bytes) = self.core.results.len_and_bytes();
        assert!(
            count <= 40 && bytes <= 1024 * 1024 + 40 * limits::RESULT_COST,
            "results are not bounded: {count}, {bytes} bytes"
        );
    }
}

pub(super) fn doer_index() -> usize {
    Service::REGISTERED
        .iter()
        .position(|&service| service == Service::Doer)
        .expect("the Doer registers")
}

pub(super) fn version(number: u64) -> DoeeVersion {
    DoeeVersion::from_bytes([1 + number as u8; 16])
}
