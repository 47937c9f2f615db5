//! The polls of open waits in this process: how many, when the next one is due, what the last one raised. Only for those
//! who look.
//!
//! A body notes its polls each time before it sleeps. Of a gate nothing is noted but its errors, because there may be a
//! hundred thousand gates; the rest is in the queue of those that are to be polled. Who notes and reads them:
//! `looks.rs`.

use std::collections::HashMap;
use std::time::Duration;

use bide_core::record::RunRowId;
use bide_core::{EntryKey, Event, Failure, TaskId, TaskRef, Time};

/// The polls of an open wait.
#[derive(Clone, Debug, Default)]
pub struct Polls {
    /// How many there were.
    pub count: u32,
    /// When the next one is due.
    pub next: Option<Time>,
    /// What the last one raised.
    pub error: Option<Failure>,
}

/// Where a wait is: the number of its task, the map index, the key of its entry.
pub(crate) type Place = (TaskId, i32, EntryKey);

/// What the tasks of a run have noted.
pub(crate) type Noted = HashMap<TaskRef, Vec<NotedPolls>>;

/// What is noted of the polls of an open wait.
pub(crate) struct NotedPolls {
    /// The key of its entry.
    pub(super) key: EntryKey,
    /// The polls.
    pub(super) polls: Polls,
    /// Its body waits for it now: set by each note, and taken by who forgets the others.
    pub(super) is_open: bool,
    /// What the row of the wait says of its last error, as text, and since when.
    written: (Option<String>, Duration),
}

/// An error that changes with each poll is written no more often than this.
const WRITTEN_EVERY: Duration = Duration::from_secs(10);

impl NotedPolls {
    /// Of a wait whose row has this error.
    pub(super) fn new(key: EntryKey, polls: Polls, written: Option<String>) -> Self {
        Self { key, polls, is_open: false, written: (written, Duration::ZERO) }
    }

    /// Whether the row of the wait is to be written, because the condition raises something else than it says.
    fn is_to_be_written(&mut self, now: Duration) -> bool {
        let text = self.polls.error.as_ref().map(ToString::to_string);
        let (known, at) = &self.written;
        let changed = *known != text && (at.is_zero() || now.saturating_sub(*at) >= WRITTEN_EVERY);
        if changed {
            self.written = (text, now.max(Duration::from_nanos(1)));
        }
        changed
    }

    /// What is to be committed for those who look from elsewhere, if anything is.
    pub(super) fn event(&mut self, task: TaskRef, attempt: u32, now: Duration) -> Option<Event> {
        let (key, error) = self.is_to_be_written(now).then(|| (self.key.clone(), self.polls.error.clone()))?;
        Some(Event::PollRaised { task, attempt, key, error })
    }
}

/// A gate between two polls.
pub struct GatePolls {
    /// The row number of its run.
    pub run: RunRowId,
    /// Its task.
    pub task: TaskRef,
    /// Which of its waits: see [`bide_core::GateSpec::part`].
    pub part: u16,
    /// How many polls there were.
    pub count: u32,
    /// When the next one is due, by the steady clock.
    pub due: Duration,
}

/// A wait of a coroutine between two polls.
pub struct RestingPolls {
    /// The row number of its run.
    pub run: RunRowId,
    /// The task of its body.
    pub task: TaskRef,
    /// The key of its entry.
    pub key: EntryKey,
    /// How many polls there were.
    pub count: u32,
    /// When the next one is due, by the steady clock; none while it is asked.
    pub due: Option<Duration>,
}
