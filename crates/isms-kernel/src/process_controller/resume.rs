//! After a loss: what the Doer still has of durable calls, and what the journal still knows of them.
//!
//! Invariant: a call of which an attempt may be running is *held* until the Doer that is registered now has told all
//! that it has. What it names goes on as it is; what it does not name runs nowhere, since the workers of a Doer die
//! with it, and is tried again. An attempt that was lost so counts as no failure of the Doee's.

use isms_protocol::{
    ErrorCode, Header, Kind, Message, Service, WireError,
    kernel::{Progress, Resume, Resumed, ResumedCall},
};

use super::{
    ProcessKey,
    durable::Durable,
    record::State,
    results::{Ended, Record},
};
use crate::{
    core::Core,
    durability::{self, Log, Recovered, Recovery},
    planted::{Bug, planted},
};

impl Core {
    /// Takes over what was in the journal, and writes on in it. Nothing has happened before.
    pub fn recover(&mut self, recovery: Recovery) {
        let Recovery { journal, calls, .. } = recovery;
        let mut log = Log::new(journal);
        for (&id, (lsn, _)) in &calls {
            log.recovered(id, *lsn);
        }
        self.log = Some(log);
        for (_, (_, call)) in calls {
            match call {
                Recovered::Open(open) => self.recover_open(*open),
                Recovered::Ended(ended) => self.recover_ended(*ended),
            }
        }
        let forgotten = self.results.forget_expired(self.now);
        self.forget_statements(&forgotten);
    }

    fn recover_open(&mut self, open: durability::Open) {
        let calendar = self.calendar;
        let header = open.request.header;
        let mut durable = Durable::new(
            header,
            open.retry,
            open.due.map(|due| calendar.moment(due)),
            calendar.moment(open.until),
        );
        let waiting = open.request.len();
        durable.request = open.request;
        durable.failures = open.failures;
        durable.key = open.key;
        durable.depth = open.depth;
        durable.committed = true;
        let rests = open.retry_at > calendar.at(self.now);
        let retry_at = calendar.moment(open.retry_at);
        let accepted_at = calendar.moment(open.accepted_at);
        let mut record = Record::new(ProcessKey::NONE, &header, accepted_at, Some(Box::new(durable)));
        record.request = open.stream.into();
        record.waiting = waiting;
        let Some((at, answer)) = open.dead else {
            self.results.open(header.process, record);
            if rests {
                let key = self.come_back(header, State::Resting);
                let record = self.results.get_mut(header.process).expect("it was just made");
                let durable = record.durable.as_mut().expect("it was just made");
                durable.retry_at = retry_at;
                self.set_timer(key, Some(retry_at));
            } else {
                self.come_back(header, State::Held);
            }
            return;
        };
        record.answer = Some(answer);
        self.results.open(header.process, record);
        self.end_is_told(header.process, Ended::new(calendar.moment(at), Progress::Dead));
    }

    fn recover_ended(&mut self, ended: durability::Ended) {
        let calendar = self.calendar;
        let header = Header {
            process: ended.process,
            project: ended.project,
            principal: ended.principal,
            target_doee: ended.doee,
            ..Header::new(Kind::Request, Service::Kernel, Service::Doer)
        };
        let at = calendar.moment(ended.at);
        let mut durable = Durable::new(header, Default::default(), None, at);
        durable.failures = ended.failures;
        durable.key = ended.key;
        durable.committed = true;
        let accepted_at = calendar.moment(ended.accepted_at);
        let mut record = Record::new(ProcessKey::NONE, &header, accepted_at, Some(Box::new(durable)));
        record.began_at = Some(accepted_at.after_us(ended.queued_us));
        record.answer = Some(ended.answer);
        record.whole = ended.stream;
        self.results.open(ended.process, record);
        self.end_is_told(ended.process, Ended::new(at, ended.progress));
    }

    /// A Doer says what it still has.
    pub(crate) fn resume(&mut self, request: &Header, message: &Message) {
        let resume = message
            .decode_body::<Resume>()
            .ok()
            .filter(|resume| resume.check().is_ok());
        let Some(Resume { calls, more }) = resume else {
            let error = WireError::new(ErrorCode::Invalid, "the list of calls makes no sense");
            return self.refuse(request.sender, request, &error);
        };
        let calls = calls.iter().map(|call| self.adopt(call).unwrap_or(0)).collect();
        let answer = Message::with_body(request.answer(Kind::Reply), &Resumed { calls });
        self.send_to(request.sender, answer);
        if !more {
            let held = self.table.iter().filter(|(_, process)| process.is_held());
            let held: Vec<ProcessKey> = held.map(|(key, _)| key).collect();
            held.into_iter().for_each(|key| self.run_again(key));
        }
    }

    /// Takes a call back as one that runs; says by which call id. None if it is not wanted any more.
    fn adopt(&mut self, call: &ResumedCall) -> Option<u64> {
        let record = self.results.get(call.process)?;
        let key = record.key;
        let process = self.table.get(key)?;
        // After a restart of the Kernel it is not known how many attempts there were.
        let attempt = process.header.attempt;
        if !process.is_held() || attempt > call.attempt {
            return None;
        }
        if planted(Bug::RunsTwice) {
            return Some(u64::MAX - 1);
        }
        let arrival = self.arrival(key);
        let (queue, class, project) = (process.queue, process.header.class, process.header.project);
        self.scheduler.give_back(queue, &arrival);
        let occupied = self.scheduler.adopt(queue, class, project, self.now);
        let generation = self.generation(Service::Doer);
        let now = self.now;
        let process = self.table.get_mut(key).expect("looked at above");
        process.header.attempt = call.attempt;
        process.header.target_generation = generation;
        process.occupied = Some(occupied);
        process.state = State::Running {
            replied: false,
            stop: None,
        };
        if let Some(traced) = &mut process.traced {
            traced.note_dispatched(now);
        }
        let until = process.deadline;
        self.set_timer(key, until);
        let record = self.results.get_mut(call.process).expect("looked at above");
        record.began_at.get_or_insert(now);
        Some(key.call())
    }
}
