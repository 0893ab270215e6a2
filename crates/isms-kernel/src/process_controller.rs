//! The Process Controller: every request that enters the system is a process, from its arrival to
//! its one answer.
//!
//! Invariants: a request is answered exactly once, by its callee or by the Kernel in its place; a
//! process occupies its callee's capacity from dispatch until the callee is done with it, even when
//! the caller was answered before; what a callee says of a process that has ended finds nothing; a
//! process ends only after its children were told to stop.
//!
//! It never decodes the body or the raw bytes of a request or an answer.

mod answers;
mod authority;
mod dead;
mod deleted;
mod durable;
mod entries;
mod kept;
mod measured;
mod record;
mod repeats;
mod results;
mod resume;
mod retries;
mod stop;
mod streams;
mod table;
mod traced;

use bytes::Bytes;
use isms_protocol::{
    DoeeVersion, ErrorCode, Flags, Header, Incarnation, Kind, Message, Service, WireError, doer,
    kernel::Slots, limits,
};

use crate::{
    clock::Moment,
    core::Core,
    planted::{Bug, planted},
    scheduler::{Arrival, Full, Outcome, QueueIndex, QueueName},
};
use authority::Admitted;
pub(crate) use record::Process;
use record::{State, Stream};
use repeats::Answered;
pub(crate) use results::{Record, Results, Whose};
pub(crate) use retries::Retries;
pub(crate) use table::{ProcessKey, Table};

impl Core {
    /// A service asks for something.
    pub(crate) fn request(&mut self, sender: Service, message: Message) {
        let credit = self.config.request_credit;
        let Some(registration) = self.services.registration(sender) else {
            return;
        };
        let asker = (sender, message.header.call);
        if registration.calls.contains_key(&message.header.call) || self.questions.contains(asker) {
            return self.violation(sender, "used the id of a call that lives");
        }
        if registration.unanswered >= credit {
            return self.violation(sender, "exceeded its request credit");
        }
        // Calls whose answer was given live on while their streams do, and are bounded as well.
        if registration.calls.len() + self.questions.reading_len() >= 2 * credit as usize {
            return self.refuse(
                sender,
                &message.header,
                &WireError::new(ErrorCode::Busy, "too many open streams"),
            );
        }
        match self.admit(sender, &message.header) {
            Err(error) => self.refuse(sender, &message.header, &error),
            Ok(admitted) if admitted.header.target == Service::Kernel => {
                self.answer_from_here(&admitted.header, &message)
            }
            Ok(admitted) => self.open_process(admitted, message),
        }
    }

    /// The Doer says how many calls of a Doee version it takes.
    pub(crate) fn slots(&mut self, sender: Service, message: &Message) {
        let doee = message.header.target_doee;
        let Ok(Slots { capacity, lower }) = message.decode_body() else {
            return self.violation(sender, "sent slots that cannot be decoded");
        };
        if sender != Service::Doer || doee.is_none() {
            return self.violation(sender, "sent slots that are not a Doee version's");
        }
        let Ok(queue) = self.scheduler.open(QueueName {
            service: sender,
            doee,
        }) else {
            return self.violation(sender, "sent slots for too many Doee versions");
        };
        let capacity = capacity.min(limits::REQUEST_CREDIT_MAX);
        self.scheduler.set_capacity(queue, Slots { capacity, lower });
        self.ready.push(queue);
    }

    /// A service tells another something. Carries no authority, so all such fields are cleared.
    pub(crate) fn event(&mut self, sender: Service, mut message: Message) {
        let header = &mut message.header;
        let allowed = self
            .services
            .rights
            .of(sender, header.target)
            .allows_event(header.operation);
        if !allowed || self.services.registration(header.target).is_none() {
            self.counters.events_dropped += 1;
            return;
        }
        *header = Header {
            operation: header.operation,
            trace: header.trace,
            sender_generation: self.generation(sender),
            ..Header::new(Kind::Event, sender, header.target)
        };
        self.send_to(message.header.target, message);
    }

    /// Dispatches what waits in a queue while there is capacity.
    pub(crate) fn pump(&mut self, queue: QueueIndex) {
        while let Some((key, occupied)) = self.scheduler.take(queue, self.now) {
            let process = self
                .table
                .get_mut(key)
                .expect("what waits in a queue is in the table");
            process.occupied = Some(occupied);
            let running = State::Running {
                replied: false,
                stop: None,
            };
            let State::Queued {
                body,
                raw,
                request_ended,
                ..
            } = std::mem::replace(&mut process.state, running)
            else {
                unreachable!("only queued processes wait in a queue");
            };
            if process.deadline.is_some_and(|deadline| deadline <= self.now) {
                self.release(key);
                self.give_up(key, ErrorCode::Expired);
                continue;
            }
            self.start(key, body, raw);
            if let Some(flags) = request_ended {
                self.end_request_stream(key, flags);
            }
        }
        self.scheduler.close_idle(queue);
    }

    /// A service's connection was lost: what ran there has failed, what it asked for is cancelled,
    /// what waits for it waits a little longer.
    pub(crate) fn service_lost(&mut self, service: Service) {
        self.scheduler.service_lost(service);
        self.forget_questions(service);
        let grace_ends = self.now.after_us(self.config.reconnect_grace_us());
        let keys: Vec<ProcessKey> = self.table.iter().map(|(key, _)| key).collect();
        for key in keys {
            let Some(process) = self.table.get(key) else {
                continue;
            };
            let caller_lost = process.header.sender == service && process.caller_knows;
            if caller_lost && !process.is_running() {
                // Also where it waits for that very service: nobody is left who wants it.
                self.caller_lost(key);
            } else if process.callee() == service {
                match process.state {
                    // Its queue may have gone; it gets one when its body is there.
                    State::Collecting { .. } => {}
                    State::Committing | State::Resting | State::Held => {}
                    State::Queued { .. } if process.durable => {}
                    State::Queued { .. } => self.set_timer(key, earliest(process.deadline, grace_ends)),
                    State::Running { .. } => self.callee_lost(key),
                    State::Draining => self.discard(key),
                }
            } else if caller_lost {
                self.caller_lost(key);
            }
        }
    }

    /// Puts a process into the table, and to work if it need not wait.
    fn open_process(&mut self, admitted: Admitted, mut message: Message) {
        let Admitted {
            mut header,
            parent,
            depth,
            mut deadline,
            is_async,
            mut is_durable,
        } = admitted;
        if is_durable {
            is_durable = match self.check_durable(&mut header, message.header.flags) {
                Ok(is_durable) => is_durable,
                Err(Answered) => return,
            };
        }
        let mut durable = match is_durable {
            true => match self.durable_of(&header, depth, deadline, &mut message) {
                Ok(durable) => Some(durable),
                Err(Answered) => return,
            },
            false => None,
        };
        if let Err((outcome, error)) = self.has_room(&header, parent, is_async, message.len()) {
            self.count_refused(&header, outcome);
            return self.refuse(header.sender, &header, &error);
        }
        let Ok(queue) = self.scheduler.open(queue_name(&header)) else {
            self.count_refused(&header, Outcome::Refused);
            return self.refuse(header.sender, &header, &busy());
        };
        let awaited = is_invoke(&header) && parent.is_some() && !is_async;
        let collects = is_async && header.flags.contains(Flags::STREAM);
        let occupied = match collects || is_durable {
            true => None,
            false => self
                .scheduler
                .start_at_once(queue, header.class, header.project, awaited, self.now),
        };
        let traced = self.trace(&mut header, parent);
        // What is asynchronous outlives whoever asked for it.
        let parent = parent.filter(|_| !is_async);
        // The body of a call has to come by its deadline; when it has come, only an attempt that began late is late.
        let first_look = deadline;
        if let Some(durable) = &mut durable {
            deadline = Some(durable.until);
            durable.trace(header.flags);
        }
        let key = self.table.insert(Process {
            header,
            caller_waits: true,
            caller_knows: true,
            kept: false,
            durable: is_durable,
            accepted_at: self.now,
            deadline,
            timer: None,
            depth,
            parent,
            children: Vec::new(),
            queue,
            occupied,
            state: State::Running {
                replied: false,
                stop: None,
            },
            request: Stream::new(header.flags.contains(Flags::STREAM)),
            reply: Stream::new(false),
            traced,
        });
        if let Some(registration) = self.services.registration_mut(header.sender) {
            registration.unanswered += 1;
            registration.calls.insert(header.call, key);
        }
        if let Some(parent) = parent.and_then(|parent| self.table.get_mut(parent)) {
            parent.children.push(key);
        }
        self.set_timer(key, first_look);
        if is_async {
            self.open_record(key, &header, message.len(), durable);
        }
        if collects {
            let Message { body, raw, .. } = message;
            let process = self.table.get_mut(key).expect("a process that was just made");
            process.state = State::Collecting { body, raw };
            self.scheduler.close_idle(queue);
            return self.begin_collecting(key);
        }
        if is_durable {
            return self.commit(key, message);
        }
        if is_async && occupied.is_some() {
            self.accept(key);
        }
        match occupied {
            Some(_) => self.start(key, message.body, message.raw),
            None => self.wait(key, message, is_async),
        }
    }

    /// Whether the rates of a call and the room for its result allow it.
    fn has_room(
        &mut self,
        header: &Header,
        parent: Option<ProcessKey>,
        is_async: bool,
        bytes: usize,
    ) -> Result<(), (Outcome, WireError)> {
        let counts = is_invoke(header) && parent.is_none();
        let (project, doee, now) = (header.project, header.target_doee, self.now);
        if counts && let Err(reached) = self.scheduler.accept(project, doee, now) {
            let error = WireError::new(ErrorCode::RateLimited, reached.to_string());
            return Err((Outcome::RateLimited, error));
        }
        if is_async && !self.results.has_room(project, bytes) {
            let text = "there is no room to keep the results of more asynchronous calls; try again later";
            return Err((Outcome::Refused, WireError::new(ErrorCode::Busy, text)));
        }
        Ok(())
    }

    /// The whole body of an asynchronous call is here: it is accepted, to wait like any other.
    fn collected(&mut self, key: ProcessKey) {
        let process = self
            .table
            .get_mut(key)
            .expect("what is collected is in the table");
        let State::Collecting { body, raw } = &mut process.state else {
            return;
        };
        let (body, raw) = (std::mem::take(body), std::mem::take(raw));
        let Ok(queue) = self.scheduler.open(queue_name(&process.header)) else {
            return self.give_up(key, ErrorCode::Busy);
        };
        process.queue = queue;
        // What was granted to the caller is not what the callee allows.
        process.request = Stream::new(true);
        let header = process.header;
        let message = Message { header, body, raw };
        if process.durable {
            return self.commit(key, message);
        }
        self.wait(key, message, true);
        self.ready.push(queue);
    }

    /// Puts a process into its queue, where lower work may have to make room.
    fn wait(&mut self, key: ProcessKey, message: Message, is_async: bool) {
        let process = self.table.get(key).expect("a process that was just made");
        let (queue, deadline, target) = (process.queue, process.deadline, process.callee());
        let arrival = Arrival {
            process: key,
            class: process.header.class,
            project: process.header.project,
            deadline,
            now: self.now,
            bytes: message.len(),
            acknowledged: is_async && !planted(Bug::EvictsAccepted),
            awaited: is_invoke(&process.header) && process.parent.is_some(),
        };
        let mut evicted = Vec::new();
        let placed = self.scheduler.wait(queue, &arrival, &mut evicted);
        for victim in evicted {
            self.give_up(victim, ErrorCode::Busy);
        }
        let ticket = match placed {
            Ok(ticket) => ticket,
            Err(Full) => return self.give_up(key, ErrorCode::Busy),
        };
        if arrival.awaited {
            // It may run while what is before it is held up by a limit.
            self.ready.push(queue);
        }
        let Message { body, raw, .. } = message;
        let now = self.now;
        let process = self.table.get_mut(key).expect("a process that was just made");
        process.state = State::Queued {
            ticket,
            body,
            raw,
            request_ended: None,
        };
        if let Some(traced) = &mut process.traced {
            traced.note_queued(now);
        }
        if self.services.registration(target).is_none() {
            let grace_ends = self.now.after_us(self.config.reconnect_grace_us());
            self.set_timer(key, earliest(deadline, grace_ends));
        }
        if is_async {
            self.accept(key);
        }
    }

    /// Sends a process, for which capacity is occupied, to its callee.
    fn start(&mut self, key: ProcessKey, body: Bytes, raw: Bytes) {
        let now = self.now;
        let process = self
            .table
            .get_mut(key)
            .expect("a process that starts is in the table");
        let (target, wanted) = (process.callee(), process.header.target_generation);
        let present = self
            .services
            .registration(target)
            .map(|registration| registration.generation);
        let Some(generation) = present.filter(|&present| wanted == Incarnation(0) || wanted == present)
        else {
            self.release(key);
            return self.give_up(key, ErrorCode::Unavailable);
        };
        process.header.target_generation = generation;
        process.header.remaining_us = process
            .deadline
            .map_or(0, |deadline| deadline.us_since(now).max(1));
        if let Some(traced) = &mut process.traced {
            traced.note_dispatched(now);
        }
        let header = process.towards_callee(key, Kind::Request, process.header.flags);
        let kept = process.kept;
        self.send_to(target, Message { header, body, raw });
        if kept {
            self.results.began(header.process, now);
            self.feed(key);
        }
    }

    /// Frees the capacity that a process has occupied, for another one.
    fn release(&mut self, key: ProcessKey) {
        let Some(process) = self.table.get_mut(key) else {
            return;
        };
        if let Some(occupied) = process.occupied.take() {
            self.scheduler.release(process.queue, occupied, self.now);
            self.ready.push(process.queue);
            self.scheduler.drain_freed(&mut self.ready);
        }
    }

    pub(crate) fn generation(&self, service: Service) -> Incarnation {
        self.services.record(service).generation.unwrap_or_default()
    }

    fn set_timer(&mut self, key: ProcessKey, at: Option<Moment>) {
        let Some(process) = self.table.get_mut(key) else {
            return;
        };
        if process.timer == at {
            return;
        }
        if let Some(old) = std::mem::replace(&mut process.timer, at) {
            self.timers.remove(&(old, key));
        }
        if let Some(at) = at {
            self.timers.insert((at, key));
        }
    }
}

/// The queue in which a request waits.
fn queue_name(header: &Header) -> QueueName {
    QueueName {
        service: header.target,
        doee: if is_invoke(header) {
            header.target_doee
        } else {
            DoeeVersion::NONE
        },
    }
}

fn is_invoke(header: &Header) -> bool {
    header.target == Service::Doer && header.operation == doer::Operation::Invoke as u16
}

fn earliest(deadline: Option<Moment>, other: Moment) -> Option<Moment> {
    Some(deadline.map_or(other, |deadline| deadline.min(other)))
}

fn busy() -> WireError {
    WireError::new(ErrorCode::Busy, "the queue is full; try again later")
}
