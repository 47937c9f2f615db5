//! Results that gather on a slot, so that one transaction serves many.
//!
//! A group is committed by the thread that made it (its work is done, 64 have gathered, or the oldest is 1 ms old), by
//! the committer thread, behind a body that runs on, or with whatever another thread commits. While a commit is under way
//! that takes long, the thread continues with its work.

use std::sync::Arc;
use std::time::Duration;

use bide_core::{Event, Refused, Time};
use bide_sync::Mutex;

use crate::host::Host;
use crate::runs::run::Run;

/// A group is committed when it has this many results.
const FULL: usize = 64;

/// While another thread commits, this many may gather before the thread that made them waits for its turn.
const MANY: usize = 1_024;

/// A result waits at most this long for others.
pub(super) const MAX_AGE: Duration = Duration::from_millis(1);

/// An event on its way to the store.
pub(crate) struct QueuedEvent<H: Host> {
    /// The run that it happened to.
    pub(crate) run: Arc<Run<H>>,
    /// What happened.
    pub(crate) event: Event,
    /// When it happened.
    pub(crate) at: Time,
    /// The channel on which its outcome is awaited, if it is.
    pub(crate) completion: Option<Completion>,
}

impl<H: Host> QueuedEvent<H> {
    /// An event whose outcome nobody awaits.
    pub(crate) const fn new(run: Arc<Run<H>>, event: Event, at: Time) -> Self {
        Self { run, event, at, completion: None }
    }
}

/// The completion channel of an event: gets its outcome once that is committed. Dropped unsent if the engine stops
/// before.
pub(crate) type Completion = tokio::sync::oneshot::Sender<Result<(), Refused>>;

/// The results that have gathered on one slot; of closures in memory, on all.
pub struct Group<H: Host>(Mutex<GroupState<H>>);

struct GroupState<H: Host> {
    /// In the order in which they came.
    items: Vec<QueuedEvent<H>>,
    /// The emptied memory of the last commit. It stays with the slot, because a thread may park for long.
    spare: Vec<QueuedEvent<H>>,
    /// When the oldest came, in the machine's time.
    since: Duration,
}

impl<H: Host> Default for Group<H> {
    fn default() -> Self {
        Self(Mutex::new(GroupState { items: Vec::with_capacity(FULL), spare: Vec::new(), since: Duration::ZERO }))
    }
}

impl<H: Host> Group<H> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Adds a result; true if the group should be committed now.
    pub(crate) fn push(&self, result: QueuedEvent<H>, now: Duration) -> bool {
        let mut gathered = self.0.lock();
        if gathered.items.is_empty() {
            gathered.since = now;
        }
        gathered.items.push(result);
        gathered.items.len() >= FULL || now.saturating_sub(gathered.since) >= MAX_AGE
    }

    /// Whether its thread is to wait for the end of another commit before it continues.
    pub(crate) fn has_many(&self) -> bool {
        self.0.lock().items.len() >= MANY
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().items.is_empty()
    }

    /// Takes what has gathered.
    pub(super) fn take(&self) -> Vec<QueuedEvent<H>> {
        let gathered = &mut *self.0.lock();
        std::mem::replace(&mut gathered.items, std::mem::take(&mut gathered.spare))
    }

    /// Returns the emptied vector of [`Group::take`], to reuse its memory.
    pub(super) fn reuse(&self, emptied: Vec<QueuedEvent<H>>) {
        self.0.lock().spare = emptied;
    }

    pub(super) fn is_older_than(&self, age: Duration, now: Duration) -> bool {
        let gathered = self.0.lock();
        !gathered.items.is_empty() && now.saturating_sub(gathered.since) >= age
    }
}

/// The events that let created runs begin.
pub(super) fn begins<H: Host>(runs: &[Arc<Run<H>>]) -> Vec<QueuedEvent<H>> {
    runs.iter().map(|run| QueuedEvent::new(Arc::clone(run), Event::Begin, run.created_at)).collect()
}
