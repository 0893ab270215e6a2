//! Durable calls: written into the journal before they are acknowledged, tried until they have ended, kept as dead
//! letters when they are given up.
//!
//! Each attempt is a process of its own in the table, under the one id that its caller knows; so whatever is still said
//! of an attempt that is over finds nothing.
//!
//! Invariants: a call runs only after its record is durable, and its end is told only after that is; a new attempt
//! begins only after the callee has said that the old one is over, or was lost and what came in its place has said
//! that it does not have it; a call that was acknowledged keeps a place in its queue, in the Doer, or here, until it has
//! ended.

use isms_protocol::{
    ErrorCode, Flags, Header, Message, ProcessId, WireError,
    kernel::{Progress, Retry},
};

use super::{
    ProcessKey,
    entries::refusal,
    kept::{own_error, progress},
    queue_name,
    record::{Process, State, Stream},
    repeats::fingerprint,
    results::Ended,
    retries::backoff_us,
    traced::Traced,
};
use crate::{
    clock::Moment,
    core::Core,
    durability::{self, Awaited, Entry, Key, Statement},
    planted::{Bug, planted},
    scheduler::{Arrival, Full, Outcome},
};

/// What a durable call has beside the record of an asynchronous one.
#[derive(Debug)]
pub(crate) struct Durable {
    /// What is dispatched, but for the number of its attempt.
    pub(super) request: Message,
    /// By when it should begin.
    pub(super) due: Option<Moment>,
    /// No attempt begins after this.
    pub(super) until: Moment,
    pub(super) retry: Retry,
    pub(super) failures: u32,
    pub(super) retry_at: Moment,
    pub(super) key: Option<Key>,
    /// Calls above it in the chain of calls that led to it.
    pub(super) depth: u32,
    /// It was acknowledged.
    pub(super) committed: bool,
    /// Somebody wants it cancelled who came before it was durable.
    cancel_asked: bool,
    /// How the attempt that is not over yet will count.
    verdict: Option<Verdict>,
    /// Its end, until that is durable.
    pub(super) ending: Option<Ended>,
    /// Requests that are answered when what they asked for is durable.
    pub(super) askers: Vec<Header>,
}

#[derive(Debug)]
enum Verdict {
    Failed {
        answer: Box<Message>,
    },
    /// Its callee was lost, or what it had of the call.
    Lost,
}

impl Durable {
    pub(super) fn new(request: Header, retry: Retry, due: Option<Moment>, until: Moment) -> Durable {
        Durable {
            request: Message::bare(request),
            due,
            until,
            retry,
            failures: 0,
            retry_at: Moment(0),
            key: None,
            depth: 0,
            committed: false,
            cancel_asked: false,
            verdict: None,
            ending: None,
            askers: Vec::new(),
        }
    }

    /// Takes over whether the call is traced, so that its attempts are, also after a restart.
    pub(super) fn trace(&mut self, flags: Flags) {
        let header = &mut self.request.header;
        let others = Flags(header.flags.0 & !Flags::TRACED.0);
        header.flags = others.with(Flags(flags.0 & Flags::TRACED.0));
    }
}

impl Core {
    /// Writes a durable call, whose whole body is here, into the journal.
    pub(super) fn commit(&mut self, key: ProcessKey, message: Message) {
        let process = self.table.get(key).expect("a process that was just made");
        let (id, queue) = (process.header.process, process.queue);
        let record = self.results.get_mut(id).expect("its record was just made");
        let durable = record.durable.as_mut().expect("it is durable");
        (durable.request.body, durable.request.raw) = (message.body, message.raw);
        if let Some(key) = &mut durable.key {
            key.fingerprint = Some(fingerprint(&durable.request.raw, &record.request));
        }
        let arrival = self.arrival(key);
        let mut evicted = Vec::new();
        let reserved = self.scheduler.reserve(queue, &arrival, &mut evicted);
        for victim in evicted {
            self.give_up(victim, ErrorCode::Busy);
        }
        if let Err(Full) = reserved {
            return self.give_up(key, ErrorCode::Busy);
        }
        let record = self.results.get(id).expect("its record was just made");
        let entry = self.open_entry(record);
        let begun = match &mut self.log {
            Some(log) => log
                .begin(&entry, Awaited::Accepted(id))
                .map_err(|why| refusal(&why)),
            None => Err((ErrorCode::Unavailable, NO_JOURNAL.into())),
        };
        match begun {
            Ok(()) => {
                let process = self.table.get_mut(key).expect("a process that was just made");
                process.state = State::Committing;
                self.set_timer(key, None);
                if planted(Bug::AcknowledgesEarly) {
                    self.committed(id);
                }
            }
            Err((code, text)) => {
                self.scheduler.give_back(queue, &arrival);
                self.answer_error_saying(key, code, text);
                self.discard(key);
            }
        }
    }

    /// A call is durable: it is acknowledged, and waits to run.
    pub(super) fn committed(&mut self, id: ProcessId) {
        let Some(record) = self.results.get_mut(id) else {
            return;
        };
        let key = record.key;
        let durable = record.durable.as_mut().expect("what is committed is durable");
        if std::mem::replace(&mut durable.committed, true) {
            return;
        }
        let (cancel_asked, askers) = (durable.cancel_asked, std::mem::take(&mut durable.askers));
        let later = durable.retry_at;
        self.accept(key);
        for asker in askers {
            self.answer_asker(&asker, id);
        }
        if cancel_asked {
            self.leave(key, ErrorCode::Cancelled);
        } else if later > self.now {
            let process = self.table.get_mut(key).expect("it has a place");
            process.state = State::Resting;
            self.set_timer(key, Some(later));
        } else {
            self.queue_up(key);
        }
    }

    /// Lets a call whose place is taken wait in its queue.
    pub(super) fn queue_up(&mut self, key: ProcessKey) {
        let arrival = self.arrival(key);
        let Some(process) = self.table.get(key) else {
            return;
        };
        let queue = process.queue;
        let Some(record) = self.results.get_mut(process.header.process) else {
            return;
        };
        record.sent = 0;
        record.began_at = None;
        let streams = !record.request.is_empty();
        let durable = record.durable.as_mut().expect("only durable calls come back");
        durable.retry_at = Moment(0);
        let (body, raw, until) = (
            durable.request.body.clone(),
            durable.request.raw.clone(),
            durable.until,
        );
        let ticket = self.scheduler.place(queue, &arrival);
        let now = self.now;
        let process = self.table.get_mut(key).expect("looked at above");
        if let Some(traced) = &mut process.traced {
            traced.note_queued(now);
        }
        process.request = Stream::new(streams);
        process.state = State::Queued {
            ticket,
            body,
            raw,
            request_ended: None,
        };
        self.set_timer(key, Some(until));
        self.ready.push(queue);
    }

    /// Ends a call that has a place and does not wait in its queue.
    pub(super) fn leave(&mut self, key: ProcessKey, code: ErrorCode) {
        let arrival = self.arrival(key);
        let Some(process) = self.table.get(key) else {
            return;
        };
        self.scheduler.give_back(process.queue, &arrival);
        self.give_up(key, code);
    }

    /// Somebody wants a call to end before it is durable: it is looked at when it is.
    pub(super) fn cancel_later(&mut self, key: ProcessKey, code: ErrorCode) {
        let Some(process) = self.table.get(key) else {
            return;
        };
        // Its caller's own wish comes from a client that does not wait for the acknowledgement: it is no cancel.
        let known = self.results.get_mut(process.header.process);
        if let Some(durable) = known.and_then(|record| record.durable.as_mut()) {
            durable.cancel_asked |= code == ErrorCode::Cancelled && !process.caller_knows;
        }
    }

    /// Notes that the attempt fails, and why; what follows from it comes when it is over. Only what was cancelled has
    /// ended with that.
    pub(super) fn judge(&mut self, key: ProcessKey, outcome: Outcome, answer: Message) {
        if outcome == Outcome::Cancelled {
            let id = answer.header.process;
            self.drop_result(id);
            return self.finish(id, Outcome::Cancelled, answer);
        }
        if self.take_verdict(key, || Verdict::Failed {
            answer: Box::new(answer),
        }) {
            self.count_ended(key, outcome);
        }
    }

    /// The same, for a reason of the Kernel's own.
    pub(super) fn judge_here(&mut self, key: ProcessKey, code: ErrorCode, outcome: Outcome) {
        if let Some(process) = self.table.get(key) {
            let answer = own_error(process.header.process, code);
            self.judge(key, outcome, answer);
        }
    }

    /// The callee of an attempt was lost. It may be running yet.
    pub(super) fn attempt_lost(&mut self, key: ProcessKey) {
        let Some(process) = self.table.get(key) else {
            return;
        };
        let stop = match process.state {
            State::Running { stop, .. } => stop,
            _ => None,
        };
        match stop {
            Some(ErrorCode::Cancelled) => self.judge_here(key, ErrorCode::Cancelled, Outcome::Cancelled),
            _ => {
                if self.take_verdict(key, || Verdict::Lost) {
                    self.count_ended(key, Outcome::Crashed);
                }
            }
        }
    }

    /// Notes how an attempt will count, unless that is known; what there was of a result is dropped.
    fn take_verdict(&mut self, key: ProcessKey, verdict: impl FnOnce() -> Verdict) -> bool {
        let id = self.table.get(key).map(|process| process.header.process);
        let Some(record) = id.and_then(|id| self.results.open_mut(id)) else {
            return false;
        };
        let durable = record.durable.as_mut().expect("an attempt is of a durable call");
        if durable.ending.is_some() || durable.verdict.is_some() {
            return false;
        }
        durable.verdict = Some(verdict());
        self.drop_result(id.expect("it has a record"));
        true
    }

    /// Drops what there is of a result whose attempt has come to nothing.
    pub(super) fn drop_result(&mut self, id: ProcessId) {
        let Some(record) = self.results.open_mut(id) else {
            return;
        };
        if record
            .durable
            .as_ref()
            .is_some_and(|durable| durable.ending.is_some())
        {
            return;
        }
        let freed = record.stream.len() + record.answer.as_ref().map_or(0, Message::len);
        (record.answer, record.stream) = (None, Vec::new());
        let project = record.project;
        self.results.free(project, freed);
    }

    /// The process of an attempt has left the table: nothing of it runs any more, unless its callee was lost.
    pub(super) fn attempt_over(&mut self, process: &Process) {
        let id = process.header.process;
        let Some(record) = self.results.open_mut(id) else {
            return;
        };
        let Some(durable) = record.durable.as_mut().filter(|durable| durable.ending.is_none()) else {
            return;
        };
        match durable.verdict.take() {
            Some(Verdict::Failed { answer }) => self.attempt_failed(process, *answer),
            Some(Verdict::Lost) | None => {
                self.come_back(process.header, State::Held);
            }
        }
    }

    fn attempt_failed(&mut self, process: &Process, answer: Message) {
        let id = process.header.process;
        let now = self.now;
        let record = self.results.get_mut(id).expect("the caller has looked at it");
        let durable = record.durable.as_mut().expect("the caller has looked at it");
        // What did not run has not failed; only its time is over.
        let has_run = record.began_at.is_some();
        durable.failures += u32::from(has_run);
        let retry_at = now.after_us(backoff_us(&durable.retry, durable.failures, id));
        let code = answer.decode_body::<WireError>().map(|error| error.code);
        let hopeless = matches!(
            code,
            Ok(ErrorCode::TooLarge | ErrorCode::Expired | ErrorCode::Invalid)
        );
        if hopeless || durable.failures >= durable.retry.attempts || retry_at >= durable.until {
            return self.die(id, answer);
        }
        durable.retry_at = retry_at;
        record.began_at = None;
        let failed = durability::Failed {
            process: id,
            failures: durable.failures,
            retry_at: self.calendar.at(retry_at),
        };
        self.follow(&Entry::Failed(failed), Statement::Change, Awaited::Nothing);
        let key = self.come_back(process.header, State::Resting);
        self.set_timer(key, Some(retry_at));
    }

    /// Makes the process of a call's next attempt, with a place in its queue.
    pub(super) fn come_back(&mut self, header: Header, state: State) -> ProcessKey {
        let attempt = match state {
            State::Held => header.attempt,
            _ => header.attempt + 1,
        };
        let header = Header {
            attempt,
            target_generation: Default::default(),
            ..header
        };
        let queue = self.scheduler.open_for_acknowledged(queue_name(&header));
        let record = self.results.get_mut(header.process).expect("it has a record");
        let durable = record.durable.as_mut().expect("only durable calls come back");
        let traced = header.flags.contains(Flags::TRACED);
        let key = self.table.insert(Process {
            header,
            caller_waits: true,
            caller_knows: false,
            kept: true,
            durable: true,
            accepted_at: record.accepted_at,
            deadline: Some(durable.until),
            timer: None,
            depth: durable.depth,
            parent: None,
            children: Vec::new(),
            queue,
            occupied: None,
            state,
            request: Stream::new(false),
            reply: Stream::new(false),
            traced: traced.then(|| Traced::root(header.process, self.now)),
        });
        record.key = key;
        let arrival = self.arrival(key);
        self.scheduler.reserve_regardless(queue, &arrival);
        key
    }

    /// What the Doer has been asked about runs nowhere: it runs again.
    pub(super) fn run_again(&mut self, key: ProcessKey) {
        let Some(process) = self.table.get_mut(key) else {
            return;
        };
        process.header.attempt += 1;
        self.queue_up(key);
    }

    /// The stream of an attempt's result is complete.
    pub(super) fn finish_with_answer(&mut self, id: ProcessId) {
        let Some(record) = self.results.open_mut(id) else {
            return;
        };
        if let Some(answer) = record.answer.take() {
            let (project, len) = (record.project, answer.len());
            self.results.free(project, len);
            self.finish(id, Outcome::Done, answer);
        }
    }

    /// Ends a call. It is told when that is durable.
    fn finish(&mut self, id: ProcessId, outcome: Outcome, answer: Message) {
        let now = self.now;
        let Some(record) = self.results.open_mut(id) else {
            return;
        };
        let Some(durable) = record.durable.as_mut().filter(|durable| durable.ending.is_none()) else {
            return;
        };
        durable.ending = Some(Ended::new(now, progress(outcome)));
        durable.verdict = None;
        let freed = std::mem::take(&mut record.request).len() + std::mem::take(&mut record.waiting);
        (durable.request.body, durable.request.raw) = Default::default();
        let (project, added) = (record.project, answer.len());
        record.answer = Some(answer);
        record.whole = std::mem::take(&mut record.stream).into_boxed_slice().into();
        self.results.free(project, freed);
        self.results.add(project, added);
        let record = self.results.get(id).expect("it was there");
        let (key, entry) = (record.key, self.ended_entry(record));
        self.count_ended(key, outcome);
        self.follow(&entry, Statement::Whole, Awaited::Ended(id));
    }

    /// Gives a call up. It is told when that is durable.
    fn die(&mut self, id: ProcessId, answer: Message) {
        let now = self.now;
        let record = self.results.get_mut(id).expect("the caller has looked at it");
        let durable = record.durable.as_mut().expect("the caller has looked at it");
        durable.ending = Some(Ended::new(now, Progress::Dead));
        let entry = Entry::Dead(Box::new(durability::Dead {
            process: id,
            failures: durable.failures,
            at: self.calendar.at(now),
            answer: answer.clone(),
        }));
        let (project, added) = (record.project, answer.len());
        record.answer = Some(answer);
        self.results.add(project, added);
        self.follow(&entry, Statement::Change, Awaited::Ended(id));
    }

    /// How a call stands in its queue.
    pub(super) fn arrival(&self, key: ProcessKey) -> Arrival {
        let process = self.table.get(key).expect("the caller has looked at it");
        let record = self.results.get(process.header.process).expect("it has a record");
        let durable = record.durable.as_ref().expect("only durable calls are placed so");
        Arrival {
            process: key,
            class: process.header.class,
            project: process.header.project,
            deadline: durable.due,
            now: self.now,
            bytes: durable.request.len(),
            acknowledged: !planted(Bug::EvictsAccepted),
            awaited: false,
        }
    }
}

const NO_JOURNAL: &str = "this kernel keeps no journal, so it takes no durable calls";
