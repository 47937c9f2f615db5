//! A retry of a run that has ended, or that stands still: it continues from its failed and cancelled tasks, or from one
//! that is named, and from all that depends on these.
//!
//! Their journals are kept, as by the retry of a task: what was recorded is not done again. Of a mapped task only the
//! elements that did not complete are executed again, unless what it is mapped over is. Child runs that did not
//! complete are retried themselves.

use std::collections::HashSet;
use std::sync::Arc;

use crate::control::{Ask, Control};
use crate::id::{NO_MAP, RunId, TaskIx, TaskRef};
use crate::message::Message;
use crate::record::Write;
use crate::status::{RunStatus, TaskStatus};
use crate::time::Time;
use crate::value::Value;

use super::control::post;
use super::{Out, RunState};

/// What is done again.
#[derive(Default)]
pub(super) struct Again {
    /// Tasks as a whole.
    pub(super) whole: HashSet<TaskIx>,
    /// Single elements of other mapped tasks.
    pub(super) elements: HashSet<TaskRef>,
}

impl Again {
    /// Whether a task or element is done again.
    pub(super) fn has(&self, task: TaskRef) -> bool {
        self.whole.contains(&task.ix) || self.elements.contains(&task)
    }
}

impl RunState {
    /// Continues from the failed and cancelled tasks, or from this one. A run in which all have completed completes.
    pub(super) fn retry(&mut self, from: Option<&str>, fresh: bool, request: &Message, out: &mut Out<'_>) {
        let named: Option<Vec<TaskRef>> = from.map(|name| self.graph.find_element(name).into_iter().collect());
        let again = self.done_again(named.as_deref());
        let expanded: Vec<TaskIx> = again.elements.iter().map(|task| task.ix).collect();
        self.forget_cancel();
        self.ended_at = Time::default();
        self.status = RunStatus::Running;
        let mut order: Vec<TaskRef> = Vec::new();
        for ix in Arc::clone(&self.graph).order().iter().copied() {
            if again.whole.contains(&ix) {
                self.forget_elements(ix, out);
                order.push(TaskRef::plain(ix));
            } else if expanded.contains(&ix) {
                let length = self.elements(ix).len() as i32;
                let elements = (0..length).map(|map| TaskRef { ix, map });
                order.extend(elements.filter(|task| again.elements.contains(task)));
                self.begin_again(TaskRef::plain(ix), TaskStatus::Running, out);
            }
        }
        for task in &order {
            self.forget_attempt(*task, fresh, request, out);
            self.begin_again(*task, TaskStatus::Pending, out);
        }
        self.run_detail().cancelled_before = None;
        self.count_again();
        let failed = |state: &super::Task| state.status == TaskStatus::Failed;
        if !self.all().any(|(_, state)| failed(state)) {
            self.run_detail().failure = None;
        }
        self.new_record(out);
        self.write_run(out);
        for task in order {
            // One that fails as it starts may have skipped it.
            if self.task(task).unmet == 0 && self.task_status(task) == TaskStatus::Pending {
                self.start_or_skip(task, out);
            }
        }
        if self.remaining == 0 && self.status == RunStatus::Running {
            self.end_run(out);
        }
    }

    /// The run is not cancelled any more.
    pub(crate) fn forget_cancel(&mut self) {
        let detail = self.run_detail();
        if let Some(cancel) = detail.cancel.take() {
            detail.cancelled_before = Some(cancel.at);
        }
        detail.interrupted.clear();
    }

    /// The tasks and elements that are done again: from these, or from all that have failed.
    pub(super) fn done_again(&self, named: Option<&[TaskRef]>) -> Again {
        let mut again = Again::default();
        let is = |task: TaskRef, state: &super::Task| match named {
            // What was cancelled is done again in any case: the run is not cancelled any more.
            Some(named) => named.contains(&task) || state.status == TaskStatus::Cancelled,
            // A task that was skipped for one that has failed need not depend on that.
            None => {
                matches!(state.status, TaskStatus::Failed | TaskStatus::Cancelled)
                    || (state.status == TaskStatus::Skipped && state.failed)
            }
        };
        let mut first: Vec<TaskRef> =
            self.all().filter(|(task, state)| is(*task, state)).map(|(task, _)| task).collect();
        while !first.is_empty() {
            let mut has_grown = false;
            for task in first {
                // An expanded task is done again by its elements.
                if task.map != NO_MAP {
                    has_grown |= again.elements.insert(task);
                } else if named.is_some() || !self.is_expanded(task) {
                    has_grown |= again.whole.insert(task.ix);
                }
            }
            if !has_grown {
                break;
            }
            for &ix in self.graph.order() {
                self.add_dependent(ix, &mut again);
            }
            // `fail_fast` skips also what does not depend on the failed task.
            let skipped_for = |task: TaskRef| self.skip_root(task).is_some_and(|root| again.has(root));
            first = self.all().map(|(task, _)| task).filter(|task| !again.has(*task) && skipped_for(*task)).collect();
        }
        again.elements.retain(|task| !again.whole.contains(&task.ix));
        again
    }

    /// Adds a task if it depends on one that is done again; of a mapped task that follows others the elements that do.
    fn add_dependent(&self, ix: TaskIx, again: &mut Again) {
        let follows = self.graph.follows(ix);
        for &on in self.graph.dependencies(ix) {
            let partly = again.elements.iter().any(|task| task.ix == on);
            if !again.whole.contains(&on) && !partly {
                continue;
            }
            if again.whole.contains(&on) || !follows.contains(&on) || !self.is_expanded(TaskRef::plain(ix)) {
                again.whole.insert(ix);
                return;
            }
            let same: Vec<TaskRef> =
                again.elements.iter().filter(|task| task.ix == on).map(|task| TaskRef { ix, ..*task }).collect();
            again.elements.extend(same);
        }
    }

    /// A mapped task is mapped again: its elements are forgotten.
    fn forget_elements(&mut self, ix: TaskIx, out: &mut Out<'_>) {
        if self.maps.as_mut().is_some_and(|maps| maps.remove(ix)) {
            out.batch.push(Write::DropElements { run: self.row(), task: self.ids[ix as usize] });
        }
    }

    /// Prepares the journal of a task for its next attempt.
    fn forget_attempt(&mut self, task: TaskRef, fresh: bool, request: &Message, out: &mut Out<'_>) {
        if self.known_detail(task).is_none() {
            return;
        }
        let children = self.children_to_retry(task, fresh);
        // A body that began after the cancellation did its work. It did not clean up.
        let started_at = self.task(task).started_at;
        let cancelled_at = self.run_detail().cancelled_before.filter(|at| started_at < *at);
        let journal = &mut self.detail(task).journal;
        let mut dropped = journal.forget_cancellation(cancelled_at);
        dropped.extend(journal.forget_waits_for(&children));
        dropped.extend(journal.rewind(fresh));
        if !dropped.is_empty() {
            self.drop_entries(task, dropped, out);
        }
        for child in children {
            self.reopen_child(child);
            let reason = format!("run {}, which has started it, is retried", self.id);
            let control = Control { reason: Some(reason.into()), ..Control::new(Ask::Retry { from: None, fresh }) };
            post(child, request.number, &control, out);
        }
    }

    /// The children of a body that have not completed; none if it starts others.
    fn children_to_retry(&self, task: TaskRef, fresh: bool) -> Vec<RunId> {
        let started =
            self.known_detail(task).filter(|_| !fresh).into_iter().flat_map(|detail| detail.journal.started());
        started.filter(|child| self.has_failed(*child)).collect()
    }

    /// A task or element is as if it had not begun; or, expanded, as if its elements had not ended.
    fn begin_again(&mut self, task: TaskRef, status: TaskStatus, out: &mut Out<'_>) {
        let state = self.task_mut(task);
        state.status = status;
        state.output = Value::NONE;
        state.ended_at = Time::default();
        (state.failed, state.reenter, state.interrupt) = (false, false, false);
        let started_at = state.started_at;
        if status == TaskStatus::Pending {
            state.started_at = Time::default();
        }
        if let Some(detail) = &mut state.detail {
            detail.sub_status = None;
            if started_at > Time::default() {
                detail.rare_mut().first_started_at.get_or_insert(started_at);
            }
            if let Some(rare) = detail.known_rare() {
                (rare.changes, rare.failure, rare.retry_at) = (None, None, None);
                (rare.skipped, rare.combinations) = (None, None);
            }
        }
        if self.task(task).has_row {
            self.write_row(task, out);
        }
    }
}
