//! What bodies show: adds it to the outbox of their run, and has it committed before long; and what followers read.

use std::sync::Arc;
use std::time::Duration;

use bide_core::attempt::CallError;
use bide_core::longest::too_long;
use bide_core::{Channel, Event, Origin, Progress, Published, RunId, TaskRef, Value};
use bide_store::{EventRange, StoreError};

use crate::engine::Engine;
use crate::host::Host;
use crate::ledger::CommitPath;
use crate::runs::follow::{self, Bell, Followed};
use crate::runs::run::Run;
use crate::services::timers::{Alarm, Timers};

/// How long an event waits for others.
const GATHER: Duration = Duration::from_millis(20);

/// A body that has this many bytes waiting commits them itself before it continues.
const FULL: usize = 256 * 1024;

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
    /// `Misuse` if the run has used the channel with another type, or its name is too long for the store.
    pub(crate) fn emit(
        &self,
        run: &Arc<Run<H>>,
        channel: &Channel,
        origin: Origin,
        value: &Value,
    ) -> Result<Room, CallError> {
        let task = origin.task;
        if let Some(why) = too_long("channel", &channel.name, self.control.longest_name) {
            return Err(CallError::Misuse(format!("task '{}': {why}", run.workflow.graph.name(task.ix))));
        }
        let emitted = run.live_output.emit(channel, origin, value, self.now());
        let (fill, sets_timer) =
            emitted.map_err(|before| other_type(run.workflow.graph.name(task.ix), channel, &before))?;
        if sets_timer {
            Publish::after(self.path(), self.timers(), run, GATHER, EVENTS);
        }
        Ok(if fill.bytes < FULL { Room::Left } else { Room::Full })
    }

    /// Notes how far a task has come.
    pub(crate) fn progress(&self, run: &Arc<Run<H>>, task: TaskRef, attempt: u32, progress: Progress) {
        let due = run.live_output.progress((task, attempt), progress, self.clock().machine());
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
        timers.soon(span, Arc::new(Self { path: Arc::clone(path), run: Arc::clone(run) }), what);
    }
}

impl<H: Host> Alarm for Publish<H> {
    fn ring(self: Arc<Self>, what: u64) {
        if what == PROGRESS || self.run.live_output.rung() {
            self.path.enqueue(Arc::clone(&self.run), publish());
        }
    }
}

/// For callers: what live runs show.
impl<H: Host> Engine<H> {
    /// Where to wait for what a run shows.
    #[must_use]
    pub fn bell(&self, run: RunId) -> Arc<Bell> {
        self.control.followers.bell(run)
    }

    /// How long a follower of a run waits for its bell before it looks at the store anyway.
    #[must_use]
    pub fn follow_patience(&self, run: RunId) -> Duration {
        if self.live(run).is_some() { follow::RECHECK } else { follow::LOOK }
    }

    /// Reads events of a channel after an offset. `None` if there is no such run. Blocks.
    ///
    /// # Errors
    /// From the store.
    pub fn follow(&self, run: RunId, channel: &str, after: u64, most: usize) -> Result<Option<Followed>, StoreError> {
        let store = self.store();
        // First: a run that has ended by now shows nothing new.
        let Some(standing) = store.standing(run)? else { return Ok(None) };
        let events = store.events(run, channel, EventRange::After { offset: after, most })?;
        Ok(events.map(|events| Followed { events, ended: standing.status.is_ended() }))
    }
}
