//! How the calls of Doees went: counts by outcome, deadlines, time in the queue and at the Doer.
//!
//! Invariants: every call counts once, in the row of its Doee version or in that of the rest; there are at most
//! [`limits::MEASURED_DOEES_MAX`] rows beside that one. A row is found by its number, which the version's queue keeps,
//! so a call is counted without a look-up and, but for the first in its class, without memory being taken. When all
//! rows are taken, that of the version that was called longest ago is added to the rest, unless that was just now.

use std::collections::HashMap;

use isms_protocol::{
    Class, DoeeVersion, ProjectId,
    kernel::{BUCKETS_US, ClassCalls, DoeeCalls, Histogram, Outcomes},
    limits,
};

use crate::clock::Moment;

/// A row is not given up to another version before it has been idle for this long.
const KEPT_IDLE_US: u64 = 60_000_000;

/// Finds a row without hashing; valid while its version has a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowIndex(u32);

/// The row of all that have none of their own.
const REST: RowIndex = RowIndex(0);

impl RowIndex {
    pub(super) fn is_the_rest(self) -> bool {
        self == REST
    }
}

/// How a call ended, as far as the Kernel knows without reading an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Failed,
    Crashed,
    Unavailable,
    Refused,
    RateLimited,
    Cancelled,
    Expired,
    TimedOut,
}

/// A call that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) doee: DoeeVersion,
    pub(crate) project: ProjectId,
    pub(crate) class: Class,
    pub(crate) deadline: Option<Moment>,
    pub(crate) outcome: Outcome,
}

/// All rows.
pub(super) struct Measures {
    /// The first is that of the rest.
    rows: Vec<Row>,
    by_doee: HashMap<DoeeVersion, RowIndex>,
    /// Before this no row has been idle for long enough to be given up.
    full_until: Moment,
    doees_max: usize,
}

#[derive(Default)]
struct Row {
    doee: DoeeVersion,
    project: ProjectId,
    used_at: Moment,
    /// Its version has a queue, which knows the row by its number.
    held: bool,
    classes: [Option<Box<Tally>>; Class::ALL.len()],
}

/// The calls of one version in one class.
#[derive(Clone, Default)]
struct Tally {
    outcomes: Outcomes,
    deadlines_met: u64,
    deadlines_missed: u64,
    waited: Times,
    ran: Times,
}

#[derive(Clone, Default)]
struct Times {
    counts: [u64; BUCKETS_US.len() + 1],
    sum_us: u64,
}

impl Measures {
    pub(super) fn new(doees_max: usize) -> Measures {
        Measures {
            rows: vec![Row::default()],
            by_doee: HashMap::new(),
            full_until: Moment(0),
            doees_max,
        }
    }

    /// The row of a version; `held` is where its queue keeps it.
    pub(super) fn hold(&mut self, held: &mut Option<RowIndex>, doee: DoeeVersion, now: Moment) -> RowIndex {
        match *held {
            Some(row) if row != REST || now < self.full_until => row,
            _ => {
                let row = self.row(doee, now);
                self.rows[row.0 as usize].held = true;
                *held = Some(row);
                row
            }
        }
    }

    /// The version's queue is gone.
    pub(super) fn let_go(&mut self, row: RowIndex) {
        self.rows[row.0 as usize].held = false;
    }

    /// A call begins that has waited.
    pub(super) fn began(&mut self, row: RowIndex, class: Class, waited_us: u64, now: Moment) {
        self.tally(row, class, now).waited.add(waited_us);
    }

    /// The Doer is done with a call.
    pub(super) fn ran(&mut self, row: RowIndex, class: Class, ran_us: u64, now: Moment) {
        self.tally(row, class, now).ran.add(ran_us);
    }

    /// A call has ended that is of a row, or of whichever its version has.
    pub(super) fn ended(&mut self, row: Option<RowIndex>, ended: &Ended, now: Moment) {
        let row = row.unwrap_or_else(|| self.row(ended.doee, now));
        if row != REST {
            self.rows[row.0 as usize].project = ended.project;
        }
        self.tally(row, ended.class, now).count(ended, now);
    }

    /// Rows from one on, of at most so many classes in all; and where the next part begins, if there is one.
    pub(super) fn part(&self, from: u32, classes_max: usize) -> (Vec<DoeeCalls>, Option<u32>) {
        let mut part = Vec::new();
        let mut classes = 0;
        for (number, row) in self.rows.iter().enumerate().skip(from as usize) {
            let listed = row.classes();
            if listed.is_empty() {
                continue;
            }
            classes += listed.len();
            if classes > classes_max {
                return (part, Some(number as u32));
            }
            part.push(DoeeCalls {
                doee: row.doee,
                project: row.project,
                queued: 0,
                running: 0,
                classes: listed,
            });
        }
        (part, None)
    }

    fn tally(&mut self, row: RowIndex, class: Class, now: Moment) -> &mut Tally {
        let row = &mut self.rows[row.0 as usize];
        row.used_at = now;
        row.classes[class as usize].get_or_insert_default()
    }

    fn row(&mut self, doee: DoeeVersion, now: Moment) -> RowIndex {
        if let Some(&row) = self.by_doee.get(&doee) {
            return row;
        }
        let Some(row) = self.free_row(now) else {
            return REST;
        };
        self.rows[row.0 as usize] = Row {
            doee,
            used_at: now,
            ..Row::default()
        };
        self.by_doee.insert(doee, row);
        row
    }

    fn free_row(&mut self, now: Moment) -> Option<RowIndex> {
        if self.by_doee.len() < self.doees_max {
            self.rows.push(Row::default());
            return Some(RowIndex(self.rows.len() as u32 - 1));
        }
        if now < self.full_until {
            return None;
        }
        let idle = self.rows.iter().enumerate().skip(1).filter(|(_, row)| !row.held);
        let longest = idle.min_by_key(|(_, row)| row.used_at);
        let (number, used_at) = longest.map(|(number, row)| (number, row.used_at)).unzip();
        let free_at = used_at.unwrap_or(now).after_us(KEPT_IDLE_US);
        if now < free_at {
            self.full_until = free_at;
            return None;
        }
        let number = number?;
        let given_up = std::mem::take(&mut self.rows[number]);
        self.by_doee.remove(&given_up.doee);
        for (rest, class) in self.rows[0].classes.iter_mut().zip(given_up.classes) {
            if let Some(class) = class {
                rest.get_or_insert_default().add(&class);
            }
        }
        Some(RowIndex(number as u32))
    }
}

impl Row {
    fn classes(&self) -> Vec<ClassCalls> {
        let called = Class::ALL.into_iter().zip(&self.classes);
        let called = called.filter_map(|(class, tally)| Some((class, tally.as_ref()?)));
        called.map(|(class, tally)| tally.listed(class)).collect()
    }
}

impl Tally {
    fn count(&mut self, ended: &Ended, now: Moment) {
        *self.outcome_mut(ended.outcome) += 1;
        let late = ended.deadline.map(|deadline| deadline <= now);
        match (ended.outcome, late) {
            (Outcome::Done | Outcome::Failed, Some(false)) => self.deadlines_met += 1,
            (Outcome::Done | Outcome::Failed, Some(true)) | (Outcome::TimedOut, _) => {
                self.deadlines_missed += 1;
            }
            _ => {}
        }
    }

    fn outcome_mut(&mut self, outcome: Outcome) -> &mut u64 {
        let Outcomes {
            done,
            failed,
            crashed,
            unavailable,
            refused,
            rate_limited,
            cancelled,
            expired,
            timed_out,
        } = &mut self.outcomes;
        match outcome {
            Outcome::Done => done,
            Outcome::Failed => failed,
            Outcome::Crashed => crashed,
            Outcome::Unavailable => unavailable,
            Outcome::Refused => refused,
            Outcome::RateLimited => rate_limited,
            Outcome::Cancelled => cancelled,
            Outcome::Expired => expired,
            Outcome::TimedOut => timed_out,
        }
    }

    fn add(&mut self, other: &Tally) {
        const OUTCOMES: [Outcome; 9] = [
            Outcome::Done,
            Outcome::Failed,
            Outcome::Crashed,
            Outcome::Unavailable,
            Outcome::Refused,
            Outcome::RateLimited,
            Outcome::Cancelled,
            Outcome::Expired,
            Outcome::TimedOut,
        ];
        let mut other = other.clone();
        for outcome in OUTCOMES {
            *self.outcome_mut(outcome) += *other.outcome_mut(outcome);
        }
        self.deadlines_met += other.deadlines_met;
        self.deadlines_missed += other.deadlines_missed;
        self.waited.add_all(&other.waited);
        self.ran.add_all(&other.ran);
    }

    fn listed(&self, class: Class) -> ClassCalls {
        ClassCalls {
            class,
            outcomes: self.outcomes,
            deadlines_met: self.deadlines_met,
            deadlines_missed: self.deadlines_missed,
            waited: self.waited.listed(),
            ran: self.ran.listed(),
        }
    }
}

impl Times {
    fn add(&mut self, us: u64) {
        // Most are short, so the first bounds are looked at first.
        let bucket = BUCKETS_US.iter().position(|&bound| us <= bound);
        self.counts[bucket.unwrap_or(BUCKETS_US.len())] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    fn add_all(&mut self, other: &Times) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    fn listed(&self) -> Histogram {
        Histogram {
            counts: self.counts.to_vec(),
            sum_us: self.sum_us,
        }
    }
}

impl Default for Measures {
    fn default() -> Measures {
        Measures::new(limits::MEASURED_DOEES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doee(number: u8) -> DoeeVersion {
        DoeeVersion::from_bytes([number; 16])
    }

    fn ended(number: u8, outcome: Outcome) -> Ended {
        Ended {
            doee: doee(number),
            project: ProjectId::from_bytes([9; 16]),
            class: Class::Normal,
            deadline: Some(Moment(1_000)),
            outcome,
        }
    }

    /// What is listed: of which Doee, and how many calls of it were done.
    fn done(measures: &Measures) -> Vec<(DoeeVersion, u64)> {
        let (listed, next) = measures.part(0, usize::MAX);
        assert_eq!(next, None);
        let sum = |doee: &DoeeCalls| doee.classes.iter().map(|class| class.outcomes.done).sum();
        listed.iter().map(|row| (row.doee, sum(row))).collect()
    }

    #[test]
    fn times_fall_into_the_first_bucket_that_holds_them() {
        let mut times = Times::default();
        for us in [0, 100, 101, 60_000_000, 60_000_001, u64::MAX] {
            times.add(us);
        }
        let mut expected = [0; BUCKETS_US.len() + 1];
        (expected[0], expected[1]) = (2, 1);
        (expected[BUCKETS_US.len() - 1], expected[BUCKETS_US.len()]) = (1, 2);
        assert_eq!((times.counts, times.sum_us), (expected, u64::MAX));
        assert!(BUCKETS_US.is_sorted());
    }

    #[test]
    fn an_answer_meets_its_deadline_or_misses_it_and_what_expired_or_was_cancelled_does_neither() {
        let mut measures = Measures::default();
        for (outcome, now) in [
            (Outcome::Done, 999),
            (Outcome::Failed, 999),
            (Outcome::Done, 1_000),
            (Outcome::TimedOut, 1_000),
            (Outcome::Expired, 1_000),
            (Outcome::Cancelled, 1_000),
            (Outcome::Crashed, 10),
        ] {
            measures.ended(None, &ended(1, outcome), Moment(now));
        }
        let whenever = Ended {
            deadline: None,
            ..ended(1, Outcome::Done)
        };
        measures.ended(None, &whenever, Moment(5_000));
        let (listed, _) = measures.part(0, 10);
        let class = &listed[0].classes[0];
        assert_eq!((class.deadlines_met, class.deadlines_missed), (2, 2));
        let expected = Outcomes {
            done: 3,
            failed: 1,
            crashed: 1,
            cancelled: 1,
            expired: 1,
            timed_out: 1,
            ..Outcomes::default()
        };
        assert_eq!(class.outcomes, expected);
    }

    #[test]
    fn beyond_the_bound_calls_are_summed_until_a_row_was_idle_for_long_and_none_is_lost() {
        let mut measures = Measures::new(2);
        let mut holds = [None; 5];
        let mut call = |measures: &mut Measures, number: u8, us| {
            let now = Moment(us);
            let row = measures.hold(&mut holds[usize::from(number)], doee(number), now);
            measures.began(row, Class::Normal, 5, now);
            measures.ended(Some(row), &ended(number, Outcome::Done), now);
            row
        };
        let first = call(&mut measures, 1, 10);
        call(&mut measures, 2, 20);
        assert_eq!(call(&mut measures, 3, 30), REST);
        assert_eq!(
            done(&measures),
            [(DoeeVersion::NONE, 1), (doee(1), 1), (doee(2), 1)]
        );
        // A row whose version has a queue is not given up, however long nobody has called it.
        let later = 10 * KEPT_IDLE_US;
        assert_eq!(call(&mut measures, 3, later), REST);
        measures.let_go(first);
        call(&mut measures, 2, 2 * later);
        assert_eq!(call(&mut measures, 3, 2 * later), first);
        let expected = [(DoeeVersion::NONE, 3), (doee(3), 1), (doee(2), 2)];
        assert_eq!(done(&measures), expected);
        assert_eq!(call(&mut measures, 4, 2 * later), REST, "all rows are held");
        let (listed, _) = measures.part(0, 10);
        let waited: u64 = listed.iter().flat_map(|row| &row.classes[0].waited.counts).sum();
        assert_eq!(waited, 7);
    }

    #[test]
    fn a_list_comes_in_parts_that_follow_one_another() {
        let mut measures = Measures::default();
        for number in 1..=5 {
            measures.ended(None, &ended(number, Outcome::Done), Moment(0));
            let batch = Ended {
                class: Class::Batch,
                ..ended(number, Outcome::Failed)
            };
            measures.ended(None, &batch, Moment(0));
        }
        let mut from = Some(0);
        let mut listed = Vec::new();
        while let Some(row) = from {
            let (part, next) = measures.part(row, 4);
            assert!(part.len() <= 2);
            listed.extend(part.into_iter().map(|row| (row.doee, row.classes.len())));
            from = next;
        }
        let expected: Vec<_> = (1..=5).map(|number| (doee(number), 2)).collect();
        assert_eq!(listed, expected);
        assert_eq!(measures.part(u32::MAX, 4), (Vec::new(), None));
    }
}
