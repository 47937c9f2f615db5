//! What a runner shares with its handles.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::aio::LoopQueue;
use crate::exit::CloseAtExit;
use crate::host::PyEngine;
use crate::notify::Notifier;
use crate::process::Home;

/// What a runner and its handles share, and what interpreter exit closes.
pub(crate) struct Inner {
    /// The engine.
    pub(crate) engine: Arc<PyEngine>,
    /// Delivers reports to Python.
    pub(crate) notifier: Arc<Notifier>,
    /// What waits for a turn of the event loop.
    pub(super) queue: Arc<LoopQueue>,
    /// The process in which the runner was made.
    pub(crate) home: Home,
    /// The runner was closed, or is being closed.
    pub(super) closed: AtomicBool,
}

impl Inner {
    pub(super) fn new(engine: Arc<PyEngine>, notifier: Arc<Notifier>, queue: Arc<LoopQueue>) -> Self {
        Self { engine, notifier, queue, home: Home::here(), closed: AtomicBool::new(false) }
    }
}

impl CloseAtExit for Inner {
    fn begin_close(&self) {
        self.engine.begin_close();
    }

    fn end_close(&self) {
        self.closed.store(true, Ordering::Release);
        self.engine.finish_close();
        self.notifier.stop();
    }
}
