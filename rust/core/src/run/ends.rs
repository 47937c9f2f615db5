//! How an attempt ends, and what follows for the task, for the tasks that depend on it, and for the run.

use std::sync::Arc;

use crate::event::{Effect, Outcome, Retry, Timer};
use crate::failure::Failure;
use crate::id::{NO_MAP, TaskIx, TaskRef};
use crate::record::{DoneRow, Write};
use crate::status::{RunStatus, TaskStatus};
use crate::time::Time;
use crate::value::Value;

use super::{Out, RunState, SkipCause};

/// What a task did to the requests that it has taken, if it has not answered them.
pub(super) const UNANSWERED: &str = "has ended without having answered it";

impl RunState {
    pub(super) fn ended(&mut self, task: TaskRef, outcome: Outcome, out: &mut Out<'_>) {
        let marked = self.clear_suspicion(task, out);
        match outcome {
            Outcome::Completed { output, changes } => {
                self.new_record(out);
                self.completed(task, output, changes, out);
                self.task_ended(task, out);
            }
            Outcome::Expanded { .. } if self.task(task).interrupt => self.cancelled(task, out),
            Outcome::Expanded { length } => {
                self.new_record(out);
                self.expand(task.ix, length, out);
            }
            Outcome::Cancelled { failure } => {
                self.new_record(out);
                if self.cancel().is_some() {
                    self.cancelled(task, out);
                } else {
                    self.attempt_failed(task, failure, None, out);
                }
            }
            Outcome::Skipped { reason } => {
                self.new_record(out);
                self.skip(task, SkipCause::Reason(reason), false, out);
                self.task_ended(task, out);
            }
            Outcome::Failed { failure, retry } => {
                self.new_record(out);
                self.attempt_failed(task, failure, retry, out);
            }
            Outcome::Suspended => {
                // From now on everything that the body still does is refused.
                self.task_mut(task).reenter = true;
                if marked {
                    self.reset_crashes(out);
                    self.write_row(task, out);
                }
                if self.run_detail.as_ref().is_some_and(|detail| detail.was_held) {
                    self.await_reentry(task, out);
                }
            }
        }
    }

    fn completed(&mut self, task: TaskRef, output: Value, changes: Option<Arc<[u8]>>, out: &mut Out<'_>) {
        self.refuse_taken(task, UNANSWERED, out);
        let state = self.task_mut(task);
        state.status = TaskStatus::Completed;
        state.output = output;
        state.ended_at = out.now;
        if !state.has_row && changes.is_none() && state.attempts == 1 {
            state.has_row = true;
            let (output, started_at) = (state.output.clone(), state.started_at);
            let (run, id) = (self.id.row(), self.ids[task.ix as usize]);
            let row = DoneRow { map: task.map, ..DoneRow::new(run, id, output, started_at, out.now) };
            out.batch.push(Write::Done(row));
            return;
        }
        let detail = self.detail(task);
        if changes.is_some() {
            detail.rare_mut().changes = changes;
        }
        if let Some(rare) = detail.known_rare() {
            rare.failure = None; // that of an earlier attempt
        }
        self.finish_attempt(task);
        self.write_row(task, out);
    }

    /// An attempt failed: plan the next, or fail for good.
    pub(super) fn attempt_failed(&mut self, task: TaskRef, failure: Failure, retry: Option<Retry>, out: &mut Out<'_>) {
        self.finish_attempt(task);
        let attempts = self.task(task).attempts;
        let policy = self.graph.spec(task.ix).retry;
        if let Some(retry) = retry.filter(|_| policy.allows_after(attempts) && self.may_try_again(task)) {
            let at = out.now.after(policy.delay_before(attempts.saturating_add(1), retry.random));
            self.task_mut(task).status = TaskStatus::Pending;
            if policy.fresh {
                self.refuse_taken(
                    task,
                    "has failed and starts again from the beginning, without having answered it",
                    out,
                );
            }
            let detail = self.detail(task);
            let rare = detail.rare_mut();
            (rare.failure, rare.retry_at) = (Some(failure), Some(at));
            let keys = detail.journal.rewind(policy.fresh);
            if !keys.is_empty() {
                self.drop_entries(task, keys, out);
            }
            self.write_row(task, out);
            self.set_timer(task, at, Timer::Retry, out);
            return;
        }
        self.refuse_taken(task, UNANSWERED, out);
        let state = self.task_mut(task);
        state.status = TaskStatus::Failed;
        state.failed = true;
        state.ended_at = out.now;
        self.has_unsuccessful = true;
        self.detail(task).rare_mut().failure = Some(failure.clone());
        self.write_row(task, out);
        if self.is_tolerated(task) {
            self.task_ended(task, out);
            return;
        }
        let first = self.failure().is_none();
        self.run_detail().failure.get_or_insert(failure);
        if self.graph.fail_fast() && self.cancel().is_none() {
            self.skip_unstarted(task, out);
        }
        self.task_ended(task, out);
        if first && self.status == RunStatus::Running {
            // The tasks' rows do not show which failure was the first.
            self.write_run(out);
        }
    }

    pub(super) fn finish_attempt(&mut self, task: TaskRef) {
        let detail = self.detail(task);
        detail.sub_status = None;
        if let Some(rare) = detail.known_rare() {
            rare.retry_at = None;
        }
        self.task_mut(task).interrupt = false;
    }

    /// `fail_fast`: skips what has not started, except tasks that run after failures.
    pub(crate) fn skip_unstarted(&mut self, cause: TaskRef, out: &mut Out<'_>) {
        let graph = Arc::clone(&self.graph);
        let all: Vec<TaskRef> = self.all().map(|(task, _)| task).collect();
        for task in all {
            let state = self.task(task);
            let waiting = match state.status {
                TaskStatus::Pending => state.started_at == Time::default(),
                TaskStatus::Ready => state.started_at == Time::default() && !state.reenter,
                _ => false,
            };
            if waiting && !graph.spec(task.ix).run_if.runs_after_failures() {
                self.skip(task, SkipCause::Task(cause), true, out);
                self.task_ended(task, out);
            }
        }
    }

    pub(super) fn skip(&mut self, task: TaskRef, cause: SkipCause, failed: bool, out: &mut Out<'_>) {
        self.refuse_taken(task, UNANSWERED, out);
        let state = self.task_mut(task);
        state.status = TaskStatus::Skipped;
        state.failed = failed;
        state.ended_at = out.now;
        self.has_unsuccessful = true;
        let rare = self.detail(task).rare_mut();
        (rare.failure, rare.skipped) = (None, Some(cause));
        self.finish_attempt(task);
        self.write_row(task, out);
    }

    /// A task has ended: starts or skips the tasks that waited for it, and ends the run with its last task.
    pub(super) fn task_ended(&mut self, task: TaskRef, out: &mut Out<'_>) {
        if task.map != NO_MAP {
            self.element_ended(task, out);
            return;
        }
        let graph = Arc::clone(&self.graph);
        self.remaining -= 1;
        let mut over = smallvec::SmallVec::<[TaskIx; 8]>::from_elem(task.ix, 1);
        while let Some(ended) = over.pop() {
            let met = self.is_expanded(TaskRef::plain(ended));
            for &next in graph.dependents(ended) {
                if met && graph.follows(next).contains(&ended) {
                    continue;
                }
                let next = TaskRef::plain(next);
                let state = self.task_mut(next);
                state.unmet -= 1;
                if state.unmet > 0 || state.status != TaskStatus::Pending {
                    continue;
                }
                if self.is_cancelled_instead(next) {
                    self.end_cancelled(next, out);
                    self.remaining -= 1;
                    over.push(next.ix);
                } else if let Some((cause, failed)) = self.skipped_by(next) {
                    self.skip(next, cause, failed, out);
                    self.remaining -= 1;
                    over.push(next.ix);
                } else {
                    self.start(next, out);
                }
            }
            for &next in graph.followers(ended) {
                if self.ends_with_elements(next, out) {
                    self.remaining -= 1;
                    over.push(next);
                }
            }
        }
        // A mapped task that ends at its start may have ended the run in the loop above.
        let reopening = || self.run_detail.as_ref().is_some_and(|detail| detail.reopening);
        if self.remaining == 0 && self.status == RunStatus::Running && !reopening() {
            self.end_run(out);
        }
    }

    pub(crate) fn end_run(&mut self, out: &mut Out<'_>) {
        let failed = || if self.failure().is_some() { RunStatus::Failed } else { RunStatus::Completed };
        let status = self.cancel().map_or_else(failed, |_| RunStatus::Cancelled);
        self.settle(status, out);
    }

    /// All dependencies of a pending task have ended: it is cancelled with its run, or skipped if `run_if` says so, or
    /// starts.
    pub(crate) fn start_or_skip(&mut self, task: TaskRef, out: &mut Out<'_>) {
        if self.is_cancelled_instead(task) {
            self.cancelled(task, out);
        } else if let Some((cause, failed)) = self.skipped_by(task) {
            self.skip(task, cause, failed, out);
            self.task_ended(task, out);
        } else {
            self.start(task, out);
        }
    }

    pub(crate) fn settle(&mut self, status: RunStatus, out: &mut Out<'_>) {
        self.status = status;
        self.ended_at = if status.is_ended() { out.now } else { Time::default() };
        // A pause is not a crash: no body is blamed for it.
        self.clear_marks(out);
        if status.is_ended() {
            self.refuse_queued(status, out);
            if let Some(detail) = &mut self.run_detail {
                detail.blocked_by = None;
            }
        }
        self.write_run(out);
        out.effects.push(Effect::Settled { status });
    }
}
