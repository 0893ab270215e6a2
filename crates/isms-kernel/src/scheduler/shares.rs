//! Fair shares: how much of one queue's time each project has had in one class.
//!
//! A project's *virtual time* is the time that its calls have run, divided by its weight. Whose virtual time is least
//! goes first, so over time the projects that want more than they get have run in proportion to their weights. A call
//! is charged what the project's calls usually take when it begins, and the difference when it has ended. Invariants:
//! who was away has saved nothing; who leaves with a debt finds it when it comes back; what is kept is bounded by the
//! projects that have calls, or had them a moment ago.

use std::collections::{BTreeSet, HashMap};

use isms_protocol::ProjectId;

use super::tree::Lane;

/// Virtual time of a µs at weight 1.
const SCALE: u64 = 10_000;
/// What a project's first call is taken to run.
const EXPECTED_US: u64 = 1_000;
/// Projects that are known before those are looked for that need not be.
const KNOWN_MIN: usize = 64;

/// The projects of one queue and class.
#[derive(Default)]
pub(super) struct Shares {
    projects: HashMap<ProjectId, Share>,
    /// Those with waiting calls, the one whose turn it is first.
    order: BTreeSet<(u64, ProjectId)>,
    /// The least virtual time of those that waited when a call began last: where a newcomer starts.
    floor: u64,
    running: u32,
    /// Projects that were known after some were forgotten last.
    kept: usize,
}

struct Share {
    lane: Lane,
    virtual_time: u64,
    running: u32,
    expected_us: u64,
}

impl Shares {
    /// Changes the waiting calls of a project.
    pub(super) fn change(&mut self, project: ProjectId, change: impl FnOnce(&mut Lane)) {
        let floor = self.floor;
        let share = self.projects.entry(project).or_default();
        let before = share.lane.len();
        change(&mut share.lane);
        match (before, share.lane.len()) {
            (0, 1..) => {
                share.virtual_time = share.virtual_time.max(floor);
                self.order.insert((share.virtual_time, project));
            }
            (1.., 0) => {
                self.order.remove(&(share.virtual_time, project));
                self.tidy(project);
            }
            _ => {}
        }
    }

    /// The waiting calls of the project whose turn it is.
    pub(super) fn first(&self) -> Option<&Lane> {
        self.order.first().and_then(|(_, project)| self.lane(*project))
    }

    /// Of the projects with calls that may be refused the one with the most waiting calls.
    pub(super) fn longest(&self) -> Option<(&Lane, ProjectId)> {
        let lanes = self.order.iter();
        let lanes = lanes.filter_map(|(_, project)| Some((self.lane(*project)?, *project)));
        let refusable = lanes.filter(|(lane, _)| lane.has_refusable());
        refusable.max_by_key(|(lane, project)| (lane.len(), *project))
    }

    pub(super) fn lane(&self, project: ProjectId) -> Option<&Lane> {
        self.projects.get(&project).map(|share| &share.lane)
    }

    /// A call of a project begins; the µs that it is charged for now.
    pub(super) fn begin(&mut self, project: ProjectId, weight: u32) -> u64 {
        if let Some((least, _)) = self.order.first() {
            self.floor = self.floor.max(*least);
        }
        let floor = self.floor;
        let share = self.projects.entry(project).or_default();
        if share.lane.len() == 0 {
            share.virtual_time = share.virtual_time.max(floor);
        }
        share.running += 1;
        self.running += 1;
        let expected_us = share.expected_us;
        self.set_virtual_time(project, |time| {
            time.saturating_add(virtual_us(expected_us, weight))
        });
        expected_us
    }

    /// A call of a project has ended that was charged for `expected_us` and ran for `ran_us`.
    pub(super) fn end(&mut self, project: ProjectId, weight: u32, expected_us: u64, ran_us: u64) {
        let Some(share) = self.projects.get_mut(&project) else {
            return;
        };
        share.running -= 1;
        self.running -= 1;
        share.expected_us = (share.expected_us * 7 + ran_us) / 8;
        let (charged, due) = (virtual_us(expected_us, weight), virtual_us(ran_us, weight));
        self.set_virtual_time(project, |time| time.saturating_add(due).saturating_sub(charged));
        self.tidy(project);
    }

    /// Nothing runs any more.
    pub(super) fn forget_running(&mut self) {
        self.running = 0;
        for share in self.projects.values_mut() {
            share.running = 0;
        }
        self.tidy_all();
    }

    fn set_virtual_time(&mut self, project: ProjectId, change: impl FnOnce(u64) -> u64) {
        let Some(share) = self.projects.get_mut(&project) else {
            return;
        };
        let before = share.virtual_time;
        share.virtual_time = change(before);
        if self.order.remove(&(before, project)) {
            self.order.insert((share.virtual_time, project));
        }
    }

    /// Forgets a project that neither has calls nor owes anything; and all debts once nobody has calls.
    fn tidy(&mut self, project: ProjectId) {
        let floor = self.floor;
        if self
            .projects
            .get(&project)
            .is_some_and(|share| share.may_be_forgotten(floor))
        {
            self.projects.remove(&project);
        }
        let is_over = self.order.is_empty() && self.running == 0;
        if is_over || self.projects.len() > KNOWN_MIN + 2 * self.kept {
            self.tidy_all();
        }
    }

    fn tidy_all(&mut self) {
        if self.order.is_empty() && self.running == 0 {
            self.projects.clear();
            self.floor = 0;
        }
        let floor = self.floor;
        self.projects.retain(|_, share| !share.may_be_forgotten(floor));
        self.kept = self.projects.len();
    }
}

impl Default for Share {
    fn default() -> Share {
        Share {
            lane: Lane::default(),
            virtual_time: 0,
            running: 0,
            expected_us: EXPECTED_US,
        }
    }
}

impl Share {
    fn may_be_forgotten(&self, floor: u64) -> bool {
        self.lane.len() == 0 && self.running == 0 && self.virtual_time <= floor
    }
}

fn virtual_us(us: u64, weight: u32) -> u64 {
    us.saturating_mul(SCALE) / u64::from(weight.max(1))
}
