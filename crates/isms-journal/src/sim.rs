//! A simulation of a log, its owner and its disk, from one seed: appends, completions, compactions,
//! losses of power at any call to the disk, kills, syncs that fail, a disk that is full, damage.
//!
//! After every opening an observer that has noted what was appended, acknowledged and released checks what came back;
//! at the end of a run all faults are lifted, all work is completed, and new work must be admitted.
//! A failure names its seed; `ISMS_SIM_SEED=n` replays it alone, `ISMS_SIM_SEEDS=n` sets how many are tried.

mod observer;
mod world;

use isms_simulation::{find_planted, run_all, seeds};

use crate::planted::{Bug, plant};
use world::World;

const SEEDS: u64 = 2000;
const STEPS: usize = 300;

/// Runs one seed to its end.
fn simulate(seed: u64) -> Tally {
    let mut world = World::new(seed);
    (0..STEPS).for_each(|_| world.step());
    world.quiesce();
    world.tally
}

/// What a run has exercised.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    records: u64,
    durable: u64,
    openings: u64,
    losses_of_power: u64,
    kills: u64,
    failed_openings: u64,
    lost: u64,
    torn: u64,
    stops: u64,
    compactions: u64,
    recycled: u64,
    full: u64,
    disk_full: u64,
    blocked: u64,
    flips: u64,
    flips_found: u64,
}

impl Tally {
    fn counts(&self) -> [u64; 16] {
        [
            self.records,
            self.durable,
            self.openings,
            self.losses_of_power,
            self.kills,
            self.failed_openings,
            self.lost,
            self.torn,
            self.stops,
            self.compactions,
            self.recycled,
            self.full,
            self.disk_full,
            self.blocked,
            self.flips,
            self.flips_found,
        ]
    }
}

#[test]
fn every_seed_keeps_every_invariant() {
    let mut sum = [0; 16];
    run_all(SEEDS, simulate, |tally| {
        for (sum, count) in sum.iter_mut().zip(tally.counts()) {
            *sum += count;
        }
    });
    println!("exercised: {sum:?}");
    if seeds(SEEDS).count() as u64 >= SEEDS {
        assert!(
            sum.iter().all(|&count| count > SEEDS / 20),
            "the simulation exercises too little: {sum:?}"
        );
    }
}

#[test]
fn the_simulation_finds_each_planted_bug() {
    let bugs = [
        Bug::AcksBeforeSync,
        Bug::SkipsDirectorySync,
        Bug::RecyclesEarly,
        Bug::AcceptsTorn,
        Bug::SkipsCorrupt,
        Bug::TrustsCache,
        Bug::RetriesSync,
        Bug::SkipsHeaderSync,
        Bug::IgnoresReserve,
    ];
    find_planted(&bugs, plant, SEEDS, simulate);
}

#[test]
fn a_seed_gives_the_same_run_every_time() {
    assert_eq!(simulate(7), simulate(7));
}
