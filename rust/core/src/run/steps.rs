//! Steps that are recorded before they end, because they are executed at most once or tried again, and checkpoints.

use crate::attempt::Call;
use crate::entry::{Entry, EntryKey, EntryState, StepMode};
use crate::event::{Refused, Wait};
use crate::failure::Failure;
use crate::id::TaskRef;
use crate::journal::Journal;
use crate::record::{StepRecord, Write};
use crate::status::SubStatus;
use crate::time::{Time, micros};
use crate::value::Value;

use super::{Out, RunState};

impl RunState {
    /// The record of a step that has returned this value, as the commit of its end would write it: for a transaction
    /// that writes it in the place of that.
    #[must_use]
    pub fn step_record(&self, call: &Call, value: Value, now: Time) -> StepRecord {
        let (task, key, operation) = call.step_operation();
        let journal = self.known_detail(task).map(|detail| &detail.journal);
        let seq = journal.map_or(1, Journal::next_seq);
        let entry = Entry {
            state: EntryState::Satisfied,
            value: Some(value),
            closed_at: Some(now),
            ..Entry::new(key.clone(), seq, operation, now)
        };
        let turn = journal.map_or(0, Journal::checkpoint_seq);
        StepRecord { run: self.row(), task: self.ids[task.ix as usize], map: task.map, turn, entry }
    }

    /// A step that is executed at most once is about to be. Its row stays as it is: the body executes.
    pub(super) fn intended(&mut self, task: TaskRef, wait: Wait, out: &mut Out<'_>) {
        let entry = self.detail(task).journal.begin_step(wait, StepMode::Once, None, out.now).clone();
        self.write_entry(task, entry, out);
        // In this order: what is cleared first writes no row.
        self.new_record(out);
        self.clear_suspicion(task, out);
    }

    /// A step has failed and is tried again.
    pub(super) fn delayed(
        &mut self,
        task: TaskRef,
        wait: Wait,
        (tries, failure): (u32, Option<Failure>),
        deferred: bool,
        out: &mut Out<'_>,
    ) {
        self.task_mut(task).has_left = false;
        let detail = self.detail(task);
        if deferred {
            detail.sub_status = Some(SubStatus::Deferred);
        }
        let mode = StepMode::Retried { tries };
        let entry = detail.journal.begin_step(wait, mode, failure, out.now).clone();
        self.write_entry(task, entry, out);
        self.clear_suspicion(task, out);
        self.new_record(out);
        self.write_row(task, out);
        if deferred && self.task(task).interrupt {
            self.interrupt(task, out);
        }
    }

    /// The delay before the next try of a step is over. The entry loses its time, so that a body that is entered again
    /// tries at once, and the delay counts once as time waited.
    pub(super) fn resumed(&mut self, task: TaskRef, key: &EntryKey, out: &mut Out<'_>) -> Result<(), Refused> {
        self.resume_step(task, key, out)?;
        self.resumes(task, out);
        Ok(())
    }

    pub(super) fn resume_step(&mut self, task: TaskRef, key: &EntryKey, out: &mut Out<'_>) -> Result<(), Refused> {
        let detail = self.detail(task);
        let entry = detail.journal.resume_step(key).ok_or(Refused::AttemptOver)?.clone();
        let waited = micros(out.now.since(entry.opened_at.max(detail.waited_until)));
        detail.waited = detail.waited.saturating_add(waited);
        detail.waited_until = out.now;
        self.write_entry(task, entry, out);
        Ok(())
    }

    /// A step that was begun leaves no record.
    pub(super) fn unrecorded(&mut self, task: TaskRef, key: EntryKey, out: &mut Out<'_>) -> Result<(), Refused> {
        if !self.detail(task).journal.forget(&key) {
            return Err(Refused::AttemptOver);
        }
        self.drop_entries(task, vec![key], out);
        Ok(())
    }

    /// A body records a state in the place of its journal.
    pub(super) fn checkpoint(&mut self, task: TaskRef, state: Value, out: &mut Out<'_>) {
        self.refuse_taken_by_body(task, "has recorded a checkpoint without having answered it", out);
        let journal = &mut self.detail(task).journal;
        let had_open = journal.has_open();
        let (dropped, entry) = journal.checkpoint(state, out.now);
        let entry = entry.clone();
        if !dropped.is_empty() {
            self.drop_entries(task, dropped, out);
        }
        self.write_entry(task, entry, out);
        // In this order, as above.
        self.new_record(out);
        self.clear_suspicion(task, out);
        if had_open {
            // The row says that the body waits for what an earlier entry of it has left open.
            self.write_row(task, out);
        }
    }

    pub(super) fn drop_entries(&self, task: TaskRef, keys: Vec<EntryKey>, out: &mut Out<'_>) {
        let (run, map, id) = (self.row(), task.map, self.ids[task.ix as usize]);
        out.batch.push(Write::DropEntries { run, task: id, map, keys });
    }
}
