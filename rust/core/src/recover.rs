//! Taking a run up again: from its rows back to its state, and what goes on at once.
//!
//! What was running is entered again, what waited for a time is entered again when the time is reached, gates are
//! watched again, retries keep their time. The bodies that are entered are marked first, in the batch of `Begin`:
//! a run that is found [`MAX_CRASHES`] times in a row with a mark and no new record kills its process, and is paused.

use std::collections::HashMap;
use std::sync::Arc;

use crate::event::{Effect, Timer};
use crate::failure::Failure;
use crate::graph::Graph;
use crate::id::{TaskId, TaskIx, TaskRef};
use crate::record::{EntryKind, EntryState, RecordedTask, StoredRun};
use crate::run::{Out, RunState};
use crate::status::{RunStatus, TaskStatus};
use crate::time::Time;
use crate::value::Value;

/// How often in a row a run may be found dead with a mark before it is paused.
pub const MAX_CRASHES: u32 = 5;

/// Whether a recorded task list fits the graph: every recorded task still exists with the same dependencies.
#[must_use]
pub fn fits(graph: &Graph, recorded: &[RecordedTask]) -> bool {
    recorded.iter().all(|task| {
        graph.find(&task.name).is_some_and(|ix| {
            let mut now: Vec<&str> = graph.dependencies(ix).iter().map(|dep| &**graph.name(*dep)).collect();
            let mut then: Vec<&str> = task.dependencies.iter().map(|name| &**name).collect();
            now.sort_unstable();
            then.sort_unstable();
            now == then
        })
    })
}

impl RunState {
    /// Builds the state of a stored run; `ids` are the store's numbers of the graph's tasks. Apply `Begin` next.
    ///
    /// # Errors
    /// Says what does not fit, if a row belongs to no task of the graph.
    pub fn recover(
        graph: &Arc<Graph>,
        ids: &Arc<[TaskId]>,
        version: Option<i64>,
        stored: StoredRun,
    ) -> Result<Self, String> {
        let mut state = Self::new(stored.run.id, Arc::clone(graph), Arc::clone(ids));
        let positions: HashMap<TaskId, TaskIx> = ids.iter().zip(0..).map(|(id, ix)| (*id, ix)).collect();
        let position = |id: TaskId| {
            positions.get(&id).copied().ok_or_else(|| format!("a row of run {} belongs to no task", stored.run.id))
        };
        state.status = stored.run.status;
        state.failure = stored.run.failure.clone();
        state.blocked_by = stored.run.blocked_by.clone();
        state.crashes = stored.run.crashes;
        state.ended_at = stored.run.ended_at;
        state.version = version;
        state.recovered = true;
        for row in stored.rows {
            let ix = position(row.task)?;
            let task = &mut state.tasks[ix as usize];
            task.has_row = true;
            task.status = row.status;
            task.attempts = row.attempts;
            task.started_at = row.started_at.unwrap_or_default();
            task.ended_at = row.ended_at.unwrap_or_default();
            task.failed = row.status == TaskStatus::Failed;
            task.output = row.output.unwrap_or(Value::NONE);
            let plain = row.status == TaskStatus::Completed && row.attempts == 1 && row.waited == 0;
            if plain && row.changes.is_none() {
                continue;
            }
            let detail = state.detail(ix);
            detail.sub_status = row.sub_status;
            detail.changes = row.changes;
            detail.failure = row.failure;
            detail.first_started_at = row.first_started_at;
            detail.waited = row.waited;
            detail.retry_at = row.retry_at;
            detail.blocked_by = row.blocked_by;
            detail.entered = row.entered;
        }
        for (id, _, entry) in stored.entries {
            let ix = position(id)?;
            let detail = state.detail(ix);
            if entry.state == EntryState::Open {
                detail.waiting_since = Some(entry.opened_at);
            }
            detail.journal.restore(entry);
        }
        state.settle_derived();
        Ok(state)
    }

    /// What is not stored because it follows from the rest.
    fn settle_derived(&mut self) {
        if self.failure.is_none() {
            self.failure = self.first_failure();
        }
        for ix in 0..self.tasks.len() as TaskIx {
            if !self.tasks[ix as usize].status.is_ended() {
                continue;
            }
            self.left -= 1;
            self.troubled |= self.tasks[ix as usize].status != TaskStatus::Completed;
            for dependent in Arc::clone(&self.graph).dependents(ix) {
                self.tasks[*dependent as usize].unmet -= 1;
            }
            if self.tasks[ix as usize].status == TaskStatus::Skipped {
                let cause = self.details.get(&ix).and_then(|detail| detail.blocked_by.clone());
                let cause = cause.and_then(|name| self.graph.find(&name));
                self.tasks[ix as usize].failed =
                    cause.is_some_and(|cause| self.tasks[cause as usize].status == TaskStatus::Failed);
            }
        }
    }

    /// The first committed failure. The run's row has it only once the run has ended.
    fn first_failure(&self) -> Option<Failure> {
        let failed = (0..self.tasks.len() as TaskIx).filter(|ix| self.tasks[*ix as usize].status == TaskStatus::Failed);
        let first = failed.min_by_key(|ix| self.tasks[*ix as usize].ended_at)?;
        self.details.get(&first)?.failure.clone()
    }

    /// `Begin` of a recovered run.
    pub(crate) fn go_on(&mut self, out: &mut Out<'_>) {
        let marked: Vec<String> = (0..self.tasks.len() as TaskIx)
            .filter(|ix| self.details.get(ix).is_some_and(|detail| detail.entered))
            .map(|ix| format!("{:?}", self.graph.name(ix)))
            .collect();
        let crashes = if marked.is_empty() { 0 } else { self.crashes + 1 };
        if crashes >= MAX_CRASHES {
            self.crashes = 0;
            let names = marked.join(", ");
            self.blocked_by = Some(
                format!("the process died {MAX_CRASHES} times in a row while it executed {names}; resume it once that is mended").into(),
            );
            self.settle(RunStatus::Paused, out);
            return;
        }
        if crashes != self.crashes || self.version.is_some() || self.left == 0 {
            self.crashes = crashes;
            self.write_run(out);
        }
        // Chosen before any of them moves on: what one lets go on is not taken up a second time.
        let open: Vec<TaskIx> =
            self.graph.order().iter().copied().filter(|ix| self.tasks[*ix as usize].unmet == 0).collect();
        for ix in open {
            self.take_up(ix, out);
        }
        if self.left == 0 && self.status == RunStatus::Running {
            self.settle(if self.failure.is_some() { RunStatus::Failed } else { RunStatus::Completed }, out);
        }
    }

    fn take_up(&mut self, ix: TaskIx, out: &mut Out<'_>) {
        let task = &mut self.tasks[ix as usize];
        let at = TaskRef::plain(ix);
        let attempt = task.attempts;
        match task.status {
            TaskStatus::Running => {
                task.reenter = true;
                let open = self.detail(ix).journal.open_wait().map(|entry| (entry.kind, entry.due));
                if let Some((EntryKind::Time, due)) = open {
                    let due = due.unwrap_or(Time::default());
                    out.effects.push(Effect::Timer { task: at, attempt, at: due, timer: Timer::Reenter });
                } else {
                    self.mark(ix, out);
                    self.ready(ix, out);
                }
            }
            TaskStatus::Pending | TaskStatus::Ready => {
                task.status = TaskStatus::Pending;
                let detail = self.details.get(&ix);
                let retry_at = detail.and_then(|detail| detail.retry_at);
                let gate_open = detail
                    .and_then(|detail| detail.journal.gate())
                    .is_some_and(|entry| entry.state == EntryState::Open);
                if let Some(at_time) = retry_at {
                    out.effects.push(Effect::Timer { task: at, attempt, at: at_time, timer: Timer::Retry });
                } else if gate_open {
                    self.watch_gate(ix, out);
                } else if !self.skip_if_decided(ix, out) {
                    if self.graph.spec(ix).gate.is_none() {
                        self.mark(ix, out);
                    }
                    self.release(ix, out);
                }
            }
            _ => {}
        }
    }

    /// Marks a body that is about to be entered in a recovered run.
    pub(crate) fn mark(&mut self, ix: TaskIx, out: &mut Out<'_>) {
        self.detail(ix).entered = true;
        self.write_row(ix, out);
    }
}
