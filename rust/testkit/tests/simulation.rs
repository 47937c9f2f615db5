//! A few hundred seeded worlds; `make soak` plays as many as one likes.

use bide_testkit::sim;

/// So many worlds are played.
const SEEDS: u64 = 300;

#[test]
fn every_guarantee_holds_in_every_world() {
    let threads = 2;
    std::thread::scope(|scope| {
        for first in 0..threads {
            scope.spawn(move || {
                for seed in (first..SEEDS).step_by(threads as usize) {
                    if let Err(report) = sim::check_seed(seed) {
                        panic!("{report}");
                    }
                }
            });
        }
    });
}

#[test]
fn a_seed_is_always_the_same_world() {
    for seed in 0..20 {
        let case = sim::Case::random(seed);
        let digests = [(); 2].map(|()| sim::play(&case).map(|outcome| (outcome.moves, outcome.digest)));
        assert_eq!(digests[0], digests[1], "seed {seed}");
    }
}

#[test]
fn no_wake_of_24_days_is_early_or_lost_while_the_clock_is_set_again_and_again() {
    let case = sim::Case::long_waits(24, 8);
    if let Err(why) = sim::check(&case) {
        panic!("{case}{why}");
    }
}
