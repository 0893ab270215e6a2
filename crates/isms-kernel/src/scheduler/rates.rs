//! Limits of calls per second of single Doees, as their manifests say.
//!
//! Invariants: what a project's Doees may have is replaced as a whole, so versions that no longer serve are forgotten;
//! there are limits of no more projects than a platform has, and of no more Doees than a project has. Who is told the
//! same again has not earned another burst.

use std::collections::{HashMap, hash_map::Entry};

use isms_protocol::{
    DoeeVersion, ProjectId,
    kernel::{CallRate, DoeeRate, DoeeRates},
    limits,
};

use super::{projects::TooManyProjects, rate::Bucket};
use crate::clock::Moment;

/// The Doees whose calls have a limit.
#[derive(Default)]
pub(super) struct Rates {
    buckets: HashMap<DoeeVersion, Bucket>,
    of_project: HashMap<ProjectId, Vec<DoeeVersion>>,
}

impl Rates {
    /// Sets what the Doees of a project may have. The caller has checked the numbers.
    pub(super) fn set(
        &mut self,
        project: ProjectId,
        rates: &DoeeRates,
        now: Moment,
    ) -> Result<(), TooManyProjects> {
        let is_known = self.of_project.contains_key(&project);
        if !is_known && !rates.doees.is_empty() && self.of_project.len() >= limits::PROJECTS_MAX {
            return Err(TooManyProjects);
        }
        let before = self.of_project.remove(&project).unwrap_or_default();
        let mut kept: HashMap<DoeeVersion, Bucket> = before
            .into_iter()
            .filter_map(|doee| Some((doee, self.buckets.remove(&doee)?)))
            .collect();
        let mut of_project = Vec::with_capacity(rates.doees.len());
        for &DoeeRate { doee, rate } in &rates.doees {
            let CallRate { per_s, burst } = rate;
            let same = kept.remove(&doee);
            let same = same.filter(|bucket| (bucket.rate_max(), bucket.burst()) == (per_s, burst));
            let bucket = same.unwrap_or_else(|| Bucket::with_burst(per_s, burst, now));
            // One that another project has named as its own stays that one's.
            if let Entry::Vacant(place) = self.buckets.entry(doee) {
                place.insert(bucket);
                of_project.push(doee);
            }
        }
        if !of_project.is_empty() {
            self.of_project.insert(project, of_project);
        }
        Ok(())
    }

    /// What is left of a Doee's rate, if that has a limit.
    pub(super) fn bucket(&mut self, doee: DoeeVersion) -> Option<&mut Bucket> {
        self.buckets.get_mut(&doee)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: ProjectId = ProjectId::from_bytes([1; 16]);
    const TWO: ProjectId = ProjectId::from_bytes([2; 16]);

    fn doee(number: u8) -> DoeeVersion {
        DoeeVersion::from_bytes([number; 16])
    }

    fn rates(doees: &[(u8, u32, u32)]) -> DoeeRates {
        let rate = |&(number, per_s, burst)| DoeeRate {
            doee: doee(number),
            rate: CallRate { per_s, burst },
        };
        DoeeRates {
            doees: doees.iter().map(rate).collect(),
        }
    }

    /// Of so many calls at once, how many a Doee may have.
    fn accepted(rates: &mut Rates, number: u8, now: Moment) -> usize {
        (0..100)
            .filter(|_| rates.bucket(doee(number)).is_none_or(|bucket| bucket.take(now)))
            .count()
    }

    #[test]
    fn what_a_project_says_replaces_what_it_has_said_and_a_repetition_is_no_gift() {
        let mut known = Rates::default();
        known
            .set(ONE, &rates(&[(1, 2, 5), (2, 1, 1)]), Moment(0))
            .unwrap();
        known.set(TWO, &rates(&[(3, 7, 7)]), Moment(0)).unwrap();
        let mut ask = |number| accepted(&mut known, number, Moment(0));
        assert_eq!([ask(1), ask(2), ask(3), ask(4)], [5, 1, 7, 100]);
        known.set(ONE, &rates(&[(1, 2, 5)]), Moment(0)).unwrap();
        let mut ask = |number| accepted(&mut known, number, Moment(0));
        assert_eq!([ask(1), ask(2), ask(3)], [0, 100, 0]);
        known.set(ONE, &rates(&[(1, 2, 6)]), Moment(0)).unwrap();
        assert_eq!(accepted(&mut known, 1, Moment(0)), 6);
        known.set(ONE, &rates(&[]), Moment(0)).unwrap();
        assert_eq!((known.buckets.len(), known.of_project.len()), (1, 1));
    }

    #[test]
    fn a_project_cannot_lift_the_limit_of_anothers_doee() {
        let mut known = Rates::default();
        known.set(ONE, &rates(&[(1, 1, 1)]), Moment(0)).unwrap();
        known.set(TWO, &rates(&[(1, 50, 50)]), Moment(0)).unwrap();
        assert_eq!(accepted(&mut known, 1, Moment(0)), 1);
        known.set(TWO, &rates(&[]), Moment(0)).unwrap();
        assert_eq!(accepted(&mut known, 1, Moment(0)), 0);
    }

    #[test]
    fn no_more_projects_are_kept_than_a_platform_has() {
        let mut known = Rates::default();
        let number = |number: usize| ProjectId::from_bytes((number as u128 + 1).to_be_bytes());
        for project in 0..limits::PROJECTS_MAX {
            let version = DoeeVersion::from_bytes((project as u128 + 1).to_be_bytes());
            let rate = CallRate { per_s: 1, burst: 1 };
            let doees = vec![DoeeRate { doee: version, rate }];
            assert_eq!(
                known.set(number(project), &DoeeRates { doees }, Moment(0)),
                Ok(())
            );
        }
        let last = number(limits::PROJECTS_MAX);
        assert_eq!(
            known.set(last, &rates(&[(200, 1, 1)]), Moment(0)),
            Err(TooManyProjects)
        );
        assert_eq!(known.set(last, &rates(&[]), Moment(0)), Ok(()));
        assert_eq!(known.set(number(0), &rates(&[]), Moment(0)), Ok(()));
        assert_eq!(known.set(last, &rates(&[(200, 1, 1)]), Moment(0)), Ok(()));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// However calls come: in no stretch of time more are accepted than the burst and what the rate gives in it,
        /// and none is refused while that much is left.
        #[test]
        fn in_no_stretch_of_time_more_calls_are_accepted_than_burst_and_rate_give(
            per_s in 1..50u32,
            burst in 1..20u32,
            gaps in prop::collection::vec(prop_oneof![Just(0u64), 1..2_000_000u64], 1..80),
        ) {
            let mut bucket = Bucket::with_burst(per_s, burst, Moment(0));
            let (mut now, mut accepted) = (Moment(0), Vec::new());
            for gap in gaps {
                now = now.after_us(gap);
                // In millionths of a call: what each earlier moment leaves for a call now.
                let given = |from: Moment, count: usize| {
                    i128::from(burst) * 1_000_000 + i128::from(now.us_since(from)) * i128::from(per_s)
                        - count as i128 * 1_000_000
                };
                let since = |from: usize| accepted.len() - from;
                let stretches = accepted.iter().enumerate().map(|(index, &from)| given(from, since(index)));
                let left = stretches.min().unwrap_or(i128::MAX);
                let takes = bucket.take(now);
                prop_assert_eq!(takes, left >= 1_000_000, "{} millionths were left", left);
                if takes {
                    accepted.push(now);
                }
            }
        }
    }
}
