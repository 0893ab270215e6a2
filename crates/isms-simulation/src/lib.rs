//! What simulations from a seed have in common: numbers that the seed decides, the runs of many seeds, and bugs that
//! are planted to show that a simulation finds them.
//!
//! A run breaks an invariant by a panic. A failure names its seed: `ISMS_SIM_SEED=n` replays it alone,
//! `ISMS_SIM_SEEDS=n` sets how many are tried.

#![forbid(unsafe_code)]

mod random;

use std::{
    fmt::Debug,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
};

pub use random::Random;

/// The seeds to try: what the environment says, else `usual` many.
///
/// # Panics
/// When the environment says something else than a number.
pub fn seeds(usual: u64) -> Range<u64> {
    let variable = |name| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().expect("a number"))
    };
    match variable("ISMS_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("ISMS_SIM_SEEDS").unwrap_or(usual),
    }
}

/// Runs one seed to its end; the text says which invariant broke.
pub fn run<T>(seed: u64, simulation: impl FnOnce(u64) -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(|| simulation(seed))).map_err(|panic| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic
            .downcast::<&str>()
            .map_or("unknown panic".into(), |text| text.to_string()),
    })
}

/// Runs all [`seeds`]; `each` gets what came of one.
///
/// # Panics
/// When one breaks an invariant; says which and how to replay it.
pub fn run_all<T>(usual: u64, simulation: impl Fn(u64) -> T, mut each: impl FnMut(T)) {
    for seed in seeds(usual) {
        match run(seed, &simulation) {
            Err(broken) => panic!("{broken}\nreplay with ISMS_SIM_SEED={seed}"),
            Ok(tally) => each(tally),
        }
    }
}

/// Plants each bug by itself and runs seeds until one finds it.
///
/// # Panics
/// When none of `usual` many does.
pub fn find_planted<B: Copy + Debug, T>(
    bugs: &[B],
    plant: impl Fn(Option<B>),
    usual: u64,
    simulation: impl Fn(u64) -> T,
) {
    for &bug in bugs {
        plant(Some(bug));
        let found = (0..usual).find_map(|seed| run(seed, &simulation).err().map(|broken| (seed, broken)));
        plant(None);
        let (seed, broken) = found.unwrap_or_else(|| panic!("no seed finds {bug:?}"));
        println!(
            "{bug:?}: seed {seed}: {}",
            broken.lines().next().unwrap_or_default()
        );
    }
}

/// Makes `plant(Option<Bug>)`, which exists in the tests of the crate that calls this, and `planted(Bug)`, which outside
/// of them is the constant `false`: no bug can be switched on in a build that serves.
#[macro_export]
macro_rules! plantable {
    ($bug:ty) => {
        #[cfg(test)]
        thread_local! {
            static PLANTED: std::cell::Cell<Option<$bug>> = const { std::cell::Cell::new(None) };
        }

        /// Plants a bug in everything of this thread, or removes it.
        #[cfg(test)]
        pub(crate) fn plant(bug: Option<$bug>) {
            PLANTED.set(bug);
        }

        /// True when this bug is planted.
        #[cfg(test)]
        pub(crate) fn planted(bug: $bug) -> bool {
            PLANTED.get() == Some(bug)
        }

        /// Never true: bugs are planted in tests only.
        #[cfg(not(test))]
        pub(crate) const fn planted(_: $bug) -> bool {
            false
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Bug {
        CountsTwice,
    }
    plantable!(Bug);

    /// Breaks for every seed of two digits, once the bug is planted.
    fn simulation(seed: u64) -> u64 {
        assert!(
            !planted(Bug::CountsTwice) || seed < 10,
            "{seed} was counted twice"
        );
        seed
    }

    #[test]
    fn every_seed_is_run_once_and_a_planted_bug_is_found_and_removed() {
        let mut sum = 0;
        run_all(20, simulation, |seed| sum += seed);
        if seeds(20) == (0..20) {
            assert_eq!(sum, 190);
        }
        find_planted(&[Bug::CountsTwice], plant, 11, simulation);
        assert_eq!(run(10, simulation), Ok(10));
        let missed = run(0, |_| find_planted(&[Bug::CountsTwice], plant, 10, simulation));
        assert_eq!(missed, Err("no seed finds CountsTwice".to_owned()));
    }

    #[test]
    fn a_failure_says_what_broke() {
        assert_eq!(
            run(3, |seed| assert!(seed < 3, "it broke")),
            Err("it broke".to_owned())
        );
        assert_eq!(
            run(3, |seed| assert!(seed < 3, "{seed} broke")),
            Err("3 broke".to_owned())
        );
    }
}
