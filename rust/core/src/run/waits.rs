//! Waits: journal entries opened and closed, gates, and the timers of retries and of bodies that are not in memory.

use std::sync::Arc;

use crate::attempt::polling::timed_out;
use crate::entry::{Entry, EntryKey, EntryKind, EntryState, Operation, StepMode};
use crate::event::{Effect, Event, GateSpec, GateTime, GateUntil, Refused, Retry, Timer, Wait};
use crate::failure::Failure;
use crate::id::TaskRef;
use crate::journal::Journal;
use crate::record::Write;
use crate::status::{SubStatus, TaskStatus};
use crate::time::{Time, micros};
use crate::value::Value;

use super::{Out, RunState};

/// When an open entry ends by itself: its time is reached, or it times out.
fn ends_at(entry: &Entry) -> Option<Time> {
    entry.due().into_iter().chain(entry.deadline).filter(|at| *at != Time::NEVER).min()
}

impl RunState {
    pub(super) fn write_entry(&self, task: TaskRef, entry: Arc<Entry>, out: &mut Out<'_>) {
        let (run, map, id) = (self.row(), task.map, self.ids[task.ix as usize]);
        out.batch.push(Write::Entry { run, task: id, map, entry });
    }

    pub(super) fn close_entry(
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
        if detail.journal.has_combinations() {
            detail.combinations();
        }
        let entry = detail.journal.close(key, result, proved, out.now).ok_or(Refused::AttemptOver)?.clone();
        // A step is executed meanwhile, and nothing waits.
        if entry.kind() != EntryKind::Step {
            // In a file that was changed by hand, times can have any value.
            let waited = micros(out.now.since(entry.opened_at.max(detail.waited_until)));
            detail.waited = detail.waited.saturating_add(waited);
            detail.waited_until = out.now;
        }
        self.write_entry(task, entry, out);
        Ok(())
    }

    /// A body opens waits: one, or a combination before its members. One that was recorded already is not a new record,
    /// but the body is deferred all the same, unless what it waits for is there.
    pub(super) fn opened(&mut self, task: TaskRef, waits: Vec<Wait>, out: &mut Out<'_>) {
        let first = waits.first().map(|wait| wait.key.clone());
        self.task_mut(task).has_left = false;
        let detail = self.detail(task);
        detail.sub_status = Some(SubStatus::Deferred);
        let new = waits.iter().any(|wait| detail.journal.get(&wait.key).is_none());
        self.open_entries(task, waits, out);
        let open = first.is_some_and(|key| self.is_open(task, &key));
        if !open {
            self.detail(task).sub_status = Some(SubStatus::Active);
        }
        self.clear_suspicion(task, out);
        if new {
            self.new_record(out);
        }
        self.write_row(task, out);
        if self.task(task).interrupt {
            self.interrupt(task, out);
        }
    }

    pub(super) fn is_open(&self, task: TaskRef, key: &EntryKey) -> bool {
        let entry = self.known_detail(task).and_then(|detail| detail.journal.get(key));
        entry.is_some_and(|entry| entry.state == EntryState::Open)
    }

    /// Opens an entry and watches for what the machine itself waits for: closes it at once if that is there.
    pub(super) fn open_entry(&mut self, task: TaskRef, wait: Wait, out: &mut Out<'_>) {
        if !self.is_wanted(task, &wait.key) {
            return;
        }
        let member = self.is_member(task, &wait.key);
        let entry = self.detail(task).journal.open(wait, out.now).clone();
        let result = match &entry.operation {
            Operation::Message(address) => self.take_message(address, out),
            Operation::Child { run } => self.take_child_end(*run),
            Operation::Time { due } if member && *due <= out.now => Some(Ok(Value::NONE)),
            _ => None,
        };
        let timed = match &entry.operation {
            Operation::Message(_) | Operation::Child { .. } | Operation::Any { .. } | Operation::All { .. } => true,
            // A body itself sleeps until a time, unless that is one of several waits.
            Operation::Time { .. } => member || entry.key.n == 0,
            _ => false,
        };
        if let Some(result) = result {
            self.close_quietly(task, &entry.key, result, out);
            return;
        }
        if timed {
            match &entry.operation {
                Operation::Message(address) => self.note_wait(address, task, &entry.key),
                Operation::Child { run } => self.note_child_wait(*run, task, &entry.key),
                _ => {}
            }
            self.watch_time(task, &entry, out);
        }
        self.write_entry(task, entry, out);
    }

    /// Sets the timer of an entry that the machine closes: for its time, or for its deadline.
    pub(super) fn watch_time(&self, task: TaskRef, entry: &Entry, out: &mut Out<'_>) {
        let Some(at) = ends_at(entry) else { return };
        let attempt = self.task(task).attempts;
        let times_out = entry.due() != Some(at);
        let event = Event::Elapsed { task, attempt, key: entry.key.clone(), at, times_out, retry: None };
        out.effects.push(Effect::Timer { at, event: Box::new(event) });
    }

    /// The timer of an entry has fired. Refused if the entry is over, or is another one than the timer was set for:
    /// after a checkpoint keys come back.
    pub(super) fn elapsed(
        &mut self,
        task: TaskRef,
        attempt: u32,
        key: &EntryKey,
        at: Time,
        retry: Option<Retry>,
        out: &mut Out<'_>,
    ) -> Result<(), Refused> {
        let status = if key.n > 0 { TaskStatus::Running } else { TaskStatus::Pending };
        self.current(task, attempt, status)?;
        let gate = self.bare_gate(task);
        let entry = gate.as_ref().or_else(|| self.known_detail(task)).and_then(|detail| detail.journal.get(key));
        let entry = entry.filter(|entry| entry.state == EntryState::Open && ends_at(entry) == Some(at));
        let result = match entry.ok_or(Refused::AttemptOver)?.due() {
            Some(due) if due == at => Ok(Value::NONE),
            _ => Err(timed_out(&self.graph.name_of(task), &key.name)),
        };
        if key.n > 0 {
            self.closed(task, key, result, true, out)
        } else {
            self.gate_closed(task, key, result, retry, out)
        }
    }

    /// Writes what the condition of an open wait has raised last.
    pub(super) fn poll_raised(
        &mut self,
        task: TaskRef,
        key: &EntryKey,
        error: Option<Failure>,
        out: &mut Out<'_>,
    ) -> Result<(), Refused> {
        if self.bare_gate(task).is_none() && self.known_detail(task).is_none() {
            return Err(Refused::AttemptOver);
        }
        let entry = self.detail(task).journal.set_error(key, error).cloned().ok_or(Refused::AttemptOver)?;
        self.write_entry(task, entry, out);
        Ok(())
    }

    /// A step ended, or a wait was satisfied at its first check. An entry that replaces a closed one is not a new
    /// record: a condition that cannot be encoded is polled and recorded at each entry of the body.
    pub(super) fn recorded(
        &mut self,
        task: TaskRef,
        wait: Wait,
        since: Option<Time>,
        result: Result<Value, Failure>,
        out: &mut Out<'_>,
    ) {
        let key = wait.key.clone();
        let detail = self.detail(task);
        let before = detail.journal.get(&key).map(|entry| entry.state);
        let is_intent = detail.journal.get(&key).is_some_and(|entry| entry.mode() == StepMode::Once);
        detail.journal.open(wait, since.map_or(out.now, |since| since.min(out.now)));
        if matches!(&result, Err(failure) if self.is_cancellation(failure)) {
            self.task_mut(task).interrupt = false;
        }
        // Cannot be refused: it is open.
        let _ = self.close_entry(task, &key, result, true, out);
        if before.is_none_or(|state| state == EntryState::Open) {
            self.new_record(out);
            self.clear_suspicion(task, out);
        }
        if before == Some(EntryState::Open) && !is_intent {
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
        let pushed = self.is_pushed(task, key);
        self.close_entry(task, key, result, proved, out)?;
        self.lose_open(task, key, out);
        self.new_record(out);
        match self.decide(task, key, out) {
            Some(top) if self.is_open(task, &top) => return Ok(()),
            Some(_) => {}
            None if pushed => {}
            None => {
                self.resumes(task, out);
                return Ok(());
            }
        }
        self.resumes(task, out);
        if !self.task(task).reenter {
            out.effects.push(Effect::Woken { task });
        }
        Ok(())
    }

    /// The wait is over for which a body was deferred.
    pub(super) fn resumes(&mut self, task: TaskRef, out: &mut Out<'_>) {
        self.detail(task).sub_status = Some(SubStatus::Active);
        self.write_row(task, out);
        if self.task(task).reenter && self.task(task).status == TaskStatus::Running {
            self.ready(task, out);
        }
        if self.cancel().is_some() {
            self.grace_continues(task, out);
        }
    }

    /// Whether the machine closes an entry by itself.
    fn is_pushed(&self, task: TaskRef, key: &EntryKey) -> bool {
        let entry = self.known_detail(task).and_then(|detail| detail.journal.get(key));
        entry.is_some_and(|entry| {
            let waits = &entry.operation;
            matches!(waits, Operation::Message(_) | Operation::Child { .. }) || !waits.members().is_empty()
        })
    }

    /// Closes an entry of a gate or a body with what came for it. It is known to be open.
    pub(super) fn push_closed(
        &mut self,
        task: TaskRef,
        key: &EntryKey,
        result: Result<Value, Failure>,
        out: &mut Out<'_>,
    ) {
        // Cannot be refused.
        let _ = if key.n == 0 {
            self.gate_closed(task, key, result, None, out)
        } else {
            self.closed(task, key, result, true, out)
        };
    }

    /// Closes an entry that is just being opened, and decides the combination that it belongs to.
    fn close_quietly(&mut self, task: TaskRef, key: &EntryKey, result: Result<Value, Failure>, out: &mut Out<'_>) {
        // Cannot be refused: it is open.
        let _ = self.close_entry(task, key, result, true, out);
        self.new_record(out);
        self.decide(task, key, out);
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
        let gate = self.graph.spec(task.ix).gate.as_ref();
        let top = gate.filter(|gate| gate.name == key.name || gate.number_of(key).is_some()).map(GateSpec::key);
        let Some(top) = top.filter(|top| self.is_gate_open(task, top)) else {
            return Err(Refused::AttemptOver);
        };
        self.close_entry(task, key, result, true, out)?;
        self.lose_open(task, key, out);
        self.new_record(out);
        self.decide(task, key, out);
        self.gate_decided(task, &top, retry, out);
        Ok(())
    }

    fn is_gate_open(&self, task: TaskRef, top: &EntryKey) -> bool {
        self.bare_gate(task).is_some() || self.is_open(task, top)
    }

    /// Acts on the end of a gate, unless it is still open.
    fn gate_decided(&mut self, task: TaskRef, top: &EntryKey, retry: Option<Retry>, out: &mut Out<'_>) {
        let entry = self.known_detail(task).and_then(|detail| detail.journal.get(top));
        let Some(entry) = entry.filter(|entry| entry.state != EntryState::Open) else { return };
        if let Some(failure) = entry.failure.as_deref().cloned() {
            self.task_mut(task).attempts += 1;
            self.attempt_failed(task, failure, retry, out);
        } else {
            self.ready(task, out);
            self.write_row(task, out);
        }
    }

    /// A task may start: makes it ready, or opens its gate.
    pub(crate) fn start(&mut self, task: TaskRef, out: &mut Out<'_>) {
        if self.begins_later() {
            return;
        }
        if self.graph.is_expansion(task) {
            self.count_elements(task, out);
            return;
        }
        let Some(gate) = self.graph.spec(task.ix).gate.clone() else {
            self.ready(task, out);
            return;
        };
        match self.recorded_gate(task, &gate) {
            Some(entry) if entry.state == EntryState::Satisfied => self.ready(task, out),
            Some(entry) if entry.state == EntryState::Open && self.has_members(task, &gate, out.now) => {
                self.watch_gate(task, &entry, out);
            }
            _ => self.open_gate(task, &gate, out),
        }
    }

    /// Whether a gate was recorded with the members that it has in this version of the workflow.
    fn has_members(&self, task: TaskRef, gate: &GateSpec, now: Time) -> bool {
        if !matches!(gate.until, GateUntil::Any(_) | GateUntil::All(_)) {
            return true;
        }
        let Some(detail) = self.known_detail(task) else { return false };
        let entry = |wait: &Wait| detail.journal.get(&wait.key);
        gate.waits(now)
            .iter()
            .all(|wait| entry(wait).is_some_and(|entry| entry.operation.members() == wait.operation.members()))
    }

    fn open_gate(&mut self, task: TaskRef, gate: &GateSpec, out: &mut Out<'_>) {
        let mail = self.run_detail.as_ref().is_some_and(|detail| detail.mail.is_some());
        let combined = matches!(gate.until, GateUntil::Any(_) | GateUntil::All(_));
        if !mail && !combined && self.task(task).detail.is_none() {
            // Nothing else is recorded of it: memory of a hundred thousand gates stays small.
            self.task_mut(task).gate_since = out.now;
            let entry = Journal::default().open(gate.wait(out.now), out.now).clone();
            self.write_entry(task, entry.clone(), out);
            self.write_row(task, out);
            self.watch_gate(task, &entry, out);
            return;
        }
        self.open_entries(task, gate.waits(out.now), out);
        let top = gate.key();
        if self.is_open(task, &top) {
            self.write_row(task, out);
            self.ask_host(task, out);
        } else {
            self.gate_decided(task, &top, None, out);
        }
    }

    /// Asks the host for what ends the open waits of a gate, as far as it has to say.
    fn ask_host(&self, task: TaskRef, out: &mut Out<'_>) {
        let Some(detail) = self.known_detail(task) else { return };
        let open = detail.journal.open_entries().filter(|entry| entry.key.n == 0);
        open.for_each(|entry| self.ask_for(task, entry, out));
    }

    /// The record of this gate; none if the workflow version that recorded it had another gate, or if its time was not
    /// computed yet.
    fn recorded_gate(&self, task: TaskRef, gate: &GateSpec) -> Option<Entry> {
        let entry = self.known_detail(task)?.journal.get(&gate.key())?;
        let is_known = entry.due() != Some(Time::NEVER);
        (entry.kind() == gate.kind() && is_known).then(|| entry.clone())
    }

    /// A gate is open: asks for what ends it, or for timers.
    pub(super) fn watch_gate(&self, task: TaskRef, entry: &Entry, out: &mut Out<'_>) {
        self.ask_for(task, entry, out);
        if entry.kind() == EntryKind::Condition {
            return;
        }
        self.watch_time(task, entry, out);
        if let Some(detail) = self.known_detail(task) {
            for member in entry.operation.members() {
                let open = detail.journal.get(member).filter(|entry| entry.state == EntryState::Open);
                open.into_iter().for_each(|entry| self.watch_gate(task, entry, out));
            }
        }
    }

    /// Asks the host for the answer of a gate's condition, or for its time if that is computed and not known yet.
    fn ask_for(&self, task: TaskRef, entry: &Entry, out: &mut Out<'_>) {
        let Some(gate) = self.graph.spec(task.ix).gate.as_ref() else { return };
        let Some(part) = gate.number_of(&entry.key) else { return };
        let is_computed = || gate.part(part).is_some_and(|part| part.until == GateUntil::Computed);
        if entry.kind() == EntryKind::Condition || (entry.due() == Some(Time::NEVER) && is_computed()) {
            let (attempt, deadline) = (self.task(task).attempts, entry.deadline);
            out.effects.push(Effect::Gate { task, attempt, part, deadline });
        }
    }

    /// The time of a gate is known from now on.
    pub(super) fn timed(
        &mut self,
        task: TaskRef,
        key: &EntryKey,
        time: GateTime,
        out: &mut Out<'_>,
    ) -> Result<(), Refused> {
        if self.known_detail(task).is_none() && self.bare_gate(task).is_none() {
            return Err(Refused::AttemptOver);
        }
        let entry = self.detail(task).journal.set_due(key, time).ok_or(Refused::AttemptOver)?.clone();
        self.write_entry(task, entry.clone(), out);
        self.new_record(out);
        self.watch_time(task, &entry, out);
        Ok(())
    }

    /// Asks for `Due` at this time.
    pub(crate) fn set_timer(&self, task: TaskRef, at: Time, timer: Timer, out: &mut Out<'_>) {
        let attempt = self.task(task).attempts;
        out.effects.push(Effect::Timer { at, event: Box::new(Event::Due { task, attempt, timer }) });
    }

    pub(crate) fn ready(&mut self, task: TaskRef, out: &mut Out<'_>) {
        self.task_mut(task).status = TaskStatus::Ready;
        if !self.is_held() {
            out.effects.push(Effect::Ready { task });
        }
    }

    /// A timer has fired. Each fires once; a second time it is refused.
    pub(super) fn due(&mut self, task: TaskRef, attempt: u32, timer: Timer, out: &mut Out<'_>) -> Result<(), Refused> {
        match timer {
            Timer::Retry => {
                self.current(task, attempt, TaskStatus::Pending)?;
                let detail = self.task_mut(task).detail.as_mut().ok_or(Refused::AttemptOver)?;
                detail.known_rare().and_then(|rare| rare.retry_at.take()).ok_or(Refused::AttemptOver)?;
                self.start(task, out);
            }
            Timer::Reenter => {
                self.current(task, attempt, TaskStatus::Running)?;
                if !self.task(task).reenter {
                    return Err(Refused::AttemptOver);
                }
                let reached = self.detail(task).journal.reached(out.now);
                for key in &reached {
                    let is_step = self.detail(task).journal.get(key).is_some_and(|it| it.kind() == EntryKind::Step);
                    if is_step {
                        self.resume_step(task, key, out)?;
                    } else if self.close_entry(task, key, Ok(Value::NONE), true, out).is_ok() {
                        // Refused, if the time before it has decided their combination.
                        self.decide(task, key, out);
                    }
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
