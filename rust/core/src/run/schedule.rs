//! When a run begins and when it must have ended: `start_at` and the deadline of the whole run.

use std::sync::Arc;
use std::time::Duration;

use crate::event::{Effect, Event};
use crate::failure::{Failure, FailureKind};
use crate::id::{TaskIx, TaskRef};
use crate::status::{RunStatus, TaskStatus};
use crate::time::Time;

use super::skip::EXPIRED;
use super::{Out, RunState, SkipCause, Task};

impl RunState {
    /// Says when the run begins, if not at once, and when it must have ended. To be called before `Begin`.
    pub fn set_times(&mut self, created_at: Time, start_at: Option<Time>, deadline: Option<Time>) {
        if start_at.is_some() || deadline.is_some() {
            let begins = start_at.map_or(created_at, |at| at.max(created_at));
            let detail = self.run_detail();
            detail.start_at = start_at;
            detail.deadline = deadline.map(|deadline| (deadline, deadline.since(begins)));
        }
    }

    /// `Begin`: whether the deadline has passed, or nothing may start yet. Sets the timers.
    pub(crate) fn is_held_by_time(&mut self, out: &mut Out<'_>) -> bool {
        let Some(detail) = self.run_detail.as_mut() else { return false };
        let (start_at, deadline) = (detail.start_at, detail.deadline);
        if let Some((at, _)) = deadline {
            if at <= out.now {
                self.expired(out);
                return true;
            }
            out.effects.push(Effect::Timer { at, event: Box::new(Event::Expired) });
        }
        // A cancelled run has not waited for its time, nor has one that was retried then. A task may be skipped before.
        let skipped = |task: &Task| task.status == TaskStatus::Skipped && task.started_at == Time::default();
        let has_begun = self.cancel().is_some() || self.all().any(|(_, task)| task.has_row && !skipped(task));
        match start_at {
            Some(at) if at > out.now && !has_begun => {
                out.effects.push(Effect::Timer { at, event: Box::new(Event::StartDue) });
                true
            }
            _ => {
                self.run_detail().start_at = None;
                false
            }
        }
    }

    /// The time to begin has come.
    pub(super) fn start_due(&mut self, out: &mut Out<'_>) {
        let due = |at: &Time| *at <= out.now;
        if self.run_detail.as_mut().and_then(|detail| detail.start_at.take_if(|at| due(at))).is_some() {
            self.start_met(out);
        }
    }

    /// Whether nothing may start, because the time at which the run begins has not come.
    pub(super) fn begins_later(&self) -> bool {
        self.run_detail.as_ref().is_some_and(|detail| detail.start_at.is_some())
    }

    /// The run begins after all: starts what waits for nothing, or only for tasks that were skipped meanwhile.
    pub(super) fn start_met(&mut self, out: &mut Out<'_>) {
        for task in (0..self.graph.len() as TaskIx).map(TaskRef::plain) {
            let state = self.task(task);
            // One that fails as it starts may have skipped others.
            if state.unmet == 0 && state.status == TaskStatus::Pending {
                self.start_or_skip(task, out);
            }
        }
    }

    /// The run's deadline has passed.
    pub(super) fn expired(&mut self, out: &mut Out<'_>) {
        if let Some((at, limit)) = self.run_detail.as_ref().and_then(|detail| detail.deadline)
            && at <= out.now
        {
            if self.cancel().is_some() {
                self.end_unfinished(out);
            } else {
                self.expire(limit, out);
            }
        }
    }

    /// Ends the run: what has begun fails, the rest is skipped.
    fn expire(&mut self, limit: Duration, out: &mut Out<'_>) {
        let limit = limit.as_secs_f64();
        let message = format!("run {} of workflow '{}' did not end within {limit} s", self.id, self.graph.workflow());
        let failure = Failure::new(FailureKind::RunTimeout, "TimeoutError", &message);
        let reason: Arc<str> = format!("{EXPIRED}{limit} s").into();
        let open: Vec<TaskRef> =
            self.all().filter(|(_, state)| !state.status.is_ended()).map(|(task, _)| task).collect();
        for task in open {
            if self.has_begun(task) {
                self.fail_at_deadline(task, &failure, out);
            } else {
                self.skip(task, SkipCause::Expired(Arc::clone(&reason)), true, out);
            }
        }
        self.remaining = 0;
        self.run_detail().failure.get_or_insert(failure);
        self.settle(RunStatus::Failed, out);
    }

    /// Whether a body was entered, or a gate is open.
    fn has_begun(&self, task: TaskRef) -> bool {
        let state = self.task(task);
        let waits = || self.known_detail(task).is_some_and(|detail| detail.journal.has_open());
        state.status == TaskStatus::Running
            || state.attempts > 0
            || state.reenter
            || state.gate_since > Time::default()
            || waits()
    }

    fn fail_at_deadline(&mut self, task: TaskRef, failure: &Failure, out: &mut Out<'_>) {
        self.clear_suspicion(task, out);
        self.refuse_taken(task, "has failed at the deadline of its run, without having answered it", out);
        self.finish_attempt(task);
        let open: Vec<_> = {
            let entries = self.detail(task).journal.open_entries();
            entries.map(|entry| entry.key.clone()).collect()
        };
        for key in open {
            // Cannot be refused: it is open.
            let _ = self.close_entry(task, &key, Err(failure.clone()), true, out);
        }
        if self.task(task).status == TaskStatus::Running {
            out.effects.push(Effect::Interrupted { task });
        }
        let state = self.task_mut(task);
        state.status = TaskStatus::Failed;
        state.failed = true;
        state.reenter = false;
        state.ended_at = out.now;
        self.has_unsuccessful = true;
        self.detail(task).rare_mut().failure = Some(failure.clone());
        self.write_row(task, out);
    }
}
