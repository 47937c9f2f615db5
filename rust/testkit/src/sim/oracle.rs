//! What must hold in every simulated world, whatever happens in it: one function per guarantee.
//!
//! The oracle is shown every batch that was really committed, whatever the engine was told of it, and every decision
//! of the simulated processes at the moment at which it is made. It keeps its own rows and never asks the engine.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bide_core::record::{RunRowId, RunUpdate};
use bide_core::{
    Batch, Entry, EntryKey, EntryKind, EntryState, FailureKind, Graph, RunStatus, SubStatus, TaskIx, TaskStatus, Time,
    Write,
};
use bide_executor::slots::NEW_EVERY;

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
}

/// Watches a world.
pub struct Oracle {
    graph: Arc<Graph>,
    tasks: HashMap<(RunRowId, TaskIx), Committed>,
    entries: HashMap<(RunRowId, TaskIx, EntryKey), Entry>,
    runs: HashMap<RunRowId, RunUpdate>,
    /// The latest time that the wall has shown: nothing that waits for a time may go on before this reaches it.
    latest: Time,
    /// What was violated, in words.
    pub violations: Vec<String>,
    /// The last commits and decisions, for a failure's report.
    pub trace: VecDeque<String>,
    /// A number that any difference in what is committed changes.
    pub digest: u64,
}

/// So much of the trace is kept.
const TRACE: usize = 80;

impl Oracle {
    /// Of a workflow.
    #[must_use]
    pub fn new(graph: Arc<Graph>) -> Self {
        Self {
            graph,
            tasks: HashMap::new(),
            entries: HashMap::new(),
            runs: HashMap::new(),
            latest: Time(0),
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
        if !holds {
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

    /// The wall shows this time now.
    pub fn wall_shows(&mut self, now: Time) {
        self.latest = self.latest.max(now);
    }

    /// A batch was committed.
    pub fn committed(&mut self, batch: &Batch) {
        for write in batch {
            match write {
                Write::Done(done) => {
                    let ix = done.task as TaskIx;
                    let output = Some(done.output.as_bytes().to_vec());
                    let row = Committed {
                        status: TaskStatus::Completed,
                        sub_status: None,
                        attempts: 1,
                        output,
                        retry_at: None,
                        blocked_by: None,
                    };
                    self.no_committed_output_is_produced_again(done.run, ix);
                    self.record(done.run, ix, row);
                }
                Write::Task(row) => {
                    let ix = row.task as TaskIx;
                    self.no_committed_output_is_produced_again(row.run, ix);
                    let committed = Committed {
                        status: row.status,
                        sub_status: row.sub_status,
                        attempts: row.attempts,
                        output: row.output.as_ref().map(|output| output.as_bytes().to_vec()),
                        retry_at: row.retry_at,
                        blocked_by: row.blocked_by.clone(),
                    };
                    self.record(row.run, ix, committed);
                }
                Write::Entry { run, task, entry, .. } => self.entry(*run, *task as TaskIx, entry),
                Write::DropEntries { run, task, keys, .. } => {
                    for key in keys {
                        self.entries.remove(&(*run, *task as TaskIx, key.clone()));
                    }
                }
                Write::Run(update) => {
                    self.an_ended_run_stays_as_it_is(update);
                    self.runs.insert(update.run, (**update).clone());
                }
            }
        }
    }

    fn record(&mut self, run: RunRowId, ix: TaskIx, row: Committed) {
        let name = Arc::clone(self.graph.name(ix));
        self.note(format!("committed: {name} {:?} {:?} attempts {}", row.status, row.sub_status, row.attempts));
        self.tasks.insert((run, ix), row);
    }

    fn entry(&mut self, run: RunRowId, ix: TaskIx, entry: &Entry) {
        let name = Arc::clone(self.graph.name(ix));
        self.note(format!("committed: {name} {} #{} {:?}", entry.key.name, entry.key.n, entry.state));
        self.deadlines_never_move(run, ix, entry);
        self.nothing_wakes_early(ix, entry);
        self.entries.insert((run, ix, entry.key.clone()), entry.clone());
    }

    /// Guarantee 1: a committed output is never produced again.
    fn no_committed_output_is_produced_again(&mut self, run: RunRowId, ix: TaskIx) {
        let before = self.tasks.get(&(run, ix)).map(|task| task.status);
        let name = Arc::clone(self.graph.name(ix));
        self.must(before.is_none_or(|status| !status.is_ended()), "a committed output is produced again", || {
            format!("{name} was {before:?} and is written again")
        });
    }

    /// Guarantee 1: a committed step never runs again. Asked when a step is about to be executed by a runner that
    /// still has its run.
    pub fn no_committed_step_runs_again(&mut self, run: RunRowId, ix: TaskIx, key: &EntryKey) {
        let recorded = self.entries.get(&(run, ix, key.clone())).cloned();
        let name = Arc::clone(self.graph.name(ix));
        self.must(
            recorded.as_ref().is_none_or(|entry| entry.state == EntryState::Open),
            "a committed step runs again",
            || format!("{name} executes {key:?}, which is recorded as {recorded:?}"),
        );
    }

    /// Guarantees 1 and 2: a task starts only after what it depends on is committed, its gate is satisfied, the delay
    /// of its retry is over, and never once it has ended itself. (A runner that has lost its run and does not know
    /// yet may start what another one has ended meanwhile: nothing of it will be committed.)
    pub fn a_task_starts_only_after_what_it_depends_on(&mut self, run: RunRowId, ix: TaskIx, still_has_it: bool) {
        let graph = Arc::clone(&self.graph);
        let name = graph.name(ix);
        for &on in graph.dependencies(ix) {
            let ended = self.task(run, on).is_some_and(|task| task.status.is_ended());
            self.must(ended, "a task starts before what it depends on is committed", || {
                format!("{name} starts before {}", graph.name(on))
            });
        }
        let own = self.task(run, ix).cloned();
        self.must(
            !still_has_it || own.as_ref().is_none_or(|task| !task.status.is_ended()),
            "a task that has ended starts again",
            || name.to_string(),
        );
        let (due, latest) = (own.and_then(|task| task.retry_at), self.latest);
        self.must(due.is_none_or(|due| due <= latest), "a retry starts before its time", || {
            format!("{name} starts at {latest:?}, not before {due:?}")
        });
        if let Some(gate) = &graph.spec(ix).gate {
            let state = self.entries.get(&(run, ix, gate.key())).map(|entry| entry.state);
            self.must(state == Some(EntryState::Satisfied), "a task starts before its gate is satisfied", || {
                format!("{name}: its gate is {state:?}")
            });
        }
    }

    /// Guarantee 3: a wait is committed before its slot is released.
    pub fn a_wait_is_committed_before_its_slot_is_released(&mut self, run: RunRowId, ix: TaskIx, key: &EntryKey) {
        let state = self.entries.get(&(run, ix, key.clone())).map(|entry| entry.state);
        let name = Arc::clone(self.graph.name(ix));
        self.must(state == Some(EntryState::Open), "a slot is released before its wait is committed", || {
            format!("{name}: {key:?} is {state:?}")
        });
    }

    /// Guarantee 3: deadlines and times are absolute. While an entry is there, neither moves.
    fn deadlines_never_move(&mut self, run: RunRowId, ix: TaskIx, entry: &Entry) {
        let before =
            self.entries.get(&(run, ix, entry.key.clone())).filter(|before| before.kind == entry.kind).cloned();
        let name = Arc::clone(self.graph.name(ix));
        self.must(
            before.as_ref().is_none_or(|before| (before.deadline, before.due) == (entry.deadline, entry.due)),
            "a deadline moved",
            || format!("{name}: {before:?} becomes {entry:?}"),
        );
    }

    /// Guarantee 3: never early by the wall clock. What waited for a time goes on only once the wall has shown it, and
    /// a wait times out only once the wall has shown its deadline.
    fn nothing_wakes_early(&mut self, ix: TaskIx, entry: &Entry) {
        let until = match (entry.kind, entry.state) {
            (EntryKind::Time, EntryState::Satisfied) => entry.due,
            (_, EntryState::Failed) => {
                let timed_out = entry.failure.as_ref().is_some_and(|why| why.kind == FailureKind::WaitTimeout);
                entry.deadline.filter(|_| timed_out)
            }
            _ => None,
        };
        let (name, latest) = (Arc::clone(self.graph.name(ix)), self.latest);
        self.must(until.is_none_or(|until| until <= latest), "a wait ends early", || {
            format!("{name}: {entry:?} although the wall has shown {latest:?} at most")
        });
    }

    /// Guarantee 5: active bodies never exceed the slots, and every slot is in one hand.
    pub fn active_bodies_never_exceed_the_slots(&mut self, in_use: usize, free: usize, total: usize) {
        self.must(in_use + free == total, "slots are lost or made", || {
            format!("{in_use} in use and {free} free of {total}")
        });
    }

    /// Guarantee 5: resumed bodies go before new ones, one new in eight.
    pub fn resumed_bodies_go_first(&mut self, to_new: bool, resumed_wait: usize, new_wait: bool, streak: &mut u32) {
        let turn_of_new = *streak + 1 >= NEW_EVERY;
        if resumed_wait > 0 {
            let fair = if turn_of_new { to_new == new_wait } else { !to_new };
            let seen = *streak;
            self.must(fair, "resumed bodies go first, one new in eight", || {
                format!("the slot went to new work: {to_new}, after {seen} resumed in a row; {resumed_wait} waited")
            });
        }
        *streak = if to_new { 0 } else { *streak + u32::from(resumed_wait > 0) };
    }

    /// A poll that ends hands on to the next one that is due.
    pub fn a_poll_that_ends_hands_on(&mut self, handed_on: bool, others_wait: bool) {
        self.must(handed_on || !others_wait, "a poll ends and does not hand on", || "others are due".to_owned());
    }

    /// At most `slots` conditions run at once.
    pub fn so_many_polls_at_once(&mut self, polling: usize, slots: usize) {
        self.must(polling <= slots, "too many polls at once", || format!("{polling} with {slots} slots"));
    }

    /// An ended run stays as it is.
    fn an_ended_run_stays_as_it_is(&mut self, update: &RunUpdate) {
        let before = self.runs.get(&update.run).map(|run| run.status);
        self.must(before.is_none_or(|status| !status.is_ended()), "an ended run is written again", || {
            format!("{before:?} becomes {update:?}")
        });
    }

    /// Guarantee 6: a result is reported only when it is committed.
    pub fn a_result_is_reported_only_when_committed(&mut self, run: RunRowId, reported: RunStatus) {
        let committed = self.runs.get(&run).map(|run| run.status);
        self.must(committed == Some(reported), "a result is reported before it is committed", || {
            format!("reported {reported:?}, committed {committed:?}")
        });
    }

    /// Every run ends or waits for something nameable: a task that is left says what it waits for, unless something
    /// that it depends on does. `endless` says of each task whether it may wait for ever.
    #[must_use]
    pub fn what_is_left_is_nameable(&self, run: RunRowId, endless: &[bool]) -> bool {
        let ended = |ix: TaskIx| self.task(run, ix).is_some_and(|task| task.status.is_ended());
        let named = |ix: TaskIx| {
            self.task(run, ix).is_some_and(|task| {
                task.sub_status == Some(SubStatus::Deferred)
                    && task.blocked_by.as_ref().is_some_and(|why| &**why == "waits for forever")
            })
        };
        (0..self.graph.len() as TaskIx).all(|ix| {
            let blocked = self.graph.dependencies(ix).iter().any(|on| !ended(*on));
            ended(ix) || (endless[ix as usize] && (blocked || named(ix)))
        })
    }
}
