//! Waits: journal entries opened and closed, gates, and the timers of retries and of bodies that are not in memory.

use crate::attempt::polling::timed_out;
use crate::entry::{Entry, EntryKey, EntryState};
use crate::event::{Effect, Event, GateSpec, Refused, Retry, Timer, Wait};
use crate::failure::Failure;
use crate::id::TaskRef;
use crate::journal::Journal;
use crate::record::Write;
use crate::status::{SubStatus, TaskStatus};
use crate::time::{Time, micros};
use crate::value::Value;

use super::{Out, RunState};

impl RunState {
    fn write_entry(&self, task: TaskRef, entry: &Entry, out: &mut Out<'_>) {
        let (run, map, id) = (self.row(), task.map, self.ids[task.ix as usize]);
        out.batch.push(Write::Entry { run, task: id, map, entry: Box::new(entry.clone()) });
    }

    fn close_entry(
        &mut self,
        task: TaskRef,
        key: &EntryKey,
        result: Result<Value, Failure>,
        proved: bool,
        out: &mut Out<'_>,
    ) -> Result<(), Refused> {
        let state = self.task(task);
        if state.detail.is_none() && state.gate_since == Time::default() {
            return Err(Refused::AttemptOver);
        }
        let detail = self.detail(task);
        let entry = detail.journal.close(key, result, proved, out.now).ok_or(Refused::AttemptOver)?.clone();
        // In a file that was changed by hand, times can have any value.
        let waited = micros(out.now.since(entry.opened_at.max(detail.waited_until)));
        detail.waited = detail.waited.saturating_add(waited);
        detail.waited_until = out.now;
        self.write_entry(task, &entry, out);
        Ok(())
    }

    /// A body opens a wait. One that was recorded already is not a new record, but the body is deferred all the same.
    pub(super) fn opened(&mut self, task: TaskRef, wait: Wait, out: &mut Out<'_>) {
        let detail = self.detail(task);
        let new = detail.journal.get(&wait.key).is_none();
        detail.sub_status = Some(SubStatus::Deferred);
        let entry = detail.journal.open(wait, out.now).clone();
        self.write_entry(task, &entry, out);
        self.clear_suspicion(task, out);
        if new {
            self.new_record(out);
        }
        self.write_row(task, out);
    }

    /// A step ended, or a wait was satisfied at its first check. An entry that replaces a closed one is not a new
    /// record: a condition that cannot be encoded is polled and recorded at each entry of the body.
    pub(super) fn recorded(&mut self, task: TaskRef, wait: Wait, result: Result<Value, Failure>, out: &mut Out<'_>) {
        let key = wait.key.clone();
        let detail = self.detail(task);
        let before = detail.journal.get(&key).map(|entry| entry.state);
        detail.journal.open(wait, out.now);
        // Cannot be refused: it is open.
        let _ = self.close_entry(task, &key, result, true, out);
        if before.is_none_or(|state| state == EntryState::Open) {
            self.new_record(out);
            self.clear_suspicion(task, out);
        }
        if before == Some(EntryState::Open) {
            // The re-entered body is not deferred any more, and `waited` has grown.
            self.write_row(task, out);
        }
    }

    /// A wait of a body ends; a body that is not in memory is entered again.
    pub(super) fn closed(
        &mut self,
        task: TaskRef,
        key: &EntryKey,
        result: Result<Value, Failure>,
        proved: bool,
        out: &mut Out<'_>,
    ) -> Result<(), Refused> {
        self.close_entry(task, key, result, proved, out)?;
        self.detail(task).sub_status = Some(SubStatus::Active);
        self.new_record(out);
        self.write_row(task, out);
        if self.task(task).reenter {
            self.ready(task, out);
        }
        Ok(())
    }

    /// A gate's wait ends. If it fails, that is a failed attempt.
    pub(super) fn gate_closed(
        &mut self,
        task: TaskRef,
        key: &EntryKey,
        result: Result<Value, Failure>,
        retry: Option<Retry>,
        out: &mut Out<'_>,
    ) -> Result<(), Refused> {
        let current = self.graph.spec(task.ix).gate.as_ref().is_some_and(|gate| gate.key() == *key);
        if !current {
            return Err(Refused::AttemptOver);
        }
        let failure = result.as_ref().err().cloned();
        self.close_entry(task, key, result, true, out)?;
        self.new_record(out);
        if let Some(failure) = failure {
            self.task_mut(task).attempts += 1;
            self.attempt_failed(task, failure, retry, out);
        } else {
            self.ready(task, out);
            self.write_row(task, out);
        }
        Ok(())
    }

    /// A task may start: makes it ready, or opens its gate.
    pub(crate) fn start(&mut self, task: TaskRef, out: &mut Out<'_>) {
        let Some(gate) = self.graph.spec(task.ix).gate.clone() else {
            self.ready(task, out);
            return;
        };
        match self.recorded_gate(task, &gate) {
            Some(entry) if entry.state == EntryState::Satisfied => self.ready(task, out),
            Some(entry) if entry.state == EntryState::Open => self.watch_gate(task, &entry, out),
            _ => {
                let wait = gate.wait(out.now);
                let entry = if self.task(task).detail.is_some() {
                    self.detail(task).journal.open(wait, out.now).clone()
                } else {
                    self.task_mut(task).gate_since = out.now;
                    Journal::default().open(wait, out.now).clone()
                };
                self.write_entry(task, &entry, out);
                self.write_row(task, out);
                self.watch_gate(task, &entry, out);
            }
        }
    }

    /// The record of this gate; none if the workflow version that recorded it had another gate.
    fn recorded_gate(&self, task: TaskRef, gate: &GateSpec) -> Option<Entry> {
        let entry = self.known_detail(task)?.journal.get(&gate.key())?;
        (entry.kind() == gate.kind()).then(|| entry.clone())
    }

    /// A gate is open: asks for polls of its condition, or for a timer.
    fn watch_gate(&self, task: TaskRef, entry: &Entry, out: &mut Out<'_>) {
        let (attempt, deadline) = (self.task(task).attempts, entry.deadline);
        let Some(due) = entry.due() else {
            out.effects.push(Effect::Gate { task, attempt, deadline });
            return;
        };
        let (at, result) = match deadline.filter(|deadline| *deadline < due) {
            None => (due, Ok(Value::NONE)),
            Some(deadline) => (deadline, Err(timed_out(self.graph.name(task.ix), &entry.key.name))),
        };
        let event = Event::Closed { task, attempt, key: entry.key.clone(), result, proved: true, retry: None };
        out.effects.push(Effect::Timer { at, event: Box::new(event) });
    }

    /// Asks for `Due` at this time.
    pub(crate) fn set_timer(&self, task: TaskRef, at: Time, timer: Timer, out: &mut Out<'_>) {
        let attempt = self.task(task).attempts;
        out.effects.push(Effect::Timer { at, event: Box::new(Event::Due { task, attempt, timer }) });
    }

    pub(crate) fn ready(&mut self, task: TaskRef, out: &mut Out<'_>) {
        self.task_mut(task).status = TaskStatus::Ready;
        out.effects.push(Effect::Ready { task });
    }

    /// A timer has fired. Each fires once; a second time it is refused.
    pub(super) fn due(&mut self, task: TaskRef, attempt: u32, timer: Timer, out: &mut Out<'_>) -> Result<(), Refused> {
        match timer {
            Timer::Retry => {
                self.current(task, attempt, TaskStatus::Pending)?;
                let detail = self.task_mut(task).detail.as_mut().ok_or(Refused::AttemptOver)?;
                detail.retry_at.take().ok_or(Refused::AttemptOver)?;
                self.start(task, out);
            }
            Timer::Reenter => {
                self.current(task, attempt, TaskStatus::Running)?;
                if !self.task(task).reenter {
                    return Err(Refused::AttemptOver);
                }
                let reached = self.detail(task).journal.reached(out.now);
                for key in &reached {
                    self.close_entry(task, key, Ok(Value::NONE), true, out)?;
                }
                self.detail(task).sub_status = Some(SubStatus::Active);
                if !reached.is_empty() {
                    self.new_record(out);
                    self.write_row(task, out);
                }
                self.ready(task, out);
            }
        }
        Ok(())
    }
}
