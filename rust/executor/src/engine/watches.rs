//! What callers ask of watches: the watcher's own answers. All of these block.

use std::sync::Arc;

use bide_store::StoreError;

use crate::engine::Engine;
use crate::host::Host;
use crate::runs::local_watch::SourceId;
use crate::runs::run::RegisteredWorkflow;
use crate::runs::sources::Watcher;
use crate::runs::watches::{WatchError, WatchRequest, WatchView};
use crate::threads::pool::Pool;

impl<H: Host<Dispatch = Pool<H>>> Engine<H> {
    /// Defines a watch of a workflow, or changes it, and has its source called here: needs a thread that polls gates.
    ///
    /// # Errors
    /// See [`WatchError`]; then nothing has changed.
    pub fn define_watch(
        &self,
        workflow: &Arc<RegisteredWorkflow<H>>,
        request: WatchRequest,
    ) -> Result<WatchView, WatchError> {
        let (view, new) = self.watcher.define(workflow, request)?;
        if let Some(new) = new {
            self.dispatch().gates.watch_source(self, new);
        }
        Ok(view)
    }

    /// The source that was to answer later has done so. Does not block.
    pub fn source_is_ready(&self, source: SourceId) {
        if let Some(watch) = self.watcher.calling(source) {
            self.dispatch().gates.answered(self, watch);
        }
    }
}

impl<H: Host> Engine<H> {
    /// All watches of the store, by name.
    ///
    /// # Errors
    /// From the store.
    pub fn watches(&self) -> Result<Vec<WatchView>, StoreError> {
        self.watcher.list()
    }

    /// Pauses a watch: its source is not called until it is resumed.
    ///
    /// # Errors
    /// See [`WatchError`].
    pub fn pause_watch(&self, name: &str) -> Result<(), WatchError> {
        self.watcher.pause(name)
    }

    /// Resumes a paused watch.
    ///
    /// # Errors
    /// See [`WatchError`].
    pub fn resume_watch(&self, name: &str) -> Result<(), WatchError> {
        self.watcher.resume(name)
    }

    /// Removes a watch. Its runs stay, and the keys of its items.
    ///
    /// # Errors
    /// See [`WatchError`].
    pub fn unwatch(&self, name: &str) -> Result<(), WatchError> {
        self.watcher.remove(name)
    }

    pub(crate) fn watcher(&self) -> &Watcher<H> {
        &self.watcher
    }
}
