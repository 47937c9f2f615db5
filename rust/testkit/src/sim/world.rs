//! The seeded scheduler: who moves next, when time passes, what goes wrong; and how a world ends.

use std::sync::Arc;
use std::time::Duration;

use bide_core::record::RunRowId;
use bide_core::recover::MAX_CRASHES;
use bide_core::{RunStatus, TaskIx, TaskStatus};
use bide_executor::Clock;
use bide_store::{MemoryStore, RunFilter, Store};
use bide_sync::Mutex;

use super::oracle::Oracle;
use super::plan::{Case, Disaster};
use super::process::{Process, Shared};
use super::rng::Rng;
use crate::clock::VirtualClock;
use crate::fault::{Fault, FaultyStore};

/// How one task of a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskEnd {
    /// Where it stands; `None` if nothing was ever written of it.
    pub status: Option<TaskStatus>,
    /// Tries.
    pub attempts: u32,
    /// What it returned.
    pub output: Option<Vec<u8>>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunEnd {
    /// Where it stands.
    pub status: RunStatus,
    /// Its tasks.
    pub tasks: Vec<TaskEnd>,
}

/// What became of a world.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The runs, by key.
    pub runs: Vec<RunEnd>,
    /// So many moves were made.
    pub moves: u32,
    /// Changes with anything that was committed or decided.
    pub digest: u64,
}

struct World {
    shared: Shared,
    base: Arc<MemoryStore>,
    rng: Rng,
    processes: Vec<Process>,
    /// The calls that were not made yet, by run.
    calls: Vec<usize>,
    disasters: Vec<(u32, Disaster)>,
    /// What goes wrong with the next process to start.
    birth_fault: Option<(u64, Fault)>,
    /// A process that closes, and at which move it is done with it.
    closing_until: u32,
    moves: u32,
    /// So many processes have ended.
    ends: u32,
}

/// Plays a case to its end.
///
/// # Errors
/// Says which guarantee was broken, and what happened before.
pub fn play(case: &Case) -> Result<Outcome, String> {
    let graph = Arc::new(case.graph());
    let shared = Shared {
        case: Arc::new(case.clone()),
        oracle: Arc::new(Mutex::new(Oracle::new(Arc::clone(&graph)))),
        clock: VirtualClock::new(),
        graph,
    };
    let calls = case.calls.iter().enumerate().flat_map(|(run, calls)| std::iter::repeat_n(run, *calls as usize));
    let mut world = World {
        base: MemoryStore::new(),
        rng: Rng::new(case.seed ^ 0xb1de),
        processes: Vec::new(),
        calls: calls.collect(),
        disasters: case.disasters.clone(),
        birth_fault: None,
        closing_until: u32::MAX,
        moves: 0,
        ends: 0,
        shared,
    };
    world.play().map_err(|why| world.report(&why))
}

fn key(run: usize) -> String {
    format!("run {run}")
}

impl World {
    fn play(&mut self) -> Result<Outcome, String> {
        while self.moves < self.shared.case.most_moves {
            self.moves += 1;
            self.strike();
            self.shared.oracle.lock().wall_shows(self.shared.clock.now());
            let quiet = self.step();
            if let Some(first) = self.shared.oracle.lock().violations.first() {
                return Err(first.clone());
            }
            if quiet && self.is_finished() {
                return self.finish();
            }
        }
        Err("a run does not end, and nothing says what it waits for".to_owned())
    }

    /// One move of somebody. True if all that is left to do is to wait for time.
    fn step(&mut self) -> bool {
        self.bury();
        if self.processes.is_empty() {
            self.start_process();
            return false;
        }
        if !self.calls.is_empty() && self.rng.one_in(10) {
            let at = self.rng.below(self.calls.len());
            let which = self.rng.below(self.processes.len());
            if self.processes[which].submit(&key(self.calls[at])) {
                self.calls.swap_remove(at);
            }
            return false;
        }
        let which = self.rng.below(self.processes.len());
        let moves = self.processes[which].moves();
        if moves.is_empty() {
            let all_wait = self.processes.iter_mut().all(|process| process.moves().is_empty());
            return all_wait && self.wait();
        }
        match self.rng.below(24) {
            0..2 => self.pass(Duration::from_micros(self.shared.clock.steady().subsec_micros() as u64 % 1700 + 1)),
            2 => drop(self.processes[which].time_has_passed(true)),
            3..5 => drop(self.processes[which].time_has_passed(false)),
            _ => {
                let chosen = moves[self.rng.below(moves.len())];
                self.processes[which].make(chosen, &mut self.rng);
            }
        }
        false
    }

    /// All threads wait: time passes until one of them has something to do. True if nothing came of it.
    fn wait(&mut self) -> bool {
        let mut span = self.shared.case.leap;
        for process in &mut self.processes {
            let lease = self.rng.one_in(2);
            span = span.min(process.time_has_passed(lease));
            process.look_at_handles();
        }
        if self.processes.iter_mut().any(|process| !process.moves().is_empty()) {
            return false;
        }
        self.pass(span.max(Duration::from_micros(1)));
        true
    }

    fn pass(&mut self, span: Duration) {
        self.shared.clock.advance(span);
        self.shared.oracle.lock().wall_shows(self.shared.clock.now());
    }

    /// What is to go wrong at this move goes wrong.
    fn strike(&mut self) {
        while let Some((_, disaster)) = self.disasters.first().copied().filter(|(at, _)| *at <= self.moves) {
            self.disasters.remove(0);
            self.shared.oracle.lock().note(format!("move {}: {disaster:?}", self.moves));
            if let Disaster::Jump(milliseconds) = disaster {
                self.shared.clock.set_wall_by(milliseconds);
                continue;
            }
            if let Disaster::Second = disaster {
                self.start_process();
                continue;
            }
            if self.processes.is_empty() {
                continue;
            }
            let which = self.rng.below(self.processes.len());
            match disaster {
                Disaster::Crash => self.kill(which),
                Disaster::Birth(call, fault) => {
                    self.kill(which);
                    self.birth_fault = Some((call, fault));
                }
                Disaster::Close => {
                    self.processes[which].begin_close();
                    self.closing_until = self.moves + self.rng.below(30) as u32;
                }
                Disaster::Fault(fault) => self.processes[which].store.fail_next(fault),
                Disaster::Jump(_) | Disaster::Second => {}
            }
        }
    }

    /// A process is no more; nothing that it had in its hands is written.
    fn kill(&mut self, which: usize) {
        self.ends += 1;
        drop(self.processes.remove(which));
    }

    /// Takes away processes that have ended.
    fn bury(&mut self) {
        let over = self.moves >= self.closing_until;
        let mut at = 0;
        while at < self.processes.len() {
            let process = &self.processes[at];
            if process.is_over() || (over && process.closes()) {
                self.ends += 1;
                self.processes.remove(at).finish_close();
            } else {
                at += 1;
            }
        }
        if over {
            self.closing_until = u32::MAX;
        }
    }

    fn start_process(&mut self) {
        let store = FaultyStore::new(Arc::clone(&self.base) as Arc<dyn Store>);
        if let Some((call, fault)) = self.birth_fault.take() {
            store.fail(call, fault);
        }
        let seed = self.rng.number();
        match Process::start(&self.shared, store, seed) {
            Ok(process) => self.processes.push(process),
            Err(error) => self.shared.oracle.lock().note(format!("does not start: {error}")),
        }
    }

    fn runs(&self) -> Vec<(RunRowId, RunStatus, Option<Arc<str>>)> {
        let rows = self.base.list(&RunFilter::default()).unwrap_or_default();
        rows.into_iter().map(|row| (row.id.row(), row.status, row.blocked_by)).collect()
    }

    /// Whether all calls were made, all disasters have struck, and every run has ended or waits for ever.
    fn is_finished(&self) -> bool {
        let endless = self.shared.case.endless();
        self.calls.is_empty()
            && self.disasters.is_empty()
            && self.closing_until == u32::MAX
            && self.runs().iter().all(|(run, status, _)| {
                status.is_ended()
                    || *status == RunStatus::Paused
                    || self.shared.oracle.lock().what_is_left_is_nameable(*run, &endless)
            })
    }

    fn finish(&mut self) -> Result<Outcome, String> {
        let alone = self.shared.case.disasters.iter().all(|(_, disaster)| !matches!(disaster, Disaster::Second));
        let all_over = self.runs().iter().all(|(_, status, _)| *status != RunStatus::Running);
        for process in &self.processes {
            process.must_be_idle(alone && all_over);
            process.look_at_handles();
        }
        let mut runs = Vec::new();
        for number in 0..self.shared.case.calls.len() {
            let ids = self.base.by_key(&key(number), None).unwrap_or_default();
            let [(id, _)] = ids[..] else { return Err(format!("the key of run {number} has {} runs", ids.len())) };
            let Ok(Some(stored)) = self.base.load(id) else { return Err(format!("run {number} is gone")) };
            let paused = stored.run.status == RunStatus::Paused;
            let suspected = stored.run.blocked_by.as_ref().is_some_and(|why| why.contains("died"));
            if paused && !(suspected && self.ends > MAX_CRASHES) {
                let (why, ends) = (&stored.run.blocked_by, self.ends);
                return Err(format!("run {number} is paused for no reason after {ends} processes: {why:?}"));
            }
            let oracle = self.shared.oracle.lock();
            let tasks = (0..self.shared.graph.len() as TaskIx).map(|ix| {
                let task = oracle.task(id.row(), ix);
                TaskEnd {
                    status: task.map(|task| task.status),
                    attempts: task.map_or(0, |task| task.attempts),
                    output: task.and_then(|task| task.output.clone()),
                }
            });
            runs.push(RunEnd { status: stored.run.status, tasks: tasks.collect() });
        }
        if self.runs().len() != self.shared.case.calls.len() {
            return Err(format!("{} runs for {} keys", self.runs().len(), self.shared.case.calls.len()));
        }
        let oracle = self.shared.oracle.lock();
        match oracle.violations.first() {
            Some(first) => Err(first.clone()),
            None => Ok(Outcome { runs, moves: self.moves, digest: oracle.digest }),
        }
    }

    fn report(&self, why: &str) -> String {
        let oracle = self.shared.oracle.lock();
        let trace: Vec<&str> = oracle.trace.iter().map(String::as_str).collect();
        let processes: Vec<String> = self.processes.iter().map(Process::describe).collect();
        format!(
            "{why}\nafter {} moves; runs {:?}; processes: {processes:?}\nlately:\n  {}",
            self.moves,
            self.runs(),
            trace.join("\n  ")
        )
    }
}
