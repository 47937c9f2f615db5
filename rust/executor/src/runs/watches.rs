//! Watches: what callers ask of them. How their sources are called is in `runs/sources.rs`.
//!
//! A watch is a row of the store, which names the runner that calls its source. Each change of it is made only if the
//! row is still what was looked at.

use std::sync::Arc;
use std::time::Duration;

use bide_core::Time;
use bide_core::watches::Watch;
use bide_store::{StoreError, StoredWatch, WatchChange, WatchChanged};

use crate::host::Host;
use crate::runs::local_watch::{LocalWatch, WatchSource};
use crate::runs::run::RegisteredWorkflow;
use crate::runs::sources::Watcher;

/// What a caller says about a watch.
pub struct WatchRequest {
    /// Its name.
    pub name: Arc<str>,
    /// From one call of the source to the next.
    pub every: Duration,
    /// What messages call the source.
    pub shown: Arc<str>,
    /// The source.
    pub source: WatchSource,
}

/// Why something that was asked of a watch is not done.
#[derive(Debug)]
pub enum WatchError {
    /// There is no watch of this name.
    NoWatch,
    /// The watch of this name starts runs of this other workflow.
    OtherWorkflow(Arc<str>),
    /// The store refused.
    Store(StoreError),
}

impl From<StoreError> for WatchError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A watch as callers see it.
#[derive(Clone, Debug)]
pub struct WatchView {
    /// The watch.
    pub watch: Watch,
    /// Whether a runner that lives calls its source.
    pub is_served: bool,
    /// When the source is called next, if this runner does that.
    pub next: Option<Time>,
    /// Since when a call of the source has not returned, if this runner calls it.
    pub calling: Option<Time>,
}

/// A watch that was defined, and what is to be queued to have its source called; `None`: it is queued already.
pub(crate) type Defined<H> = (WatchView, Option<Arc<LocalWatch<H>>>);

/// For callers. All of these block.
impl<H: Host> Watcher<H> {
    /// Defines a watch, or changes it, and has its source called here.
    ///
    /// # Errors
    /// See [`WatchError`]; then nothing has changed.
    pub(crate) fn define(
        &self,
        workflow: &Arc<RegisteredWorkflow<H>>,
        request: WatchRequest,
    ) -> Result<Defined<H>, WatchError> {
        let (name, every) = (&request.name, bide_core::time::micros(request.every));
        let of = (Arc::clone(workflow.graph.workflow()), workflow.number);
        let watch = loop {
            let known = self.control.store().watch(name)?.map(current).transpose()?.flatten();
            let (expected, watch) = match known {
                Some((_, old)) if *old.workflow != *of.0 => return Err(WatchError::OtherWorkflow(old.workflow)),
                Some((_, old)) if old.every == every => break old,
                Some((revision, old)) => (Some(revision), Watch { every, ..old }),
                None => (None, Watch::new(Arc::clone(name), of.clone(), every, self.control.clock.now())),
            };
            if let Some(set) = self.set(expected, watch)? {
                break set;
            }
        };
        let queued = self.serve(workflow, request);
        Ok((self.view(watch)?, queued))
    }

    /// All watches, by name.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn list(&self) -> Result<Vec<WatchView>, StoreError> {
        let mut found = Vec::new();
        for stored in self.control.store().watches()? {
            if let Some((_, watch)) = current(stored)? {
                found.push(self.view(watch)?);
            }
        }
        Ok(found)
    }

    fn view(&self, watch: Watch) -> Result<WatchView, StoreError> {
        let is_served = watch.runner.map_or(Ok(false), |runner| self.is_alive(runner))?;
        let mine = watch.runner == Some(self.control.lease().runner) && watch.paused_at.is_none();
        let (next, calling) = if mine { self.times(&watch.name) } else { (None, None) };
        Ok(WatchView { watch, is_served, next, calling })
    }

    /// Pauses a watch: its source is not called until it is resumed. One that is paused stays so.
    ///
    /// # Errors
    /// See [`WatchError`].
    pub(crate) fn pause(&self, name: &str) -> Result<(), WatchError> {
        self.alter(name, |watch, now| watch.paused_at = watch.paused_at.or(Some(now)))
    }

    /// Resumes a paused watch.
    ///
    /// # Errors
    /// See [`WatchError`].
    pub(crate) fn resume(&self, name: &str) -> Result<(), WatchError> {
        self.alter(name, |watch, _| watch.paused_at = None)
    }

    fn alter(&self, name: &str, act: impl Fn(&mut Watch, Time)) -> Result<(), WatchError> {
        loop {
            let stored = self.control.store().watch(name)?;
            let (revision, old) = stored.map(current).transpose()?.flatten().ok_or(WatchError::NoWatch)?;
            let mut changed = old.clone();
            act(&mut changed, self.control.clock.now());
            if changed == old || self.set(Some(revision), changed)?.is_some() {
                return Ok(());
            }
        }
    }

    /// Removes a watch. Its runs stay, and the keys of its items.
    ///
    /// # Errors
    /// See [`WatchError`].
    pub(crate) fn remove(&self, name: &str) -> Result<(), WatchError> {
        loop {
            let stored = self.control.store().watch(name)?.ok_or(WatchError::NoWatch)?;
            // What does not read back can be removed all the same.
            if matches!(stored.watch, Ok(None)) {
                return Err(WatchError::NoWatch);
            }
            let (name, expected) = (stored.name, Some(stored.revision));
            let change = WatchChange { name, expected, watch: None, items: Vec::new() };
            if let WatchChanged::Done { .. } = self.control.store().change_watch(&change)? {
                return Ok(());
            }
        }
    }

    /// Stores a watch without new items. `None`: it was changed meanwhile.
    pub(super) fn set(&self, expected: Option<i64>, watch: Watch) -> Result<Option<Watch>, StoreError> {
        let name = Arc::clone(&watch.name);
        let change = WatchChange { name, expected, watch: Some(watch), items: Vec::new() };
        match self.control.store().change_watch(&change)? {
            WatchChanged::Done { watch, .. } => Ok(watch.map(|watch| *watch)),
            WatchChanged::Moved | WatchChanged::NumberTaken => Ok(None),
        }
    }
}

/// A watch that was not removed.
pub(super) fn current(stored: StoredWatch) -> Result<Option<(i64, Watch)>, StoreError> {
    Ok(stored.watch?.map(|watch| (stored.revision, watch)))
}
