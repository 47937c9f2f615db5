//! What the bodies of a run show: it gathers in the run's outbox and is committed with the run's next event, or by a
//! timer, or by a body that has shown too much for it to wait.
//!
//! The outbox is taken by the ledger alone, with the commit lock held, before the event that it commits. So what a body
//! shows is never committed after something that it records later.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bide_core::attempt::CallError;
use bide_core::{Channel, Event, Origin, Outbox, Progress, ProgressRow, Published, TaskRef, Value};
use bide_sync::Mutex;

use crate::engine::Engine;
use crate::host::Host;
use crate::ledger::CommitPath;
use crate::runs::run::Run;
use crate::services::timers::{Alarm, Timers};

/// How long an event waits for others.
const GATHER: Duration = Duration::from_millis(20);

/// A body that has this many bytes waiting commits them itself before it continues.
const FULL: usize = 256 * 1024;

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

    /// How far a task has come.
    pub(crate) fn progress_of(&self, task: TaskRef) -> Option<Progress> {
        self.0.get()?.lock().outbox.progress_of(task).cloned()
    }

    /// How far a task had come in an earlier process.
    pub(crate) fn restore(&self, task: TaskRef, progress: Progress) {
        self.state().lock().outbox.restore(task, progress);
    }

    /// The timer has rung. Whether there is something to commit.
    fn rung(&self) -> bool {
        self.0.get().is_some_and(|state| {
            let mut state = state.lock();
            state.timed = false;
            state.outbox.has_events()
        })
    }
}

/// Whether events can wait for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// They can.
    Left,
    /// There are too many: commit [`publish`] before more are emitted.
    Full,
}

/// The event that commits what a run shows and nothing else.
pub(crate) fn publish() -> Event {
    Event::Published(Box::<Published>::default())
}

impl<H: Host> Engine<H> {
    /// Adds an event to a channel of a run.
    ///
    /// # Errors
    /// `Misuse` if the run has used the channel with another type.
    pub(crate) fn emit(
        &self,
        run: &Arc<Run<H>>,
        channel: &Channel,
        origin: Origin,
        value: &Value,
    ) -> Result<Room, CallError> {
        let task = origin.task;
        let now = self.now();
        let (fill, sets_timer) = {
            let mut state = run.live_output.state().lock();
            let fill = state.outbox.emit(channel, origin, value.as_bytes(), now);
            let fill = fill.map_err(|before| other_type(run.workflow.graph.name(task.ix), channel, &before))?;
            let sets_timer = fill.first && !std::mem::replace(&mut state.timed, true);
            (fill, sets_timer)
        };
        if sets_timer {
            Publish::after(self.path(), self.timers(), run, GATHER, EVENTS);
        }
        Ok(if fill.bytes < FULL { Room::Left } else { Room::Full })
    }

    /// Notes how far a task has come.
    pub(crate) fn progress(&self, run: &Arc<Run<H>>, task: TaskRef, attempt: u32, progress: Progress) {
        let due = run.live_output.state().lock().outbox.progress(task, attempt, progress, self.steady());
        if let Some(due) = due {
            Publish::after(self.path(), self.timers(), run, due.max(GATHER), PROGRESS);
        }
    }
}

#[cold]
fn other_type(task: &str, channel: &Channel, before: &str) -> CallError {
    let used = |name: &str| if name.is_empty() { "by its name alone".to_owned() } else { format!("with {name}") };
    CallError::Misuse(format!(
        "task '{task}': the channel '{}' is used {} and, earlier in this run, {}: a channel of a run has one type, so \
         use one bide.channel(...) for all, or give one of them another name",
        channel.name,
        used(&channel.type_name),
        used(before),
    ))
}

/// Has what a run shows committed.
struct Publish<H: Host> {
    path: Arc<CommitPath<H>>,
    run: Arc<Run<H>>,
}

/// The timer is for events.
const EVENTS: u64 = 0;

/// The timer is for progress.
const PROGRESS: u64 = 1;

impl<H: Host> Publish<H> {
    #[cold]
    fn after(path: &Arc<CommitPath<H>>, timers: &Timers, run: &Arc<Run<H>>, span: Duration, what: u64) {
        timers.after(span, Arc::new(Self { path: Arc::clone(path), run: Arc::clone(run) }), what);
    }
}

impl<H: Host> Alarm for Publish<H> {
    fn ring(self: Arc<Self>, what: u64) {
        if what == PROGRESS || self.run.live_output.rung() {
            self.path.enqueue(Arc::clone(&self.run), publish());
        }
    }
}

/// The progress of a run's tasks, as a store has it.
pub(crate) fn progress_rows<H: Host>(run: &Run<H>) -> Vec<ProgressRow> {
    let row = |ix: u32| {
        let progress = run.live_output.progress_of(TaskRef::plain(ix))?;
        let (task, map) = (run.workflow.ids[ix as usize], TaskRef::plain(ix).map);
        Some(ProgressRow { run: run.id.row(), task, map, progress })
    };
    match run.live_output.0.get() {
        Some(_) => (0..run.workflow.graph.len() as u32).filter_map(row).collect(),
        None => Vec::new(),
    }
}
