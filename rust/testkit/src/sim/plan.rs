//! What happens in a simulated world: a workflow whose bodies are little programs, the callers, and the disasters.
//! All of it follows from the seed, and all of it can be printed and made smaller.

use std::fmt;
use std::time::Duration;

use bide_core::{GateSpec, GateUntil, Graph, PollPolicy, RetryPolicy, RunIf, TaskIx, TaskSpec};

use super::rng::Rng;
use crate::fault::Fault;

/// One simulated world.
#[derive(Clone, Debug)]
pub struct Case {
    /// Where all randomness comes from.
    pub seed: u64,
    /// The workflow.
    pub tasks: Vec<TaskPlan>,
    /// The first failure skips what has not started.
    pub fail_fast: bool,
    /// Slots of each process.
    pub slots: u32,
    /// For each run how often it is asked for, by its key.
    pub calls: Vec<u32>,
    /// What goes wrong, and when.
    pub disasters: Vec<(u32, Disaster)>,
    /// Time passes in leaps of at most so long while all threads wait.
    pub leap: Duration,
    /// The world must end within so many moves.
    pub most_moves: u32,
}

/// The lease thread looks at least so often while nothing else happens.
const LEAP: Duration = Duration::from_secs(4);

/// No random world takes so many moves.
const MOST_MOVES: u32 = 60_000;

/// A task.
#[derive(Clone, Debug)]
pub struct TaskPlan {
    /// The number it had when the case was made: its name stays when others are dropped.
    pub number: usize,
    /// The numbers of the tasks that it depends on.
    pub on: Vec<usize>,
    /// When it runs.
    pub run_if: RunIf,
    /// How often it is tried.
    pub retry: RetryPolicy,
    /// What must be satisfied before its body starts.
    pub gate: Option<Gate>,
    /// What each attempt does.
    pub acts: Vec<Act>,
    /// How the first, the second … attempt ends; the last stands for all further ones.
    pub ends: Vec<End>,
}

/// A gate.
#[derive(Clone, Copy, Debug)]
pub enum Gate {
    /// A condition that becomes true so many milliseconds after the world began.
    Until(u64),
    /// A span, in milliseconds.
    After(u64),
    /// A condition that never holds, with a timeout in milliseconds; whether that is retried.
    Never(u64, bool),
}

/// What a body does next.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Executes a step; false: it raises, and the body goes on.
    Step(bool),
    /// Waits for a condition that becomes true so many milliseconds after the world began; whether a poll is slow.
    Until(u64, bool),
    /// The same, of a condition that cannot be compared: it is asked again on every entry.
    Unprovable(u64),
    /// Waits for a condition that never holds until its timeout, in milliseconds, and goes on.
    TimesOut(u64),
    /// Sleeps, in milliseconds.
    Sleep(u64),
    /// Waits for what never comes, without a timeout.
    Forever,
}

/// How an attempt ends.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// It returns.
    Return,
    /// It raises; whether its policy covers that.
    Fail(bool),
    /// It skips itself.
    Skip,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
pub enum Disaster {
    /// A process dies between two moves.
    Crash,
    /// A process closes in good order.
    Close,
    /// The next call of a process's store goes wrong.
    Fault(Fault),
    /// A process dies, and of the next one's calls this one goes wrong.
    Birth(u64, Fault),
    /// Somebody sets the clock, by so many milliseconds.
    Jump(i64),
    /// A second process opens the store.
    Second,
}

/// Polls are so far apart.
pub(super) const EVERY: Duration = Duration::from_millis(400);

fn span(rng: &mut Rng) -> u64 {
    [1, 50, 700, 3_000, 20_000, 60_000][rng.below(6)] + rng.below(500) as u64
}

impl Act {
    fn random(rng: &mut Rng) -> Self {
        match rng.below(16) {
            0..4 => Self::Step(!rng.one_in(4)),
            4..8 => Self::Until(span(rng), rng.one_in(4)),
            8..10 => Self::Unprovable(span(rng)),
            10..12 => Self::TimesOut(span(rng)),
            _ => Self::Sleep(span(rng)),
        }
    }
}

impl TaskPlan {
    fn random(rng: &mut Rng, number: usize, shape: usize) -> Self {
        let before: Vec<usize> = match (shape, number) {
            (_, 0) => Vec::new(),
            // A chain, a fan, a fan and its join, two by two (diamonds), anything.
            (0, _) => vec![number - 1],
            (1, _) => vec![0],
            (2, n) if n % 4 == 3 => vec![n - 1, n - 2],
            (2, _) => vec![0],
            (3, n) if n % 3 == 0 => vec![n - 1, n - 2],
            (3, n) => vec![n - n % 3],
            _ => (0..rng.below(4)).map(|_| rng.below(number)).collect(),
        };
        let mut on = before;
        on.sort_unstable();
        on.dedup();
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
        let gate = rng.one_in(5).then(|| match rng.below(4) {
            0 => Gate::After(span(rng)),
            1 => Gate::Never(span(rng), rng.one_in(2)),
            _ => Gate::Until(span(rng)),
        });
        let acts = if rng.one_in(3) { 0 } else { rng.below(4) };
        let mut acts: Vec<Act> = (0..acts).map(|_| Act::random(rng)).collect();
        if rng.one_in(60) {
            acts.push(Act::Forever);
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
            _ => RunIf::Succeeded,
        };
        Self { number, on, run_if, retry, gate, acts, ends }
    }

    /// Many bodies that all wait for the same moment, and after each of them one that waits for nothing.
    fn crowd(rng: &mut Rng) -> Vec<Self> {
        let (pairs, moment) = (8 + rng.below(12), 500 + span(rng));
        (0..2 * pairs)
            .map(|number| Self {
                number,
                on: if number < pairs { Vec::new() } else { vec![number - pairs] },
                run_if: RunIf::Succeeded,
                retry: RetryPolicy::NONE,
                gate: None,
                acts: if number < pairs { vec![Act::Until(moment, false)] } else { Vec::new() },
                ends: vec![End::Return],
            })
            .collect()
    }

    fn spec(&self) -> TaskSpec {
        let gate = self.gate.map(|gate| {
            let (until, timeout) = match gate {
                Gate::Until(_) => (GateUntil::Condition, None),
                Gate::After(ms) => (GateUntil::After(Duration::from_millis(ms)), None),
                Gate::Never(ms, _) => (GateUntil::Condition, Some(Duration::from_millis(ms))),
            };
            GateSpec { name: "gate".into(), until, timeout }
        });
        TaskSpec {
            dependencies: self.on.iter().map(|on| format!("t{on}").into()).collect(),
            run_if: self.run_if,
            retry: self.retry,
            gate,
            wants_handle: true,
            ..TaskSpec::new(format!("t{}", self.number))
        }
    }

    /// How an attempt ends.
    #[must_use]
    pub fn end(&self, attempt: u32) -> End {
        self.ends[(attempt as usize - 1).min(self.ends.len() - 1)]
    }

    /// How its conditions and its gate are polled.
    #[must_use]
    pub fn policy() -> PollPolicy {
        PollPolicy { backoff: 1.5, max_every: 10 * EVERY, ..PollPolicy::every(EVERY) }
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
        match rng.below(16) {
            0..2 => Self::Crash,
            2 => Self::Birth(1 + rng.below(8) as u64, FAULTS[rng.below(6)]),
            3..5 => Self::Close,
            5..12 => Self::Fault(FAULTS[rng.below(6)]),
            // Minutes, or so little that it is taken for the clock's own drift.
            12..14 => Self::Jump(rng.below(1_200_000) as i64 - 600_000),
            14 => Self::Jump(rng.below(10) as i64 - 5),
            _ => Self::Second,
        }
    }
}

impl Case {
    /// The world of a seed.
    #[must_use]
    pub fn random(seed: u64) -> Self {
        let rng = &mut Rng::new(seed);
        let shape = rng.below(8);
        let crowd = rng.one_in(16);
        let tasks = if crowd {
            TaskPlan::crowd(rng)
        } else {
            (0..1 + rng.below(8)).map(|number| TaskPlan::random(rng, number, shape)).collect()
        };
        let calls = (0..1 + rng.below(3)).map(|_| 1 + rng.below(2) as u32).collect();
        // Many of them early, where runs are created and taken up.
        let mut disasters: Vec<(u32, Disaster)> = Vec::new();
        for _ in 0..rng.below(7) {
            let within = [40, 150, 400][rng.below(3)];
            disasters.push((rng.below(within) as u32, Disaster::random(rng)));
        }
        disasters.sort_by_key(|(at, _)| *at);
        let slots = if crowd { 1 + rng.below(2) } else { 1 + rng.below(4) } as u32;
        Self { seed, tasks, fail_fast: rng.one_in(6), slots, calls, disasters, leap: LEAP, most_moves: MOST_MOVES }
    }

    /// Waits for a time of every kind, one after the other, each of so many days; meanwhile somebody keeps setting the
    /// clock, and processes die.
    #[must_use]
    pub fn long_waits(seed: u64, days: u64) -> Self {
        const SLEEP: u32 = 30;
        let rng = &mut Rng::new(seed);
        let ms = days * 24 * 3600 * 1000;
        let task = |number: usize| TaskPlan {
            number,
            on: (0..number).collect(),
            run_if: RunIf::Succeeded,
            retry: RetryPolicy::NONE,
            gate: None,
            acts: Vec::new(),
            ends: vec![End::Return],
        };
        let delay = Duration::from_millis(ms);
        let retry = RetryPolicy { delay, max_delay: delay, jitter: 0.0, ..RetryPolicy::new(2) };
        let tasks = vec![
            TaskPlan { acts: vec![Act::Step(true), Act::Sleep(ms), Act::Step(true)], ..task(0) },
            TaskPlan { gate: Some(Gate::After(ms)), ..task(1) },
            TaskPlan { retry, ends: vec![End::Fail(true), End::Return], ..task(2) },
        ];
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
        let leap = Duration::from_secs(u64::from(SLEEP));
        Self { seed, tasks, fail_fast: false, slots: 1, calls: vec![1], disasters, leap, most_moves: 3 * leaps }
    }

    /// The same without disasters, each run asked for once.
    #[must_use]
    pub fn undisturbed(&self) -> Self {
        Self { disasters: Vec::new(), calls: vec![1; self.calls.len()], ..self.clone() }
    }

    /// Its workflow.
    ///
    /// # Panics
    /// If the generator made something that is no workflow.
    #[must_use]
    pub fn graph(&self) -> Graph {
        let specs = self.tasks.iter().map(TaskPlan::spec).collect();
        Graph::build("simulated", specs, self.fail_fast).unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// The tasks that may wait for ever: they do themselves, or something that they depend on does.
    #[must_use]
    pub fn endless(&self) -> Vec<bool> {
        let graph = self.graph();
        let mut endless: Vec<bool> =
            self.tasks.iter().map(|task| task.acts.iter().any(|act| matches!(act, Act::Forever))).collect();
        for &ix in graph.order() {
            let on = |dep: &TaskIx| endless[*dep as usize];
            endless[ix as usize] |= graph.dependencies(ix).iter().any(on);
        }
        endless
    }

    /// Cases that are smaller by one thing.
    #[must_use]
    pub fn smaller(&self) -> Vec<Self> {
        let mut found = Vec::new();
        for at in 0..self.disasters.len() {
            let mut case = self.clone();
            case.disasters.remove(at);
            found.push(case);
        }
        for at in 0..self.tasks.len() {
            if self.tasks.len() > 1 {
                let mut case = self.clone();
                let gone = case.tasks.remove(at).number;
                case.tasks.iter_mut().for_each(|task| task.on.retain(|on| *on != gone));
                found.push(case);
            }
            for act in 0..self.tasks[at].acts.len() {
                let mut case = self.clone();
                case.tasks[at].acts.remove(act);
                found.push(case);
            }
            if self.tasks[at].gate.is_some() {
                let mut case = self.clone();
                case.tasks[at].gate = None;
                found.push(case);
            }
        }
        if self.calls.len() > 1 {
            found.push(Self { calls: self.calls[1..].to_vec(), ..self.clone() });
        }
        if self.calls.iter().any(|calls| *calls > 1) {
            found.push(Self { calls: vec![1; self.calls.len()], ..self.clone() });
        }
        if self.fail_fast {
            found.push(Self { fail_fast: false, ..self.clone() });
        }
        found
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {} slots, calls of each run {:?}, fail_fast {}",
            self.seed, self.slots, self.calls, self.fail_fast
        )?;
        for task in &self.tasks {
            writeln!(
                f,
                "  t{} on {:?} run_if {:?}, {} attempts after {:?} (fresh {}), gate {:?}, does {:?}, ends {:?}",
                task.number,
                task.on,
                task.run_if,
                task.retry.attempts,
                task.retry.delay,
                task.retry.fresh,
                task.gate,
                task.acts,
                task.ends
            )?;
        }
        for (at, disaster) in &self.disasters {
            writeln!(f, "  at move {at}: {disaster:?}")?;
        }
        Ok(())
    }
}
