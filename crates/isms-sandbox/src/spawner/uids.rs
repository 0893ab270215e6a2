//! Host uids for sandboxes: each has one to itself, and one is taken again as late as possible.

use std::collections::VecDeque;

use super::UidRange;
use crate::native::Ids;

/// Uids that are free, the longest unused first; `None` when the spawner cannot map others than its own.
#[derive(Debug)]
pub(super) struct Uids {
    free: Option<VecDeque<u32>>,
}

impl Uids {
    /// Those of the range that are no system's or root's; with `privileged` false all sandboxes share the own uid.
    pub(super) fn new(range: UidRange, privileged: bool) -> Self {
        let last = range.first.saturating_add(range.count);
        // 0 is root, 65534 is nobody, and the highest is no id at all.
        let usable = (range.first.max(1)..last).filter(|uid| *uid != 65534 && *uid != u32::MAX);
        Self {
            free: privileged.then(|| usable.collect()),
        }
    }

    pub(super) fn take(&mut self) -> Option<Ids> {
        match &mut self.free {
            Some(free) => free.pop_front().map(Ids::Distinct),
            None => Some(Ids::Own),
        }
    }

    /// Only once nothing that ran under it is left.
    pub(super) fn give_back(&mut self, ids: Ids) {
        if let (Some(free), Ids::Distinct(uid)) = (&mut self.free, ids) {
            free.push_back(uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_given_once_and_reused_last() {
        let mut uids = Uids::new(
            UidRange {
                first: 70_000,
                count: 2,
            },
            true,
        );
        assert_eq!(uids.take(), Some(Ids::Distinct(70_000)));
        uids.give_back(Ids::Distinct(70_000));
        assert_eq!(uids.take(), Some(Ids::Distinct(70_001)));
        assert_eq!(uids.take(), Some(Ids::Distinct(70_000)));
        assert_eq!(uids.take(), None);
    }

    #[test]
    fn root_and_nobody_are_never_given() {
        let mut uids = Uids::new(UidRange { first: 0, count: 2 }, true);
        assert_eq!((uids.take(), uids.take()), (Some(Ids::Distinct(1)), None));
        let mut uids = Uids::new(
            UidRange {
                first: 65534,
                count: 1,
            },
            true,
        );
        assert_eq!(uids.take(), None);
        let mut uids = Uids::new(
            UidRange {
                first: u32::MAX,
                count: 9,
            },
            true,
        );
        assert_eq!(uids.take(), None);
    }

    #[test]
    fn an_ordinary_user_shares_its_own() {
        let mut uids = Uids::new(UidRange { first: 0, count: 0 }, false);
        assert_eq!((uids.take(), uids.take()), (Some(Ids::Own), Some(Ids::Own)));
    }
}
