//! What the bodies of a run show: it gathers in the run's outbox and is committed with the run's next event, or by a
//! timer, or by a body that has shown too much for it to wait.
//!
//! The outbox is taken by the ledger alone, with the commit lock held, before the event that it commits. So what a body
//! shows is never committed after something that it records later.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bide_core::outbox::Fill;
use bide_core::{Channel, Event, Origin, Outbox, Progress, TaskRef, Time, Value};
use bide_sync::Mutex;

/// What the bodies of a run show. Empty until one does: most runs never do.
#[derive(Default)]
pub(crate) struct LiveOutput(OnceLock<Box<Mutex<State>>>);

#[derive(Default)]
struct State {
    /// What is not committed.
    outbox: Outbox,
    /// A timer is set that has the events committed.
    timed: bool,
}

impl LiveOutput {
    fn state(&self) -> &Mutex<State> {
        self.0.get_or_init(Box::default)
    }

    /// Adds an event. Answers also whether a timer is to be set that has it committed.
    ///
    /// # Errors
    /// The name of the type with which the channel was used before, if that is another.
    pub(crate) fn emit(
        &self,
        channel: &Channel,
        origin: Origin,
        value: &Value,
        now: Time,
    ) -> Result<(Fill, bool), Arc<str>> {
        let mut state = self.state().lock();
        let fill = state.outbox.emit(channel, origin, value.as_bytes(), now)?;
        Ok((fill, fill.first && !std::mem::replace(&mut state.timed, true)))
    }

    /// Notes how far a task has come. Answers after which time to have it committed, if no timer is set for it.
    pub(crate) fn progress(&self, of: (TaskRef, u32), progress: Progress, now: Duration) -> Option<Duration> {
        self.state().lock().outbox.progress(of.0, of.1, progress, now)
    }

    /// What is to be committed before this event.
    #[inline]
    pub(crate) fn take(&self, before: &Event, steady: impl FnOnce() -> Duration) -> Option<Event> {
        let state = self.0.get()?;
        let ends = match before {
            Event::Ended { task, .. } => Some(*task),
            _ => None,
        };
        state.lock().outbox.take(ends, steady()).map(|published| Event::Published(Box::new(published)))
    }

    /// How far each task and element has come that has said so, in order.
    pub(crate) fn progress_of_all(&self) -> Vec<(TaskRef, Progress)> {
        let Some(state) = self.0.get() else { return Vec::new() };
        let mut all: Vec<_> = state.lock().outbox.progress_of_all().map(|(task, one)| (task, one.clone())).collect();
        all.sort_unstable_by_key(|(task, _)| *task);
        all
    }

    /// How far a task had come in an earlier process.
    pub(crate) fn restore(&self, task: TaskRef, progress: Progress) {
        self.state().lock().outbox.restore(task, progress);
    }

    /// The timer has rung. Whether there is something to commit.
    pub(crate) fn rung(&self) -> bool {
        self.0.get().is_some_and(|state| {
            let mut state = state.lock();
            state.timed = false;
            state.outbox.has_events()
        })
    }
}
