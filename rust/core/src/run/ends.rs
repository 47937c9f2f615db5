//! How an attempt ends, and what follows for the task, for the tasks that depend on it, and for the run.

use std::sync::Arc;

use crate::event::{Effect, Outcome, Retry, Timer};
use crate::failure::Failure;
use crate::graph::RunIf;
use crate::id::{NO_MAP, TaskIx};
use crate::record::{DoneRow, Write};
use crate::status::{RunStatus, TaskStatus};
use crate::time::Time;
use crate::value::Value;

use super::{Out, RunState, SkipCause};

impl RunState {
    pub(super) fn ended(&mut self, ix: TaskIx, outcome: Outcome, out: &mut Out<'_>) {
        let marked = self.clear_suspicion(ix, out);
        match outcome {
            Outcome::Completed { output, changes } => {
                self.new_record(out);
                self.completed(ix, output, changes, out);
                self.task_ended(ix, out);
            }
            Outcome::Skipped { reason } => {
                self.new_record(out);
                self.skip(ix, SkipCause::Reason(reason), false, out);
                self.task_ended(ix, out);
            }
            Outcome::Failed { failure, retry } => {
                self.new_record(out);
                self.attempt_failed(ix, failure, retry, out);
            }
            Outcome::Suspended => {
                // From now on everything that the body still does is refused.
                self.tasks[ix as usize].reenter = true;
                if marked {
                    self.reset_crashes(out);
                    self.write_row(ix, out);
                }
            }
        }
    }

    fn completed(&mut self, ix: TaskIx, output: Value, changes: Option<Arc<[u8]>>, out: &mut Out<'_>) {
        let state = &mut self.tasks[ix as usize];
        state.status = TaskStatus::Completed;
        state.output = output;
        state.ended_at = out.now;
        if !state.has_row && changes.is_none() && state.attempts == 1 {
            state.has_row = true;
            let (run, task, output) = (self.id.row(), self.ids[ix as usize], state.output.clone());
            out.batch.push(Write::Done(DoneRow::new(run, task, output, state.started_at, out.now)));
            return;
        }
        let detail = self.detail(ix);
        detail.changes = changes;
        detail.failure = None; // that of an earlier attempt
        self.finish_attempt(ix);
        self.write_row(ix, out);
    }

    /// An attempt failed: plan the next, or fail for good.
    pub(super) fn attempt_failed(&mut self, ix: TaskIx, failure: Failure, retry: Option<Retry>, out: &mut Out<'_>) {
        self.finish_attempt(ix);
        let attempts = self.tasks[ix as usize].attempts;
        let policy = self.graph.spec(ix).retry;
        if let Some(retry) = retry.filter(|_| policy.allows_after(attempts)) {
            let at = out.now.after(policy.delay_before(attempts + 1, retry.random));
            let (run, task) = (self.row(), self.ids[ix as usize]);
            self.tasks[ix as usize].status = TaskStatus::Pending;
            let detail = self.detail(ix);
            detail.failure = Some(failure);
            detail.retry_at = Some(at);
            let keys = detail.journal.rewind(policy.fresh);
            if !keys.is_empty() {
                out.batch.push(Write::DropEntries { run, task, map: NO_MAP, keys });
            }
            self.write_row(ix, out);
            self.set_timer(ix, at, Timer::Retry, out);
            return;
        }
        let state = &mut self.tasks[ix as usize];
        state.status = TaskStatus::Failed;
        state.failed = true;
        state.ended_at = out.now;
        self.has_unsuccessful = true;
        self.detail(ix).failure = Some(failure.clone());
        self.write_row(ix, out);
        let first = self.failure().is_none();
        self.run_detail().failure.get_or_insert(failure);
        if self.graph.fail_fast() {
            self.skip_unstarted(ix, out);
        }
        self.task_ended(ix, out);
        if first && self.status == RunStatus::Running {
            // The tasks' rows do not show which failure was the first.
            self.write_run(out);
        }
    }

    fn finish_attempt(&mut self, ix: TaskIx) {
        let started_at = self.tasks[ix as usize].started_at;
        let detail = self.detail(ix);
        if started_at > Time::default() {
            detail.first_started_at.get_or_insert(started_at);
        }
        detail.sub_status = None;
        detail.retry_at = None;
    }

    /// `fail_fast`: skips what has not started, except tasks that run after failures.
    pub(crate) fn skip_unstarted(&mut self, cause: TaskIx, out: &mut Out<'_>) {
        let graph = Arc::clone(&self.graph);
        for ix in 0..self.tasks.len() as TaskIx {
            let state = &self.tasks[ix as usize];
            let waiting = match state.status {
                TaskStatus::Pending => state.started_at == Time::default(),
                TaskStatus::Ready => state.started_at == Time::default() && !state.reenter,
                _ => false,
            };
            if waiting && graph.spec(ix).run_if == RunIf::Succeeded {
                self.skip(ix, SkipCause::Task(cause), true, out);
                self.task_ended(ix, out);
            }
        }
    }

    fn skip(&mut self, ix: TaskIx, cause: SkipCause, failed: bool, out: &mut Out<'_>) {
        let state = &mut self.tasks[ix as usize];
        state.status = TaskStatus::Skipped;
        state.failed = failed;
        state.ended_at = out.now;
        self.has_unsuccessful = true;
        let detail = self.detail(ix);
        detail.failure = None;
        detail.skipped = Some(cause);
        self.finish_attempt(ix);
        self.write_row(ix, out);
    }

    /// A task has ended: starts or skips the tasks that waited for it, and ends the run with its last task.
    fn task_ended(&mut self, ix: TaskIx, out: &mut Out<'_>) {
        let graph = Arc::clone(&self.graph);
        self.remaining -= 1;
        let mut over = smallvec::SmallVec::<[TaskIx; 8]>::from_elem(ix, 1);
        while let Some(ended) = over.pop() {
            for &next in graph.dependents(ended) {
                let state = &mut self.tasks[next as usize];
                state.unmet -= 1;
                if state.unmet > 0 || state.status != TaskStatus::Pending {
                    continue;
                }
                if let Some((cause, failed)) = self.skipped_by(next) {
                    self.skip(next, cause, failed, out);
                    self.remaining -= 1;
                    over.push(next);
                } else {
                    self.start(next, out);
                }
            }
        }
        if self.remaining == 0 {
            self.end_run(out);
        }
    }

    pub(crate) fn end_run(&mut self, out: &mut Out<'_>) {
        self.settle(if self.failure().is_some() { RunStatus::Failed } else { RunStatus::Completed }, out);
    }

    /// All dependencies of a pending task have ended: skips it if `run_if` says so, else starts it.
    pub(crate) fn start_or_skip(&mut self, ix: TaskIx, out: &mut Out<'_>) {
        if let Some((cause, failed)) = self.skipped_by(ix) {
            self.skip(ix, cause, failed, out);
            self.task_ended(ix, out);
        } else {
            self.start(ix, out);
        }
    }

    pub(crate) fn settle(&mut self, status: RunStatus, out: &mut Out<'_>) {
        self.status = status;
        self.ended_at = if status.is_ended() { out.now } else { Time::default() };
        // A pause is not a crash: no body is blamed for it.
        self.clear_marks(out);
        self.write_run(out);
        out.effects.push(Effect::Settled { status });
    }
}
