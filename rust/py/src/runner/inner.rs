//! What a runner and its handles share, and its ends: at the exit of the interpreter, and by a crash that a test asks
//! for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bide_store::Store;

use crate::aio::LoopQueue;
use crate::exit::CloseAtExit;
use crate::host::PyEngine;
use crate::notify::Notifier;
use crate::process::Home;
use crate::submitter::Submitter;

/// What a runner and its handles share, and what interpreter exit closes.
pub(crate) struct Inner {
    /// The engine.
    pub(crate) engine: Arc<PyEngine>,
    /// Delivers reports to Python.
    pub(crate) notifier: Arc<Notifier>,
    /// What waits for a turn of the event loop.
    pub(super) queue: Arc<LoopQueue>,
    /// Submits the runs of callers on event loops.
    pub(crate) submitter: Arc<Submitter>,
    /// With a clock that is moved by hand: its store, for the runner that follows it after a crash.
    store: Option<Arc<dyn Store>>,
    /// The process in which the runner was made.
    pub(crate) home: Home,
    /// The runner was closed, or is being closed.
    pub(super) closed: AtomicBool,
}

impl Inner {
    pub(super) fn new(
        engine: Arc<PyEngine>,
        notifier: Arc<Notifier>,
        queue: Arc<LoopQueue>,
        store: Option<Arc<dyn Store>>,
    ) -> Self {
        let (submitter, home) = (Arc::default(), Home::here());
        Self { engine, notifier, queue, submitter, store, home, closed: AtomicBool::new(false) }
    }

    /// The store of a runner that has crashed, if it was in memory: it is there no longer if it is opened again.
    pub(super) fn left_in_memory(&self) -> Option<Arc<dyn Store>> {
        self.store.clone().filter(|store| !store.blocks())
    }

    /// Ends as if the process died now. What it executes unwinds on its own. False: it was closed before.
    pub(crate) fn crash(&self) -> bool {
        let first = !self.closed.swap(true, Ordering::AcqRel);
        if first {
            self.submitter.stop();
            self.engine.crash();
            self.notifier.stop();
        }
        first
    }
}

impl CloseAtExit for Inner {
    fn begin_close(&self) {
        self.engine.begin_close();
    }

    fn end_close(&self) {
        self.closed.store(true, Ordering::Release);
        self.submitter.stop();
        self.engine.finish_close();
        self.notifier.stop();
    }
}
