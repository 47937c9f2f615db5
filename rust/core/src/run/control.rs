//! What somebody outside asks of a run: to cancel it, to pause and resume it. The requests: `crate::control`; those
//! about single tasks: `hand.rs`; a retry: `again.rs`.
//!
//! # Pause
//!
//! A held run accepts every event: deadlines pass, conditions are polled, messages come, and all that is recorded. But
//! no body starts or resumes. A task that may start becomes Ready, without the effect; a body whose wait is over does
//! not get a slot: its driver suspends it ([`RunState::is_held`]), and it is Ready too. When the run is not held any
//! more, everything that is Ready is dispatched. Executing bodies go on until their next wait.
//!
//! # Cancel
//!
//! What has not begun is Cancelled once all that it depends on has ended, but for tasks that run whatever happens
//! (`run_if` Done). A body gets the failure
//! [`FailureKind::Cancelled`] once: one that is deferred as the end of its wait, one that executes at its next call
//! that is not a replay ([`RunState::interruption`]). In both cases that is the end of an entry of its journal, so that
//! a re-entered body gets it at the same place. From then on the body's calls work as always, so that it can clean up.
//! How long that may take: `grace_over`.

use std::sync::Arc;
use std::time::Duration;

use crate::block::BlockReason;
use crate::control::{Ask, Cancel, Control, who_and_why};
use crate::entry::{Entry, EntryKey, EntryKind, StepMode};
use crate::event::{Effect, Event, Refused};
use crate::failure::{Failure, FailureKind};
use crate::graph::RunIf;
use crate::id::{RunId, TaskRef};
use crate::journal::Recall;
use crate::message::Message;
use crate::record::Write;
use crate::status::{RunStatus, SubStatus, TaskStatus};
use crate::time::{Time, micros};

use super::ends::UNANSWERED;
use super::{Out, RunState, SkipCause, Task};

/// Since when a body counts as cleaning up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interrupted {
    /// When it has begun to, or this process to execute it.
    since: Time,
    /// What it had waited until then.
    waited: i64,
}

impl RunState {
    /// That the run was cancelled, if it was: its bodies may still clean up.
    #[must_use]
    pub fn cancel(&self) -> Option<&Arc<Cancel>> {
        self.run_detail.as_ref()?.cancel.as_ref()
    }

    /// Whether no body may start or resume, because the run is paused on request.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.run_detail.is_some() && self.is_requested() && self.status == RunStatus::Running
    }

    pub(crate) fn is_requested(&self) -> bool {
        self.blocked_by().is_some_and(BlockReason::is_requested)
    }

    /// Acts on a request from outside.
    pub(super) fn control(&mut self, message: &Message, out: &mut Out<'_>) {
        if self.status != RunStatus::Running {
            // It has ended with what was committed before: the request comes too late.
            return;
        }
        // One of a newer version of bide is not understood.
        let Some(Control { ask, by, reason }) = Control::of_message(message) else { return };
        match ask {
            Ask::Cancel { force } => {
                let cancel = Cancel { by, reason, at: out.now };
                self.cancel_run(cancel, force, message.number, out);
            }
            Ask::Pause => self.hold(who_and_why(by.as_deref(), reason.as_deref()).into(), out),
            Ask::Resume => self.release_hold(out),
            // Two have asked for it at once, and the first one was done.
            Ask::Retry { .. } if !self.entered().is_empty() => {}
            Ask::Retry { from, fresh } => self.retry(from.as_deref(), fresh, message, out),
            Ask::Satisfy { task, value } => self.satisfy(&task, &value, out),
            Ask::Extend { task, span } => self.extend(&task, span, out),
            Ask::PollNow { task } => self.poll_now(&task, out),
            // These only tell.
            Ask::ForkedFrom { .. } | Ask::ForkedTo { .. } | Ask::Edited { .. } | Ask::Adopt => {}
            Ask::Skip { task } => {
                let who = who_and_why(by.as_deref(), reason.as_deref());
                self.skip_on_request(&task, format!("skipped on request{who}").into(), out);
            }
        }
    }

    /// Pauses the run. Nothing changes if it is paused or cancelled already.
    fn hold(&mut self, who: Arc<str>, out: &mut Out<'_>) {
        if self.is_held() || self.cancel().is_some() {
            return;
        }
        let detail = self.run_detail();
        detail.blocked_by = Some(BlockReason::Requested { who });
        detail.was_held = true;
        self.write_run(out);
    }

    /// The run continues: what could have started or resumed meanwhile does so now.
    fn release_hold(&mut self, out: &mut Out<'_>) {
        if !self.is_held() {
            return;
        }
        self.run_detail().blocked_by = None;
        self.write_run(out);
        self.dispatch_all(out);
    }

    fn dispatch_all(&self, out: &mut Out<'_>) {
        let ready = self.all().filter(|(_, state)| state.status == TaskStatus::Ready);
        out.effects.extend(ready.map(|(task, _)| Effect::Ready { task }));
    }

    /// Cancels the run. A second time only force counts.
    fn cancel_run(&mut self, cancel: Cancel, force: bool, number: i64, out: &mut Out<'_>) {
        let first = self.cancel().is_none();
        if first || force {
            for child in self.unended_children() {
                let reason = format!("run {}, which has started it, was cancelled", self.id);
                let control = Control { reason: Some(reason.into()), ..Control::new(Ask::Cancel { force }) };
                post(child, number, &control, out);
            }
        }
        if first {
            let held = self.is_held();
            // After the start of every body that has begun and after all that is recorded of it, also if a clock was set
            // back: see `has_started_since` and `cleans_up`. One that is to be entered again need not be Running.
            let is_done = |status| matches!(status, TaskStatus::Completed | TaskStatus::Skipped);
            let others = self.all().filter(|(_, state)| !is_done(state.status));
            let latest = others.map(|(task, state)| state.started_at.max(self.last_recorded(task)));
            let at = cancel.at.max(latest.max().unwrap_or_default().after(Duration::from_micros(1)));
            let detail = self.run_detail();
            detail.blocked_by = None;
            detail.cancel = Some(Arc::new(Cancel { at, ..cancel }));
            self.write_run(out);
            if held {
                self.dispatch_all(out);
            }
            // It need not wait for the time at which it was to begin.
            if self.run_detail().start_at.take().is_some() {
                self.start_met(out);
            }
            if !force {
                self.cancel_tasks(out);
            }
        }
        if force {
            self.end_unfinished(out);
        }
    }

    /// Whether a task starts, also in a cancelled run.
    fn runs_anyway(&self, task: TaskRef) -> bool {
        self.graph.spec(task.ix).run_if == RunIf::Done
    }

    /// Whether a task may be tried again: in a cancelled run only what has not been interrupted.
    pub(super) fn may_try_again(&self, task: TaskRef) -> bool {
        self.cancel().is_none() || (self.runs_anyway(task) && !self.was_interrupted(task))
    }

    fn was_interrupted(&self, task: TaskRef) -> bool {
        self.run_detail.as_ref().is_some_and(|detail| detail.interrupted.contains_key(&task))
    }

    /// Whether a task that could start ends instead, because its run is cancelled.
    pub(super) fn is_cancelled_instead(&self, task: TaskRef) -> bool {
        self.cancel().is_some() && !self.runs_anyway(task)
    }

    /// The run is cancelled: ends what could begin, and has the bodies get it that have begun. What depends on these
    /// ends after them: a task that runs whatever happens is to find all ended that it depends on.
    pub(crate) fn cancel_tasks(&mut self, out: &mut Out<'_>) {
        let all: Vec<TaskRef> = self.all().map(|(task, _)| task).collect();
        let mut ended = Vec::new();
        for task in all {
            let state = self.task(task);
            let begun = state.status == TaskStatus::Running || (state.status == TaskStatus::Ready && state.reenter);
            if !begun {
                let waits = matches!(state.status, TaskStatus::Pending | TaskStatus::Ready);
                if waits && state.unmet == 0 && !self.runs_anyway(task) {
                    self.end_cancelled(task, out);
                    ended.push(task);
                }
            } else if !self.is_expanded(task) && !self.has_started_since(task) {
                let got = self.known_detail(task).is_some_and(|detail| detail.journal.cancellation().is_some());
                if self.recovering() && !got && self.cleans_up(task) {
                    // It has got that at a call of which nothing is recorded, and comes to there again.
                    self.task_mut(task).interrupt = true;
                } else if !got {
                    self.interrupt(task, out);
                }
                // Afterwards: the wait that has just ended does not count.
                self.begin_grace(task, out);
            }
        }
        // When all are known that have ended: otherwise the first would have others skipped.
        for task in ended {
            self.task_ended(task, out);
        }
    }

    /// Whether a body has started since the run was cancelled, and is to do what it does. That matters only in recovery:
    /// otherwise such a body starts after the cancellation.
    fn has_started_since(&self, task: TaskRef) -> bool {
        let cancelled_at = self.cancel().map_or(Time::NEVER, |cancel| cancel.at);
        self.recovering() && self.runs_anyway(task) && self.task(task).started_at >= cancelled_at
    }

    /// Whether a body has recorded something since the run was cancelled.
    fn cleans_up(&self, task: TaskRef) -> bool {
        self.cancel().is_some_and(|cancel| self.recorded_calls_since(task, cancel.at) > 0)
    }

    /// When the last entry of a task's journal was opened.
    fn last_recorded(&self, task: TaskRef) -> Time {
        self.known_detail(task).map_or_else(Time::default, |detail| detail.journal.last_opened())
    }

    fn recovering(&self) -> bool {
        self.no_progress
    }

    /// Why the tasks of a cancelled run are.
    pub(super) fn cancel_cause(&self) -> Option<SkipCause> {
        self.cancel().map(|cancel| SkipCause::Reason(cancel.text().into()))
    }

    /// What a body gets when its run is cancelled.
    fn cancellation(&self) -> Option<Failure> {
        let text = format!("the run was {}", self.cancel()?.text());
        Some(Failure::new(FailureKind::Cancelled, "bide.Cancelled", &text))
    }

    /// Whether a failure is what a body gets when its run is cancelled.
    pub(super) fn is_cancellation(&self, failure: &Failure) -> bool {
        failure.kind == FailureKind::Cancelled && self.cancel().is_some()
    }

    /// What a body gets instead of what it calls for, which was looked up: only if that is not a replay.
    pub(crate) fn interruption(&self, task: TaskRef, recall: &Recall) -> Option<Failure> {
        if !self.task(task).interrupt {
            return None;
        }
        match recall {
            Recall::Satisfied(_) | Recall::Failed(_) | Recall::Begun { mode: StepMode::Once, .. } => None,
            Recall::Ask { .. }
            | Recall::Open { .. }
            | Recall::Waits
            | Recall::Begun { .. }
            | Recall::Mismatch(_)
            | Recall::NoCallback => self.cancellation(),
        }
    }

    /// The body is to get that its run was cancelled: as the end of its wait, or at its next call.
    pub(super) fn interrupt(&mut self, task: TaskRef, out: &mut Out<'_>) {
        self.task_mut(task).interrupt = true;
        let deferred = self.is_parked(task);
        if deferred
            && let Some(failure) = self.cancellation()
            && self.close_waits(task, &failure, out)
        {
            self.task_mut(task).interrupt = false;
        }
        let out_of_memory = self.task(task).reenter && self.task(task).status == TaskStatus::Running;
        if deferred {
            self.resumes(task, out);
            out.effects.push(Effect::Woken { task });
        } else if out_of_memory {
            self.ready(task, out);
        } else {
            out.effects.push(Effect::Interrupted { task });
        }
    }

    /// Whether the host is to interrupt a body that awaits something else than its handle, because its run is
    /// cancelled: true once. From then on its calls work. Nothing is recorded of that: a re-entered body gets it at its
    /// first call that is not a replay.
    pub fn take_interrupt(&mut self, task: TaskRef, attempt: u32) -> bool {
        self.running(task, attempt).is_ok() && std::mem::take(&mut self.task_mut(task).interrupt)
    }

    /// A body has left its call. If that was a wait, it stays open, and the body executes all the same.
    pub fn leaves_call(&mut self, task: TaskRef, attempt: u32) {
        if self.running(task, attempt).is_ok() {
            self.task_mut(task).has_left = true;
        }
    }

    /// Whether a body waits, and does not execute meanwhile.
    fn is_parked(&self, task: TaskRef) -> bool {
        !self.task(task).has_left
            && self.known_detail(task).is_some_and(|detail| detail.sub_status == Some(SubStatus::Deferred))
    }

    /// Whether an attempt was cut off: what it still does is refused.
    #[must_use]
    pub fn is_fenced(&self, task: TaskRef, attempt: u32) -> bool {
        self.running(task, attempt).is_err()
    }

    /// Closes the open waits of a body with a failure. False if there is none.
    fn close_waits(&mut self, task: TaskRef, failure: &Failure, out: &mut Out<'_>) -> bool {
        let detail = self.detail(task);
        if detail.journal.has_combinations() {
            detail.combinations();
        }
        // A step without a time is executed.
        let waits = |entry: &&Entry| entry.key.n > 0 && (entry.kind() != EntryKind::Step || entry.due().is_some());
        let open = detail.journal.open_entries().filter(waits);
        let mut keys: Vec<(u32, EntryKey)> = open.map(|entry| (entry.seq, entry.key.clone())).collect();
        keys.sort_unstable();
        keys.retain(|(_, key)| !self.is_member(task, key));
        for (_, key) in &keys {
            // Cannot be refused: it is open.
            let _ = self.close_entry(task, key, Err(failure.clone()), true, out);
            self.lose_open(task, key, out);
        }
        self.new_record(out);
        !keys.is_empty()
    }

    /// A task that has not begun ends because its run is cancelled.
    pub(super) fn end_cancelled(&mut self, task: TaskRef, out: &mut Out<'_>) {
        self.refuse_taken(task, UNANSWERED, out);
        self.close_gate(task, out);
        // Its mark goes with this row.
        self.clear_suspicion(task, out);
        let cause = self.cancel_cause();
        let state = self.task_mut(task);
        state.status = TaskStatus::Cancelled;
        state.ended_at = out.now;
        state.reenter = false;
        self.has_unsuccessful = true;
        let rare = self.detail(task).rare_mut();
        (rare.failure, rare.skipped) = (None, cause);
        self.finish_attempt(task);
        self.write_row(task, out);
    }

    /// The waits of a task's gate are over without a result.
    pub(super) fn close_gate(&mut self, task: TaskRef, out: &mut Out<'_>) {
        if self.bare_gate(task).is_none() && self.known_detail(task).is_none() {
            return;
        }
        let open = self.detail(task).journal.open_entries().filter(|entry| entry.key.n == 0);
        let keys: Vec<EntryKey> = open.map(|entry| entry.key.clone()).collect();
        for key in keys {
            if let Some(lost) = self.detail(task).journal.lose(&key, out.now).cloned() {
                self.write_entry(task, lost, out);
            }
        }
    }

    /// A body of a cancelled run ends by that.
    pub(super) fn cancelled(&mut self, task: TaskRef, out: &mut Out<'_>) {
        self.end_cancelled(task, out);
        self.task_ended(task, out);
    }

    /// The run ends at once: bodies do not clean up, and what they still do is refused.
    pub(crate) fn end_unfinished(&mut self, out: &mut Out<'_>) {
        let unended = |(task, state): &(TaskRef, &Task)| !state.status.is_ended() && !self.is_expanded(*task);
        let unended: Vec<TaskRef> = self.all().filter(unended).map(|(task, _)| task).collect();
        for task in &unended {
            self.fence(*task, out);
            self.end_cancelled(*task, out);
        }
        for task in unended {
            self.task_ended(task, out);
        }
    }

    /// What a body does from here on is refused: wakes it, if it sleeps.
    pub(super) fn fence(&mut self, task: TaskRef, out: &mut Out<'_>) {
        let failure = self.cancellation();
        let failure = failure
            .unwrap_or_else(|| Failure::new(FailureKind::Cancelled, "bide.Cancelled", "somebody has ended the task"));
        if self.task(task).status == TaskStatus::Running {
            let slept = self.close_waits(task, &failure, out);
            if slept {
                out.effects.push(Effect::Woken { task });
            }
            if !slept || self.task(task).has_left {
                out.effects.push(Effect::Interrupted { task });
            }
        }
    }
}

/// The time for clean-up.
impl RunState {
    fn begin_grace(&mut self, task: TaskRef, out: &mut Out<'_>) {
        let waited = self.known_detail(task).map_or(0, |detail| detail.waited);
        self.run_detail().interrupted.insert(task, Interrupted { since: out.now, waited });
        self.grace_continues(task, out);
    }

    /// How long a body has executed since its run was cancelled.
    fn used(&self, task: TaskRef, now: Time) -> Option<Duration> {
        let begun = self.run_detail.as_ref()?.interrupted.get(&task)?;
        let waited = self.known_detail(task).map_or(0, |detail| detail.waited).saturating_sub(begun.waited);
        let span = micros(now.since(begun.since)).saturating_sub(waited);
        Some(Duration::from_micros(u64::try_from(span).unwrap_or(0)))
    }

    /// A body continues to execute in a cancelled run.
    pub(super) fn grace_continues(&self, task: TaskRef, out: &mut Out<'_>) {
        if let (Some(used), Some(cancel)) = (self.used(task, out.now), self.cancel()) {
            let attempt = self.task(task).attempts;
            out.effects.push(Effect::Grace { task, attempt, used, since: cancel.at });
        }
    }

    /// Ends a body that has cleaned up for too long.
    pub(super) fn grace_over(
        &mut self,
        task: TaskRef,
        attempt: u32,
        (grace, limit): (Duration, Duration),
        out: &mut Out<'_>,
    ) -> Result<(), Refused> {
        let state = self.get(task).filter(|state| state.attempts == attempt && !state.status.is_ended());
        if state.is_none() {
            return Err(Refused::AttemptOver);
        }
        let (Some(used), Some(cancel)) = (self.used(task, out.now), self.cancel()) else {
            return Err(Refused::AttemptOver);
        };
        let ends_at = cancel.at.after(limit);
        let deferred = self.is_parked(task);
        if out.now >= ends_at || (used >= grace && !deferred) {
            self.fence(task, out);
            self.cancelled(task, out);
        } else if deferred {
            // It gets a timer when it continues to execute.
            let event = Event::GraceOver { task, attempt, grace, limit };
            out.effects.push(Effect::Timer { at: ends_at, event: Box::new(event) });
        } else {
            self.grace_continues(task, out);
        }
        Ok(())
    }
}

/// Sends a control request to another run, in this run's commit.
pub(super) fn post(run: RunId, number: i64, control: &Control, out: &mut Out<'_>) {
    let (address, content, sent_at) = (control.address(), Ok(control.content()), out.now);
    let message = Box::new(Message { number, address, id: None, content, sent_at });
    out.batch.push(Write::Message { run: run.row(), message, consumed: false });
}
