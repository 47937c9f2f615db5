//! What must hold in every simulated world: one function per guarantee.
//!
//! The oracle is shown every batch that was really committed, even if the engine got an error, and every decision
//! of the simulated processes at the moment at which it is made. It keeps its own rows and never asks the engine.
//! Here: what it knows. The guarantees are in `oracle/rules.rs`.

pub(super) mod answers;
mod children;
mod hand;
mod limits;
mod lives;
pub(super) mod mail;
mod maps;
pub(super) mod requests;
mod rules;
mod shown;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::plan::Case;
use shown::Shown;

use bide_core::record::{Mark, NewRun, RunRowId, RunUpdate};
use bide_core::{
    Batch, Entry, EntryKey, EntryKind, EntryState, Failure, Graph, NO_MAP, RunStatus, SubStatus, TaskId, TaskIx,
    TaskRow, TaskStatus, Time, Write,
};

/// A task as it is committed.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Where it stands.
    pub status: TaskStatus,
    /// Whether it holds a slot, while it runs.
    pub sub_status: Option<SubStatus>,
    /// Tries so far.
    pub attempts: u32,
    /// What it returned.
    pub output: Option<Vec<u8>>,
    /// When its next attempt may start.
    pub retry_at: Option<Time>,
    /// What it is blocked by.
    pub blocked_by: Option<Arc<str>>,
    /// Its changes of the context.
    pub changes: Option<Arc<[u8]>>,
    /// How it failed.
    pub failure: Option<Failure>,
    /// Whether it may have ended an earlier process.
    pub mark: Mark,
    /// The runner that has written it.
    pub by: i64,
}

impl Committed {
    fn by(by: i64, row: &TaskRow) -> Self {
        Self {
            by,
            status: row.status,
            sub_status: row.sub_status,
            attempts: row.attempts,
            output: row.output.as_ref().map(|output| output.as_bytes().to_vec()),
            retry_at: row.retry_at,
            blocked_by: row.blocked_by.clone(),
            changes: row.changes.clone(),
            failure: row.failure.clone(),
            mark: row.mark,
        }
    }
}

/// Watches a world.
#[derive(Clone)]
pub struct Oracle {
    /// The graph of the case.
    graph: Arc<Graph>,
    /// The committed rows of tasks.
    tasks: HashMap<(RunRowId, TaskIx), Committed>,
    /// The committed journal entries.
    entries: HashMap<(RunRowId, TaskIx, EntryKey), Entry>,
    /// The tasks whose next attempt starts another child in the place of one that has failed.
    replaced: HashSet<(RunRowId, TaskIx)>,
    /// The steps that may be executed only once and were.
    executed_once: HashSet<(RunRowId, TaskIx, EntryKey)>,
    /// The last committed update of each run.
    runs: HashMap<RunRowId, RunUpdate>,
    /// The first failure of each run.
    first_failure: HashMap<RunRowId, Failure>,
    /// How many processes have died while a body of the run was the only marked one that they executed, since the run
    /// recorded something new.
    deaths: HashMap<RunRowId, u32>,
    /// Since when, by the steady clock, a time that is reached has not been acted on.
    late: HashMap<(RunRowId, TaskIx), Duration>,
    /// The signals that were sent.
    letters: mail::Letters,
    /// The callbacks that bodies have made, and the answers to them.
    callbacks: answers::Callbacks,
    /// The requests that were sent, and their answers.
    requests: requests::Requests,
    /// The runs that bodies have started.
    children: children::Children,
    /// The mapped tasks.
    maps: maps::Maps,
    /// The tasks with a limit.
    limited: HashSet<TaskIx>,
    /// Since when, by the steady clock, an attempt has been held back by a limit that has room.
    held_back: HashMap<Arc<str>, Duration>,
    /// What was asked of runs, and said of them.
    asked: hand::Asked,
    /// The latest time that the wall has shown: no wait for a later time may end.
    latest: Time,
    /// What bodies have emitted that is not committed.
    shown: Shown,
    /// The wall was set to an earlier time: then the times of waits do not show which is the oldest.
    wall_was_set_back: bool,
    /// The runners whose leases the server has lost. They learn of it at their next call.
    pub lost: HashSet<i64>,
    /// What is decided now is decided by one of them that has not learned of it: nothing of it will be committed.
    pub is_of_lost: bool,
    /// How many leases could not be released at a close.
    pub kept_leases: u32,
    /// What this world has in it that few have: the test asks whether its worlds meet all of that.
    pub met: BTreeSet<&'static str>,
    /// What was violated, in words.
    pub violations: Vec<String>,
    /// The last commits and decisions, for a failure's report.
    pub trace: VecDeque<String>,
    /// A number that any difference in what is committed changes.
    pub digest: u64,
}

/// Whether a body records a checkpoint in this batch: then it drops its journal itself.
fn is_checkpoint(batch: &Batch, of: (RunRowId, TaskId, i32)) -> bool {
    batch.iter().any(|write| match write {
        Write::Entry { run, task, map, entry } => ((*run, *task, *map), entry.kind()) == (of, EntryKind::Checkpoint),
        _ => false,
    })
}

/// So much of the trace is kept.
const TRACE: usize = 80;

impl Oracle {
    /// Of a case. It knows the tasks of all versions, those of child runs, and elements, each at a position of its own.
    #[must_use]
    pub fn new(case: &Case) -> Self {
        Self {
            graph: Arc::new(case.every_task()),
            maps: maps::Maps::of(case),
            asked: hand::Asked::default(),
            limited: limits::limited(case),
            held_back: HashMap::new(),
            callbacks: answers::Callbacks::default(),
            requests: requests::Requests::default(),
            children: children::Children::of(case.first_of_child()),
            tasks: HashMap::new(),
            entries: HashMap::new(),
            replaced: HashSet::new(),
            executed_once: HashSet::new(),
            runs: HashMap::new(),
            first_failure: HashMap::new(),
            deaths: HashMap::new(),
            late: HashMap::new(),
            shown: Shown::default(),
            letters: mail::Letters::default(),
            lost: HashSet::new(),
            is_of_lost: false,
            kept_leases: 0,
            met: BTreeSet::new(),
            latest: Time(0),
            wall_was_set_back: false,
            violations: Vec::new(),
            trace: VecDeque::new(),
            digest: 0,
        }
    }

    /// A task as it is committed.
    #[must_use]
    pub fn task(&self, run: RunRowId, ix: TaskIx) -> Option<&Committed> {
        self.tasks.get(&(run, ix))
    }

    /// A run as it was last written; `None` if nothing was written since its creation.
    #[must_use]
    pub fn run(&self, run: RunRowId) -> Option<&RunUpdate> {
        self.runs.get(&run)
    }

    fn must(&mut self, holds: bool, guarantee: &str, seen: impl FnOnce() -> String) {
        if !holds && !self.is_of_lost {
            self.violations.push(format!("{guarantee}: {}", seen()));
        }
    }

    /// Notes what happened, for the report of a failure.
    pub fn note(&mut self, line: String) {
        for byte in line.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        if self.trace.len() == TRACE {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    /// The server has lost what was committed since this was known. What has happened in the world remains.
    pub fn forgets(&mut self, since: &Self) {
        let known = since.clone();
        *self = Self {
            latest: self.latest,
            wall_was_set_back: self.wall_was_set_back,
            kept_leases: self.kept_leases,
            lost: std::mem::take(&mut self.lost),
            met: std::mem::take(&mut self.met),
            violations: std::mem::take(&mut self.violations),
            trace: std::mem::take(&mut self.trace),
            digest: self.digest,
            ..known
        };
    }

    /// What is decided from now on is decided by this runner.
    pub fn judges(&mut self, runner: i64) {
        self.is_of_lost = self.lost.contains(&runner);
    }

    /// What this asks is decided by a body of this runner, which may not have been told that its lease is lost.
    pub fn of_body<R>(&mut self, runner: i64, ask: impl FnOnce(&mut Self) -> R) -> R {
        let before = std::mem::replace(&mut self.is_of_lost, self.lost.contains(&runner));
        let answer = ask(self);
        self.is_of_lost = before;
        answer
    }

    /// A rare event has happened.
    pub fn meets(&mut self, what: &'static str) {
        self.met.insert(what);
    }

    /// The process of a runner dies.
    pub fn dies(&mut self, runner: i64) {
        if let [(run, _)] = self.executed_marked(runner)[..] {
            *self.deaths.entry(run).or_default() += 1;
        }
    }

    /// The marked bodies that a runner has entered and that have recorded nothing since. A body that executes when its
    /// run is paused on request continues, and may kill its process then.
    fn executed_marked(&self, runner: i64) -> Vec<(RunRowId, TaskIx)> {
        let running =
            |run: &RunRowId| self.run(*run).is_none_or(|run| run.status == RunStatus::Running || run.is_held());
        let marked =
            self.tasks.iter().filter(|((run, _), task)| task.mark.executes && task.by == runner && running(run));
        marked.map(|(place, _)| *place).collect()
    }

    /// The wall shows this time now.
    pub fn wall_shows(&mut self, now: Time) {
        self.wall_was_set_back |= now < self.latest;
        self.latest = self.latest.max(now);
    }

    /// A batch was committed.
    pub fn committed(&mut self, runner: i64, created: &[&NewRun], batch: &Batch) {
        self.is_of_lost = false;
        self.must(!self.lost.contains(&runner), "a commit under a lease that the server has lost", || {
            runner.to_string()
        });
        for new in created {
            self.is_created(new);
            self.has_times(new);
        }
        self.what_is_shown_is_never_later_than_a_record(runner, batch);
        for write in batch {
            match write {
                Write::Done(done) => {
                    let row = Committed {
                        status: TaskStatus::Completed,
                        sub_status: None,
                        attempts: 1,
                        output: Some(done.output.as_bytes().to_vec()),
                        retry_at: None,
                        blocked_by: None,
                        changes: None,
                        failure: None,
                        mark: Mark::default(),
                        by: runner,
                    };
                    self.record(done.run, self.place(done.run, done.task, done.map), row);
                }
                Write::Task(row) => {
                    let place = self.place(row.run, row.task, row.map);
                    self.a_length_stays(place, row);
                    self.record(row.run, place, Committed::by(runner, row));
                    self.suspects_of_two_deaths_are_entered_alone(runner);
                }
                Write::Entry { run, task, map, entry } => self.entry(*run, self.place(*run, *task, *map), entry),
                Write::DropEntries { run, task, map, keys } => {
                    let ix = self.place(*run, *task, *map);
                    if is_checkpoint(batch, (*run, *task, *map)) {
                        self.meets("a checkpoint that drops a journal");
                    } else {
                        self.a_retry_keeps_what_is_recorded(*run, ix, keys);
                    }
                    for key in keys {
                        self.is_dropped(*run, ix, key);
                        self.entries.remove(&(*run, ix, key.clone()));
                        self.executed_once.remove(&(*run, ix, key.clone()));
                    }
                }
                Write::Answer { number, answer, .. } => self.a_request_has_one_answer(*number, answer),
                Write::Message { .. } | Write::Consumed { .. } => {}
                Write::Applied { .. } | Write::Forked { .. } => {}
                Write::DropElements { run, task } => {
                    self.elements_are_dropped(*run, self.place(*run, *task, NO_MAP));
                }
                Write::Run(update) => {
                    self.note(format!("committed: run {} {:?}", update.run, update.status));
                    self.an_ended_run_stays_as_it_is(update);
                    self.a_run_ends_with_its_tasks(update);
                    self.runs.insert(update.run, (**update).clone());
                    self.child_ends(runner, update);
                }
                Write::Events(_) => {}
                Write::Progress(row) => self.progress_is_what_was_said(runner, row),
            }
        }
        for write in batch {
            if let Write::Entry { run, task, map, entry } = write {
                let (ix, members) = (self.place(*run, *task, *map), entry.operation.members());
                self.a_wait_for_a_child_ends_with_it(runner, entry);
                if members.is_empty() {
                    self.combinations_fit(*run, ix, &entry.key);
                } else {
                    self.combinations_fit_their_members(*run, ix, &entry.key);
                }
            }
        }
        self.what_a_task_has_taken_is_answered_at_its_end(batch);
        self.mapped_tasks_end_with_their_elements(batch);
        self.the_last_progress_of_a_task_is_kept(runner, batch);
        created.iter().for_each(|new| self.a_child_is_created_with_its_record(new));
    }

    fn record(&mut self, run: RunRowId, ix: TaskIx, row: Committed) {
        let name = Arc::clone(self.graph.name(ix));
        self.note(format!("committed: {name} {:?} {:?} attempts {}", row.status, row.sub_status, row.attempts));
        self.no_committed_output_is_produced_again(run, ix, &row);
        self.a_task_has_its_attempts_and_no_more(run, ix, &row);
        self.an_element_is_one_of_its_task(run, ix);
        let fails = row.status == TaskStatus::Failed && self.fails_its_run(run, ix);
        if let Some(failure) = row.failure.as_ref().filter(|_| fails) {
            self.first_failure.entry(run).or_insert_with(|| failure.clone());
        }
        let before = self.tasks.get(&(run, ix)).map(|before| (before.status, before.attempts));
        // The row of a gate that opens is none.
        let progress = row.status != TaskStatus::Pending || row.attempts > 0;
        if row.status != TaskStatus::Running && before != Some((row.status, row.attempts)) && progress {
            self.deaths.remove(&run);
        }
        self.tasks.insert((run, ix), row);
    }

    fn entry(&mut self, run: RunRowId, ix: TaskIx, entry: &Entry) {
        let name = Arc::clone(self.graph.name(ix));
        self.note(format!("committed: {name} {} #{} {:?}", entry.key.name, entry.key.n, entry.state));
        self.deadlines_never_move(run, ix, entry);
        self.a_recorded_step_stays_as_it_is(run, ix, entry);
        self.nothing_wakes_early(run, ix, entry);
        self.what_is_given_by_hand_was_asked(run, ix, entry);
        self.each_signal_satisfies_one_wait(run, ix, entry);
        self.a_callback_keeps_its_secret(run, ix, entry);
        self.a_request_is_taken_once(run, ix, entry);
        self.the_first_answer_stands(run, ix, entry);
        self.a_start_is_one_child(run, ix, entry);
        self.a_combination_is_decided_once(run, ix, entry);
        // To ask again what was recorded is no progress, and neither is a gate that opens.
        let before = self.entries.get(&(run, ix, entry.key.clone())).map(|before| before.state);
        let progress = match before {
            None => entry.key.n > 0 || entry.state != EntryState::Open,
            Some(before) => before == EntryState::Open && entry.state != EntryState::Open,
        };
        if progress {
            self.deaths.remove(&run);
        }
        self.entries.insert((run, ix, entry.key.clone()), entry.clone());
    }
}
