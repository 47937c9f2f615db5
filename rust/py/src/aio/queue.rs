//! What waits for a turn of the event loop, and how the loop is woken: by a byte on a socket that it reads from. No thread
//! attaches for that.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use bide_sync::Mutex;
use pyo3::prelude::*;

use super::coroutine::PyCoroutine;
use super::gate::PyGateWatch;
use crate::gil::{self, Kept};
use crate::host::PyEngine;
use crate::panics;
use crate::process::Home;

/// What other threads leave to the loop.
pub(crate) struct LoopQueue {
    /// Futures that can be polled again.
    woken: Mutex<Vec<Arc<Sleeper>>>,
    /// A byte is on its way.
    signalled: AtomicBool,
    /// The loop's end of the socket.
    reader: UnixStream,
    /// The other end.
    writer: UnixStream,
}

/// Where a future waits for its turn.
pub(crate) struct Sleeper {
    /// The queue that it is put into.
    queue: Arc<LoopQueue>,
    /// The `asyncio.Future` that is completed then.
    future: Mutex<Option<Kept>>,
    /// It is in the queue.
    queued: AtomicBool,
}

impl LoopQueue {
    pub(crate) fn new() -> std::io::Result<Arc<Self>> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        Ok(Arc::new(Self { woken: Mutex::default(), signalled: AtomicBool::new(false), reader, writer }))
    }

    /// Wakes the loop, unless that is under way. Does not block.
    pub(crate) fn wake(&self) {
        if !self.signalled.swap(true, Ordering::AcqRel) {
            // If the socket is full the loop is woken anyway.
            let _ = (&self.writer).write(&[0]);
        }
    }

    /// Takes what can be polled again. What comes from here on wakes the loop again.
    fn take(&self) -> Vec<Arc<Sleeper>> {
        let mut bytes = [0; 64];
        while matches!((&self.reader).read(&mut bytes), Ok(64)) {}
        self.signalled.store(false, Ordering::Release);
        let woken = std::mem::take(&mut *self.woken.lock());
        for sleeper in &woken {
            sleeper.queued.store(false, Ordering::Release);
        }
        woken
    }
}

impl Sleeper {
    pub(super) fn new(queue: &Arc<LoopQueue>) -> Arc<Self> {
        Arc::new(Self { queue: Arc::clone(queue), future: Mutex::default(), queued: AtomicBool::new(false) })
    }

    /// The `asyncio.Future` to complete once the future can be polled again.
    pub(super) fn park(&self, future: Py<PyAny>) {
        let before = self.future.lock().replace(Kept::new(future));
        drop(before);
    }
}

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            let queue = Arc::clone(&self.queue);
            queue.woken.lock().push(self);
            queue.wake();
        }
    }
}

/// The loop's side of a runner.
#[pyclass(frozen, module = "bide._core", name = "LoopQueue")]
pub(crate) struct PyLoopQueue {
    queue: Arc<LoopQueue>,
    engine: Arc<PyEngine>,
    home: Home,
}

impl PyLoopQueue {
    pub(crate) fn new(queue: Arc<LoopQueue>, engine: Arc<PyEngine>) -> Self {
        Self { queue, engine, home: Home::here() }
    }
}

#[pymethods]
impl PyLoopQueue {
    /// What the loop reads from when there is something to do.
    fn fileno(&self) -> i32 {
        self.queue.reader.as_raw_fd()
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
            let futures = woken.iter().filter_map(|sleeper| sleeper.future.lock().take());
            Ok(futures.map(|future| future.into_owned(py).into_bound().unbind()).collect())
        })
    }

    /// Coroutines to start, at most this many. Fewer: there are no more for now.
    fn take(&self, py: Python<'_>, most: usize) -> PyResult<Vec<Py<PyCoroutine>>> {
        panics::method(|| {
            let Some(coroutines) = self.engine.dispatch().coroutines() else { return Ok(Vec::new()) };
            let started = coroutines.take(most).into_iter();
            started.map(|start| Py::new(py, PyCoroutine::new(&self.queue, &self.engine, start))).collect()
        })
    }

    /// Gates to poll.
    fn take_gates(&self, py: Python<'_>) -> PyResult<Vec<Py<PyGateWatch>>> {
        panics::method(|| {
            let Some(coroutines) = self.engine.dispatch().coroutines() else { return Ok(Vec::new()) };
            let opened = coroutines.take_gates().into_iter();
            opened.map(|gate| Py::new(py, PyGateWatch::new(&self.queue, &self.engine, gate))).collect()
        })
    }

    /// Wakes the loop.
    fn wake(&self) {
        self.queue.wake();
    }

    /// Whether the runner closes.
    #[getter]
    fn closing(&self) -> bool {
        self.engine.dispatch().coroutines().is_none_or(bide_executor::Coroutines::is_closing)
    }

    /// Whether the runner has lost its runs to another one since this was last asked.
    fn take_lost(&self) -> bool {
        self.engine.dispatch().coroutines().is_some_and(bide_executor::Coroutines::take_lost)
    }

    /// How many coroutines execute or are deferred.
    #[getter]
    fn bodies(&self) -> usize {
        self.engine.dispatch().coroutines().map_or(0, bide_executor::Coroutines::bodies)
    }
}
