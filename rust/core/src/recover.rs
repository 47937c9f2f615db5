//! Recovery of a run: its rows become a state again, and its tasks resume.
//!
//! A body that was running is entered again; one that waited for a time, when the time is reached. Gates are watched
//! again, retries keep their time. Every body that an earlier process may have entered is a suspect (see
//! `run/rows.rs`). A run is paused if one of its bodies was the only suspect that [`MAX_CRASHES`] processes in a row
//! executed when they died.

use std::collections::HashMap;
use std::sync::Arc;

use crate::block::BlockReason;
use crate::decode::{Damage, DecodeError, Field};
use crate::event::Timer;
use crate::graph::Graph;
use crate::id::{NO_MAP, TaskId, TaskIx, TaskRef};
use crate::record::{Mark, StoredRun, Write};
use crate::run::{MAX_ELEMENTS, Out, Rare, RunDetail, RunState, SkipCause};
use crate::status::{RunStatus, TaskStatus};
use crate::time::Time;
use crate::value::Value;

/// How many processes in a row may die while they execute one body and no other suspect, before its run is paused.
pub const MAX_CRASHES: u32 = 5;

/// The largest count of attempts, entries or crashes that is believed; a larger one could overflow.
const MAX_COUNT: u32 = i32::MAX as u32;

impl RunState {
    /// Builds the state of a stored run; `ids` are the store's numbers of the graph's tasks. Apply `Begin` next.
    ///
    /// # Errors
    /// If the rows do not fit: one belongs to no task of the graph, or a number is impossibly large.
    pub fn recover(
        graph: &Arc<Graph>,
        ids: &Arc<[TaskId]>,
        version: Option<i64>,
        stored: StoredRun,
    ) -> Result<Self, DecodeError> {
        let mut state = Self::new(stored.run.id, Arc::clone(graph), Arc::clone(ids));
        let positions: HashMap<TaskId, TaskIx> = ids.iter().zip(0..).map(|(id, ix)| (*id, ix)).collect();
        let lengths = stored.rows.iter().filter_map(|row| Some((row.task, row.map, row.length?)));
        for (task, map, length) in lengths {
            match positions.get(&task) {
                Some(ix) if map == NO_MAP && graph.is_mapped(*ix) && length <= MAX_ELEMENTS => {
                    state.restore_elements(*ix, length);
                }
                _ => return Err(DecodeError::StrayRow { task, map }),
            }
        }
        let position = |state: &Self, id: TaskId, map: i32| {
            let task = positions.get(&id).map(|ix| TaskRef { ix: *ix, map });
            task.filter(|task| state.get(*task).is_some()).ok_or(DecodeError::StrayRow { task: id, map })
        };
        let counts = [(Field::RunCrashes, stored.run.crashes)].into_iter();
        let counts = counts.chain(stored.rows.iter().map(|row| (Field::TaskAttempts, row.attempts)));
        let mut counts = counts.chain(stored.entries.iter().map(|(.., entry)| (Field::JournalSeq, entry.seq)));
        if let Some((field, count)) = counts.find(|(_, count)| *count > MAX_COUNT) {
            return Err(field.damaged(Damage::TooLarge(count)));
        }
        state.status = stored.run.status;
        let StoredRun { run, .. } = &stored;
        if run.failure.is_some() || run.blocked_by.is_some() || run.cancel.is_some() || version.is_some() {
            let (failure, blocked_by, cancel) = (run.failure.clone(), run.blocked_by.clone(), run.cancel.clone());
            *state.run_detail() = RunDetail { failure, blocked_by, cancel, version, ..RunDetail::default() };
        }
        if state.status == RunStatus::Paused && state.is_requested() {
            // It is executed, but for its bodies.
            state.status = RunStatus::Running;
        }
        state.set_times(run.created_at, run.options.start_at, run.options.deadline);
        state.crashes = run.crashes;
        state.ended_at = run.ended_at.unwrap_or_default();
        state.recovered = true;
        for row in stored.rows {
            let task = position(&state, row.task, row.map)?;
            if row.status == TaskStatus::Completed && graph.is_expansion(task) && row.length.is_none() {
                return Err(DecodeError::StrayRow { task: row.task, map: row.map });
            }
            let known = state.task_mut(task);
            known.has_row = true;
            known.status = row.status;
            known.attempts = row.attempts;
            known.started_at = row.started_at.unwrap_or_default();
            known.ended_at = row.ended_at.unwrap_or_default();
            known.failed = row.status == TaskStatus::Failed;
            known.output = row.output.unwrap_or(Value::NONE);
            let plain = row.status == TaskStatus::Completed && row.attempts == 1 && row.waited == 0;
            if plain && row.changes.is_none() {
                continue;
            }
            let skipped = match row.status {
                TaskStatus::Skipped => {
                    row.blocked_by.map(|text| SkipCause::from_stored(text, graph, task, row.started_at))
                }
                TaskStatus::Cancelled => row.blocked_by.map(SkipCause::Reason),
                _ => None,
            };
            let detail = state.detail(task);
            detail.sub_status = row.sub_status;
            detail.waited = row.waited;
            let mark = row.mark.set_aside();
            let first_started_at = row.first_started_at.filter(|first| row.started_at != Some(*first));
            let is_rare = row.changes.is_some() || row.failure.is_some() || row.retry_at.is_some();
            let is_rare = is_rare || first_started_at.is_some();
            if is_rare || skipped.is_some() || mark != Mark::NONE {
                let (changes, failure, retry_at) = (row.changes, row.failure, row.retry_at);
                // `skipped` is only that of a skipped or cancelled task: what another waits for is made from its journal.
                let combinations = None;
                *detail.rare_mut() = Rare { changes, failure, first_started_at, retry_at, skipped, mark, combinations };
            }
        }
        for (id, map, entry) in stored.entries {
            let task = position(&state, id, map)?;
            let detail = state.detail(task);
            detail.waited_until = detail.waited_until.max(entry.closed_at.unwrap_or_default());
            detail.journal.restore(entry);
        }
        if !stored.messages.is_empty() {
            state.restore_mail(stored.messages);
        }
        if !stored.children.is_empty() {
            state.restore_children(stored.children);
        }
        state.derive();
        Ok(state)
    }

    /// As [`RunState::recover`], of a run that no process has executed: none can have died of one of its bodies.
    ///
    /// # Errors
    /// As [`RunState::recover`].
    pub fn recover_new(
        graph: &Arc<Graph>,
        ids: &Arc<[TaskId]>,
        version: Option<i64>,
        stored: StoredRun,
    ) -> Result<Self, DecodeError> {
        Ok(Self { recovered: false, ..Self::recover(graph, ids, version, stored)? })
    }

    /// Computes anew what follows from the states of the tasks, which have changed.
    pub(crate) fn count_again(&mut self) {
        let graph = Arc::clone(&self.graph);
        for (ix, state) in (0..).zip(self.tasks.iter_mut()) {
            state.unmet = graph.dependencies(ix).len() as u32;
        }
        self.remaining = self.tasks.len() as u32;
        self.has_unsuccessful = false;
        self.derive();
    }

    /// Computes what is not stored because it follows from the rest.
    fn derive(&mut self) {
        let graph = Arc::clone(&self.graph);
        let all: Vec<TaskRef> = self.all().map(|(task, _)| task).collect();
        for task in all {
            let is_expanded = self.is_expanded(task);
            if is_expanded {
                self.count_restored(task.ix);
                for follower in graph.followers(task.ix) {
                    self.task_mut(TaskRef::plain(*follower)).unmet -= 1;
                }
            }
            let status = self.task_status(task);
            if !status.is_ended() {
                continue;
            }
            self.has_unsuccessful |= status != TaskStatus::Completed;
            if task.map == NO_MAP {
                self.remaining -= 1;
                let follows = |dependent: &TaskIx| is_expanded && graph.follows(*dependent).contains(&task.ix);
                for dependent in graph.dependents(task.ix).iter().filter(|dependent| !follows(dependent)) {
                    self.task_mut(TaskRef::plain(*dependent)).unmet -= 1;
                }
            }
            if let Some(cause) = self.skip_root(task) {
                let failed = self.get(cause).is_some_and(|cause| cause.status == TaskStatus::Failed);
                self.task_mut(task).failed = failed;
            } else if self.is_expired(task) {
                self.task_mut(task).failed = true;
            }
        }
    }

    /// `Begin` of a recovered run.
    pub(crate) fn resume(&mut self, out: &mut Out<'_>) {
        let marked = self.marked();
        let crashes = if marked.is_empty() { 0 } else { self.crashes };
        if crashes >= MAX_CRASHES && self.cancel().is_some() {
            // What kills its process cannot clean up.
            self.crashes = 0;
            self.end_unfinished(out);
            return;
        }
        if crashes >= MAX_CRASHES {
            // Each of these deaths raised the mark of the only suspect.
            let times = |task: &TaskRef| self.known_detail(*task).map_or(0, |detail| detail.rare().mark.times);
            let most = marked.iter().map(times).max().unwrap_or_default();
            let blamed = marked.iter().filter(|task| times(task) == most);
            let names: Vec<String> = blamed.map(|task| format!("'{}'", self.graph.name_of(*task))).collect();
            self.crashes = 0;
            self.run_detail().blocked_by =
                Some(BlockReason::Crashes { times: MAX_CRASHES, tasks: names.join(", ").into() });
            self.settle(RunStatus::Paused, out);
            return;
        }
        self.no_progress = true;
        let held = self.is_requested();
        let blocked = self.run_detail.as_mut().is_some_and(|detail| {
            detail.was_held |= held;
            !held && detail.blocked_by.take().is_some()
        });
        let stale = blocked || (self.status != RunStatus::Running && !held);
        self.status = RunStatus::Running;
        if crashes != self.crashes || stale || self.version().is_some() {
            self.crashes = crashes;
            self.write_run(out);
        }
        if self.is_held_by_time(out) {
            if self.status == RunStatus::Running {
                let controls = self.take_controls();
                self.deliver_all(controls, out);
            }
            return;
        }
        // Chosen before any of them changes: a task that is started when another ends is not resumed a second time.
        let order = self.graph.order().iter().map(|ix| TaskRef::plain(*ix));
        let elements = |ix: TaskIx| (0..self.elements(ix).len() as i32).map(move |map| TaskRef { ix, map });
        let order = order.flat_map(|task| std::iter::once(task).chain(elements(task.ix)));
        let open: Vec<TaskRef> = order.filter(|task| self.task(*task).unmet == 0).collect();
        let mut controls = self.take_controls();
        let retry = controls.iter().position(|queued| *queued.message.address.name == *"retry");
        // Of a run that has ended, a newer version may have tasks without rows.
        let had_ended =
            || self.cancel().is_some() || self.all().all(|(_, task)| task.status.is_ended() || !task.has_row);
        if let Some(at) = retry.filter(|_| had_ended()) {
            // What was asked before came too late for the run.
            let (run, now) = (self.row(), out.now);
            let late = controls.drain(..at);
            out.batch.extend(late.map(|queued| Write::Applied {
                run,
                number: queued.message.number,
                at: now,
                from: queued.from,
            }));
        }
        let retried = retry.is_some();
        if retried {
            self.forget_cancel();
            self.run_detail().reopening = true;
        }
        if let Some(cause) =
            self.first_failed().filter(|_| self.graph.fail_fast() && !retried && self.cancel().is_none())
        {
            // Tasks that a newer version has added, and those that are not known to have started.
            self.skip_unstarted(cause, out);
        }
        // Messages that came while nobody executed the run go to the waits that were open by then, before those that
        // are opened now.
        let queued = self.take_queued(out);
        for task in open {
            self.resume_task(task, out);
        }
        self.deliver_all(queued, out);
        self.deliver_ends(out);
        if self.cancel().is_some() {
            self.cancel_tasks(out);
        }
        if retried {
            self.run_detail().reopening = false;
        }
        self.deliver_all(controls, out);
        if self.remaining == 0 && self.status == RunStatus::Running {
            self.end_run(out);
        }
    }

    pub(crate) fn first_failed(&self) -> Option<TaskRef> {
        self.failure()?;
        let counts = |task: &TaskRef| task.map == NO_MAP || self.is_over_tolerance(task.ix);
        let failed = self.all().filter(|(task, state)| state.status == TaskStatus::Failed && counts(task));
        failed.min_by_key(|(_, state)| state.ended_at).map(|(task, _)| task)
    }

    /// A body that is not in memory is entered again: at once, or when what it waits for has come.
    pub(crate) fn await_reentry(&mut self, task: TaskRef, out: &mut Out<'_>) {
        match self.known_detail(task).and_then(|detail| detail.journal.enter_at()) {
            None => self.ready(task, out),
            // It waits for a signal, whose `Closed` makes it ready.
            Some(Time::NEVER) => {}
            Some(at) => self.set_timer(task, at, Timer::Reenter, out),
        }
    }

    fn resume_task(&mut self, task: TaskRef, out: &mut Out<'_>) {
        if self.is_expanded(task) {
            self.end_if_done(task.ix, out);
            return;
        }
        let is_cancelled = self.cancel().is_some();
        let state = self.task_mut(task);
        let detail = state.detail.as_deref();
        // The row of a body is written some time after its first records, and one that has any is to clean up.
        let has_begun = !state.has_row && detail.is_some_and(|detail| detail.journal.recorded() > 0);
        if is_cancelled && has_begun && !state.status.is_ended() {
            state.status = TaskStatus::Running;
            state.attempts = state.attempts.max(1);
        }
        match state.status {
            TaskStatus::Running => {
                state.reenter = true;
                state.suspect = true;
                self.await_reentry(task, out);
            }
            TaskStatus::Pending | TaskStatus::Ready => {
                state.status = TaskStatus::Pending;
                state.suspect = true;
                match detail.and_then(|detail| detail.rare().retry_at) {
                    None => self.start_or_skip(task, out),
                    Some(at) => self.set_timer(task, at, Timer::Retry, out),
                }
            }
            _ => {}
        }
    }
}
