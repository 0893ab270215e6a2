//! The Kernel's core: events in, actions out.
//!
//! Pure: no I/O, no clock but the one passed in, no randomness but the id source it was made with.
//! Whoever drives it hands in a batch of events, then a [`Event::Tick`], then waits until something
//! arrives or [`Core::next_wake`] has come. What is here only distributes; the meaning is in
//! `services_controller`, `process_controller` and `scheduler`.

use std::{collections::BTreeSet, time::Duration, vec::Drain};

use isms_protocol::{DoeeVersion, Header, Kind, Message, ProcessId, Service, kernel::Demand};

use crate::{
    action::{Action, CloseReason, Event, PeerId},
    clock::{Calendar, Moment},
    config::Config,
    durability::Log,
    process_controller::{ProcessKey, Results, Retries, Table},
    questions::Questions,
    scheduler::{QueueIndex, Scheduler},
    services_controller::{
        Services,
        rights::{Rights, RightsError},
    },
    traces::Traces,
};

/// How long the Kernel waits before it tries again to write what the journal had no room for.
const JOURNAL_PAUSE: Duration = Duration::from_millis(50);

/// Where process ids come from.
pub type IdSource = Box<dyn FnMut() -> ProcessId>;

/// The Kernel without its sockets.
pub struct Core {
    pub(crate) config: Config,
    pub(crate) now: Moment,
    pub(crate) ids: IdSource,
    pub(crate) services: Services,
    pub(crate) table: Table,
    pub(crate) timers: BTreeSet<(Moment, ProcessKey)>,
    pub(crate) scheduler: Scheduler,
    pub(crate) results: Results,
    pub(crate) retries: Retries,
    /// Of durable calls; none are taken without it.
    pub(crate) log: Option<Log>,
    pub(crate) calendar: Calendar,
    pub(crate) questions: Questions,
    pub(crate) traces: Traces,
    pub(crate) counters: Counters,
    pub(crate) actions: Vec<Action>,
    /// Queues in which something may have become able to run; looked at when the event is done.
    pub(crate) ready: Vec<QueueIndex>,
    /// Children of processes that have ended; stopped when the event is done.
    pub(crate) orphans: Vec<ProcessKey>,
    demand: Vec<(DoeeVersion, Demand)>,
}

/// What has happened since the Kernel started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) done: u64,
    pub(crate) failed: u64,
    pub(crate) cancelled: u64,
    pub(crate) expired: u64,
    pub(crate) events_dropped: u64,
}

impl Core {
    /// Makes a Kernel to which nobody is connected.
    pub fn new(config: Config, ids: IdSource, now: Moment) -> Result<Core, RightsError> {
        Ok(Core {
            scheduler: Scheduler::new(&config),
            results: Results::new(&config),
            retries: Retries::default(),
            log: None,
            calendar: Calendar::default(),
            questions: Questions::default(),
            traces: Traces::new(&config),
            config,
            now,
            ids,
            services: Services::new(Rights::built_in()?, now),
            table: Table::default(),
            timers: BTreeSet::new(),
            counters: Counters::default(),
            actions: Vec::new(),
            ready: Vec::new(),
            orphans: Vec::new(),
            demand: Vec::new(),
        })
    }

    /// Takes in one event. `now` never runs backwards: an earlier moment than the last counts as the last.
    pub fn handle(&mut self, now: Moment, event: Event) {
        self.now = self.now.max(now);
        match event {
            Event::PeerConnected { peer } => self.services.connected(peer, self.now),
            Event::PeerMessage { peer, message } => self.message(peer, message),
            Event::PeerLost { peer } => self.peer_lost(peer),
            Event::Announce {
                service,
                incarnation,
                secret_hash,
            } => {
                self.announce(service, incarnation, secret_hash);
            }
            Event::Calendar { shows } => self.calendar.set(self.now, shows),
            Event::Journal(event) => self.journal(event),
            Event::Tick => self.tick(),
        }
        self.follow_up();
    }

    /// Takes out what is to be done.
    pub fn drain_actions(&mut self) -> Drain<'_, Action> {
        self.actions.drain(..)
    }

    /// When a [`Event::Tick`] is due at the latest.
    pub fn next_wake(&self) -> Moment {
        let timer = self.timers.first().map_or(Moment(u64::MAX), |&(at, _)| at);
        let sometimes = [
            self.results.next_expiry(),
            self.questions.next_wake(),
            self.traces.next_wake(),
        ];
        let earliest = sometimes.into_iter().flatten().fold(timer, Moment::min);
        let behind = self.log.as_ref().is_some_and(Log::is_behind);
        let earliest = match behind {
            true => earliest.min(self.now.after(JOURNAL_PAUSE)),
            false => earliest,
        };
        earliest.min(self.services.next_wake())
    }

    /// Connections that have not registered yet.
    pub fn unregistered_len(&self) -> usize {
        self.services.unregistered_len()
    }

    /// Counts events that the driver dropped because their target does not read fast enough.
    pub fn count_dropped_events(&mut self, count: u64) {
        self.counters.events_dropped += count;
    }

    pub(crate) fn send(&mut self, peer: PeerId, message: Message) {
        self.actions.push(Action::Send { peer, message });
    }

    /// Sends to a service if it is there.
    pub(crate) fn send_to(&mut self, service: Service, mut message: Message) {
        if let Some(registration) = self.services.registration(service) {
            message.header.target_generation = registration.generation;
            let peer = registration.peer;
            self.send(peer, message);
        }
    }

    fn message(&mut self, peer: PeerId, message: Message) {
        let sender = match self.services.heard(peer, self.now) {
            Ok(Some(sender)) => sender,
            Ok(None) => return self.register(peer, &message),
            Err(_) => return,
        };
        match message.header.kind {
            Kind::Heartbeat | Kind::Begun => {}
            Kind::Request => self.request(sender, message),
            Kind::Reply | Kind::Error => self.answered(sender, message),
            Kind::Event => self.event(sender, message),
            Kind::Cancel => self.cancel(sender, message.header.call),
            Kind::Credit => self.credit(sender, &message),
            Kind::StreamChunk => self.chunk(sender, message),
            Kind::StreamEnd => self.stream_end(sender, &message.header),
            Kind::Slots => self.slots(sender, &message),
            Kind::Register | Kind::Demand => {
                self.close(
                    peer,
                    CloseReason::Violation("sent a message that only the Kernel sends, or registered twice"),
                );
            }
        }
    }

    fn tick(&mut self) {
        self.check_peers();
        self.fire_timers();
        self.end_waits();
        let forgotten = self.results.forget_expired(self.now);
        self.forget_statements(&forgotten);
        self.keep_up_journal();
        self.follow_up();
        self.tell_demand();
        self.flush_spans();
    }

    /// Dispatches and stops what the event has made ready or orphaned. Ends: a stopped process has
    /// ended or is never stopped again, and each dispatch takes a call out of a queue.
    fn follow_up(&mut self) {
        while !self.ready.is_empty() || !self.orphans.is_empty() {
            while let Some(orphan) = self.orphans.pop() {
                self.stop(orphan, isms_protocol::ErrorCode::Cancelled);
            }
            if let Some(queue) = self.ready.pop() {
                self.pump(queue);
            }
        }
    }

    fn tell_demand(&mut self) {
        let mut demand = std::mem::take(&mut self.demand);
        self.scheduler.demand(self.now, &mut demand);
        for (target_doee, demand) in demand.drain(..) {
            let header = Header {
                target_doee,
                ..Header::new(Kind::Demand, Service::Kernel, Service::Doer)
            };
            self.send_to(Service::Doer, Message::with_body(header, &demand));
        }
        self.demand = demand;
    }
}
