//! A few hundred seeded worlds; `make soak` simulates any number of them.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use bide_testkit::sim::{self, Act, Case, Disaster, TaskPlan};

/// The number of simulated worlds.
const SEEDS: u64 = 400;

/// Each of these happens in some of them.
const RARE: [&str; 64] = [
    "a body that kills its process",
    "a combination that is decided",
    "a condition that raises too often",
    "a lost lease",
    "a retry",
    "a run that begins later",
    "a run that completes beside one that kills",
    "a run that is deleted",
    "a run that is retried",
    "a run that times out",
    "a wait that is satisfied by hand",
    "a run that has grown",
    "a run that is suspected",
    "a signal that is sent twice",
    "a signal that satisfies a wait",
    "a step in the place of another",
    "a step that is recorded under another number",
    "a suspect that executes alone",
    "a timeout of a task",
    "an event that is committed",
    "a step that is tried again",
    "a step that is found by its key",
    "a step that was interrupted and is not executed again",
    "a checkpoint that drops a journal",
    "a body that continues where its checkpoint was",
    "a body that gets that its run is cancelled",
    "a deadline that is moved by hand",
    "a lease that is lost with commits",
    "a limit that is used up",
    "a share that an attempt leaves to another",
    "a mapped task",
    "a mapped task that follows another",
    "a task that takes the outputs of a mapped one",
    "a task that takes failures and outputs of a mapped one",
    "an element that may fail",
    "progress that is committed",
    "cancel",
    "pause",
    "resume",
    "retry",
    "satisfy",
    "extend",
    "poll_now",
    "skip",
    "a callback that is answered",
    "a callback that is dropped",
    "a callback that is rejected",
    "a child of an element that fails",
    "a child run",
    "a child run of an element",
    "a child that ends in another process than its parent",
    "a child that fails",
    "a request that a body takes",
    "a request that is answered",
    "a request that is refused",
    "a request that its sender withdraws",
    "an answer that reaches the sender of its request",
    "a second answer",
    "a run that a watch has started",
    "a server that loses its last commits",
    "an answer that is given twice",
    "an answer that satisfies a wait",
    "an answer to a callback that was dropped",
    "an answer to a run that has ended",
];

#[test]
fn every_guarantee_holds_in_every_world() {
    let threads = 2;
    let play = |first: u64| {
        let mut met = BTreeSet::new();
        for seed in (first..SEEDS).step_by(threads) {
            match sim::check_seed(seed) {
                Ok(outcome) => met.extend(outcome.met),
                Err(report) => panic!("{report}"),
            }
        }
        met
    };
    let met: BTreeSet<&str> = std::thread::scope(|scope| {
        let players: Vec<_> = (0..threads as u64).map(|first| scope.spawn(move || play(first))).collect();
        players.into_iter().flat_map(|player| player.join().unwrap()).collect()
    });
    let missing: Vec<&str> = RARE.into_iter().filter(|rare| !met.contains(rare)).collect();
    assert!(missing.is_empty(), "none of the worlds has in it: {missing:?}");
}

/// Each of these happens in some world of schedules.
const RARE_TICKS: [&str; 5] = [
    "a paused schedule",
    "a run that a user has triggered",
    "a run that the next one cancels",
    "a schedule of which each tick starts a run",
    "ticks that start no run",
];

#[test]
fn every_tick_is_decided_once_in_every_world_of_schedules() {
    let mut met = BTreeSet::new();
    for seed in 0..SEEDS / 4 {
        match sim::check_ticks(seed) {
            Ok(more) => met.extend(more),
            Err(report) => panic!("{report}"),
        }
    }
    let missing: Vec<&str> = RARE_TICKS.into_iter().filter(|rare| !met.contains(rare)).collect();
    assert!(missing.is_empty(), "none of the worlds has in it: {missing:?}");
}

#[test]
fn a_failing_case_is_made_small() {
    // The event to detect: a runner closes while a body sleeps.
    let fails = |case: &Case| {
        let sleeps = case.tasks.iter().flat_map(|task| &task.acts).any(|act| matches!(act, Act::Sleep(_)));
        let closes = case.disasters.iter().any(|(_, disaster)| matches!(disaster, Disaster::Close));
        if sleeps && closes { Err("it does".to_owned()) } else { Ok(()) }
    };
    let failing: Vec<Case> = (0..).map(Case::random).filter(|case| fails(case).is_err()).take(20).collect();
    for case in failing {
        let (small, _) = sim::shrink(&case, String::new(), &fails);
        let printed = small.to_string();
        let lines: Vec<&str> = printed.lines().collect();
        let [first, task, disaster] = lines[..] else { panic!("{case}becomes only\n{small}") };
        assert!(first.ends_with(": 1 slots, each run asked for [1] times"), "{first}");
        let number = small.tasks[0].number;
        let sleep = small.tasks[0].acts[0];
        assert_eq!(task, format!("  t{number}: [{sleep:?}] then [Return]"));
        assert_eq!(disaster, format!("  at move {}: Close", small.disasters[0].0));
    }
}

#[test]
fn a_seed_is_always_the_same_world() {
    for seed in 0..20 {
        let case = Case::random(seed);
        let digests = [(); 2].map(|()| sim::play(&case).map(|outcome| (outcome.moves, outcome.digest)));
        assert_eq!(digests[0], digests[1], "seed {seed}");
    }
}

#[test]
fn a_run_that_kills_is_found_out_while_it_is_paused_and_resumed() {
    let any = Case::random(0);
    let kills = TaskPlan { acts: vec![Act::Kills(Some(0))], ends: vec![sim::End::Return], ..plain(&any.added) };
    for at in 1..60 {
        let (letters, disasters) = (Vec::new(), vec![(at, Disaster::Pause(0, 2))]);
        let case = Case {
            seed: 3412,
            tasks: vec![kills.clone()],
            slots: 1,
            calls: vec![1; 3],
            letters,
            disasters,
            ..any.clone()
        };
        if let Err(why) = sim::check(&case) {
            panic!("{case}{why}");
        }
    }
}

/// A task without anything about it.
fn plain(of: &TaskPlan) -> TaskPlan {
    TaskPlan { number: 0, on: Vec::new(), gate: None, timeout: None, ..of.clone() }
}

#[test]
fn no_wake_in_24_days_is_early_or_lost_while_the_clock_is_set() {
    let case = Case::long_waits(24, 8);
    if let Err(why) = sim::check(&case) {
        panic!("{case}{why}");
    }
}
