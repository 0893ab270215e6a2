//! A simulation of everybody around the Kernel, from one seed: services that ask and answer, a Doer
//! whose slots come and go, streams, cancels, crashes, reconnects, hostile messages, clock steps.
//!
//! After every event an observer, which sees only what passes the core's edge, checks the
//! invariants; at the end of a run everybody behaves, and nothing may be left. A failure names its
//! seed; `ISMS_SIM_SEED=n` replays it alone, `ISMS_SIM_SEEDS=n` sets how many are tried.

mod actor;
mod asking;
mod observer;
mod survival;
mod world;

use isms_simulation::{find_planted, run_all, seeds};

use crate::planted::{Bug, plant};
use world::World;

const SEEDS: u64 = 300;
const STEPS: usize = 1500;

/// Runs one seed to its end.
fn simulate(seed: u64) -> Tally {
    let mut world = World::new(seed);
    (0..STEPS).for_each(|_| world.step());
    world.quiesce();
    world.tally()
}

/// What a run has exercised.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    dispatched: u64,
    replied: u64,
    failed: u64,
    chunks: u64,
    closed: u64,
    waited: u64,
    kept: u64,
    survived: u64,
    resumed: u64,
    traced: u64,
}

#[test]
fn every_seed_keeps_every_invariant() {
    let mut sum = Tally::default();
    run_all(SEEDS, simulate, |tally| {
        sum.dispatched += tally.dispatched;
        sum.replied += tally.replied;
        sum.failed += tally.failed;
        sum.chunks += tally.chunks;
        sum.closed += tally.closed;
        sum.waited += tally.waited;
        sum.kept += tally.kept;
        sum.survived += tally.survived;
        sum.resumed += tally.resumed;
        sum.traced += tally.traced;
    });
    println!("exercised: {sum:?}");
    if seeds(SEEDS).count() as u64 >= SEEDS {
        let exercised = [
            sum.dispatched,
            sum.replied,
            sum.failed,
            sum.chunks,
            sum.closed,
            sum.waited,
            sum.kept,
            sum.survived,
            sum.traced,
        ];
        assert!(
            exercised.iter().all(|&count| count > SEEDS),
            "the simulation exercises too little: {sum:?}"
        );
    }
}

#[test]
fn the_simulator_finds_each_planted_bug() {
    let bugs = [
        Bug::KeepsEnded,
        Bug::OverCapacity,
        Bug::AnswersTwice,
        Bug::SkipsCredit,
        Bug::WrongClassOrder,
        Bug::LosesQueue,
        Bug::BelievesLate,
        Bug::BlamesCaller,
        Bug::KeepsChildren,
        Bug::LeaksSlot,
        Bug::ForgetsDemand,
        Bug::OverLimit,
        Bug::WaitsBehindLower,
        Bug::LeavesHeldUp,
        Bug::TellsAnybody,
        Bug::DiesWithCaller,
        Bug::EvictsAccepted,
        Bug::KeepsResults,
        Bug::CountsHeads,
        Bug::SparesDeleted,
        Bug::AcknowledgesEarly,
        Bug::TellsEarly,
        Bug::RunsTwice,
    ];
    find_planted(&bugs, plant, SEEDS, simulate);
}

#[test]
fn a_seed_gives_the_same_run_every_time() {
    let text = |seed| format!("{:?}", simulate(seed));
    assert_eq!(text(7), text(7));
}
