//! Which Doees the names in calls between Doees stand for, as Resadmin says on behalf of the call that asks.
//!
//! Invariants: what is remembered was allowed to the calling version, which never changes what it may; it is forgotten when a
//! deployment of its project has told so, when the connection to the Kernel was lost over which it would have, and after a
//! while anyway; an answer that a deployment has crossed is not remembered.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use isms_protocol::{DoeeVersion, ProjectId, resadmin::Callee};

/// Names that are remembered.
const KNOWN_MAX: usize = 4096;
/// How long a name is believed, should a deployment not have been heard of.
const BELIEVED: Duration = Duration::from_secs(30);

/// What is remembered of callees.
#[derive(Debug, Default)]
pub(crate) struct Callees {
    known: HashMap<(DoeeVersion, String), Known>,
    /// Counts what made something be forgotten.
    epoch: Epoch,
}

/// Between two of these nothing was deployed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Epoch(u64);

#[derive(Debug)]
struct Known {
    callee: Callee,
    project: ProjectId,
    since: Instant,
}

impl Callees {
    /// What a name stands for in a call of this version.
    pub(crate) fn get(&self, caller: DoeeVersion, name: &str, now: Instant) -> Option<Callee> {
        // A name is short, and the map has no other way to be asked.
        let known = self.known.get(&(caller, name.to_owned()))?;
        (now < known.since + BELIEVED).then_some(known.callee)
    }

    /// When the question is asked whose answer is to be remembered.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Remembers an answer.
    pub(crate) fn insert(
        &mut self,
        (caller, name): (DoeeVersion, String),
        project: ProjectId,
        callee: Callee,
        asked: Epoch,
        now: Instant,
    ) {
        if asked != self.epoch {
            return;
        }
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        let known = Known {
            callee,
            project,
            since: now,
        };
        self.known.insert((caller, name), known);
    }

    /// Forgets what a project's names stood for.
    pub(crate) fn forget_project(&mut self, project: ProjectId) {
        self.epoch.0 += 1;
        self.known.retain(|_, known| known.project != project);
    }

    /// Forgets everything.
    pub(crate) fn forget_all(&mut self) {
        self.epoch.0 += 1;
        self.known.clear();
    }
}

#[cfg(test)]
mod tests {
    use isms_protocol::Class;

    use super::*;

    const CALLER: DoeeVersion = DoeeVersion::from_bytes([1; 16]);

    fn project(number: u8) -> ProjectId {
        ProjectId::from_bytes([number; 16])
    }

    fn callee(number: u8) -> Callee {
        Callee {
            version: DoeeVersion::from_bytes([number; 16]),
            class: Class::Normal,
            deadline_ms: 1,
            is_durable: true,
        }
    }

    #[test]
    fn a_name_is_believed_for_a_while_and_until_its_project_is_deployed() {
        let (mut callees, now) = (Callees::default(), Instant::now());
        let learn = |callees: &mut Callees, name: &str, of: u8| {
            let epoch = callees.epoch();
            callees.insert((CALLER, name.into()), project(of), callee(of), epoch, now);
        };
        learn(&mut callees, "a", 1);
        learn(&mut callees, "b", 2);
        assert_eq!(callees.get(CALLER, "a", now), Some(callee(1)));
        assert_eq!(callees.get(DoeeVersion::NONE, "a", now), None);
        assert_eq!(callees.get(CALLER, "a", now + BELIEVED), None);
        callees.forget_project(project(1));
        assert_eq!(callees.get(CALLER, "a", now), None);
        assert_eq!(callees.get(CALLER, "b", now), Some(callee(2)));
        callees.forget_all();
        assert_eq!(callees.get(CALLER, "b", now), None);
    }

    #[test]
    fn an_answer_that_a_deployment_has_crossed_is_not_remembered() {
        let (mut callees, now) = (Callees::default(), Instant::now());
        let asked = callees.epoch();
        callees.forget_project(project(1));
        callees.insert((CALLER, "a".into()), project(1), callee(1), asked, now);
        assert_eq!(callees.get(CALLER, "a", now), None);
    }

    #[test]
    fn no_more_names_are_remembered_than_there_is_room_for() {
        let (mut callees, now) = (Callees::default(), Instant::now());
        for number in 0..2 * KNOWN_MAX {
            let epoch = callees.epoch();
            let key = (CALLER, number.to_string());
            callees.insert(key, project(1), callee(1), epoch, now);
            assert!(callees.known.len() <= KNOWN_MAX);
        }
    }
}
