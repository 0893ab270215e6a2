//! What versions of Doees are called, as far as Resadmin has said so. A version's names never change, so they are
//! remembered until there are too many.

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
    known: Mutex<HashMap<DoeeVersion, Names>>,
}

impl NameCache {
    pub(crate) fn get(&self, version: DoeeVersion) -> Option<Names> {
        self.lock().get(&version).cloned()
    }

    /// Of these versions, those whose names are not known.
    pub(crate) fn unknown(&self, versions: impl Iterator<Item = DoeeVersion>) -> Vec<DoeeVersion> {
        let known = self.lock();
        versions.filter(|version| !known.contains_key(version)).collect()
    }

    pub(crate) fn learn(&self, named: Vec<NamedDoee>) {
        let mut known = self.lock();
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

    fn lock(&self) -> MutexGuard<'_, HashMap<DoeeVersion, Names>> {
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
            assert_eq!(cache.unknown([named.version].into_iter()), [named.version]);
            cache.learn(vec![named]);
            assert!(cache.lock().len() <= NAMES_MAX);
        }
        let last = cache.get(version(NAMES_MAX)).map(|names| names.doee);
        assert_eq!(last, Some(NAMES_MAX.to_string()));
        assert_eq!(cache.get(version(0)), None);
    }
}
