//! `_core.LoopQueue`: a turn of the event loop of a runner, as `bide/_loop.py` takes it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bide_core::TaskRef;
use bide_core::record::RunRowId;
use bide_executor::Start;
use bide_sync::Mutex;
use pyo3::prelude::*;

use super::call::{Asks, PyCall};
use super::coroutine::PyCoroutine;
use super::driver::{BUDGET, PyDriver};
use super::gate::PyGateWatch;
use super::queue::{LoopQueue, Parked, Sleeper};
use crate::gil::{self, Kept};
use crate::host::{PyEngine, Python3};
use crate::panics;
use crate::process::Home;

/// The loop's side of a runner.
#[pyclass(frozen, module = "bide._core", name = "LoopQueue")]
pub(crate) struct PyLoopQueue {
    /// What is shared with other threads.
    pub(super) queue: Arc<LoopQueue>,
    /// The engine.
    pub(super) engine: Arc<PyEngine>,
    /// Bodies that were taken and not executed yet.
    pub(super) starts: Mutex<VecDeque<Start<Python3>>>,
    /// What was woken and did not have its turn yet.
    woken: Mutex<VecDeque<Arc<Sleeper>>>,
    /// Waits that are due and were not asked yet.
    due: Mutex<VecDeque<u64>>,
    /// How many drivers execute what is ready, or are about to.
    pub(super) driving: AtomicUsize,
    /// How many there are to be: one, unless each is kept by its first body, as when many bodies wait at once.
    pub(super) wanted: AtomicUsize,
    /// How often a driver has left the loop a turn: those that were made before leave it too.
    pub(super) yielded: AtomicUsize,
    /// The bodies that have suspended and not ended, by run, task and attempt.
    suspended: Mutex<BTreeMap<Place, Py<PyCoroutine>>>,
    /// The process in which it was made.
    home: Home,
}

type Place = (RunRowId, TaskRef, u32);

impl PyLoopQueue {
    pub(crate) fn new(queue: Arc<LoopQueue>, engine: Arc<PyEngine>) -> Self {
        Self {
            queue,
            engine,
            starts: Mutex::default(),
            woken: Mutex::default(),
            due: Mutex::default(),
            driving: AtomicUsize::new(0),
            wanted: AtomicUsize::new(1),
            yielded: AtomicUsize::new(0),
            suspended: Mutex::default(),
            home: Home::here(),
        }
    }

    /// The `BodyLoop`, while it executes bodies.
    pub(super) fn body_loop<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.queue.body_loop(py)
    }

    /// A body has suspended: this task is its own from here on.
    pub(super) fn remember(&self, body: &Bound<'_, PyCoroutine>, task: &Bound<'_, PyAny>, vars: &Kept) {
        body.get().set_task(task, vars);
        let before = self.suspended.lock().insert(body.get().place(), body.clone().unbind());
        drop(before);
    }

    /// A body that had suspended has returned.
    pub(super) fn forget(&self, body: &Bound<'_, PyCoroutine>) {
        let body = self.suspended.lock().remove(&body.get().place());
        drop(body);
    }

    /// Has the results that have gathered committed.
    pub(super) fn commit_gathered(&self, py: Python<'_>) {
        let Some(coroutines) = self.engine.dispatch().coroutines() else { return };
        if self.engine.store().blocks() {
            coroutines.commit_gathered();
        } else if coroutines.has_gathered() {
            gil::detached(py, || coroutines.commit_gathered());
        }
    }

    /// The tasks of bodies that have suspended and are as wanted.
    fn tasks<'py>(
        py: Python<'py>,
        bodies: Vec<Bound<'py, PyCoroutine>>,
        wanted: impl Fn(&PyCoroutine) -> bool,
    ) -> Vec<Bound<'py, PyAny>> {
        bodies.into_iter().filter(|body| wanted(body.get())).filter_map(|body| body.get().task(py)).collect()
    }
}

#[pymethods]
impl PyLoopQueue {
    /// What the loop reads from when there is something to do.
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        self.queue.fileno(py)
    }

    /// Begins a turn: commits what has gathered, asks the conditions that are due, and returns the `asyncio` futures to
    /// complete.
    fn turn(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        panics::method(|| {
            self.home.check("Runner")?;
            let mut woken = std::mem::take(&mut *self.woken.lock());
            woken.extend(self.queue.take());
            self.commit_gathered(py);
            let Some(coroutines) = self.engine.dispatch().coroutines() else { return Ok(Vec::new()) };
            let (rung, due) = (coroutines.take_rung(), coroutines.take_due(self.engine.clock().steady()));
            let mut due_now = std::mem::take(&mut *self.due.lock());
            due_now.extend(due);
            if woken.is_empty() && rung.is_empty() && due_now.is_empty() {
                return Ok(Vec::new());
            }
            let asks = self.body_loop(py).map_or(Ok(None), |bodies| Asks::here(&bodies))?;
            let asks = asks.as_ref();
            let mut futures = Vec::new();
            let mut complete = |future: Option<Kept>| {
                futures.extend(future.map(|future| future.into_owned(py).into_bound().unbind()));
            };
            for ticket in rung {
                complete(self.wake_resting(py, asks, ticket)?);
            }
            let since = self.engine.clock().machine();
            let is_over = || self.engine.clock().machine().saturating_sub(since) > BUDGET;
            while let Some(sleeper) = woken.pop_front() {
                let Some(Parked { future, call }) = sleeper.parked() else { continue };
                let call = call.as_ref().and_then(|call| call.bind(py).cast::<PyCall>().ok());
                complete(match (call, asks) {
                    (Some(call), Some(asks)) => PyCall::wakes(call, asks, future)?,
                    _ => Some(future),
                });
                if is_over() {
                    break;
                }
            }
            let holds = self.engine.lease_holds();
            while woken.is_empty()
                && let Some(ticket) = due_now.pop_front()
            {
                complete(match asks {
                    Some(asks) if holds => self.ask_resting(py, asks, ticket)?,
                    _ => self.wake_resting(py, asks, ticket)?,
                });
                if due_now.len().is_multiple_of(16) && is_over() {
                    break;
                }
            }
            if !woken.is_empty() || !due_now.is_empty() {
                // The loop has a turn before the next ones.
                self.woken.lock().extend(woken);
                self.due.lock().extend(due_now);
                self.queue.wake();
            }
            Ok(futures)
        })
    }

    /// In how many seconds the next condition is due.
    fn next_poll(&self) -> Option<f64> {
        let due = self.engine.dispatch().coroutines()?.next_due()?;
        Some(due.saturating_sub(self.engine.clock().steady()).as_secs_f64())
    }

    /// How many more drivers are to execute what is ready.
    fn needs_drivers(&self) -> usize {
        let more = self.wanted.load(Ordering::Relaxed).saturating_sub(self.driving.load(Ordering::Relaxed));
        let has_ready = || {
            !self.starts.lock().is_empty()
                || self.engine.dispatch().coroutines().is_some_and(|coroutines| coroutines.has_ready())
        };
        if more > 0 && has_ready() { more } else { 0 }
    }

    /// The coroutine of a task with these contextvars that executes what is ready.
    fn driver<'py>(slf: &Bound<'py, Self>, vars: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDriver>> {
        slf.get().driving.fetch_add(1, Ordering::Relaxed);
        Bound::new(slf.py(), PyDriver::new(slf, vars))
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

    /// Whether it is the loop of a test's runner.
    #[getter]
    fn tested(&self) -> bool {
        self.engine.clock().is_manual()
    }

    /// The number of the last question whether nothing is ready on the loop; for the runner of a test.
    #[getter]
    fn asked(&self) -> u64 {
        self.queue.asked.load(Ordering::SeqCst)
    }

    /// What was ready on the loop at this question has had its turn.
    fn answer(&self, number: u64) {
        self.queue.answered.fetch_max(number, Ordering::SeqCst);
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

    /// Suspends the bodies of lost runs, and if the runner closes the deferred ones, or all. Returns their tasks, to be
    /// cancelled.
    fn suspend<'py>(&self, py: Python<'py>, closing: bool, all: bool) -> Vec<Bound<'py, PyAny>> {
        let bodies = self.suspended.lock().values().map(|body| body.bind(py).clone()).collect();
        Self::tasks(py, bodies, |body| {
            let suspends = body.lost() || (closing && (all || body.deferred()));
            if suspends {
                body.suspend();
            }
            suspends
        })
    }

    /// The tasks of bodies that are to be cancelled because their runs were, or because they were cut off.
    fn interrupted<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyAny>> {
        let Some(coroutines) = self.engine.dispatch().coroutines() else { return Vec::new() };
        let interrupted = coroutines.take_interrupted();
        if interrupted.is_empty() {
            return Vec::new();
        }
        let suspended = self.suspended.lock();
        let attempts = |(run, task)| suspended.range((run, task, 0)..=(run, task, u32::MAX));
        let bodies = interrupted.into_iter().flat_map(attempts).map(|(_, body)| body.bind(py).clone()).collect();
        drop(suspended);
        Self::tasks(py, bodies, PyCoroutine::take_interrupt)
    }

    /// How many coroutines execute or are deferred.
    #[getter]
    fn bodies(&self) -> usize {
        self.engine.dispatch().coroutines().map_or(0, |coroutines| coroutines.bodies())
    }

    /// How many bodies have suspended and not ended.
    #[getter]
    fn suspended(&self) -> usize {
        self.suspended.lock().len()
    }
}
