//! Whether a runner may still be used, what its methods share, and what becomes of one that is dropped.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bide_store::Store;
use pyo3::prelude::*;

use super::{Inner, PyRunner};
use crate::aio::LoopQueue;
use crate::exit::{self, CloseAtExit};
use crate::host::{PyEngine, Python3};
use crate::process::{Kind, SLICE};
use crate::refused::{CLIENT_CLOSED, CLOSED};
use crate::run_handle::PyRunHandle;
use crate::worker::start_gates;
use crate::workflow::PyWorkflow;
use crate::{client, errors, gil, panics, thread};

impl PyRunner {
    pub(super) fn client_on(py: Python<'_>, store: Arc<dyn Store>) -> PyResult<Self> {
        let (engine, notifier) = client::start(py, store)?;
        let queue = LoopQueue::new(&notifier);
        let inner = Arc::new(Inner::new(engine, notifier, queue, None));
        let as_closed = Arc::downgrade(&inner) as std::sync::Weak<Inner>;
        // As in `new`.
        let client = Self { inner };
        exit::close_at_exit(py, as_closed)?;
        let notifier = Arc::clone(&client.inner.notifier);
        thread::start_thread(py, "bide-notify", Kind::Notifier, move |py| notifier.run(py))?;
        Ok(client)
    }

    pub(crate) fn start_gates(&self, py: Python<'_>, workflow: &PyWorkflow) -> PyResult<()> {
        if self.inner.engine.is_client() { Ok(()) } else { start_gates(py, &self.inner.engine, workflow) }
    }

    /// Calls the engine, if it is open.
    pub(super) fn within<T>(&self, py: Python<'_>, act: impl FnOnce(&Arc<PyEngine>) -> PyResult<T>) -> PyResult<T> {
        panics::method(|| self.at_store(py).and_then(|()| act(&self.inner.engine)))
    }

    pub(crate) fn open(&self, py: Python<'_>) -> PyResult<()> {
        self.inner.home.check("Runner")?;
        let closed = self.inner.closed.load(Ordering::Acquire);
        let stopped = self.inner.engine.stopped();
        if closed || stopped.is_some() {
            exit::keep_daemons(py)?;
        }
        match stopped {
            _ if closed => Err(self.closed_error(py)),
            Some(settlement) => Err(errors::settlement(py, settlement)),
            None => Ok(()),
        }
    }

    /// What says that it is closed.
    pub(crate) fn closed_error(&self, py: Python<'_>) -> PyErr {
        errors::closed(py, if self.inner.engine.is_client() { CLIENT_CLOSED } else { CLOSED })
    }

    /// As [`PyRunner::open`], before a call of the store. While its server is away, this waits as a caller whom Ctrl-C
    /// reaches: the call itself returns only once it is known what has come of it.
    pub(super) fn at_store(&self, py: Python<'_>) -> PyResult<()> {
        self.open(py)?;
        while self.inner.engine.store().is_away() {
            gil::idle(py, || std::thread::sleep(SLICE));
            py.check_signals()?;
            self.open(py)?;
        }
        Ok(())
    }

    pub(super) fn handle(&self, handle: bide_executor::Handle<Python3>) -> PyRunHandle {
        PyRunHandle::new(Arc::clone(&self.inner), handle)
    }
}

impl Drop for PyRunner {
    fn drop(&mut self) {
        if self.inner.home.is_here() && !self.inner.closed.swap(true, Ordering::AcqRel) {
            self.inner.engine.begin_close();
            // The last reference may go anywhere, also within a body: the rest is done by a thread of its own.
            let inner = Arc::clone(&self.inner);
            let rest = move || drop(panics::no_panic(|| inner.end_close()));
            if std::thread::Builder::new().name("bide-close".to_owned()).spawn(rest).is_err() {
                self.inner.end_close();
            }
        }
    }
}
