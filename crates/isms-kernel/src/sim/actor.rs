//! A simulated service: what it has asked, what it works on, and its next move on each.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use isms_protocol::{
    DoeeVersion, Flags, Header, Incarnation, Kind, Message, Service,
    kernel::{ProcessQuestion, Slots, StreamCredit},
    limits::{CHUNK_LEN_MAX, STREAM_WINDOW},
};

use super::survival::short;
use crate::action::PeerId;
use isms_simulation::Random;

static BYTES: [u8; CHUNK_LEN_MAX] = [0; CHUNK_LEN_MAX];

pub(super) struct Actor {
    pub(super) service: Service,
    pub(super) incarnation: Incarnation,
    pub(super) peer: Option<PeerId>,
    pub(super) outbox: VecDeque<Message>,
    pub(super) inbox: VecDeque<Message>,
    pub(super) calls: BTreeMap<u64, Asked>,
    pub(super) work: BTreeMap<u64, Work>,
    pub(super) next_call: u64,
    pub(super) slots: BTreeMap<DoeeVersion, Slots>,
    /// True once it has broken a rule on this connection, and may be cut for it.
    pub(super) hostile: bool,
    /// What it has sent before, for hostile repetition.
    pub(super) past: VecDeque<Message>,
}

/// A request of this service.
pub(super) struct Asked {
    pub(super) header: Header,
    pub(super) answered: bool,
    sends: Option<Sends>,
    receives: Option<Receives>,
}

/// A request to this service.
pub(super) struct Work {
    pub(super) header: Header,
    pub(super) cancelled: bool,
    pub(super) replied: bool,
    sends: Option<Sends>,
    receives: Option<Receives>,
}

struct Sends {
    credit: u32,
    left: u32,
}

struct Receives {
    open: u32,
}

impl Sends {
    fn random(header: &Header, random: &mut Random) -> Sends {
        let durable = header.flags.contains(Flags::DURABLE);
        Sends {
            credit: 0,
            left: match durable {
                true => short(random),
                false => random.below(600_000) as u32,
            },
        }
    }
}

impl Actor {
    pub(super) fn new(service: Service) -> Actor {
        Actor {
            service,
            incarnation: Incarnation(0),
            peer: None,
            outbox: VecDeque::new(),
            inbox: VecDeque::new(),
            calls: BTreeMap::new(),
            work: BTreeMap::new(),
            next_call: 0,
            slots: BTreeMap::new(),
            hostile: false,
            past: VecDeque::new(),
        }
    }

    /// Its process died, or its connection was cut.
    pub(super) fn crash(&mut self) {
        *self = Actor {
            incarnation: self.incarnation,
            next_call: self.next_call,
            ..Actor::new(self.service)
        };
    }

    /// Its connection was lost, or the Kernel. Of what it works on it keeps what survives that.
    pub(super) fn disconnect(&mut self) {
        let work = std::mem::take(&mut self.work);
        self.crash();
        let goes_on = |work: &Work| {
            let streams = work.receives.is_some() || work.sends.is_some();
            work.header.flags.contains(Flags::DURABLE) && !streams && !work.cancelled && !work.replied
        };
        self.work = work.into_iter().filter(|(_, work)| goes_on(work)).collect();
        if self.service != Service::Doer {
            self.work.clear();
        }
    }

    pub(super) fn ask(&mut self, header: Header, question: Option<ProcessQuestion>, random: &mut Random) {
        let sends = header
            .flags
            .contains(Flags::STREAM)
            .then(|| Sends::random(&header, random));
        self.calls.insert(
            header.call,
            Asked {
                header,
                answered: false,
                sends,
                receives: None,
            },
        );
        self.outbox.push_back(match question {
            Some(question) => Message::with_body(header, &question),
            None => Message::bare(header),
        });
    }

    pub(super) fn unanswered(&self) -> usize {
        self.calls.values().filter(|asked| !asked.answered).count()
    }

    /// Takes in one message from the Kernel.
    pub(super) fn receive(&mut self, message: &Message) {
        let header = &message.header;
        match header.kind {
            Kind::Request => {
                let receives = header
                    .flags
                    .contains(Flags::STREAM)
                    .then_some(Receives { open: 0 });
                let work = Work {
                    header: *header,
                    cancelled: false,
                    replied: false,
                    sends: None,
                    receives,
                };
                self.work.insert(header.call, work);
            }
            Kind::Cancel => {
                if let Some(work) = self.work.get_mut(&header.call) {
                    work.cancelled = true;
                }
            }
            Kind::Reply | Kind::Error => {
                if let Some(asked) = self.calls.get_mut(&header.call) {
                    asked.answered = true;
                    asked.receives = header
                        .flags
                        .contains(Flags::STREAM)
                        .then_some(Receives { open: 0 });
                    if header.kind == Kind::Error {
                        asked.sends = None;
                    }
                }
            }
            Kind::StreamChunk => {
                let receives = self.receiving(header);
                if let Some(receives) = receives {
                    receives.open = receives.open.saturating_sub(message.raw.len() as u32);
                }
            }
            Kind::StreamEnd => self.receiving_ended(header),
            Kind::Credit => {
                let granted: StreamCredit = message
                    .decode_body()
                    .expect("the Kernel passes on what it decoded");
                let sends = match header.flags.contains(Flags::TO_CALLER) {
                    true => self
                        .calls
                        .get_mut(&header.call)
                        .and_then(|asked| asked.sends.as_mut()),
                    false => self
                        .work
                        .get_mut(&header.call)
                        .and_then(|work| work.sends.as_mut()),
                };
                if let Some(sends) = sends {
                    sends.credit += granted.bytes;
                }
            }
            _ => {}
        }
        self.forget_ended();
    }

    /// Makes one move on one call or piece of work. `eager` moves never give up and never dawdle.
    pub(super) fn act(&mut self, random: &mut Random, eager: bool) -> bool {
        let calls: Vec<u64> = self.calls.keys().copied().collect();
        let work: Vec<u64> = self.work.keys().copied().collect();
        let acted = match random.percent(50) && !calls.is_empty() {
            true => self.act_on_call(random.pick(&calls), random, eager),
            false if !work.is_empty() => self.act_on_work(random.pick(&work), random, eager),
            false => false,
        };
        self.forget_ended();
        acted
    }

    /// Makes every move that can be made, once.
    pub(super) fn act_on_all(&mut self, random: &mut Random) -> bool {
        let calls: Vec<u64> = self.calls.keys().copied().collect();
        let work: Vec<u64> = self.work.keys().copied().collect();
        let mut acted = false;
        for call in calls {
            acted |= self.act_on_call(call, random, true);
        }
        for call in work {
            acted |= self.act_on_work(call, random, true);
        }
        self.forget_ended();
        acted
    }

    fn act_on_call(&mut self, call: u64, random: &mut Random, eager: bool) -> bool {
        let Some(asked) = self.calls.get_mut(&call) else {
            return false;
        };
        if !eager && random.percent(6) {
            self.outbox.push_back(Message::bare(Header {
                kind: Kind::Cancel,
                flags: Flags::NONE,
                ..asked.header
            }));
            return true;
        }
        if let Some(receives) = &mut asked.receives
            && let Some(bytes) = grant(receives, random)
        {
            let header = Header {
                kind: Kind::Credit,
                flags: Flags::NONE,
                ..asked.header
            };
            self.outbox
                .push_back(Message::with_body(header, &StreamCredit { bytes }));
            return true;
        }
        let give_up = asked.answered || (!eager && random.percent(5));
        send_some(
            &mut asked.sends,
            asked.header,
            Flags::NONE,
            give_up,
            random,
            &mut self.outbox,
        )
    }

    fn act_on_work(&mut self, call: u64, random: &mut Random, eager: bool) -> bool {
        let Some(work) = self.work.get_mut(&call) else {
            return false;
        };
        if let Some(receives) = &mut work.receives
            && !work.cancelled
            && let Some(bytes) = grant(receives, random)
        {
            let header = Header {
                kind: Kind::Credit,
                flags: Flags::TO_CALLER,
                ..work.header
            };
            self.outbox
                .push_back(Message::with_body(header, &StreamCredit { bytes }));
            return true;
        }
        if work.replied {
            let header = work.header;
            let give_up = work.cancelled || (!eager && random.percent(5));
            return send_some(
                &mut work.sends,
                header,
                Flags::TO_CALLER,
                give_up,
                random,
                &mut self.outbox,
            );
        }
        let waits_for_stream = work.receives.is_some() && !work.cancelled;
        if waits_for_stream && (eager || random.percent(80)) {
            return false;
        }
        work.replied = true;
        let reply = match random.below(10) {
            _ if work.cancelled => work.header.answer(Kind::Error),
            0 => work.header.answer(Kind::Error),
            1..=3 => Header {
                flags: Flags::STREAM,
                ..work.header.answer(Kind::Reply)
            },
            _ => work.header.answer(Kind::Reply),
        };
        if reply.kind == Kind::Error {
            work.receives = None;
        }
        let streams = reply.flags.contains(Flags::STREAM);
        work.sends = streams.then(|| Sends::random(&work.header, random));
        self.outbox.push_back(Message::bare(reply));
        true
    }

    fn receiving(&mut self, header: &Header) -> Option<&mut Receives> {
        match header.flags.contains(Flags::TO_CALLER) {
            true => self.calls.get_mut(&header.call)?.receives.as_mut(),
            false => self.work.get_mut(&header.call)?.receives.as_mut(),
        }
    }

    fn receiving_ended(&mut self, header: &Header) {
        if header.flags.contains(Flags::TO_CALLER) {
            if let Some(asked) = self.calls.get_mut(&header.call) {
                asked.receives = None;
            }
        } else if let Some(work) = self.work.get_mut(&header.call) {
            work.receives = None;
        }
    }

    fn forget_ended(&mut self) {
        self.calls
            .retain(|_, asked| !asked.answered || asked.sends.is_some() || asked.receives.is_some());
        self.work
            .retain(|_, work| !work.replied || work.sends.is_some() || work.receives.is_some());
    }
}

fn grant(receives: &mut Receives, random: &mut Random) -> Option<u32> {
    if receives.open >= STREAM_WINDOW / 2 {
        return None;
    }
    let bytes = (STREAM_WINDOW - receives.open).min(1 + random.below(STREAM_WINDOW.into()) as u32);
    receives.open += bytes;
    Some(bytes)
}

fn send_some(
    sends: &mut Option<Sends>,
    header: Header,
    direction: Flags,
    give_up: bool,
    random: &mut Random,
    outbox: &mut VecDeque<Message>,
) -> bool {
    let Some(sending) = sends else { return false };
    if sending.left == 0 || give_up {
        let aborted = if sending.left == 0 {
            Flags::NONE
        } else {
            Flags::ABORTED
        };
        outbox.push_back(Message::bare(Header {
            kind: Kind::StreamEnd,
            flags: direction.with(aborted),
            ..header
        }));
        *sends = None;
        return true;
    }
    let len = sending
        .credit
        .min(sending.left)
        .min(1 + random.below(CHUNK_LEN_MAX as u64) as u32);
    if len == 0 {
        return false;
    }
    sending.credit -= len;
    sending.left -= len;
    let chunk = Message::bare(Header {
        kind: Kind::StreamChunk,
        flags: direction,
        ..header
    });
    outbox.push_back(chunk.with_raw(Bytes::from_static(&BYTES[..len as usize])));
    true
}
