//! `_core.LoopQueue`: a turn of the event loop of a runner, as `bide/_loop.py` takes it.

use std::sync::Arc;

use bide_sync::Mutex;
use pyo3::prelude::*;

use super::gate::PyGateWatch;
use super::queue::LoopQueue;
use super::run::{self, Starts, Stop};
use crate::gil;
use crate::host::PyEngine;
use crate::panics;
use crate::process::Home;

/// The loop's side of a runner.
#[pyclass(frozen, module = "bide._core", name = "LoopQueue")]
pub(crate) struct PyLoopQueue {
    /// What is shared with other threads.
    queue: Arc<LoopQueue>,
    /// The engine.
    engine: Arc<PyEngine>,
    /// Bodies that were taken and not executed yet.
    starts: Mutex<Starts>,
    /// The process in which it was made.
    home: Home,
}

impl PyLoopQueue {
    pub(crate) fn new(queue: Arc<LoopQueue>, engine: Arc<PyEngine>) -> Self {
        Self { queue, engine, starts: Mutex::default(), home: Home::here() }
    }
}

#[pymethods]
impl PyLoopQueue {
    /// What the loop reads from when there is something to do.
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        self.queue.fileno(py)
    }

    /// Begins a turn: commits what has gathered, and returns the `asyncio` futures to complete.
    fn turn(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        panics::method(|| {
            self.home.check("Runner")?;
            let woken = self.queue.take();
            if let Some(coroutines) = self.engine.dispatch().coroutines() {
                if self.engine.store().blocks() {
                    coroutines.commit_gathered();
                } else {
                    gil::detached(py, || coroutines.commit_gathered());
                }
            }
            let futures = woken.iter().filter_map(|sleeper| sleeper.parked());
            Ok(futures.map(|future| future.into_owned(py).into_bound().unbind()).collect())
        })
    }

    /// Executes coroutines that are ready, until one suspends: see `run.rs`.
    fn run_ready<'py>(&self, py: Python<'py>, cancelling: &Bound<'py, PyAny>) -> PyResult<Stop<'py>> {
        panics::method(|| run::run_ready(py, &self.queue, &self.engine, &self.starts, cancelling))
    }

    /// Whether there are coroutines to execute.
    fn has_ready(&self) -> bool {
        !self.starts.lock().is_empty()
            || self.engine.dispatch().coroutines().is_some_and(|coroutines| coroutines.has_ready())
    }

    /// Keeps the `BodyLoop` for the handles of bodies, until it is called with None.
    fn set_bodies(&self, bodies: Option<Py<PyAny>>) {
        self.queue.set_bodies(bodies);
    }

    /// Calls `callback()` on a thread of the runner once there is something to do and no `BodyLoop` yet.
    fn when_wanted(&self, callback: Py<PyAny>) {
        self.queue.when_wanted(callback);
    }

    /// Gates to poll.
    fn take_gates(&self, py: Python<'_>) -> PyResult<Vec<Py<PyGateWatch>>> {
        panics::method(|| {
            let Some(coroutines) = self.engine.dispatch().coroutines() else { return Ok(Vec::new()) };
            let opened = coroutines.take_gates().into_iter();
            opened.map(|gate| Py::new(py, PyGateWatch::new(&self.queue, &self.engine, coroutines, gate))).collect()
        })
    }

    /// Wakes the loop.
    fn wake(&self) {
        self.queue.wake();
    }

    /// Whether the runner closes.
    #[getter]
    fn closing(&self) -> bool {
        let closing = self.engine.dispatch().coroutines().is_none_or(|coroutines| coroutines.is_closing());
        if closing {
            // They are not begun any more.
            let starts = std::mem::take(&mut *self.starts.lock());
            drop(starts);
        }
        closing
    }

    /// Whether the runner has lost its runs to another one since this was last asked.
    fn take_lost(&self) -> bool {
        self.engine.dispatch().coroutines().is_some_and(|coroutines| coroutines.take_lost())
    }

    /// Whether bodies may have to be interrupted since this was last asked.
    fn take_interrupted(&self) -> bool {
        self.engine.dispatch().coroutines().is_some_and(|coroutines| coroutines.take_interrupted())
    }

    /// How many coroutines execute or are deferred.
    #[getter]
    fn bodies(&self) -> usize {
        self.engine.dispatch().coroutines().map_or(0, |coroutines| coroutines.bodies())
    }
}
