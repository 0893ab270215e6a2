//! What versions of Doees are called, as far as Resadmin has said so. A version's names never change, so they are
//! remembered until there are too many, or their project is deleted.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use isms_protocol::{DoeeVersion, limits::MEASURED_DOEES_MAX, resadmin::NamedDoee};

/// Versions that are remembered: those that can be listed, and as many that were listed before.
const NAMES_MAX: usize = 2 * MEASURED_DOEES_MAX;

/// A Doee by its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) project: String,
    pub(crate) doee: String,
}

/// The names that are known.
#[derive(Default)]
pub(crate) struct NameCache {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    names: HashMap<DoeeVersion, Names>,
    /// Changes with every deletion.
    era: Era,
}

/// Between two deletions of projects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Era(u64);

impl NameCache {
    pub(crate) fn get(&self, version: DoeeVersion) -> Option<Names> {
        self.lock().names.get(&version).cloned()
    }

    /// Of these versions, those whose names are not known, and when that was so.
    pub(crate) fn unknown(&self, versions: impl Iterator<Item = DoeeVersion>) -> (Vec<DoeeVersion>, Era) {
        let known = self.lock();
        let versions = versions.filter(|version| !known.names.contains_key(version));
        (versions.collect(), known.era)
    }

    /// Takes in names that were asked for in an era. When a project was deleted since, they may be its names, and the
    /// next who wants to know asks again.
    pub(crate) fn learn(&self, named: Vec<NamedDoee>, era: Era) {
        let mut known = self.lock();
        if known.era != era {
            return;
        }
        let known = &mut known.names;
        if known.len() + named.len() > NAMES_MAX {
            known.clear();
        }
        let named = named.into_iter().take(NAMES_MAX);
        known.extend(named.map(
            |NamedDoee {
                 version,
                 project,
                 doee,
             }| (version, Names { project, doee }),
        ));
    }

    /// Forgets what the Doees of a project were called that is deleted.
    pub(crate) fn forget(&self, project: &str) {
        let mut known = self.lock();
        known.era.0 += 1;
        known.names.retain(|_, names| names.project != project);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_remembered_up_to_a_bound() {
        let cache = NameCache::default();
        let version = |number: usize| DoeeVersion::from_bytes((number as u128 + 1).to_be_bytes());
        for number in 0..=NAMES_MAX {
            let named = NamedDoee {
                version: version(number),
                project: "p".into(),
                doee: number.to_string(),
            };
            let (unknown, era) = cache.unknown([named.version].into_iter());
            assert_eq!(unknown, [named.version]);
            cache.learn(vec![named], era);
            assert!(cache.lock().names.len() <= NAMES_MAX);
        }
        let last = cache.get(version(NAMES_MAX)).map(|names| names.doee);
        assert_eq!(last, Some(NAMES_MAX.to_string()));
        assert_eq!(cache.get(version(0)), None);
    }

    #[test]
    fn the_names_of_a_deleted_project_are_forgotten_and_not_learned_from_an_answer_on_its_way() {
        let cache = NameCache::default();
        let named = |number: u8, project: &str| NamedDoee {
            version: DoeeVersion::from_bytes([number; 16]),
            project: project.into(),
            doee: "d".into(),
        };
        let (_, era) = cache.unknown([].into_iter());
        cache.learn(vec![named(1, "one"), named(2, "two")], era);
        cache.forget("one");
        cache.learn(vec![named(3, "one")], era);
        let known = [1, 2, 3].map(|number| cache.get(DoeeVersion::from_bytes([number; 16])).is_some());
        assert_eq!(known, [false, true, false]);
    }
}
