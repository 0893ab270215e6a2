//! Records of asynchronous calls and their results: what there is of them, and how much there may be.
//!
//! Invariants: records together and those of one project are bounded in number and in bytes, but for the reasons why
//! calls have failed and for what was recovered; a record is forgotten when it was kept for as long as promised and not
//! before; nobody but its project and principal, or who administers the project, learns that a record exists.

use std::collections::{BTreeSet, HashMap, hash_map::Entry};

use bytes::Bytes;
use isms_protocol::{
    Header, Message, PrincipalId, ProcessId, ProjectId, Service,
    kernel::{ProcessState, Progress},
    limits::{KEY_LEN, RESULT_COST, RESULTS_SHARE},
};

use super::{ProcessKey, durable::Durable};
use crate::{
    clock::Moment,
    config::Config,
    durability::Key,
    planted::{Bug, planted},
};

/// All asynchronous calls whose results are awaited or kept.
pub(crate) struct Results {
    /// Boxed: a table that has just doubled has room for more than twice what is in it.
    by_id: HashMap<ProcessId, Box<Record>>,
    /// When which record is forgotten.
    expiries: BTreeSet<(Moment, ProcessId)>,
    bytes: usize,
    /// Durable calls by the idempotency keys that they were made with.
    by_key: HashMap<[u8; KEY_LEN], ProcessId>,
    /// Those that were given up.
    dead: BTreeSet<(ProjectId, ProcessId)>,
    /// What each project has of both; none that has nothing.
    by_project: HashMap<ProjectId, Used>,
    count_max: usize,
    bytes_max: usize,
    keep_us: u64,
    dead_keep_us: u64,
}

/// Of whose calls somebody wants to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whose {
    pub(crate) project: ProjectId,
    pub(crate) principal: PrincipalId,
    /// Of all in the project: who asks administers it.
    pub(crate) any_principal: bool,
}

/// One asynchronous call.
pub(crate) struct Record {
    pub(crate) key: ProcessKey,
    pub(crate) project: ProjectId,
    pub(crate) principal: PrincipalId,
    /// Bytes of its request's message, which waits with the process and is charged here; while it has not ended if it
    /// is durable.
    pub(super) waiting: usize,
    /// The stream of its request, from `sent` on not yet at its callee.
    pub(super) request: Vec<u8>,
    pub(super) sent: usize,
    pub(crate) accepted_at: Moment,
    pub(crate) began_at: Option<Moment>,
    /// The answer, and the stream of it.
    pub(super) answer: Option<Message>,
    pub(super) stream: Vec<u8>,
    /// The same when it is complete, shared with who reads it.
    pub(super) whole: Bytes,
    pub(super) ended: Option<Ended>,
    /// Who waits for the end: services and their calls.
    pub(crate) waiters: Vec<(Service, u64)>,
    /// What it has beside that if it survives the Kernel.
    pub(super) durable: Option<Box<Durable>>,
}

#[derive(Clone, Copy, Default)]
struct Used {
    count: usize,
    bytes: usize,
}

/// When and how a call has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) at: Moment,
    pub(super) progress: Progress,
    /// Since when it could be asked about; from then on it is kept.
    pub(super) told_at: Moment,
}

impl Ended {
    pub(super) fn new(at: Moment, progress: Progress) -> Ended {
        let told_at = at;
        Ended {
            at,
            progress,
            told_at,
        }
    }
}

/// No room for more bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

impl Results {
    pub(crate) fn new(config: &Config) -> Results {
        Results {
            by_id: HashMap::new(),
            expiries: BTreeSet::new(),
            bytes: 0,
            by_key: HashMap::new(),
            dead: BTreeSet::new(),
            by_project: HashMap::new(),
            count_max: config.results_max,
            bytes_max: config.results_bytes_max,
            keep_us: u64::from(config.results_keep_s) * 1_000_000,
            dead_keep_us: u64::from(config.dead_keep_s) * 1_000_000,
        }
    }

    /// True while there is room for the record of one call more, whose message has so many bytes.
    pub(super) fn has_room(&self, project: ProjectId, bytes: usize) -> bool {
        let used = self.by_project.get(&project).map_or(0, |used| used.count);
        let counts = self.by_id.len() < self.count_max && used < part(self.count_max);
        counts && self.has_room_for(project, RESULT_COST + bytes)
    }

    fn has_room_for(&self, project: ProjectId, bytes: usize) -> bool {
        let used = self.by_project.get(&project).map_or(0, |used| used.bytes);
        self.bytes + bytes <= self.bytes_max && used + bytes <= part(self.bytes_max)
    }

    /// True from the arrival of an asynchronous call until its record is forgotten.
    pub(super) fn contains(&self, id: ProcessId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// A call's message is at its callee.
    pub(super) fn began(&mut self, id: ProcessId, now: Moment) {
        let Some(record) = self.by_id.get_mut(&id) else {
            return;
        };
        record.began_at.get_or_insert(now);
        // Another attempt would need the message again.
        if record.durable.is_none() {
            let (project, freed) = (record.project, std::mem::take(&mut record.waiting));
            self.free(project, freed);
        }
    }

    /// Takes in a record, for which there is room, or which was in the journal and is taken in whatever there is.
    pub(super) fn open(&mut self, id: ProcessId, record: Record) {
        self.add(record.project, record.bytes());
        self.by_project.entry(record.project).or_default().count += 1;
        if let Some(key) = record.key() {
            self.by_key.insert(key.hash, id);
        }
        self.by_id.insert(id, Box::new(record));
    }

    /// The call that was made with an idempotency key, and what it was made with.
    pub(super) fn of_key(&self, hash: &[u8; KEY_LEN]) -> Option<(ProcessId, &Record)> {
        let id = *self.by_key.get(hash)?;
        Some((id, self.get(id)?))
    }

    /// Takes bytes of what all may have, and of the project's part of it.
    pub(super) fn charge(&mut self, project: ProjectId, bytes: usize) -> Result<(), NoRoom> {
        if !self.has_room_for(project, bytes) {
            return Err(NoRoom);
        }
        self.add(project, bytes);
        Ok(())
    }

    pub(super) fn add(&mut self, project: ProjectId, bytes: usize) {
        self.bytes += bytes;
        self.by_project.entry(project).or_default().bytes += bytes;
    }

    pub(super) fn free(&mut self, project: ProjectId, bytes: usize) {
        self.bytes -= bytes;
        if let Some(used) = self.by_project.get_mut(&project) {
            used.bytes -= bytes;
        }
    }

    /// Removes a record and frees its bytes.
    pub(super) fn forget(&mut self, id: ProcessId) {
        if let Some(record) = self.by_id.remove(&id) {
            if let Some(key) = record.key() {
                self.by_key.remove(&key.hash);
            }
            self.free(record.project, record.bytes());
            if let Entry::Occupied(mut used) = self.by_project.entry(record.project) {
                used.get_mut().count -= 1;
                if used.get().count == 0 {
                    used.remove();
                }
            }
            if let Some(ended) = record.ended {
                self.forget_end(record.project, id, ended);
            }
        }
    }

    /// Removes all records of a project, and says which there were.
    pub(super) fn forget_project(&mut self, project: ProjectId) -> Vec<ProcessId> {
        if !self.by_project.contains_key(&project) {
            return Vec::new();
        }
        let of_project = self.by_id.iter().filter(|(_, record)| record.project == project);
        let ids: Vec<ProcessId> = of_project.map(|(&id, _)| id).collect();
        ids.iter().for_each(|&id| self.forget(id));
        ids
    }

    /// Notes that a record has ended, and with that when it is forgotten.
    pub(super) fn note_end(&mut self, project: ProjectId, id: ProcessId, ended: Ended) {
        self.expiries.insert((self.kept_until(ended), id));
        if ended.progress == Progress::Dead {
            self.dead.insert((project, id));
        }
    }

    pub(super) fn forget_end(&mut self, project: ProjectId, id: ProcessId, ended: Ended) {
        self.expiries.remove(&(self.kept_until(ended), id));
        self.dead.remove(&(project, id));
    }

    fn kept_until(&self, ended: Ended) -> Moment {
        ended.told_at.after_us(match ended.progress {
            Progress::Dead => self.dead_keep_us,
            _ => self.keep_us,
        })
    }

    /// Forgets what was kept for long enough, and says what.
    pub(crate) fn forget_expired(&mut self, now: Moment) -> Vec<ProcessId> {
        let mut forgotten = Vec::new();
        while let Some(&(_, id)) = self.expiries.first().filter(|(at, _)| *at <= now) {
            if planted(Bug::KeepsResults) {
                break;
            }
            self.forget(id);
            forgotten.push(id);
        }
        forgotten
    }

    /// The dead letters of a project, or of all, after one of them.
    pub(super) fn dead_after(
        &self,
        project: ProjectId,
        after: ProcessId,
    ) -> impl Iterator<Item = (ProcessId, &Record)> {
        let in_project = self
            .dead
            .iter()
            .filter(move |(of, id)| (project.is_none() || *of == project) && *id > after);
        in_project.filter_map(|&(_, id)| Some((id, self.get(id)?)))
    }

    pub(crate) fn next_expiry(&self) -> Option<Moment> {
        self.expiries.first().map(|&(at, _)| at)
    }

    /// The record of a call that has not ended.
    pub(super) fn open_mut(&mut self, id: ProcessId) -> Option<&mut Record> {
        self.get_mut(id).filter(|record| !record.has_ended())
    }

    pub(crate) fn get(&self, id: ProcessId) -> Option<&Record> {
        self.by_id.get(&id).map(Box::as_ref)
    }

    pub(crate) fn get_mut(&mut self, id: ProcessId) -> Option<&mut Record> {
        self.by_id.get_mut(&id).map(Box::as_mut)
    }

    /// The record of a process, for whom it concerns. Who has a principal and no project asks in all of its
    /// projects; who has neither learns nothing. What nobody in particular asked for is told in its project to
    /// who knows its id.
    pub(crate) fn readable(&self, id: ProcessId, whose: Whose) -> Option<&Record> {
        let Whose {
            project,
            principal,
            any_principal,
        } = whose;
        let same_project =
            |record: &&Record| record.project == project || (project.is_none() && !principal.is_none());
        let record = self.by_id.get(&id).map(Box::as_ref).filter(same_project)?;
        let of_nobody = record.principal.is_none() && record.project == project;
        let is_own = record.principal == principal || of_nobody;
        (is_own || any_principal || planted(Bug::TellsAnybody)).then_some(record)
    }

    /// What is told of a record.
    pub(crate) fn state(&self, id: ProcessId, record: &Record, now: Moment) -> ProcessState {
        let until = record.ended.map_or(now, |ended| ended.at);
        let began = record.began_at.unwrap_or(until);
        let running = record.began_at.map_or(Progress::Queued, |_| Progress::Running);
        ProcessState {
            process: id,
            progress: record.ended.map_or(running, |ended| ended.progress),
            age_us: now.us_since(record.accepted_at),
            queued_us: began.us_since(record.accepted_at),
            ran_us: record.began_at.map_or(0, |began| until.us_since(began)),
            kept_us: record
                .ended
                .map_or(0, |ended| self.kept_until(ended).us_since(now)),
            failures: record.durable.as_ref().map_or(0, |durable| durable.failures),
            retry_us: record
                .durable
                .as_ref()
                .map_or(0, |durable| durable.retry_at.us_since(now)),
        }
    }

    #[cfg(test)]
    pub(crate) fn all_ended(&self) -> bool {
        self.by_id.values().all(|record| record.has_ended())
    }

    /// True when an accepted call was refused after all.
    #[cfg(test)]
    pub(crate) fn any_refused(&self) -> bool {
        let code = |record: &Record| {
            let answer = record
                .answer
                .as_ref()
                .filter(|answer| answer.header.sender == Service::Kernel)?;
            Some(answer.decode_body::<isms_protocol::WireError>().ok()?.code)
        };
        self.by_id
            .values()
            .any(|record| record.has_ended() && code(record.as_ref()) == Some(isms_protocol::ErrorCode::Busy))
    }

    /// No project has more than its part, but for the reasons of its calls' ends.
    #[cfg(test)]
    pub(crate) fn check_parts(&self) {
        for (project, used) in &self.by_project {
            assert!(
                used.count <= part(self.count_max)
                    && used.bytes <= part(self.bytes_max) + used.count * RESULT_COST,
                "{project} has too much of what is kept"
            );
        }
    }

    #[cfg(test)]
    pub(crate) fn len_and_bytes(&self) -> (usize, usize) {
        let sum: usize = self.by_id.values().map(|record| record.bytes()).sum();
        assert_eq!(sum, self.bytes, "bytes of results are miscounted");
        let of_projects = self.by_project.values().fold((0, 0), |(count, bytes), used| {
            (count + used.count, bytes + used.bytes)
        });
        assert_eq!(
            of_projects,
            (self.by_id.len(), sum),
            "results of projects are miscounted"
        );
        (self.by_id.len(), self.bytes)
    }
}

impl Record {
    pub(super) fn new(
        key: ProcessKey,
        header: &Header,
        accepted_at: Moment,
        durable: Option<Box<Durable>>,
    ) -> Record {
        Record {
            key,
            project: header.project,
            principal: header.principal,
            waiting: 0,
            request: Vec::new(),
            sent: 0,
            accepted_at,
            began_at: None,
            answer: None,
            stream: Vec::new(),
            whole: Bytes::new(),
            ended: None,
            waiters: Vec::new(),
            durable,
        }
    }

    /// The answer and its stream, once the call has ended.
    pub(crate) fn outcome(&self) -> Option<(Message, Bytes)> {
        self.ended?;
        Some((self.answer.clone()?, self.whole.clone()))
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// It has ended, and that is not durable yet.
    pub(crate) fn is_ending(&self) -> bool {
        self.durable
            .as_ref()
            .is_some_and(|durable| durable.ending.is_some())
    }

    fn key(&self) -> Option<Key> {
        self.durable.as_ref().and_then(|durable| durable.key)
    }

    fn bytes(&self) -> usize {
        let answer = self.answer.as_ref().map_or(0, Message::len);
        RESULT_COST + self.waiting + self.request.len() + answer + self.stream.len() + self.whole.len()
    }
}

/// Of what all may have, what one project may.
fn part(max: usize) -> usize {
    max.div_ceil(RESULTS_SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_costs_no_more_than_what_is_charged_for_it() {
        // A table that has just doubled is filled to 7/16, with a byte for each place; nodes of a tree that grows at its
        // end are half full; an allocation takes 16 bytes more than what is in it. The answer's header is charged
        // with the answer and is part of the record.
        let in_table = (size_of::<(ProcessId, Box<Record>)>() + 1) * 16 / 7;
        let in_tree = 2 * size_of::<(Moment, ProcessId)>();
        let allocations = 16 + 3 * 32;
        let cost = in_table + in_tree + size_of::<Record>() + allocations;
        assert!(cost <= RESULT_COST, "{cost} bytes");
        assert!(RESULT_COST < cost + 128, "{cost} bytes, too much is charged");
    }
}
