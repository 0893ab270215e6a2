//! Between the records of durable calls and the journal: what is written of them, as they are at that moment, and what
//! follows when that is durable, or never will be.

use isms_journal::AppendError;
use isms_protocol::{ErrorCode, Header, Kind, Message, ProcessId, WireError, kernel::Progress};

use super::results::Record;
use crate::{
    clock::Moment,
    core::Core,
    durability::{self, Awaited, Entry, Log, Statement},
    planted::{Bug, planted},
};

impl Core {
    /// What is to be said of a call when the journal is compacted.
    pub(crate) fn statement(&self, id: ProcessId) -> Option<Entry> {
        let record = self.results.get(id)?;
        let durable = record.durable.as_ref()?;
        let ended = durable.ending.or(record.ended).map(|ended| ended.progress);
        Some(match ended {
            None | Some(Progress::Dead) => self.open_entry(record),
            Some(_) => self.ended_entry(record),
        })
    }

    pub(super) fn open_entry(&self, record: &Record) -> Entry {
        let durable = record.durable.as_ref().expect("only durable calls are written");
        let dead = durable
            .ending
            .or(record.ended)
            .filter(|ended| ended.progress == Progress::Dead);
        let answer = record.answer.clone();
        Entry::Open(Box::new(durability::Open {
            accepted_at: self.calendar.at(record.accepted_at),
            due: durable.due.map(|due| self.calendar.at(due)),
            until: self.calendar.at(durable.until),
            retry: durable.retry,
            failures: durable.failures,
            retry_at: match durable.retry_at {
                Moment(0) => Default::default(),
                at => self.calendar.at(at),
            },
            key: durable.key,
            depth: durable.depth,
            request: durable.request.clone(),
            stream: record.request.clone().into(),
            dead: dead
                .zip(answer)
                .map(|(ended, answer)| (self.calendar.at(ended.at), answer)),
        }))
    }

    pub(super) fn ended_entry(&self, record: &Record) -> Entry {
        let durable = record.durable.as_ref().expect("only durable calls are written");
        let ended = durable.ending.or(record.ended).expect("it has ended");
        let header = &durable.request.header;
        let began = record.began_at.unwrap_or(ended.at);
        Entry::Ended(Box::new(durability::Ended {
            process: header.process,
            project: record.project,
            principal: record.principal,
            doee: header.target_doee,
            accepted_at: self.calendar.at(record.accepted_at),
            queued_us: began.us_since(record.accepted_at),
            ran_us: ended.at.us_since(began),
            at: self.calendar.at(ended.at),
            progress: ended.progress,
            failures: durable.failures,
            key: durable.key,
            answer: record.answer.clone().expect("what has ended has an answer"),
            stream: record.whole.clone(),
        }))
    }

    /// Does what has waited for the journal.
    pub(super) fn durable(&mut self, awaited: Awaited) {
        match awaited {
            Awaited::Accepted(id) => self.committed(id),
            Awaited::Ended(id) => self.told_end(id),
            Awaited::Replayed(id) => self.replayed(id),
            Awaited::Discarded(id) => self.discarded(id),
            Awaited::Answer(asker) => self.send_to_asker(&asker, Message::bare(asker.answer(Kind::Reply))),
            Awaited::Nothing => {}
        }
    }

    fn told_end(&mut self, id: ProcessId) {
        let record = self.results.get_mut(id);
        let Some(ended) = record.and_then(|record| record.durable.as_mut()?.ending.take()) else {
            return;
        };
        self.end_is_told(id, ended);
    }

    /// Writes about a call that was accepted. Without a journal there are no such calls.
    pub(super) fn follow(&mut self, entry: &Entry, statement: Statement, awaited: Awaited) {
        if let Some(log) = &mut self.log {
            log.follow(entry, statement, awaited.clone());
        }
        if planted(Bug::TellsEarly) {
            self.durable(awaited);
        }
    }

    /// The journal has done something.
    pub(crate) fn journal(&mut self, event: isms_journal::Event) {
        match event {
            isms_journal::Event::Durable { below } => {
                let awaited = self.log.as_mut().map(|log| log.durable(below));
                for awaited in awaited.unwrap_or_default() {
                    self.durable(awaited);
                }
            }
            isms_journal::Event::Compact { below } => {
                if let Some(log) = &mut self.log {
                    log.compact(below);
                }
            }
            isms_journal::Event::Stopped(_) => {
                let abandoned = self.log.as_mut().map(Log::abandon);
                for awaited in abandoned.unwrap_or_default() {
                    self.not_durable(awaited);
                }
            }
        }
        self.keep_up_journal();
    }

    /// Writes some of what there is to be written.
    pub(crate) fn keep_up_journal(&mut self) {
        let Some(mut log) = self.log.take() else { return };
        log.compact_some(|id| self.statement(id));
        self.log = Some(log);
    }

    /// What was kept in the journal about calls that are forgotten is dead.
    pub(crate) fn forget_statements(&mut self, ids: &[isms_protocol::ProcessId]) {
        if let Some(log) = &mut self.log {
            ids.iter().for_each(|&id| log.forget(id));
        }
    }

    /// The journal has stopped before this was durable: what was asked for is refused, and what has ended may run again
    /// after a restart, so nothing is said of it.
    pub(super) fn not_durable(&mut self, awaited: Awaited) {
        let why = self.log.as_ref().and_then(Log::stopped).unwrap_or_default();
        let text = format!("the journal has stopped ({why}); nothing is lost that was acknowledged");
        match awaited {
            Awaited::Accepted(id) => {
                let Some(record) = self.results.get_mut(id) else {
                    return;
                };
                let key = record.key;
                let askers = record
                    .durable
                    .as_mut()
                    .map(|durable| std::mem::take(&mut durable.askers));
                for asker in askers.unwrap_or_default() {
                    self.refuse_asker(&asker, &text);
                }
                let arrival = self.arrival(key);
                if let Some(process) = self.table.get(key) {
                    self.scheduler.give_back(process.queue, &arrival);
                }
                self.answer_error_saying(key, ErrorCode::Unavailable, text);
                self.discard(key);
            }
            Awaited::Replayed(id) | Awaited::Discarded(id) => self.abandon_letter(id, &text),
            Awaited::Answer(asker) => self.refuse_asker(&asker, &text),
            Awaited::Ended(_) | Awaited::Nothing => {}
        }
    }

    pub(super) fn refuse_asker(&mut self, asker: &Header, text: &str) {
        let error = WireError::new(ErrorCode::Unavailable, text);
        self.send_to_asker(asker, Message::error_answer(asker, &error));
    }
}

/// Why a durable call is not taken, as its caller is told.
pub(super) fn refusal(why: &AppendError) -> (ErrorCode, String) {
    match why {
        AppendError::Busy => (
            ErrorCode::Busy,
            "the journal does not keep up; try again later".into(),
        ),
        AppendError::Full => (
            ErrorCode::Busy,
            "the journal of durable calls is full; try again when some have ended".into(),
        ),
        AppendError::DiskFull => (
            ErrorCode::Busy,
            "the disk of the journal is full; durable calls are taken again when there is space".into(),
        ),
        AppendError::Len { .. } => (ErrorCode::TooLarge, "the call is too long to be durable".into()),
        AppendError::Stopped(stop) => (
            ErrorCode::Unavailable,
            format!(
                "the journal has stopped ({stop}); no durable calls are taken until the platform is restarted"
            ),
        ),
    }
}
