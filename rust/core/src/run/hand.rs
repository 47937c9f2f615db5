//! An operator's hand on single tasks: what they wait for is satisfied, given more time or asked now, or they are
//! skipped.
//!
//! A request that comes too late, or for what is not there, changes nothing: it stands in the run's history all the
//! same.

use std::sync::Arc;
use std::time::Duration;

use crate::entry::{Entry, EntryKey, EntryKind, Operation};
use crate::event::Effect;
use crate::id::TaskRef;
use crate::message::MessageKind;
use crate::status::TaskStatus;
use crate::value::Value;

use super::{Out, RunState, SkipCause};

/// Whether a wait can be satisfied by hand: it is one whose value anybody could have given.
fn can_be_satisfied(entry: &Entry) -> bool {
    match &entry.operation {
        Operation::Condition { .. } | Operation::Time { .. } => true,
        Operation::Message(address) => address.kind != MessageKind::Request,
        _ => false,
    }
}

impl RunState {
    /// A task or element that has not ended, by its name.
    fn unended(&self, name: &str) -> Option<TaskRef> {
        let task = self.graph.find_element(name)?;
        self.get(task).filter(|state| !state.status.is_ended())?;
        Some(task)
    }

    /// The oldest open wait of a task for which this holds.
    fn wait_of(&self, task: TaskRef, is: impl Fn(&Entry) -> bool) -> Option<Entry> {
        let gate = self.bare_gate(task);
        let detail = gate.as_ref().or_else(|| self.known_detail(task))?;
        detail.journal.oldest_wait(is).cloned()
    }

    /// What a task waits for is there, with this value.
    pub(super) fn satisfy(&mut self, name: &str, value: &Value, out: &mut Out<'_>) {
        let Some(task) = self.unended(name) else { return };
        let Some(entry) = self.wait_of(task, can_be_satisfied) else { return };
        let value = if entry.kind() == EntryKind::Time { Value::NONE } else { value.clone() };
        self.push_closed(task, &entry.key, Ok(value), out);
        if entry.key.n > 0 {
            out.effects.push(Effect::Woken { task });
        }
    }

    /// What a task waits for has this much longer to come.
    pub(super) fn extend(&mut self, name: &str, span: Duration, out: &mut Out<'_>) {
        let Some(task) = self.unended(name) else { return };
        let Some(EntryKey { name, n }) = self.wait_of(task, |entry| entry.deadline.is_some()).map(|entry| entry.key)
        else {
            return;
        };
        let key = EntryKey { name, n };
        let Some(entry) = self.detail(task).journal.extend(&key, span).cloned() else { return };
        self.write_entry(task, entry.clone(), out);
        if key.n == 0 {
            self.watch_gate(task, &entry, out);
            return;
        }
        if self.task(task).reenter && self.task(task).status == TaskStatus::Running {
            self.await_reentry(task, out);
        }
        self.watch_time(task, &entry, out);
        out.effects.push(Effect::Woken { task });
    }

    /// The condition that a task waits for is asked now.
    pub(super) fn poll_now(&mut self, name: &str, out: &mut Out<'_>) {
        let Some(task) = self.unended(name) else { return };
        let Some(entry) = self.wait_of(task, |entry| entry.kind() == EntryKind::Condition) else { return };
        let is_gate = entry.key.n == 0;
        if !is_gate {
            self.task_mut(task).poll_now = true;
        }
        out.effects.push(if is_gate { Effect::PollNow { task } } else { Effect::Woken { task } });
    }

    /// Whether a body is to poll its condition at once: true once.
    pub fn take_poll_now(&mut self, task: TaskRef) -> bool {
        self.get(task).is_some_and(|state| state.poll_now) && std::mem::take(&mut self.task_mut(task).poll_now)
    }

    /// A task that has not ended is skipped, also one whose body has begun: what that still does is refused.
    pub(super) fn skip_on_request(&mut self, name: &str, why: Arc<str>, out: &mut Out<'_>) {
        let Some(task) = self.unended(name).filter(|task| !self.is_expanded(*task)) else { return };
        self.fence(task, out);
        self.close_gate(task, out);
        self.task_mut(task).reenter = false;
        self.new_record(out);
        self.clear_suspicion(task, out);
        self.skip(task, SkipCause::Reason(why), false, out);
        self.task_ended(task, out);
    }
}
