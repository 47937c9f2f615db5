//! The run machine: everything that is decided about one run.
//!
//! A task's states (see [`TaskStatus`]) and the events that change them:
//!
//! | from      | event                         | to                                   |
//! |-----------|-------------------------------|--------------------------------------|
//! | Pending   | `Begin`, last dependency ends | Ready, Pending behind its gate, Skipped by `run_if` |
//! | Pending   | gate `Timed`                  | Pending behind its gate              |
//! | Pending   | gate `Closed` with a value, or its time is `Elapsed` | Ready         |
//! | Pending   | gate `Closed` with a failure, or its deadline is `Elapsed` | Pending until `Due`, or Failed |
//! | Pending, Ready | another task fails, `fail_fast` | Skipped                       |
//! | Pending   | `Due` (retry)                 | Ready, Pending behind its gate       |
//! | Ready     | [`RunState::enter`]           | Running                              |
//! | Running   | `Opened`                      | Running, Deferred                    |
//! | Running   | `Closed`, `Elapsed`, `Recorded` | Running, Active                    |
//! | Running   | `Delayed`                     | Running, Deferred                    |
//! | Running   | `Resumed`                     | Running, Active                      |
//! | Running   | `Intended`, `Unrecorded`, `Checkpoint` | the same                    |
//! | Running   | `Ended` Completed             | Completed                            |
//! | Running   | `Ended` Skipped               | Skipped                              |
//! | Running   | `Ended` Failed                | Pending until `Due`, or Failed       |
//! | Running   | `Ended` Suspended             | Running, out of memory               |
//! | Running, out of memory | `Begin`, `Due` (re-enter), `Closed`, `Elapsed` | Ready   |
//! | Running   | `Ended` Expanded              | Running, with elements (`run/maps.rs`) |
//! | Running, with elements | its last element ends | Completed, Failed, Skipped or Cancelled |
//! | Pending, Ready | the run is cancelled, not `run_if` Done | Cancelled            |
//! | Running, out of memory | the run is cancelled | Ready: it gets that at its next call |
//! | Running   | `Ended` Cancelled, `GraceOver` | Cancelled                           |
//! | any       | the run is retried (`run/again.rs`) | Pending                        |
//! | Completed, Failed, Skipped | another run is forked from this one (`run/fork.rs`) | the same, there |
//!
//! The elements of a mapped task have the states of tasks.
//!
//! A run's states: Pending until `Begin`, if it was created for another runner; Running; Completed, Failed or Cancelled
//! with its last task; Paused by `Block`, or by `Begin` if it has killed its process too often. A run that is not
//! Running refuses every event: what its bodies still do is discarded, and they are entered again when the run resumes.
//! A request that reopens it (`Ask::reopens`) is found when somebody executes it again (`run/again.rs`).
//!
//! A run that is paused on request is *held*: it is Running here, accepts every event and only starts and resumes no
//! body (`run/control.rs`). To others it is Paused.
//!
//! Every event turns into writes and effects. The caller commits the writes first and carries the effects out only
//! then ([`crate::pending::Pending`] enforces it). If the commit fails, this state is dropped and read again.
//!
//! `Published` changes no state: it is what bodies show, and is written if their attempts are not over.
//!
//! Here: the state, its readers, and the dispatch of events. `run/waits.rs`: journal entries, gates and timers;
//! `run/combine.rs`: several waits at once; `run/mail.rs`: messages; `run/children.rs`: child runs; `run/steps.rs`:
//! steps that are begun before they end, and checkpoints. `run/ends.rs`: outcomes and what follows for other tasks.
//! `run/control.rs`: what somebody outside asks: cancel, pause, resume; `run/again.rs`: retry of an ended run;
//! `run/hand.rs`: an operator's hand on single tasks; `run/fork.rs`: a run that begins with the outcomes of another one.
//! `run/skip.rs`: why a task is skipped. `run/maps.rs`: the elements of mapped tasks. `run/rows.rs`: what is written,
//! and the marks of bodies that may kill their process. `recover.rs`: from rows back to a state.

mod again;
mod children;
pub(crate) mod combine;
mod control;
mod ends;
mod fork;
mod hand;
mod mail;
mod maps;
mod rows;
mod schedule;
mod skip;
mod steps;
mod waits;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::block::BlockReason;
use crate::control::Cancel;
use crate::entry::{EntryKey, EntryState, Lookup};
use crate::event::{Effect, Event, Refused};
use crate::failure::Failure;
use crate::graph::Graph;
use crate::id::{RunId, TaskId, TaskIx, TaskRef};
use crate::journal::{Journal, Recall};
use crate::message::Mailbox;
use crate::record::{Batch, Mark, RunRowId};
use crate::status::{RunStatus, SubStatus, TaskStatus};
use crate::time::Time;
use crate::uses::Uses;
use crate::value::Value;
pub(crate) use children::Children;
pub(crate) use combine::Combinations;
use control::Interrupted;
pub use fork::{Fork, Forked};
pub(crate) use maps::Maps;
pub use maps::{ElementOutcomes, MAX_ELEMENTS, different_lengths, no_list, not_a_list, too_many};
pub(crate) use skip::SkipCause;

/// The state of one run, in memory.
#[derive(Debug)]
pub struct RunState {
    /// The id of the run.
    pub(crate) id: RunId,
    /// The graph it is executed with.
    pub(crate) graph: Arc<Graph>,
    /// The store's numbers of the graph's tasks, by position.
    pub(crate) ids: Arc<[TaskId]>,
    /// Its status after the last applied event.
    pub(crate) status: RunStatus,
    /// The states of its tasks, by position.
    pub(crate) tasks: Box<[Task]>,
    /// The elements of its mapped tasks; none in a run without any.
    pub(crate) maps: Option<Box<Maps>>,
    /// How many tasks have not ended. The run ends when it reaches zero.
    pub(crate) remaining: u32,
    /// A task failed or was skipped: from now on `run_if` is evaluated.
    pub(crate) has_unsuccessful: bool,
    /// Only of a run that failed, was paused or is executed in another version than it was created with: memory of a
    /// hundred thousand waiting runs stays small.
    pub(crate) run_detail: Option<Box<RunDetail>>,
    /// How many processes in a row died while one of its bodies was the only marked one that they executed. The store
    /// counts when it takes the run from the dead process; here it is only reset.
    pub(crate) crashes: u32,
    /// When the run ended; zero until then.
    pub(crate) ended_at: Time,
    /// It was loaded from the store, and `Begin` has not been applied yet.
    pub(crate) recovered: bool,
    /// It was loaded from the store, and nothing new has been recorded since. Marks exist only while this is true.
    pub(crate) no_progress: bool,
}

/// What only few runs need.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunDetail {
    /// The first committed failure.
    pub(crate) failure: Option<Failure>,
    /// Why it is paused.
    pub(crate) blocked_by: Option<BlockReason>,
    /// Its messages, once one has come.
    pub(crate) mail: Option<Box<Mailbox>>,
    /// The runs that its bodies have started, once one has.
    pub(crate) children: Option<Box<Children>>,
    /// That it was cancelled.
    pub(crate) cancel: Option<Arc<Cancel>>,
    /// When it was cancelled, while its retry is acted on.
    pub(crate) cancelled_before: Option<Time>,
    /// The bodies that have got that, or will at their next call.
    pub(crate) interrupted: HashMap<TaskRef, Interrupted>,
    /// Its retry is about to be acted on: what is skipped before, such as tasks of a newer version, does not end it.
    pub(crate) reopening: bool,
    /// It has been held in this process: a body that was suspended for that continues when it is not.
    pub(crate) was_held: bool,
    /// When it begins, as long as it has not.
    pub(crate) start_at: Option<Time>,
    /// When it must have ended, and how long after it begins that is.
    pub(crate) deadline: Option<(Time, Duration)>,
    /// The workflow version to record for the run, if it is executed in another than it was created with.
    pub(crate) version: Option<i64>,
    /// Of a forked run that has not begun: the entry for its history.
    pub(crate) forked: Option<Box<Forked>>,
}

impl RunDetail {
    /// Whether it says nothing but when the run must have ended.
    fn is_only_timed(&self) -> bool {
        let Self { failure, blocked_by, mail, children, cancel, cancelled_before, interrupted, .. } = self;
        let Self { reopening, was_held, start_at, version, forked, .. } = self;
        let nothing_came = failure.is_none() && blocked_by.is_none() && mail.is_none() && children.is_none();
        let not_cancelled = cancel.is_none() && cancelled_before.is_none() && interrupted.is_empty();
        let as_created = start_at.is_none() && version.is_none() && forked.is_none();
        nothing_came && not_cancelled && as_created && !reopening && !was_held
    }
}

/// What every task needs. Kept small: a run has one for each of its tasks.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// What its body returned; none unless it completed.
    pub(crate) output: Value,
    /// When the current attempt's body was first entered; zero if no body was ever entered.
    pub(crate) started_at: Time,
    /// When it ended; zero until then.
    pub(crate) ended_at: Time,
    /// When its gate was opened, as long as nothing else is recorded of it: the rest follows from the graph, and
    /// memory of a hundred thousand gates stays small. Zero otherwise.
    pub(crate) gate_since: Time,
    /// Only of a task that waited, was retried, failed, was skipped or changed the context.
    pub(crate) detail: Option<Box<TaskDetail>>,
    /// How many of its dependencies have not ended.
    pub(crate) unmet: u32,
    /// Attempts so far, from 1; 0 before the first.
    pub(crate) attempts: u32,
    /// Its state, see the table above.
    pub(crate) status: TaskStatus,
    /// The store has a row of it, or will with the next commit: then `Write::Done` is not allowed.
    pub(crate) has_row: bool,
    /// It failed, or was skipped because of a failure.
    pub(crate) failed: bool,
    /// Its body is not in memory, and its next entry continues the same attempt.
    pub(crate) reenter: bool,
    /// It was loaded from the store: an earlier process may have entered this attempt, and died of it.
    pub(crate) suspect: bool,
    /// Its body is to get at its next call that the run was cancelled.
    pub(crate) interrupt: bool,
    /// Its body has left a wait that stays open, and executes.
    pub(crate) has_left: bool,
    /// Its body is to poll its condition at once, and may be about to sleep.
    pub(crate) poll_now: bool,
}

/// What only few tasks need.
#[derive(Clone, Debug, Default)]
pub(crate) struct TaskDetail {
    /// Its waits and steps.
    pub(crate) journal: Journal,
    /// While running: whether it holds a slot.
    pub(crate) sub_status: Option<SubStatus>,
    /// Microseconds spent in closed waits.
    pub(crate) waited: i64,
    /// Up to when `waited` counts: time in which several waits were open counts once.
    pub(crate) waited_until: Time,
    /// What is [`TaskDetail::rare`], once there is any.
    rare: Option<Box<Rare>>,
}

/// What few tasks need that wait, of which there are many at once.
#[derive(Clone, Debug)]
pub(crate) struct Rare {
    /// Its changes of the context, packed.
    pub(crate) changes: Option<Arc<[u8]>>,
    /// That of the last failed attempt.
    pub(crate) failure: Option<Failure>,
    /// When the first attempt started, if it is not the current one.
    pub(crate) first_started_at: Option<Time>,
    /// When the next attempt may start.
    pub(crate) retry_at: Option<Time>,
    /// Why it was skipped.
    pub(crate) skipped: Option<SkipCause>,
    /// Whether the body may have ended an earlier process, as its row says.
    pub(crate) mark: Mark,
    /// Its open combinations of waits, once they matter.
    pub(crate) combinations: Option<Box<Combinations>>,
}

static NOTHING_RARE: Rare = Rare {
    changes: None,
    failure: None,
    first_started_at: None,
    retry_at: None,
    skipped: None,
    mark: Mark::NONE,
    combinations: None,
};

impl TaskDetail {
    /// What few tasks have.
    pub(crate) fn rare(&self) -> &Rare {
        self.rare.as_deref().unwrap_or(&NOTHING_RARE)
    }

    /// The same to be changed, if there is any.
    pub(crate) fn known_rare(&mut self) -> Option<&mut Rare> {
        self.rare.as_deref_mut()
    }

    /// The same, to be changed.
    pub(crate) fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_with(|| Box::new(NOTHING_RARE.clone()))
    }
}

/// That a body has been entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entered {
    /// Which attempt, from 1.
    pub attempt: u32,
    /// The same attempt is known to have been entered before.
    pub reentry: bool,
    /// An earlier process may have died of this body: apply and commit [`Event::Started`] before calling it. That
    /// marks it for the next process. Bodies are not marked at `Begin`, because one that only queued for a slot is no
    /// suspect.
    pub mark: bool,
}

/// Where a transition puts its results.
pub(crate) struct Out<'a> {
    /// The time of the event.
    pub(crate) now: Time,
    /// What has to be committed.
    pub(crate) batch: &'a mut Batch,
    /// What has to happen once that is committed.
    pub(crate) effects: &'a mut Vec<Effect>,
}

impl RunState {
    /// A run that has just been committed.
    #[must_use]
    pub fn new(id: RunId, graph: Arc<Graph>, ids: Arc<[TaskId]>) -> Self {
        let tasks: Box<[Task]> =
            (0..graph.len() as TaskIx).map(|ix| Task::new(graph.dependencies(ix).len() as u32)).collect();
        Self {
            id,
            remaining: tasks.len() as u32,
            graph,
            ids,
            status: RunStatus::Running,
            tasks,
            maps: None,
            has_unsuccessful: false,
            run_detail: None,
            crashes: 0,
            ended_at: Time::default(),
            recovered: false,
            no_progress: false,
        }
    }

    /// The run's id.
    #[must_use]
    pub fn id(&self) -> RunId {
        self.id
    }

    /// The run's row number.
    #[must_use]
    pub fn row(&self) -> RunRowId {
        self.id.row()
    }

    /// Where the run stands.
    #[must_use]
    pub fn status(&self) -> RunStatus {
        if self.is_held() { RunStatus::Paused } else { self.status }
    }

    /// The first committed failure.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        self.run_detail.as_ref()?.failure.as_ref()
    }

    /// Whether it was loaded from the store and `Begin` has not been applied yet.
    #[must_use]
    pub fn is_recovered(&self) -> bool {
        self.recovered
    }

    /// Why the run is paused.
    #[must_use]
    pub fn blocked_by(&self) -> Option<&BlockReason> {
        self.run_detail.as_ref()?.blocked_by.as_ref()
    }

    /// When the run ended.
    #[must_use]
    pub fn ended_at(&self) -> Option<Time> {
        (self.ended_at > Time::default()).then_some(self.ended_at)
    }

    /// For writing; created at the first use.
    pub(crate) fn run_detail(&mut self) -> &mut RunDetail {
        self.run_detail.get_or_insert_default()
    }

    pub(crate) fn version(&self) -> Option<i64> {
        self.run_detail.as_ref()?.version
    }

    /// Where a task stands.
    #[must_use]
    pub fn task_status(&self, task: TaskRef) -> TaskStatus {
        self.task(task).status
    }

    /// What a task returned; `None` unless it completed.
    #[must_use]
    pub fn output(&self, task: TaskRef) -> Option<&Value> {
        let state = self.get(task)?;
        (state.status == TaskStatus::Completed).then_some(&state.output)
    }

    /// A task's committed changes of the context, packed.
    #[must_use]
    pub fn changes(&self, task: TaskRef) -> Option<&Arc<[u8]>> {
        self.known_detail(task).and_then(|detail| detail.rare().changes.as_ref())
    }

    /// The bodies that have been entered and have not ended, with their attempts.
    #[must_use]
    pub fn entered(&self) -> Vec<(TaskRef, u32)> {
        let entered = |(task, state): &(TaskRef, &Task)| {
            state.status == TaskStatus::Running && !state.reenter && !self.is_expanded(*task)
        };
        self.all().filter(entered).map(|(task, state)| (task, state.attempts)).collect()
    }

    /// Whether a task still waits for a part of its gate, after this number of attempts and until this deadline.
    #[must_use]
    pub fn awaits_gate(&self, task: TaskRef, attempts: u32, part: u16, deadline: Option<Time>) -> bool {
        let Some(state) = self.get(task) else { return false };
        let waits = state.status == TaskStatus::Pending && state.attempts == attempts;
        let open = || match (&state.detail, self.graph.spec(task.ix).gate.as_ref()) {
            (Some(_), Some(gate)) => gate.part(part).is_some_and(|part| {
                let key = part.key();
                self.is_open(task, &key) && self.deadline(task, &key) == deadline
            }),
            (None, Some(_)) => state.gate_since > Time::default(),
            (_, None) => false,
        };
        self.status == RunStatus::Running && waits && open()
    }

    /// How an entry of a task's journal was closed; `None` if it is open, or gone.
    #[must_use]
    pub fn closed_entry(&self, task: TaskRef, key: &EntryKey) -> Option<Result<Value, Failure>> {
        match self.known_detail(task)?.journal.get(key)?.recalled() {
            Recall::Satisfied(value) => Some(Ok(value)),
            Recall::Failed(failure) => Some(Err(failure)),
            _ => None,
        }
    }

    /// The value with which a task's gate, or a part of it, was satisfied.
    #[must_use]
    pub fn gate_value(&self, task: TaskRef, part: u16) -> Option<Value> {
        let key = self.graph.spec(task.ix).gate.as_ref()?.part(part)?.key();
        self.closed_entry(task, &key)?.ok()
    }

    /// The recorded deadline of an entry of a task's journal.
    #[must_use]
    pub fn deadline(&self, task: TaskRef, key: &EntryKey) -> Option<Time> {
        self.known_detail(task).and_then(|detail| detail.journal.get(key)).and_then(|entry| entry.deadline)
    }

    /// What the condition of an open wait has raised last, as far as that is written.
    #[must_use]
    pub fn wait_error(&self, task: TaskRef, key: &EntryKey) -> Option<&Failure> {
        self.known_detail(task)?.journal.get(key)?.failure.as_deref()
    }

    /// Applies an event: appends what has to be committed to `batch` and what has to happen then to `effects`.
    ///
    /// # Errors
    /// Refused if the event's attempt or the run is over; nothing has changed then.
    pub fn apply(
        &mut self,
        event: Event,
        now: Time,
        batch: &mut Batch,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refused> {
        let first = self.status == RunStatus::Pending && matches!(event, Event::Begin);
        if self.status != RunStatus::Running && !first {
            return Err(Refused::RunOver);
        }
        let out = &mut Out { now, batch, effects };
        match event {
            Event::Begin => self.begin(out),
            Event::Started { task, attempt } => {
                self.running(task, attempt)?;
                self.started(task, out);
            }
            Event::Opened { task, attempt, waits } => {
                self.running(task, attempt)?;
                self.opened(task, waits, out);
            }
            Event::Recorded { task, attempt, wait, since, result } => {
                self.running(task, attempt)?;
                self.recorded(task, wait, since, result, out);
            }
            Event::Closed { task, attempt, key, result, proved, .. } if key.n > 0 => {
                self.current(task, attempt, TaskStatus::Running)?;
                self.closed(task, &key, result, proved, out)?;
            }
            Event::Closed { task, attempt, key, result, retry, .. } => {
                self.current(task, attempt, TaskStatus::Pending)?;
                self.gate_closed(task, &key, result, retry, out)?;
            }
            Event::Elapsed { task, attempt, key, at, retry, .. } => {
                self.elapsed(task, attempt, &key, at, retry, out)?;
            }
            Event::Intended { task, attempt, wait } => {
                self.running(task, attempt)?;
                self.intended(task, wait, out);
            }
            Event::Delayed { task, attempt, wait, tries, failure, deferred } => {
                self.running(task, attempt)?;
                self.delayed(task, wait, (tries, failure), deferred, out);
            }
            Event::Resumed { task, attempt, key } => {
                self.running(task, attempt)?;
                self.resumed(task, &key, out)?;
            }
            Event::Unrecorded { task, attempt, key } => {
                self.running(task, attempt)?;
                self.unrecorded(task, key, out)?;
            }
            Event::Checkpoint { task, attempt, state } => {
                self.running(task, attempt)?;
                if std::mem::take(&mut self.task_mut(task).interrupt) {
                    // Nothing is recorded of that: an entry again comes to here too.
                    return Err(Refused::Cancelled);
                }
                self.checkpoint(task, state, out);
            }
            Event::ChildrenStarted { task, attempt, starts } => {
                self.running(task, attempt)?;
                self.children_started(task, starts, out);
            }
            Event::PollRaised { task, attempt, key, error } => {
                let status = if key.n > 0 { TaskStatus::Running } else { TaskStatus::Pending };
                self.current(task, attempt, status)?;
                self.poll_raised(task, &key, error, out)?;
            }
            Event::Timed { task, attempt, key, time } => {
                self.current(task, attempt, TaskStatus::Pending)?;
                self.timed(task, &key, time, out)?;
            }
            Event::Ended { task, attempt, outcome } => {
                self.running(task, attempt)?;
                self.ended(task, outcome, out);
            }
            Event::Replied { task, attempt, wait, request, answer } => {
                self.running(task, attempt)?;
                self.replied(task, wait, request, answer, out);
            }
            Event::Message { message } => self.message(*message, out)?,
            Event::Mail { messages } => self.mail_came(messages, out),
            Event::ChildEnded { run, status } => self.child_ended(run, status, out),
            Event::Due { task, attempt, timer } => self.due(task, attempt, timer, out)?,
            Event::GraceOver { task, attempt, grace, limit } => self.grace_over(task, attempt, (grace, limit), out)?,
            Event::StartDue => self.start_due(out),
            Event::Expired => self.expired(out),
            Event::Published(published) => self.published(*published, out),
            // Its bodies cannot clean up.
            Event::Block { .. } if self.cancel().is_some() => self.end_unfinished(out),
            Event::Block { reason } => {
                self.run_detail().blocked_by = Some(reason);
                self.settle(RunStatus::Paused, out);
            }
        }
        Ok(())
    }

    /// The run is executed elsewhere from now on: every event is refused.
    pub fn abandon(&mut self) {
        if !self.status.is_ended() {
            self.status = RunStatus::Paused;
        }
    }

    /// Whether nothing has happened to the run but that its first bodies are ready: another runner may begin it instead.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        let begun = |state: &Task| state.has_row || state.detail.is_some() || state.gate_since > Time::default();
        let is_waiting = |state: &Task| matches!(state.status, TaskStatus::Pending | TaskStatus::Ready);
        let is_ready = self.tasks.iter().any(|state| state.status == TaskStatus::Ready);
        let untouched = self.tasks.iter().all(|state| is_waiting(state) && !begun(state));
        self.status == RunStatus::Running
            && self.run_detail.as_deref().is_none_or(RunDetail::is_only_timed)
            && is_ready
            && untouched
    }

    /// Enters a body that is ready. `None` if it is not ready any more: it was skipped, or the run is over.
    pub fn enter(&mut self, task: TaskRef, now: Time) -> Option<Entered> {
        if self.status != RunStatus::Running || self.is_held() {
            return None;
        }
        let no_progress = self.no_progress;
        // A clock that was set back does not put what starts now before the cancellation of its run.
        let now = self.cancel().map_or(now, |cancel| now.max(cancel.at));
        let state = self.get_mut(task)?;
        if state.status != TaskStatus::Ready {
            return None;
        }
        state.status = TaskStatus::Running;
        let reentry = std::mem::take(&mut state.reenter);
        if !reentry {
            if state.started_at > Time::default() {
                let rare = state.detail.get_or_insert_default().rare_mut();
                rare.first_started_at.get_or_insert(state.started_at);
            }
            state.attempts += 1;
            state.started_at = now;
        }
        let entered = Entered { attempt: state.attempts, reentry, mark: state.suspect && no_progress };
        if let Some(detail) = &mut state.detail {
            detail.sub_status = Some(SubStatus::Active);
        }
        Some(entered)
    }

    /// What the journal of a running body has for its next wait or step, and the key under which that is recorded.
    ///
    /// # Errors
    /// Refused if the attempt or the run is over.
    pub fn recall(
        &self,
        task: TaskRef,
        attempt: u32,
        uses: &mut Uses,
        name: &Arc<str>,
        lookup: &Lookup,
    ) -> Result<(EntryKey, Recall), Refused> {
        if self.status != RunStatus::Running {
            return Err(Refused::RunOver);
        }
        self.running(task, attempt)?;
        let (key, recall) = match self.known_detail(task) {
            None => Journal::default().recall_next(uses, name, lookup),
            Some(detail) => {
                let (key, recall) = detail.journal.recall_next(uses, name, lookup);
                (key, self.recall_start(lookup, recall))
            }
        };
        Ok((key, self.recall_answer(task, lookup, recall)))
    }

    /// How many waits and steps a body has recorded.
    #[must_use]
    pub fn recorded_calls(&self, task: TaskRef) -> usize {
        self.known_detail(task).map_or(0, |detail| detail.journal.recorded())
    }

    /// How many of them it has recorded since a time.
    pub(crate) fn recorded_calls_since(&self, task: TaskRef, time: Time) -> usize {
        self.known_detail(task).map_or(0, |detail| detail.journal.recorded_since(time))
    }

    /// Whether a record of a body is older than its last checkpoint: see [`RunState::recorded_calls`].
    pub(crate) fn outlived_checkpoint(&self, task: TaskRef, key: &EntryKey) -> bool {
        self.known_detail(task).is_some_and(|detail| detail.journal.outlived_checkpoint(key))
    }

    /// Whether a record is over.
    #[must_use]
    pub fn is_closed(&self, task: TaskRef, key: &EntryKey) -> bool {
        let entry = self.known_detail(task).and_then(|detail| detail.journal.get(key));
        entry.is_some_and(|entry| entry.state != EntryState::Open)
    }

    /// The state of a body's last checkpoint.
    #[must_use]
    pub fn last_checkpoint(&self, task: TaskRef) -> Option<&Value> {
        self.known_detail(task)?.journal.last_checkpoint()
    }

    /// Whether a task's journal may have steps of the first version, see [`Journal::has_older_steps`].
    #[must_use]
    pub fn has_older_steps(&self, task: TaskRef) -> bool {
        self.known_detail(task).is_some_and(|detail| detail.journal.has_older_steps())
    }

    /// The fence: whether this is the task's current attempt, in this status.
    fn current(&self, task: TaskRef, attempt: u32, status: TaskStatus) -> Result<(), Refused> {
        match self.get(task) {
            Some(state) if state.status == status && state.attempts == attempt => Ok(()),
            _ => Err(Refused::AttemptOver),
        }
    }

    /// The fence for what a body does: it has been entered here and has not ended.
    pub(crate) fn running(&self, task: TaskRef, attempt: u32) -> Result<(), Refused> {
        self.current(task, attempt, TaskStatus::Running)?;
        if self.task(task).reenter || self.is_expanded(task) { Err(Refused::AttemptOver) } else { Ok(()) }
    }

    pub(crate) fn detail(&mut self, task: TaskRef) -> &mut TaskDetail {
        let gate = self.bare_gate(task);
        let state = self.task_mut(task);
        state.gate_since = Time::default();
        state.detail.get_or_insert_with(|| Box::new(gate.unwrap_or_default()))
    }

    /// What is recorded of a task whose gate is open and of which nothing else is.
    pub(crate) fn bare_gate(&self, task: TaskRef) -> Option<TaskDetail> {
        let since = Some(self.task(task).gate_since).filter(|since| *since > Time::default())?;
        let mut detail = TaskDetail::default();
        detail.journal.open(self.graph.spec(task.ix).gate.as_ref()?.wait(since), since);
        Some(detail)
    }

    pub(crate) fn known_detail(&self, task: TaskRef) -> Option<&TaskDetail> {
        self.get(task)?.detail.as_deref()
    }

    fn begin(&mut self, out: &mut Out<'_>) {
        if std::mem::take(&mut self.recovered) {
            self.resume(out);
            return;
        }
        if let Some(forked) = self.run_detail.as_mut().and_then(|detail| detail.forked.take()) {
            self.begin_fork(*forked, out);
        } else if !self.is_held_by_time(out) {
            self.start_roots(out);
        }
    }

    fn start_roots(&mut self, out: &mut Out<'_>) {
        let graph = Arc::clone(&self.graph);
        for task in graph.roots().iter().map(|ix| TaskRef::plain(*ix)) {
            // One that fails as it starts may have skipped it.
            if self.task_status(task) == TaskStatus::Pending {
                self.start_or_skip(task, out);
            }
        }
    }
}
