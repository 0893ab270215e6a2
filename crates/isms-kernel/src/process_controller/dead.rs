//! Dead letters: durable calls that were given up, which somebody may look at, run again or discard.
//!
//! Invariants: a letter is told of only once it is durable; one that runs again is the same call, with the same id, so
//! that what its attempts have done already is not done again; it is one or the other at any time, and the journal
//! decides.

use isms_journal::AppendError;
use isms_protocol::{
    ErrorCode, Header, Kind, Message, ProcessId, WireError,
    kernel::{DeadAfter, DeadLetter, DeadLetters, DeadQuestion, Progress},
    limits::{DEAD_LISTED_MAX, DEAD_REASON_LEN_MAX, DURABLE_LIFE_S_MAX},
};

use super::{entries::refusal, record::State, results::Record};
use crate::{
    clock::Moment,
    core::Core,
    durability::{Awaited, Entry, Statement},
    scheduler::Full,
};

impl Core {
    /// Lists the dead letters of the header's project, or of all.
    pub(crate) fn list_dead(&mut self, request: &Header, message: &Message) {
        let Ok(DeadAfter { process, count }) = message.decode_body() else {
            return self.refuse_letter(request, ErrorCode::Invalid, "the question cannot be decoded");
        };
        let max = DEAD_LISTED_MAX.min(count as usize);
        let mut all = self.results.dead_after(request.project, process);
        let letters = all
            .by_ref()
            .take(max)
            .filter_map(|(id, record)| self.letter(id, record))
            .collect();
        let more = all.next().is_some();
        drop(all);
        let answer = Message::with_body(request.answer(Kind::Reply), &DeadLetters { letters, more });
        self.send_to(request.sender, answer);
    }

    /// Runs a dead letter again, once that is durable.
    pub(crate) fn replay(&mut self, request: &Header, message: &Message) {
        let Some((id, doee)) = self.dead_letter(request, message) else {
            return;
        };
        let now = self.now;
        let record = self.results.get_mut(id).expect("it was found");
        let durable = record.durable.as_ref().expect("a dead letter is durable");
        // Its first attempt began no sooner than this.
        let began = record
            .accepted_at
            .max(Moment(durable.until.0.saturating_sub(durable.retry.within_us())));
        if now.us_since(began) > u64::from(DURABLE_LIFE_S_MAX) * 1_000_000 {
            return self.refuse_letter(request, ErrorCode::Expired, "it is too old to be run again");
        }
        let durable = record.durable.as_mut().expect("a dead letter is durable");
        let before = (
            durable.failures,
            durable.until,
            durable.request.header.target_doee,
        );
        if !doee.is_none() {
            durable.request.header.target_doee = doee;
        }

        durable.failures = 0;
        durable.until = now.after_us(durable.retry.within_us());
        let header = durable.request.header;
        let key = self.come_back(header, State::Committing);
        let arrival = self.arrival(key);
        let queue = self.table.get(key).expect("it was just made").queue;
        // The place was taken regardless; here it may be refused.
        self.scheduler.give_back(queue, &arrival);
        let mut evicted = Vec::new();
        let reserved = self.scheduler.reserve(queue, &arrival, &mut evicted);
        for victim in evicted {
            self.give_up(victim, ErrorCode::Busy);
        }
        let record = self.results.get(id).expect("it was found");
        let mut entry = self.open_entry(record);
        if let Entry::Open(open) = &mut entry {
            open.dead = None;
        }
        let has_place = reserved.is_ok();
        let begun = match (reserved, &mut self.log) {
            (Err(Full), _) => Err((
                ErrorCode::Busy,
                "the queue of doer is full; try again later".into(),
            )),
            (Ok(()), None) => Err(refusal(&AppendError::Full)),
            (Ok(()), Some(log)) => log
                .begin(&entry, Awaited::Replayed(id))
                .map_err(|why| refusal(&why)),
        };
        if let Err((code, text)) = begun {
            if has_place {
                self.scheduler.give_back(queue, &arrival);
            }
            self.drop_attempt(key);
            let record = self.results.get_mut(id).expect("it was found");
            let durable = record.durable.as_mut().expect("a dead letter is durable");
            (
                durable.failures,
                durable.until,
                durable.request.header.target_doee,
            ) = before;
            return self.refuse_letter(request, code, text);
        }
        self.note_asker(id, request);
    }

    /// Forgets a dead letter, once that is durable.
    pub(crate) fn discard_letter(&mut self, request: &Header, message: &Message) {
        let Some((id, _)) = self.dead_letter(request, message) else {
            return;
        };
        self.note_asker(id, request);
        self.follow(&Entry::Gone(id), Statement::Last, Awaited::Discarded(id));
    }

    /// A dead letter that runs again is durable.
    pub(super) fn replayed(&mut self, id: ProcessId) {
        let Some(record) = self.results.get_mut(id) else {
            return;
        };
        let key = record.key;
        let durable = record.durable.as_mut().expect("a dead letter is durable");
        let askers = std::mem::take(&mut durable.askers);
        let freed = record.answer.take().map_or(0, |answer| answer.len());
        let (project, ended) = (record.project, record.ended.take());
        self.results.free(project, freed);
        if let Some(ended) = ended {
            self.results.forget_end(project, id, ended);
        }
        self.queue_up(key);
        for asker in askers {
            let record = self.results.get(id).expect("it was there");
            let state = self.results.state(id, record, self.now);
            self.send_to_asker(&asker, Message::with_body(asker.answer(Kind::Reply), &state));
        }
    }

    /// That a dead letter was discarded is durable.
    pub(super) fn discarded(&mut self, id: ProcessId) {
        let record = self.results.get_mut(id);
        let durable = record.and_then(|record| record.durable.as_mut());
        let askers = durable.map(|durable| std::mem::take(&mut durable.askers));
        self.results.forget(id);
        for asker in askers.unwrap_or_default() {
            self.send_to_asker(&asker, Message::bare(asker.answer(Kind::Reply)));
        }
    }

    /// The journal has stopped before what was asked of a letter was durable.
    pub(super) fn abandon_letter(&mut self, id: ProcessId, text: &str) {
        let Some(record) = self.results.get_mut(id) else {
            return;
        };
        let key = record.key;
        let durable = record.durable.as_mut().expect("a dead letter is durable");
        for asker in std::mem::take(&mut durable.askers) {
            self.refuse_asker(&asker, text);
        }
        if self.table.get(key).is_some() {
            let arrival = self.arrival(key);
            let queue = self.table.get(key).expect("looked at above").queue;
            self.scheduler.give_back(queue, &arrival);
            self.drop_attempt(key);
        }
    }

    fn note_asker(&mut self, id: ProcessId, request: &Header) {
        let record = self.results.get_mut(id).expect("the caller has looked at it");
        let durable = record.durable.as_mut().expect("a dead letter is durable");
        durable.askers.push(*request);
    }

    /// Removes the process of an attempt that will not be.
    fn drop_attempt(&mut self, key: super::ProcessKey) {
        self.set_timer(key, None);
        if let Some(process) = self.table.remove(key) {
            self.scheduler.close_idle(process.queue);
        }
    }

    /// The letter that is asked about, if nothing was asked of it that is not durable yet.
    fn dead_letter(
        &mut self,
        request: &Header,
        message: &Message,
    ) -> Option<(ProcessId, isms_protocol::DoeeVersion)> {
        let Ok(DeadQuestion { process, doee }) = message.decode_body() else {
            self.refuse_letter(request, ErrorCode::Invalid, "the question cannot be decoded");
            return None;
        };
        let known = self.results.get(process).filter(|record| {
            (request.project.is_none() || record.project == request.project) && record.is_dead()
        });
        let Some(record) = known else {
            let text =
                "there is no such dead letter; it may have been run again, discarded or kept for long enough";
            self.refuse_letter(request, ErrorCode::NotFound, text);
            return None;
        };
        if record
            .durable
            .as_ref()
            .is_some_and(|durable| !durable.askers.is_empty())
        {
            self.refuse_letter(
                request,
                ErrorCode::Conflict,
                "it is being replayed or discarded already",
            );
            return None;
        }
        Some((process, doee))
    }

    fn letter(&self, id: ProcessId, record: &Record) -> Option<DeadLetter> {
        let durable = record.durable.as_ref()?;
        let state = self.results.state(id, record, self.now);
        let error = record.answer.as_ref()?.decode_body::<WireError>().ok();
        let (code, mut reason) = error.map_or((ErrorCode::Internal, String::new()), |error| {
            (error.code, error.message)
        });
        reason.truncate(reason.floor_char_boundary(DEAD_REASON_LEN_MAX));
        let died_at = record.ended.map_or(Moment(0), |ended| ended.at);
        let body = durable.request.raw.len() + record.request.len();
        Some(DeadLetter {
            process: id,
            project: record.project,
            doee: durable.request.header.target_doee,
            age_us: state.age_us,
            dead_us: self.now.us_since(died_at),
            kept_us: state.kept_us,
            failures: durable.failures,
            request_len: body as u64,
            code,
            reason,
        })
    }

    fn refuse_letter(&mut self, request: &Header, code: ErrorCode, text: impl Into<String>) {
        let error = WireError::new(code, text);
        self.refuse(request.sender, request, &error);
    }
}

impl Record {
    fn is_dead(&self) -> bool {
        self.ended.is_some_and(|ended| ended.progress == Progress::Dead)
    }
}
