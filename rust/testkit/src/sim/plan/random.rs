//! Cases from seeds.

use std::time::Duration;

use bide_core::{RetryPolicy, RunIf};

use super::super::rng::Rng;
use super::others::CHILD_NUMBER;
use super::{Act, Case, Disaster, End, Gate, Letter, Sender, Several, Target, TaskPlan, Version};
use crate::fault::Fault;

/// The lease thread looks at least this often while nothing else happens.
const LEAP: Duration = Duration::from_secs(4);

/// A random world that takes more moves has hung.
const MOST_MOVES: u32 = 60_000;

/// The number of the task that a grown workflow has besides.
const ADDED: usize = 99;

/// Far longer than all that a body can lose by being stopped.
const GENEROUS: u64 = 600_000;

fn span(rng: &mut Rng) -> u64 {
    [1, 50, 700, 3_000, 20_000, 60_000][rng.below(6)] + rng.below(500) as u64
}

/// One of a few signals, so that several waits share one.
fn signal(rng: &mut Rng) -> u8 {
    rng.below(3) as u8
}

fn timeout(rng: &mut Rng) -> Option<u64> {
    rng.one_in(3).then(|| span(rng))
}

impl Several {
    fn random(rng: &mut Rng) -> Self {
        match rng.below(7) {
            0 => Self::SignalOrAfter(signal(rng), span(rng)),
            1 => Self::Either(signal(rng), signal(rng)),
            2 => Self::Both(signal(rng), signal(rng)),
            3 => Self::SignalAndUntil(signal(rng), span(rng)),
            4 => Self::SignalOrUntil(signal(rng), span(rng)),
            5 => Self::BothOrAfter(signal(rng), signal(rng), span(rng)),
            _ => Self::AfterAndEither(span(rng), signal(rng), span(rng)),
        }
    }
}

impl Letter {
    fn random(rng: &mut Rng, runs: usize) -> Self {
        let within = [30, 100, 300, 1_000][rng.below(4)];
        let from = [Sender::Owner, Sender::Any, Sender::Outside][rng.below(3)];
        let id = rng.one_in(3).then(|| rng.below(3) as u8);
        let to = match rng.below(6) {
            0..2 => Target::Answer(rng.below(4) as u8),
            2 => Target::Request,
            _ => Target::Signal(signal(rng)),
        };
        Self { at: rng.below(within) as u32, run: rng.below(runs), to, id, from }
    }
}

impl Act {
    fn random(rng: &mut Rng) -> Self {
        match rng.below(47) {
            44..46 => Self::Takes(timeout(rng)),
            46 => Self::Replies(rng.one_in(2)),
            36..38 => Self::Callback,
            38..40 => Self::Answer(timeout(rng)),
            40..42 => Self::Starts(rng.one_in(2).then(|| rng.below(2) as u8)),
            42..44 => Self::Joins(timeout(rng)),
            28..32 => Self::Signal(signal(rng), timeout(rng)),
            32..36 => Self::Several(Several::random(rng), timeout(rng)),
            0..3 => Self::Step(!rng.one_in(4)),
            3..5 => Self::Shuffled(3 + rng.below(6) as u8),
            5..9 => Self::Until(span(rng), rng.one_in(4)),
            9..11 => Self::Unprovable(span(rng)),
            11..13 => Self::TimesOut(span(rng)),
            13..17 => Self::Sleep(span(rng)),
            17 => Self::Raises,
            18 => Self::RaisesUntil(span(rng)),
            19..21 => Self::Works(1 + rng.below(4_000) as u64),
            21 => Self::Keyed(1 + rng.below(6) as u8),
            22 => Self::Flaky(1 + rng.below(3) as u8),
            23 => Self::Once,
            24 => Self::Checkpoint,
            _ => Self::Sets(rng.below(3) as u8),
        }
    }
}

/// What each task depends on: a chain, a fan, a fan and its join, two by two (diamonds), anything.
fn dependencies(rng: &mut Rng, number: usize, shape: usize) -> Vec<usize> {
    let mut on: Vec<usize> = match (shape, number) {
        (_, 0) => Vec::new(),
        (0, _) => vec![number - 1],
        (1, _) => vec![0],
        (2, n) if n % 4 == 3 => vec![n - 1, n - 2],
        (2, _) => vec![0],
        (3, n) if n % 3 == 0 => vec![n - 1, n - 2],
        (3, n) => vec![n - n % 3],
        _ => (0..rng.below(4)).map(|_| rng.below(number)).collect(),
    };
    on.sort_unstable();
    on.dedup();
    on
}

impl TaskPlan {
    fn random(rng: &mut Rng, number: usize, shape: usize) -> Self {
        let on = dependencies(rng, number, shape);
        let attempts = if rng.one_in(3) { 2 + rng.below(2) as u32 } else { 1 };
        let delay = Duration::from_millis(span(rng) / 4);
        let retry = RetryPolicy {
            attempts,
            delay,
            backoff: 2.0,
            max_delay: Duration::from_secs(60),
            jitter: 0.0,
            fresh: rng.one_in(4),
        };
        let gate = rng.one_in(4).then(|| match rng.below(7) {
            0 => Gate::After(span(rng)),
            1 => Gate::Never(span(rng), rng.one_in(2)),
            2 => Gate::Signal(signal(rng)),
            3..5 => Gate::Several(Several::random(rng)),
            _ => Gate::Until(span(rng)),
        });
        let acts = if rng.one_in(3) { 0 } else { rng.below(5) };
        let mut acts: Vec<Act> = (0..acts).map(|_| Act::random(rng)).collect();
        // Most callbacks and children are waited for, sooner or later.
        for at in (0..acts.len()).rev() {
            let wait = match acts[at] {
                Act::Callback => Act::Answer(timeout(rng)),
                Act::Starts(_) => Act::Joins(timeout(rng)),
                Act::Takes(_) => Act::Replies(!rng.one_in(3)),
                _ => continue,
            };
            if !rng.one_in(4) {
                acts.insert(at + 1 + rng.below(acts.len() - at), wait);
            }
            if rng.one_in(8) {
                acts.insert(at + 1, Act::Checkpoint);
            }
        }
        let works = 200 + rng.below(3_000) as u64;
        let timeout = match rng.below(12) {
            // Reached in one stretch, or in the second of two.
            0 => {
                acts.extend([Act::Works(works), Act::Step(true)]);
                Some((works / 2, rng.one_in(2)))
            }
            1 => {
                acts.extend([Act::Works(works), Act::Sleep(span(rng)), Act::Works(works), Act::Step(true)]);
                Some((works * 3 / 2, rng.one_in(2)))
            }
            // Never reached: what it sleeps is not counted.
            2 => {
                acts.extend([Act::Sleep(2 * GENEROUS), Act::Works(works)]);
                Some((GENEROUS, false))
            }
            _ => None,
        };
        if rng.one_in(60) {
            acts.push(Act::Forever);
        } else if rng.one_in(150) {
            acts.push(Act::Kills(rng.one_in(2).then(|| rng.below(3))));
        }
        let ends = (0..=rng.below(3))
            .map(|_| match rng.below(12) {
                0..3 => End::Fail(!rng.one_in(3)),
                3 if rng.one_in(3) => End::Skip,
                _ => End::Return,
            })
            .collect();
        let run_if = match rng.below(8) {
            0 => RunIf::Failed,
            1 => RunIf::Done,
            2 => RunIf::NoneFailed,
            _ => RunIf::Succeeded,
        };
        Self { number, on, run_if, retry, timeout, gate, map: None, gathers: false, limit: None, acts, ends }
    }

    /// Many bodies that all wait for the same moment, and after each of them one that waits for nothing.
    fn crowd(rng: &mut Rng) -> Vec<Self> {
        let (pairs, moment) = (8 + rng.below(12), 500 + span(rng));
        let waits = |number| Self { acts: vec![Act::Until(moment, false)], ..Self::plain(number) };
        let follows = |number| Self { on: vec![number - pairs], ..Self::plain(number) };
        (0..2 * pairs).map(|number| if number < pairs { waits(number) } else { follows(number) }).collect()
    }

    /// Bodies that record nothing for a while; in the first run one of them kills its process.
    fn beside_a_killer(rng: &mut Rng) -> Vec<Self> {
        let killer = rng.below(3);
        let task = |number: usize| {
            let works = Act::Works(1 + rng.below(3_000) as u64);
            let kills = (number == killer).then_some(Act::Kills(Some(0)));
            Self { acts: [works].into_iter().chain(kills).collect(), ..Self::plain(number) }
        };
        (0..3).map(task).collect()
    }

    /// A task of a child run.
    fn of_child(rng: &mut Rng, number: usize) -> Self {
        let mut task = Self::random(rng, number, 0);
        task.acts.retain(|act| act.fits_a_child());
        task.number += CHILD_NUMBER;
        task.on.iter_mut().for_each(|on| *on += CHILD_NUMBER);
        task
    }

    /// A task that always completes.
    fn added(rng: &mut Rng, tasks: usize) -> Self {
        let on = if rng.one_in(2) { vec![rng.below(tasks)] } else { Vec::new() };
        Self { on, run_if: RunIf::Done, acts: vec![Act::Step(true)], ..Self::plain(ADDED) }
    }
}

impl Disaster {
    fn random(rng: &mut Rng) -> Self {
        const FAULTS: [Fault; 6] = [
            Fault::Unavailable,
            Fault::Busy,
            Fault::UnknownBefore,
            Fault::UnknownAfter,
            Fault::CrashBefore,
            Fault::CrashAfter,
        ];
        match rng.below(26) {
            0..2 => Self::Crash,
            2..4 => Self::Birth(1 + rng.below(8) as u64, FAULTS[rng.below(6)]),
            4..6 => Self::Close,
            6..16 => Self::Fault(FAULTS[rng.below(6)]),
            // Minutes, or too little to be distinguished from the clock's own drift.
            16..18 => Self::Jump(rng.below(1_200_000) as i64 - 600_000),
            18 => Self::Jump(rng.below(10) as i64 - 5),
            19 => Self::Second,
            // Shorter and longer than a lease.
            20..23 => Self::Freeze(1_000 + rng.below(40_000) as u64),
            23..25 => Self::Deploy([Version::First, Version::Grown, Version::Shrunk][rng.below(3)]),
            _ => Self::Stranger,
        }
    }
}

impl Case {
    /// The world of a seed.
    #[must_use]
    pub fn random(seed: u64) -> Self {
        let rng = &mut Rng::new(seed);
        let shape = rng.below(8);
        let (crowd, killer) = (rng.one_in(16), rng.one_in(24));
        let mut tasks = if crowd {
            TaskPlan::crowd(rng)
        } else if killer {
            TaskPlan::beside_a_killer(rng)
        } else {
            (0..1 + rng.below(8)).map(|number| TaskPlan::random(rng, number, shape)).collect()
        };
        let added = TaskPlan::added(rng, tasks.len());
        let child = (0..1 + rng.below(2)).map(|number| TaskPlan::of_child(rng, number)).collect();
        let runs = if killer { 3 } else { 1 + rng.below(3) };
        let calls = (0..runs).map(|_| 1 + rng.below(2) as u32).collect();
        let mut letters: Vec<Letter> = (0..rng.below(8) * rng.below(3)).map(|_| Letter::random(rng, runs)).collect();
        letters.sort_by_key(|letter| letter.at);
        // Many of them early, where runs are created and claimed.
        let mut disasters: Vec<(u32, Disaster)> = Vec::new();
        for _ in 0..rng.below(9) {
            let within = [20, 60, 150, 400][rng.below(4)];
            disasters.push((rng.below(within) as u32, Disaster::random(rng)));
        }
        // From a source of their own: what they are does not change what else a world has in it.
        let requests = &mut Rng::new(seed ^ 0xc0_0717);
        for _ in 0..requests.below(4) * requests.below(2) {
            let (at, run) = (requests.below(200) as u32, requests.below(runs));
            let request = match requests.below(5) {
                0 => Disaster::Cancel(run),
                _ => Disaster::Pause(run, requests.below(120) as u32),
            };
            disasters.push((at, request));
        }
        disasters.sort_by_key(|(at, _)| *at);
        let maps = &mut Rng::new(seed ^ 0x3a9);
        if !crowd && !killer && maps.one_in(3) {
            for task in &mut tasks {
                if maps.one_in(2) {
                    task.be_mapped(maps);
                }
                task.gathers = maps.one_in(3);
            }
        }
        let slots = if crowd { 1 + rng.below(2) } else { 1 + rng.below(4) } as u32;
        let fail_fast = rng.one_in(6);
        let drift = [0, 400, -400][rng.below(3)];
        let case =
            Self { seed, tasks, added, child, fail_fast, slots, calls, letters, disasters, drift, ..Self::plain() };
        let hand = &mut Rng::new(seed ^ 0x4a_4d);
        if killer {
            return case;
        }
        let case = case.handled(hand).limited(&mut Rng::new(seed ^ 0x117)).watched(&mut Rng::new(seed ^ 0x3a7c));
        case.on_server(&mut Rng::new(seed ^ 0x5e7_4e7))
    }

    /// A world without anything.
    fn plain() -> Self {
        Self {
            seed: 0,
            tasks: Vec::new(),
            added: TaskPlan::plain(ADDED),
            child: vec![TaskPlan::plain(CHILD_NUMBER)],
            fail_fast: false,
            slots: 1,
            calls: vec![1],
            starts: Vec::new(),
            watched: Vec::new(),
            limit: None,
            retries: Vec::new(),
            deletes: false,
            letters: Vec::new(),
            disasters: Vec::new(),
            server: None,
            drift: 0,
            leap: LEAP,
            most_moves: MOST_MOVES,
        }
    }

    /// Waits for a time of every kind, one after the other, each of `days` days; meanwhile an operator keeps setting
    /// the clock, and processes die.
    #[must_use]
    pub fn long_waits(seed: u64, days: u64) -> Self {
        // Longer than the timers' thread may sleep: that it looks at the wall again is not the world's doing.
        const LEAP: u64 = 60;
        const SLEEP: u32 = 30;
        let rng = &mut Rng::new(seed);
        let ms = days * 24 * 3600 * 1000;
        let task = |number: usize| TaskPlan { on: (0..number).collect(), ..TaskPlan::plain(number) };
        let delay = Duration::from_millis(ms);
        let retry = RetryPolicy { delay, max_delay: delay, jitter: 0.0, ..RetryPolicy::new(2) };
        let tasks = vec![
            TaskPlan { acts: vec![Act::Step(true), Act::Sleep(ms), Act::Step(true)], ..task(0) },
            TaskPlan { gate: Some(Gate::After(ms)), ..task(1) },
            TaskPlan { retry, ends: vec![End::Fail(true), End::Return], ..task(2) },
        ];
        let added = TaskPlan::added(rng, tasks.len());
        let leaps = (3 * ms / 1000) as u32 / SLEEP;
        let mut disasters: Vec<(u32, Disaster)> = (0..200)
            .map(|n| {
                let disaster = if n % 50 == 0 {
                    Disaster::Crash
                } else {
                    Disaster::Jump(rng.below(40_000_000) as i64 - 20_000_000)
                };
                (rng.below(leaps as usize) as u32, disaster)
            })
            .collect();
        disasters.sort_by_key(|(at, _)| *at);
        let (leap, most_moves) = (Duration::from_secs(LEAP), 3 * leaps);
        Self { seed, tasks, added, disasters, leap, most_moves, ..Self::plain() }
    }
}
