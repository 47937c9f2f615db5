//! Waits: journal entries opened and closed, gates, and the timers of retries and of bodies that are not in memory.

use crate::attempt::polling::timed_out;
use crate::entry::{Entry, EntryKey, EntryState};
use crate::event::{Effect, Event, GateSpec, Refused, Retry, Timer, Wait};
use crate::failure::Failure;
use crate::id::{NO_MAP, TaskIx, TaskRef};
use crate::journal::Journal;
use crate::record::Write;
use crate::status::{SubStatus, TaskStatus};
use crate::time::{Time, micros};
use crate::value::Value;

use super::{Out, RunState};

impl RunState {
    fn write_entry(&self, ix: TaskIx, entry: &Entry, out: &mut Out<'_>) {
        let (run, task) = (self.row(), self.ids[ix as usize]);
        out.batch.push(Write::Entry { run, task, map: NO_MAP, entry: Box::new(entry.clone()) });
    }

    fn close_entry(
        &mut self,
        ix: TaskIx,
        key: &EntryKey,
        result: Result<Value, Failure>,
        proved: bool,
        out: &mut Out<'_>,
    ) -> Result<(), Refused> {
        let task = &self.tasks[ix as usize];
        if task.detail.is_none() && task.gate_since == Time::default() {
            return Err(Refused::AttemptOver);
        }
        let detail = self.detail(ix);
        let entry = detail.journal.close(key, result, proved, out.now).ok_or(Refused::AttemptOver)?.clone();
        // In a file that was changed by hand, times can have any value.
        let waited = micros(out.now.since(entry.opened_at.max(detail.waited_until)));
        detail.waited = detail.waited.saturating_add(waited);
        detail.waited_until = out.now;
        self.write_entry(ix, &entry, out);
        Ok(())
    }

    /// A body opens a wait. One that was recorded already is not a new record, but the body is deferred all the same.
    pub(super) fn opened(&mut self, ix: TaskIx, wait: Wait, out: &mut Out<'_>) {
        let detail = self.detail(ix);
        let new = detail.journal.get(&wait.key).is_none();
        detail.sub_status = Some(SubStatus::Deferred);
        let entry = detail.journal.open(wait, out.now).clone();
        self.write_entry(ix, &entry, out);
        self.clear_suspicion(ix, out);
        if new {
            self.new_record(out);
        }
        self.write_row(ix, out);
    }

    /// A step ended, or a wait was satisfied at its first check. An entry that replaces a closed one is not a new
    /// record: a condition that cannot be encoded is polled and recorded at each entry of the body.
    pub(super) fn recorded(&mut self, ix: TaskIx, wait: Wait, result: Result<Value, Failure>, out: &mut Out<'_>) {
        let key = wait.key.clone();
        let detail = self.detail(ix);
        let before = detail.journal.get(&key).map(|entry| entry.state);
        detail.journal.open(wait, out.now);
        // Cannot be refused: it is open.
        let _ = self.close_entry(ix, &key, result, true, out);
        if before.is_none_or(|state| state == EntryState::Open) {
            self.new_record(out);
            self.clear_suspicion(ix, out);
        }
        if before == Some(EntryState::Open) {
            // The re-entered body is not deferred any more, and `waited` has grown.
            self.write_row(ix, out);
        }
    }

    /// A wait of a body ends; a body that is not in memory is entered again.
    pub(super) fn closed(
        &mut self,
        ix: TaskIx,
        key: &EntryKey,
        result: Result<Value, Failure>,
        proved: bool,
        out: &mut Out<'_>,
    ) -> Result<(), Refused> {
        self.close_entry(ix, key, result, proved, out)?;
        self.detail(ix).sub_status = Some(SubStatus::Active);
        self.new_record(out);
        self.write_row(ix, out);
        if self.tasks[ix as usize].reenter {
            self.ready(ix, out);
        }
        Ok(())
    }

    /// A gate's wait ends. If it fails, that is a failed attempt.
    pub(super) fn gate_closed(
        &mut self,
        ix: TaskIx,
        key: &EntryKey,
        result: Result<Value, Failure>,
        retry: Option<Retry>,
        out: &mut Out<'_>,
    ) -> Result<(), Refused> {
        let current = self.graph.spec(ix).gate.as_ref().is_some_and(|gate| gate.key() == *key);
        if !current {
            return Err(Refused::AttemptOver);
        }
        let failure = result.as_ref().err().cloned();
        self.close_entry(ix, key, result, true, out)?;
        self.new_record(out);
        if let Some(failure) = failure {
            self.tasks[ix as usize].attempts += 1;
            self.attempt_failed(ix, failure, retry, out);
        } else {
            self.ready(ix, out);
            self.write_row(ix, out);
        }
        Ok(())
    }

    /// A task may start: makes it ready, or opens its gate.
    pub(crate) fn start(&mut self, ix: TaskIx, out: &mut Out<'_>) {
        let Some(gate) = self.graph.spec(ix).gate.clone() else {
            self.ready(ix, out);
            return;
        };
        match self.recorded_gate(ix, &gate) {
            Some(entry) if entry.state == EntryState::Satisfied => self.ready(ix, out),
            Some(entry) if entry.state == EntryState::Open => self.watch_gate(ix, &entry, out),
            _ => {
                let wait = gate.wait(out.now);
                let entry = if self.tasks[ix as usize].detail.is_some() {
                    self.detail(ix).journal.open(wait, out.now).clone()
                } else {
                    self.tasks[ix as usize].gate_since = out.now;
                    Journal::default().open(wait, out.now).clone()
                };
                self.write_entry(ix, &entry, out);
                self.write_row(ix, out);
                self.watch_gate(ix, &entry, out);
            }
        }
    }

    /// The record of this gate; none if the workflow version that recorded it had another gate.
    fn recorded_gate(&self, ix: TaskIx, gate: &GateSpec) -> Option<Entry> {
        let entry = self.known_detail(ix)?.journal.get(&gate.key())?;
        (entry.kind() == gate.kind()).then(|| entry.clone())
    }

    /// A gate is open: asks for polls of its condition, or for a timer.
    fn watch_gate(&self, ix: TaskIx, entry: &Entry, out: &mut Out<'_>) {
        let (task, attempt, deadline) = (TaskRef::plain(ix), self.tasks[ix as usize].attempts, entry.deadline);
        let Some(due) = entry.due() else {
            out.effects.push(Effect::Gate { task, attempt, deadline });
            return;
        };
        let (at, result) = match deadline.filter(|deadline| *deadline < due) {
            None => (due, Ok(Value::NONE)),
            Some(deadline) => (deadline, Err(timed_out(self.graph.name(ix), &entry.key.name))),
        };
        let event = Event::Closed { task, attempt, key: entry.key.clone(), result, proved: true, retry: None };
        out.effects.push(Effect::Timer { at, event: Box::new(event) });
    }

    /// Asks for `Due` at this time.
    pub(crate) fn set_timer(&self, ix: TaskIx, at: Time, timer: Timer, out: &mut Out<'_>) {
        let (task, attempt) = (TaskRef::plain(ix), self.tasks[ix as usize].attempts);
        out.effects.push(Effect::Timer { at, event: Box::new(Event::Due { task, attempt, timer }) });
    }

    pub(crate) fn ready(&mut self, ix: TaskIx, out: &mut Out<'_>) {
        self.tasks[ix as usize].status = TaskStatus::Ready;
        out.effects.push(Effect::Ready { task: TaskRef::plain(ix) });
    }

    /// A timer has fired. Each fires once; a second time it is refused.
    pub(super) fn due(&mut self, task: TaskRef, attempt: u32, timer: Timer, out: &mut Out<'_>) -> Result<(), Refused> {
        let ix = task.ix;
        match timer {
            Timer::Retry => {
                self.current(task, attempt, TaskStatus::Pending)?;
                let detail = self.tasks[ix as usize].detail.as_mut().ok_or(Refused::AttemptOver)?;
                detail.retry_at.take().ok_or(Refused::AttemptOver)?;
                self.start(ix, out);
            }
            Timer::Reenter => {
                self.current(task, attempt, TaskStatus::Running)?;
                if !self.tasks[ix as usize].reenter {
                    return Err(Refused::AttemptOver);
                }
                let reached = self.detail(ix).journal.reached(out.now);
                for key in &reached {
                    self.close_entry(ix, key, Ok(Value::NONE), true, out)?;
                }
                self.detail(ix).sub_status = Some(SubStatus::Active);
                if !reached.is_empty() {
                    self.new_record(out);
                    self.write_row(ix, out);
                }
                self.ready(ix, out);
            }
        }
        Ok(())
    }
}
