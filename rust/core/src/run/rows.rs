//! Rows: what is written of a task and of the run, and the marks of bodies that may kill their process.
//!
//! A body that a process had entered when it died may have killed it: it is a suspect in the process that recovers its
//! run. A suspect is marked in the store before it is called, and the mark counts how often that has happened. If the
//! process dies, the store finds the marks of the bodies that it executed. If there is one, that body is blamed: its
//! run counts one more death (`bide-store` does that when it takes the run from the dead process). If there are
//! several, none is blamed, and the next process enters each of them while no other suspect executes (the executor
//! does that).
//!
//! A body is a suspect until it records something new, waits or ends. The first new record of a run clears all of its
//! marks and its count, because the run makes progress; from then on this process marks none of its bodies.

use crate::emit::{NewEvents, ProgressRow};
use crate::entry::{Entry, EntryKind};
use crate::event::Effect;
use crate::id::{NO_MAP, TaskRef};
use crate::observe::is_wait;
use crate::outbox::Published;
use crate::record::{Mark, RunUpdate, TaskRow, Write};
use crate::status::{SubStatus, TaskStatus};
use crate::time::Time;

use super::{Out, RunState, Task, TaskDetail};

impl RunState {
    /// Writes the start of a body, and its mark if it is a suspect.
    pub(super) fn started(&mut self, task: TaskRef, out: &mut Out<'_>) {
        if self.task(task).suspect && self.no_progress {
            let rare = self.detail(task).rare_mut();
            rare.mark = rare.mark.entered();
        }
        self.write_row(task, out);
    }

    /// The body records something, waits, ends or is suspended, so it does not kill its process. True if it was
    /// marked; the caller writes the row.
    pub(super) fn clear_suspicion(&mut self, task: TaskRef, out: &mut Out<'_>) -> bool {
        let state = self.task_mut(task);
        if std::mem::take(&mut state.suspect) {
            out.effects.push(Effect::Cleared { task });
        }
        let rare = self.task_mut(task).detail.as_mut().and_then(|detail| detail.known_rare());
        rare.is_some_and(|rare| std::mem::take(&mut rare.mark).times > 0)
    }

    /// If an earlier process may have died of a body that is ready: how often in a row it was entered as a suspect.
    #[must_use]
    pub fn suspicion(&self, task: TaskRef) -> Option<u32> {
        let state = self.get(task)?;
        let suspect = state.suspect && state.status == TaskStatus::Ready;
        suspect.then(|| state.detail.as_ref().map_or(0, |detail| detail.rare().mark.times))
    }

    /// Something new is recorded: the run makes progress.
    pub(super) fn new_record(&mut self, out: &mut Out<'_>) {
        if std::mem::take(&mut self.no_progress) {
            self.clear_marks(out);
            self.reset_crashes(out);
        }
    }

    /// A body of this run did not kill its process: the count starts again from zero.
    pub(super) fn reset_crashes(&mut self, out: &mut Out<'_>) {
        if std::mem::take(&mut self.crashes) > 0 {
            self.write_run(out);
        }
    }

    /// The tasks with a mark, in declaration order.
    pub(crate) fn marked(&self) -> Vec<TaskRef> {
        let marked = |state: &Task| state.detail.as_ref().is_some_and(|detail| detail.rare().mark.times > 0);
        self.all().filter(|(_, state)| marked(state)).map(|(task, _)| task).collect()
    }

    pub(super) fn clear_marks(&mut self, out: &mut Out<'_>) {
        for task in self.marked() {
            self.detail(task).rare_mut().mark = Mark::NONE;
            self.write_row(task, out);
        }
    }

    pub(crate) fn write_run(&self, out: &mut Out<'_>) {
        out.batch.push(Write::Run(Box::new(RunUpdate {
            run: self.row(),
            status: self.status(),
            failure: self.failure().cloned(),
            ended_at: self.ended_at(),
            blocked_by: self.blocked_by().cloned(),
            crashes: self.crashes,
            version: self.version(),
            cancel: self.run_detail.as_ref().and_then(|detail| detail.cancel.clone()),
        })));
    }

    pub(super) fn write_row(&mut self, task: TaskRef, out: &mut Out<'_>) {
        self.task_mut(task).has_row = true;
        out.batch.push(Write::Task(Box::new(self.task_row(task))));
    }

    /// The rows of all tasks as they stand, in declaration order, and after a mapped task those of its elements.
    pub fn rows(&self) -> impl Iterator<Item = (TaskRef, TaskRow)> {
        self.all().map(|(task, _)| (task, self.task_row(task)))
    }

    /// The open entries of tasks that have not ended, by task.
    #[must_use]
    pub fn all_open_entries(&self) -> Vec<(TaskRef, Entry)> {
        let mut open = Vec::new();
        for (task, state) in self.all().filter(|(_, state)| !state.status.is_ended()) {
            let gate = self.bare_gate(task);
            if let Some(detail) = state.detail.as_deref().or(gate.as_ref()) {
                open.extend(detail.journal.open_entries().map(|entry| (task, entry.clone())));
            }
        }
        open
    }

    /// Calls `found` with the kind of each open wait.
    pub fn each_open_wait(&self, found: &mut dyn FnMut(EntryKind)) {
        for (task, state) in self.all().filter(|(_, state)| !state.status.is_ended()) {
            let gate = self.bare_gate(task);
            if let Some(detail) = state.detail.as_deref().or(gate.as_ref()) {
                detail.journal.open_entries().map(Entry::kind).filter(|kind| is_wait(*kind)).for_each(&mut *found);
            }
        }
    }

    /// Writes what bodies have shown.
    pub(super) fn published(&self, published: Published, out: &mut Out<'_>) {
        let before = out.batch.len();
        for chunk in published.events {
            let origin = chunk.origin;
            if self.running(origin.task, origin.attempt).is_err() {
                continue;
            }
            out.batch.push(Write::Events(Box::new(NewEvents {
                run: self.row(),
                channel: chunk.channel,
                keep: chunk.keep,
                skipped: chunk.skipped,
                count: chunk.count,
                task: self.ids[origin.task.ix as usize],
                map: origin.task.map,
                attempt: origin.attempt,
                entry: origin.entry,
                emitted_at: chunk.at,
                packed: chunk.packed,
            })));
        }
        if out.batch.len() > before {
            out.effects.push(Effect::Emitted);
        }
        for (task, attempt, progress) in published.progress {
            if self.running(task, attempt).is_ok() {
                let (run, id) = (self.row(), self.ids[task.ix as usize]);
                out.batch.push(Write::Progress(Box::new(ProgressRow { run, task: id, map: task.map, progress })));
            }
        }
    }

    /// The row of a task as it stands.
    #[must_use]
    pub fn task_row(&self, task: TaskRef) -> TaskRow {
        let state = self.task(task);
        let some = |time: Time| (time > Time::default()).then_some(time);
        let (none, gate) = (TaskDetail::default(), self.bare_gate(task));
        let detail = state.detail.as_deref().or(gate.as_ref()).unwrap_or(&none);
        // A body that is about to be entered again is shown as running: its attempt has begun.
        let status =
            if state.reenter && state.status == TaskStatus::Ready { TaskStatus::Running } else { state.status };
        let (running, rare) = (status == TaskStatus::Running, detail.rare());
        TaskRow {
            run: self.row(),
            task: self.ids[task.ix as usize],
            map: task.map,
            length: self.length(task).filter(|_| task.map == NO_MAP),
            status,
            sub_status: running.then(|| detail.sub_status.unwrap_or(SubStatus::Active)),
            attempts: state.attempts,
            mark: rare.mark,
            output: (state.status == TaskStatus::Completed && !self.is_expanded(task)).then(|| state.output.clone()),
            changes: rare.changes.clone(),
            failure: rare.failure.clone(),
            first_started_at: rare.first_started_at.or(some(state.started_at)),
            started_at: some(state.started_at),
            ended_at: some(state.ended_at),
            waited: detail.waited,
            retry_at: rare.retry_at,
            blocked_by: match &rare.skipped {
                Some(cause) => Some(cause.text(&self.graph)),
                None => detail.journal.waits_for(),
            },
        }
    }
}
