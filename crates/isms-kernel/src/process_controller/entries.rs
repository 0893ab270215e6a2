//! What is written into the journal about durable calls: from their records, as these are at that moment.

use isms_protocol::{ProcessId, kernel::Progress};

use super::results::Record;
use crate::{
    clock::Moment,
    core::Core,
    durability::{self, Entry},
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
}
