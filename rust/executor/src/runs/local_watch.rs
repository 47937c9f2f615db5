//! A watch that has a source here: what of it changes from one call of the source to the next.

use std::sync::Arc;
use std::time::Duration;

use bide_core::Value;
use bide_core::watches::Watch;
use bide_sync::Mutex;

use crate::host::Host;
use crate::runs::run::RegisteredWorkflow;

/// What a source has returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceAnswer {
    /// Items, each with its key and the packed inputs of its run, and what the source is called with next.
    Items(Vec<(Arc<str>, Arc<[u8]>)>, Value),
    /// It has failed; says how.
    Failed(Arc<str>),
    /// It answers later: see `Engine::source_is_ready`.
    Later,
}

/// Tells the watches of an engine apart, also those of one name: whose source it is that answers later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceId(pub u64);

/// Calls a source with a cursor, or takes what it has returned later. Never panics.
pub type WatchSource = Box<dyn Fn(SourceId, &Value) -> SourceAnswer + Send + Sync>;

/// A watch that has a source here.
pub(crate) struct LocalWatch<H: Host> {
    /// Its name.
    pub(super) name: Arc<str>,
    /// Tells it apart from others of its name.
    pub(crate) id: SourceId,
    /// The workflow of which it starts runs.
    pub(super) workflow: Arc<RegisteredWorkflow<H>>,
    /// What changes.
    pub(super) state: Mutex<LocalState>,
}

/// What changes of a watch that has a source here.
pub(super) struct LocalState {
    /// The source, and what messages call it.
    pub(super) source: (Arc<WatchSource>, Arc<str>),
    /// How often it was defined again. What was read of the store before that says nothing about it.
    pub(super) generation: u64,
    /// From one call to the next, when it was read last.
    pub(super) every: Duration,
    /// How often the source has failed in a row.
    pub(super) failures: u32,
    /// The failure that was logged last.
    pub(super) logged: Option<Arc<str>>,
    /// What the source was called with that answers later.
    pub(super) asked: Option<(i64, Watch)>,
    /// How often the store had lost commits when that was read.
    pub(super) history: u64,
    /// Since when it has been called, by the steady clock.
    pub(super) calling: Option<Duration>,
    /// That call was reported.
    pub(super) is_reported: bool,
    /// When it is called next, by the steady clock.
    pub(super) next: Option<Duration>,
    /// The watch was removed, or is not served here any more. What its source still returns does not count.
    pub(super) is_over: bool,
}

impl LocalState {
    /// Not called yet.
    pub(super) fn new(source: (Arc<WatchSource>, Arc<str>), every: Duration) -> Self {
        Self {
            source,
            generation: 0,
            every,
            failures: 0,
            logged: None,
            asked: None,
            history: 0,
            calling: None,
            is_reported: false,
            next: None,
            is_over: false,
        }
    }

    /// Another source takes the place of the one that it has.
    pub(super) fn replace(&mut self, source: (Arc<WatchSource>, Arc<str>), every: Duration) {
        (self.source, self.every, self.failures, self.logged) = (source, every, 0, None);
        self.generation += 1;
    }

    /// It is over, by what was read in this generation. False: it was defined again since.
    pub(super) fn end(&mut self, generation: u64) -> bool {
        self.is_over |= self.generation == generation;
        self.is_over
    }
}
