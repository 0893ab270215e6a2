//! The Services Controller: connections, registrations, generations, heartbeats, rights.
//!
//! Invariants: a connection says nothing before it has registered; a service has at most one live
//! registration; only the newest announced incarnation of a service registers, once, with the
//! secret whose hash the supervisor announced. A peer is the accepted connection, never what it
//! claims to be.

pub(crate) mod rights;

use std::collections::HashMap;

use isms_protocol::{
    Generation, Header, Incarnation, Kind, Message, Service,
    kernel::{Register, Registered, Slots},
    limits,
};
use sha2::{Digest, Sha256};

use crate::{
    action::{Action, CloseReason, PeerId, RegisterRefusal},
    clock::Moment,
    core::Core,
    process_controller::ProcessKey,
    scheduler::QueueName,
};
use rights::Rights;

/// What is known of one connection.
struct Peer {
    id: PeerId,
    service: Option<Service>,
    connected_at: Moment,
    heard_at: Moment,
}

/// What is known of one service.
#[derive(Default)]
pub(crate) struct ServiceRecord {
    announced: Option<(Incarnation, [u8; 32])>,
    pub(crate) generation: Option<Generation>,
    pub(crate) registration: Option<Registration>,
}

/// A service that is there.
pub(crate) struct Registration {
    pub(crate) peer: PeerId,
    pub(crate) generation: Generation,
    /// Its requests that have not been answered.
    pub(crate) unanswered: u32,
    /// Its requests that live, streams included, by its call ids.
    pub(crate) calls: HashMap<u64, ProcessKey>,
}

/// All connections and services.
pub(crate) struct Services {
    pub(crate) rights: Rights,
    peers: Vec<Peer>,
    records: [ServiceRecord; Service::Worker as usize + 1],
    next_heartbeat: Moment,
}

impl Services {
    pub(crate) fn new(rights: Rights, now: Moment) -> Services {
        Services {
            rights,
            peers: Vec::new(),
            records: Default::default(),
            next_heartbeat: now,
        }
    }

    pub(crate) fn record(&self, service: Service) -> &ServiceRecord {
        &self.records[service as usize]
    }

    /// The registration of a service, if it is there.
    pub(crate) fn registration(&self, service: Service) -> Option<&Registration> {
        self.records[service as usize].registration.as_ref()
    }

    /// The registration of a service, if it is there.
    pub(crate) fn registration_mut(&mut self, service: Service) -> Option<&mut Registration> {
        self.records[service as usize].registration.as_mut()
    }

    pub(crate) fn unregistered_len(&self) -> usize {
        self.peers.iter().filter(|peer| peer.service.is_none()).count()
    }

    pub(crate) fn connected(&mut self, id: PeerId, now: Moment) {
        self.peers.push(Peer {
            id,
            service: None,
            connected_at: now,
            heard_at: now,
        });
    }

    /// Notes that a peer lives. Tells which service it is registered as; fails for an unknown peer.
    pub(crate) fn heard(&mut self, id: PeerId, now: Moment) -> Result<Option<Service>, UnknownPeer> {
        let peer = self
            .peers
            .iter_mut()
            .find(|peer| peer.id == id)
            .ok_or(UnknownPeer)?;
        peer.heard_at = now;
        Ok(peer.service)
    }

    /// When a heartbeat is due, or a peer will have been silent for too long.
    pub(crate) fn next_wake(&self) -> Moment {
        let peers = self.peers.iter().map(Peer::patience_ends);
        peers.fold(self.next_heartbeat, Moment::min)
    }
}

/// The peer was closed already, or never announced.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnknownPeer;

impl Peer {
    fn patience_ends(&self) -> Moment {
        match self.service {
            Some(_) => self.heard_at.after(limits::HEARTBEAT_TIMEOUT),
            None => self.connected_at.after(limits::REGISTER_TIMEOUT),
        }
    }
}

impl Core {
    /// The supervisor has started an incarnation. An older one is no longer welcome, but a live
    /// registration of it stays until the new one registers.
    pub(crate) fn announce(&mut self, service: Service, incarnation: Incarnation, secret_hash: [u8; 32]) {
        let record = &mut self.services.records[service as usize];
        if record.announced.is_none_or(|(known, _)| known < incarnation) {
            record.announced = Some((incarnation, secret_hash));
        }
    }

    /// The first message of a connection.
    pub(crate) fn register(&mut self, peer: PeerId, message: &Message) {
        let register = match self.check_register(message) {
            Ok(register) => register,
            Err(refusal) => return self.close(peer, CloseReason::Refused(refusal)),
        };
        let Register {
            service,
            incarnation: generation,
            concurrency,
            ..
        } = register;
        if let Some(old) = self.services.registration(service) {
            self.close(old.peer, CloseReason::Superseded);
        }
        let known = self.services.peers.iter_mut().find(|known| known.id == peer);
        known.expect("a peer that was heard is known").service = Some(service);
        let record = &mut self.services.records[service as usize];
        record.generation = Some(generation);
        record.registration = Some(Registration {
            peer,
            generation,
            unanswered: 0,
            calls: HashMap::new(),
        });

        let header = Header {
            call: message.header.call,
            target_generation: generation,
            ..Header::new(Kind::Register, Service::Kernel, service)
        };
        let registered = Registered {
            generation,
            request_credit: self.config.request_credit,
        };
        self.send(peer, Message::with_body(header, &registered));
        self.actions.push(Action::Registered {
            service,
            incarnation: generation,
        });
        self.serve(service, concurrency.min(limits::REQUEST_CREDIT_MAX));
    }

    fn check_register(&self, message: &Message) -> Result<Register, RegisterRefusal> {
        if message.header.kind != Kind::Register {
            return Err(RegisterRefusal::NotRegister);
        }
        let register: Register = message.decode_body().map_err(|_| RegisterRefusal::Undecodable)?;
        let record = &self.services.records[register.service as usize];
        let (incarnation, secret_hash) = record.announced.ok_or(RegisterRefusal::NotAnnounced)?;
        if register.incarnation != incarnation {
            return Err(RegisterRefusal::NotAnnounced);
        }
        if !equal_in_constant_time(&Sha256::digest(register.secret.0).into(), &secret_hash) {
            return Err(RegisterRefusal::WrongSecret);
        }
        match &record.registration {
            Some(live) if live.generation == incarnation => Err(RegisterRefusal::SecondConnection),
            _ => Ok(register),
        }
    }

    /// Gives a service that has just registered what waits for it.
    fn serve(&mut self, service: Service, concurrency: u32) {
        let name = QueueName {
            service,
            doee: isms_protocol::DoeeVersion::NONE,
        };
        if let Ok(queue) = self.scheduler.open(name) {
            self.scheduler.set_capacity(queue, Slots::all(concurrency));
            self.ready.push(queue);
        }
        if service == Service::Doer {
            self.scheduler.repeat_demand();
        }
    }

    /// Ends a connection from this side.
    pub(crate) fn close(&mut self, peer: PeerId, reason: CloseReason) {
        self.actions.push(Action::Close { peer, reason });
        self.peer_lost(peer);
    }

    /// Ends the connection of a registered service that broke the rules.
    pub(crate) fn violation(&mut self, service: Service, what: &'static str) {
        if let Some(registration) = self.services.registration(service) {
            self.close(registration.peer, CloseReason::Violation(what));
        }
    }

    /// A connection has ended: its registration ends, and with it everything that ran there or was
    /// asked from there.
    pub(crate) fn peer_lost(&mut self, peer: PeerId) {
        let Some(position) = self.services.peers.iter().position(|known| known.id == peer) else {
            return;
        };
        let Some(service) = self.services.peers.remove(position).service else {
            return;
        };
        let registration = self.services.records[service as usize].registration.take();
        let registration = registration.expect("a registered peer holds its service");
        self.service_lost(service);
        self.actions.push(Action::Lost {
            service,
            incarnation: registration.generation,
        });
    }

    /// Sends heartbeats that are due and closes peers that have been silent for too long.
    pub(crate) fn check_peers(&mut self) {
        let now = self.now;
        let impatient = |peer: &Peer| {
            let reason = match peer.service {
                Some(_) => CloseReason::Silent,
                None => CloseReason::NotRegistered,
            };
            (peer.patience_ends() <= now).then_some((peer.id, reason))
        };
        let silent: Vec<_> = self.services.peers.iter().filter_map(impatient).collect();
        for (peer, reason) in silent {
            self.close(peer, reason);
        }
        if self.services.next_heartbeat > now {
            return;
        }
        self.services.next_heartbeat = now.after(limits::HEARTBEAT_INTERVAL);
        self.actions.push(Action::Heartbeat);
        for service in Service::REGISTERED {
            if let Some(registration) = self.services.registration(service) {
                let header = Header::new(Kind::Heartbeat, Service::Kernel, service);
                self.actions.push(Action::Send {
                    peer: registration.peer,
                    message: Message::bare(header),
                });
            }
        }
    }
}

/// Compares two hashes without telling by its duration where they differ.
fn equal_in_constant_time(left: &[u8; 32], right: &[u8; 32]) -> bool {
    let pairs = left.iter().zip(right);
    let difference = pairs.fold(0, |difference, (left, right)| {
        std::hint::black_box(difference | (left ^ right))
    });
    difference == 0
}
