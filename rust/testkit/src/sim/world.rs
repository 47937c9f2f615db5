//! The seeded scheduler: which process moves next, when time passes, what goes wrong, and how a world ends.

mod disasters;
mod mail;
mod servers;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bide_core::record::{RunRow, RunRowId};
use bide_core::watches::run_key;
use bide_core::{BlockReason, RunStatus, TaskIx, TaskStatus};
use bide_executor::Clock;
use bide_store::{Limits, MemoryStore, RunFilter, Store};
use bide_sync::Mutex;

use super::oracle::Oracle;
use super::plan::{Case, Disaster, Letter, MOST, Version};
use super::process::{Process, Shared};
use super::rng::Rng;
use crate::clock::VirtualClock;
use crate::fault::Fault;
use crate::server::SharedServer;
use servers::Before;

/// How one task of a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskEnd {
    /// Where it stands; `None` if nothing was ever written of it.
    pub status: Option<TaskStatus>,
    /// Tries.
    pub attempts: u32,
    /// What it returned.
    pub output: Option<Vec<u8>>,
    /// Its changes of the context.
    pub changes: Option<Arc<[u8]>>,
    /// The type of what it last failed with.
    pub failure: Option<String>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunEnd {
    /// Where it stands.
    pub status: RunStatus,
    /// It was cancelled. Bodies of it may still clean up.
    pub cancelled: bool,
    /// Its results depend on what somebody has asked.
    pub touched: bool,
    /// Its time was over.
    pub expired: bool,
    /// A child of it is paused, so that it may wait for ever.
    pub stuck: bool,
    /// Its tasks.
    pub tasks: Vec<TaskEnd>,
    /// The elements of its mapped tasks.
    pub elements: Vec<TaskEnd>,
}

/// What became of a world.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The runs, by key. A run that only a shrunk workflow has ever had has fewer tasks.
    pub runs: Vec<RunEnd>,
    /// How many moves were made.
    pub moves: u32,
    /// Changes with anything that was committed or decided.
    pub digest: u64,
    /// The rare events that happened in it.
    pub met: BTreeSet<&'static str>,
    /// What happened last, for the report of a failure.
    pub lately: String,
}

struct World {
    /// What its processes share.
    shared: Shared,
    /// The store of all processes, without faults.
    base: Arc<MemoryStore>,
    /// Every choice that is made.
    rng: Rng,
    /// The processes that live.
    processes: Vec<Process>,
    /// The calls that were not made yet, by run.
    calls: Vec<usize>,
    /// The messages that were not sent yet.
    letters: Vec<Letter>,
    /// At which move somebody resumes which run.
    resumes: Vec<(u32, usize)>,
    /// The retries that nobody has asked for yet.
    retries: Vec<(usize, bool)>,
    /// How often in a row the lease thread had no turn while all waited.
    without_lease: u32,
    /// How many messages were sent.
    sent: u64,
    /// What is still to go wrong, and at which move.
    disasters: Vec<(u32, Disaster)>,
    /// What goes wrong with the next process to start.
    birth_fault: Option<(u64, Fault)>,
    /// At which move the process that is closing has finished.
    closing_until: u32,
    /// How many moves were made.
    moves: u32,
    /// The code that processes have which start from now on.
    version: Version,
    /// The server that the store is.
    server: Arc<SharedServer>,
    /// How many processes have started.
    started: usize,
    /// What there was before each of the last moves, as long as the server may lose some of it.
    before: VecDeque<Before>,
}

/// Plays a case to its end.
///
/// # Errors
/// Says which guarantee was broken, and what happened before.
pub fn play(case: &Case) -> Result<Outcome, String> {
    let shared = Shared {
        case: Arc::new(case.clone()),
        oracle: Arc::new(Mutex::new(Oracle::new(case))),
        clock: VirtualClock::new(),
        script: None,
    };
    shared.clock.drift(case.drift);
    let calls = case.calls.iter().enumerate().flat_map(|(run, calls)| std::iter::repeat_n(run, *calls as usize));
    let server = SharedServer::new(Arc::clone(&shared.clock) as Arc<dyn Clock>);
    let mut world = World {
        server,
        started: 0,
        before: VecDeque::new(),
        base: MemoryStore::new(),
        rng: Rng::new(case.seed ^ 0xb1de),
        processes: Vec::new(),
        calls: calls.collect(),
        letters: case.letters.clone(),
        resumes: Vec::new(),
        retries: case.retries.clone(),
        without_lease: 0,
        sent: 0,
        disasters: case.disasters.clone(),
        birth_fault: None,
        closing_until: u32::MAX,
        moves: 0,
        version: Version::First,
        shared,
    };
    world.play().map_err(|why| world.report(&why))
}

/// The name of the watch, if there is one.
pub(super) const WATCH: &str = "runs";

/// The key of the item for which the watch starts a run.
pub(super) fn item_of(run: usize) -> String {
    run.to_string()
}

/// The key of a run, also if the watch starts it.
pub(super) fn key_of(run: usize) -> String {
    run_key(WATCH, &item_of(run)).to_string()
}

/// Whether a run is paused on request.
fn is_held(row: &RunRow) -> bool {
    row.status == RunStatus::Paused && row.blocked_by.as_ref().is_some_and(BlockReason::is_requested)
}

impl World {
    fn play(&mut self) -> Result<Outcome, String> {
        while self.moves < self.shared.case.most_moves {
            self.moves += 1;
            self.remember();
            self.strike();
            self.deliver();
            self.shared.oracle.lock().wall_shows(self.shared.clock.now());
            let quiet = self.step();
            self.shared.oracle.lock().is_of_lost = false;
            self.limits_hold();
            if let Some(first) = self.shared.oracle.lock().violations.first() {
                return Err(first.clone());
            }
            if quiet {
                self.supply();
            }
            if quiet && self.is_finished() && !self.retries() {
                return self.finish();
            }
            if quiet && self.only_foreign_runs_remain() {
                self.deploy(Version::Grown);
            }
        }
        Err("a run does not end, and nothing says what it waits for".to_owned())
    }

    /// One move of a process or caller. True if there is nothing to do but to wait for time.
    fn step(&mut self) -> bool {
        self.remove_ended();
        if self.processes.is_empty() {
            self.start_process();
            return false;
        }
        if !self.calls.is_empty() && self.rng.one_in(10) {
            let at = self.rng.below(self.calls.len());
            let which = self.rng.below(self.processes.len());
            self.judge(which);
            if self.processes[which].submit(&key_of(self.calls[at])) {
                self.calls.swap_remove(at);
            }
            return false;
        }
        let which = self.rng.below(self.processes.len());
        self.judge(which);
        if self.processes[which].is_frozen() {
            let all_are = self.processes.iter().all(Process::is_frozen);
            return all_are && self.wait();
        }
        let moves = self.processes[which].moves();
        if moves.is_empty() {
            let all_wait = self.processes.iter_mut().all(|process| process.is_frozen() || process.moves().is_empty());
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

    /// No limit is exceeded, by all processes together.
    fn limits_hold(&self) {
        let entered: Vec<_> = self.processes.iter().flat_map(Process::limited).collect();
        self.shared.oracle.lock().no_limit_is_exceeded(&self.shared.case, &entered);
    }

    /// No limit leaks: once all runs have ended nothing is used.
    fn no_limit_leaks(&self) -> Result<(), String> {
        let ended = self.rows().iter().all(|row| row.status.is_ended());
        for info in self.base.limits(self.shared.clock.now()).unwrap_or_default() {
            if let Some(used) = info.uses.iter().find(|used| ended && used.executing + used.in_flight > 0) {
                return Err(format!("{} leaks: {used:?}", info.spec));
            }
        }
        Ok(())
    }

    /// All threads wait: time passes until one of them has something to do. True if that did not help.
    fn wait(&mut self) -> bool {
        let (mut span, now) = (self.shared.case.leap, self.shared.clock.steady());
        for process in &mut self.processes {
            self.shared.oracle.lock().judges(process.runner());
            if process.is_frozen() {
                span = span.min(process.frozen_until - now);
                continue;
            }
            // A process that misses many turns of its lease thread says nothing about a look that comes too late.
            let lease = self.rng.one_in(2) || self.without_lease >= 4;
            self.without_lease = if lease { 0 } else { self.without_lease + 1 };
            span = span.min(process.time_has_passed(lease));
            process.look_at_handles();
            process.look_for_answers();
        }
        let thawed = |process: &&mut Process| !process.is_frozen();
        if self.processes.iter_mut().filter(thawed).any(|process| !process.moves().is_empty()) {
            return false;
        }
        self.shared.oracle.lock().is_of_lost = false;
        self.nothing_is_late();
        let quiet = !self.processes.iter().any(Process::is_frozen);
        self.pass(span.max(Duration::from_micros(1)));
        quiet
    }

    /// All threads of all processes have had their turn.
    fn nothing_is_late(&mut self) {
        for process in self.processes.iter().filter(|process| !process.is_frozen() && !process.is_over()) {
            process.nothing_is_overdue();
        }
        let rows = self.rows();
        let (now, steady) = (self.shared.clock.now(), self.shared.clock.steady());
        let executed = |run: RunRowId| {
            let row = rows.iter().find(|row| row.id.row() == run && row.status == RunStatus::Running);
            let runner = row.and_then(|row| row.runner);
            runner.is_some_and(|runner| self.processes.iter().any(|it| it.is_runner(runner) && !it.is_frozen()))
        };
        let limits = self.base.limits(now).unwrap_or_default();
        let idle = self.processes.iter().all(|process| !process.is_frozen() && !process.is_over() && !process.closes());
        let mut oracle = self.shared.oracle.lock();
        oracle.nobody_is_held_back_beside_room(steady, &limits, idle);
        let may_start = |run: RunRowId| {
            let runner = rows.iter().find(|row| row.id.row() == run).and_then(|row| row.runner);
            runner.is_some_and(|runner| self.processes.iter().any(|it| it.is_runner(runner) && it.has_free_slot()))
        };
        oracle.no_time_is_missed(now, steady, executed, may_start);
        oracle.no_run_outlives_its_deadline(now, steady, executed);
        let queued = |run: RunRowId| self.queued(&rows, run);
        oracle.no_wait_is_passed_over(steady, executed, queued);
        oracle.no_answer_is_passed_over(steady, executed);
        oracle.no_end_of_a_child_is_missed(steady, executed);
    }

    fn pass(&mut self, span: Duration) {
        self.shared.clock.advance(span);
        self.shared.oracle.lock().wall_shows(self.shared.clock.now());
    }

    fn start_process(&mut self) {
        let (store, ahead) = self.client();
        if let Some((call, fault)) = self.birth_fault.take() {
            store.fail(call, fault);
        }
        let seed = self.rng.number();
        match Process::start(&self.shared, self.version, store, ahead, seed) {
            Ok(process) => self.processes.push(process),
            Err(error) => self.shared.oracle.lock().note(format!("does not start: {error}")),
        }
    }

    fn rows(&self) -> Vec<RunRow> {
        self.base.list(&RunFilter::default()).unwrap_or_default().into_iter().map(|stored| stored.run).collect()
    }

    fn runs(&self) -> Vec<(RunRowId, RunStatus, Option<BlockReason>)> {
        self.rows().into_iter().map(|row| (row.id.row(), row.status, row.blocked_by)).collect()
    }

    /// Whether all calls were made, all disasters have struck, and every run has ended or waits for ever.
    fn is_finished(&self) -> bool {
        let started = |run| !self.base.by_key(&key_of(run), None).unwrap_or_default().is_empty();
        self.nothing_is_to_come()
            && (0..self.shared.case.watched.len()).all(|run| !self.shared.case.is_watched(run) || started(run))
            && !self.processes.iter().any(Process::works)
            && self.rows().iter().all(|row| {
                row.status.is_ended()
                    || (row.status == RunStatus::Paused && !is_held(row))
                    || (row.parent.is_none() && !is_held(row) && self.waits_for_ever(row))
            })
    }

    /// Whether a run waits for what never comes: because its bodies do, or for a child that is paused.
    fn waits_for_ever(&self, row: &RunRow) -> bool {
        let (case, oracle) = (&self.shared.case, self.shared.oracle.lock());
        let paused = |ix: TaskIx| oracle.waits_for_a_paused_child(row.id.row(), ix);
        oracle.what_is_left_is_nameable(row.id.row(), &case.endless(paused)[..self.size_of(row)])
    }

    /// How many tasks the version of a run has.
    fn size_of(&self, row: &RunRow) -> usize {
        let versions = [Version::Shrunk, Version::First, Version::Grown].into_iter();
        let graphs = versions.map(|version| self.shared.case.graph(version));
        graphs.filter(|graph| *graph.version() == *row.version).map(|graph| graph.len()).next().unwrap_or(0)
    }

    fn nothing_is_to_come(&self) -> bool {
        let asked = self.letters.is_empty() && self.resumes.is_empty();
        self.calls.is_empty() && asked && self.disasters.is_empty() && self.closing_until == u32::MAX
    }

    /// Whether only runs remain that no process has the code for, and each process reports that.
    fn only_foreign_runs_remain(&self) -> bool {
        let rows = self.rows();
        let is_open = |row: &&RunRow| matches!(row.status, RunStatus::Pending | RunStatus::Running) || is_held(row);
        let mut unfinished = rows.iter().filter(is_open).peekable();
        let says_so = |process: &Process, row: &RunRow| process.why_not(row).is_some_and(|why| why.have.is_some());
        self.nothing_is_to_come()
            && unfinished.peek().is_some()
            && unfinished.any(|row| self.processes.iter().all(|process| says_so(process, row)))
    }

    fn finish(&mut self) -> Result<Outcome, String> {
        // Another may have ended what one still has in memory: it learns of that when it renews its lease.
        let others = |it: &Disaster| {
            matches!(it, Disaster::Second | Disaster::Freeze(_) | Disaster::Deploy(_) | Disaster::Loses(_))
        };
        let alone = !self.shared.case.has(others);
        let all_over = self.runs().iter().all(|(_, status, _)| *status != RunStatus::Running);
        for process in &self.processes {
            process.must_be_idle(alone && all_over);
            process.look_at_handles();
        }
        let mut runs = Vec::new();
        let children: Vec<RunRow> = self.rows().into_iter().filter(|row| row.parent.is_some()).collect();
        if children.len() != self.shared.oracle.lock().count_of_children() {
            return Err(format!("{} children are there, and others were created", children.len()));
        }
        for child in &children {
            let Ok(Some(stored)) = self.base.load(child.id) else { return Err(format!("child {} is gone", child.id)) };
            let mut oracle = self.shared.oracle.lock();
            oracle.no_signal_is_lost(child.id.row(), &stored.messages);
            oracle.no_answer_is_lost(child.id, &stored.messages);
            if !child.status.is_ended() && !matches!(child.blocked_by, Some(BlockReason::Crashes { .. })) {
                return Err(format!("child {} is {:?}: {:?}", child.id, child.status, child.blocked_by));
            }
        }
        for number in 0..self.shared.case.calls.len() {
            let ids = self.base.by_key(&key_of(number), None).unwrap_or_default();
            let [(id, _)] = ids[..] else { return Err(format!("the key of run {number} has {} runs", ids.len())) };
            let Ok(Some(stored)) = self.base.load(id) else { return Err(format!("run {number} is gone")) };
            self.shared.oracle.lock().no_signal_is_lost(id.row(), &stored.messages);
            self.shared.oracle.lock().no_answer_is_lost(id, &stored.messages);
            let paused = stored.run.status == RunStatus::Paused;
            let suspected = matches!(stored.run.blocked_by, Some(BlockReason::Crashes { .. }));
            if paused && !suspected {
                return Err(format!("run {number} is paused for no reason: {:?}", stored.run.blocked_by));
            }
            let case = Arc::clone(&self.shared.case);
            let mut oracle = self.shared.oracle.lock();
            let exactly = case.retries.is_empty()
                && !case.has(|disaster| !matches!(disaster, Disaster::Crash | Disaster::Jump(_)));
            oracle.only_a_run_that_kills_is_suspected(id.row(), paused, exactly);
            if paused {
                oracle.meets("a run that is suspected");
            } else if stored.run.status == RunStatus::Completed && case.kills(0) && !case.kills(number) {
                oracle.meets("a run that completes beside one that kills");
            }
            let deadline = stored.run.options.deadline;
            let expired = deadline.is_some_and(|deadline| stored.run.ended_at.is_some_and(|at| at >= deadline));
            let size = self.size_of(&stored.run);
            if size > case.tasks.len() {
                oracle.meets("a run that has grown");
                let added = oracle.task(id.row(), case.tasks.len() as TaskIx).map(|task| task.status);
                // A cancellation interrupts every body that has begun, and the deadline ends all. A store that ends a run
                // knows no task without a row.
                let cancelled = stored.run.cancel.is_some() && matches!(added, None | Some(TaskStatus::Cancelled));
                let interrupted = cancelled || expired || oracle.is_touched(id.row());
                if stored.run.status.is_ended() && added != Some(TaskStatus::Completed) && !interrupted {
                    return Err(format!("run {number} has grown by a task that is {added:?}"));
                }
            }
            let end = |ix: TaskIx| {
                let task = oracle.task(id.row(), ix);
                let failure = task.and_then(|task| task.failure.as_ref()).map(|failure| failure.type_name());
                let is_mapped = case.mapped().any(|mapped| mapped == ix);
                TaskEnd {
                    status: task.map(|task| task.status),
                    attempts: task.map_or(0, |task| task.attempts),
                    output: task.and_then(|task| task.output.clone()),
                    changes: task.and_then(|task| task.changes.clone()),
                    // Which of its elements has failed first is chance.
                    failure: failure.filter(|_| !is_mapped),
                }
            };
            let tasks = (0..size.min(case.tasks.len()) as TaskIx).map(end).collect();
            let elements = case.mapped().map(|ix| case.first_of_elements(ix)).flat_map(|first| first..first + MOST);
            let elements = elements.map(end).collect();
            let stuck = children.iter().any(|child| child.parent == Some(id) && child.status == RunStatus::Paused);
            let cancelled = stored.run.cancel.is_some();
            let touched = oracle.is_touched(id.row());
            let found = case.is_watched(number) && stored.run.options.tags.is_empty();
            if found {
                oracle.meets("a run that a watch has started");
            }
            if !found && stored.run.options.tags.get("run").map(|tag| &**tag) != Some(&*number.to_string()) {
                return Err(format!("run {number} has lost its tags: {:?}", stored.run.options));
            }
            runs.push(RunEnd { status: stored.run.status, cancelled, touched, expired, stuck, tasks, elements });
        }
        let roots = self.runs().len() - children.len();
        if roots != self.shared.case.calls.len() {
            return Err(format!("{roots} runs for {} keys", self.shared.case.calls.len()));
        }
        self.no_limit_leaks()?;
        if self.shared.case.deletes {
            self.delete_all()?;
        }
        let oracle = self.shared.oracle.lock();
        match oracle.violations.first() {
            Some(first) => Err(first.clone()),
            None => {
                let lately = oracle.trace.iter().map(String::as_str).collect::<Vec<_>>().join("\n  ");
                Ok(Outcome { runs, moves: self.moves, digest: oracle.digest, met: oracle.met.clone(), lately })
            }
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
