//! `_core.LoopQueue`: a turn of the event loop of a runner, as `bide/_loop.py` takes it.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bide_executor::Start;
use bide_sync::Mutex;
use pyo3::prelude::*;

use super::call::{Asks, PyCall};
use super::coroutine::PyCoroutine;
use super::driven::{Driven, Spare};
use super::driver::{BUDGET, PyDriver, Suspended};
use super::gate::PyGateWatch;
use super::imports::{new_vars, set_here};
use super::queue::{LoopQueue, Parked, Sleeper};
use super::suspended::AllSuspended;
use crate::errors::names;
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
    /// What did not have its turn yet.
    backlog: Mutex<Backlog>,
    /// How many drivers execute what is ready, or are about to.
    pub(super) driving: AtomicUsize,
    /// How many there are to be: one, unless each is kept by its first body, as when many bodies wait at once.
    pub(super) wanted: AtomicUsize,
    /// How often a driver has left the loop a turn: those that were made before leave it too.
    pub(super) yielded: AtomicUsize,
    /// The bodies that have suspended and not ended.
    suspended: Mutex<AllSuspended>,
    /// The process in which it was made.
    home: Home,
}

/// What is to have its turn, in this order.
#[derive(Default)]
struct Backlog {
    /// `asyncio` futures to complete.
    futures: Vec<Kept>,
    /// Waits that were rung between two polls.
    rung: VecDeque<u64>,
    /// What was woken.
    woken: VecDeque<Arc<Sleeper>>,
    /// Waits that are due to be asked.
    due: VecDeque<u64>,
}

impl Backlog {
    fn is_empty(&self) -> bool {
        self.futures.is_empty() && self.rung.is_empty() && self.woken.is_empty() && self.due.is_empty()
    }
}

/// What a turn has to work off. What it leaves, also by an error, is the next turn's, before which the loop has one.
struct Left<'a> {
    queue: &'a PyLoopQueue,
    backlog: Backlog,
}

impl<'a> Left<'a> {
    fn take(queue: &'a PyLoopQueue) -> Self {
        Self { queue, backlog: std::mem::take(&mut *queue.backlog.lock()) }
    }
}

impl Deref for Left<'_> {
    type Target = Backlog;

    fn deref(&self) -> &Backlog {
        &self.backlog
    }
}

impl DerefMut for Left<'_> {
    fn deref_mut(&mut self) -> &mut Backlog {
        &mut self.backlog
    }
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        if !self.backlog.is_empty() {
            *self.queue.backlog.lock() = std::mem::take(&mut self.backlog);
            self.queue.queue.wake();
        }
    }
}

impl PyLoopQueue {
    pub(crate) fn new(queue: Arc<LoopQueue>, engine: Arc<PyEngine>) -> Self {
        Self {
            queue,
            engine,
            starts: Mutex::default(),
            backlog: Mutex::default(),
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

    /// A body has suspended for the first time.
    pub(super) fn remember(&self, body: &Bound<'_, PyCoroutine>) {
        self.suspended.lock().add(body);
    }

    /// A body that had suspended has returned.
    pub(super) fn forget(&self, body: &Bound<'_, PyCoroutine>) {
        let body = self.suspended.lock().remove(body);
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

    /// Works off what has its turn, for as long as a turn may take.
    fn work_off<'py>(&self, py: Python<'py>, asks: Option<&Asks<'py>>, left: &mut Left<'_>) -> PyResult<()> {
        let since = self.engine.clock().machine();
        let is_over = || self.engine.clock().machine().saturating_sub(since) > BUDGET;
        while let Some(ticket) = left.rung.pop_front() {
            left.futures.extend(self.wake_resting(py, asks, ticket)?);
            if is_over() {
                return Ok(());
            }
        }
        while let Some(sleeper) = left.woken.pop_front() {
            let Some(Parked { future, call }) = sleeper.parked() else { continue };
            let call = call.as_ref().and_then(|call| call.bind(py).cast::<PyCall>().ok());
            left.futures.extend(match (call, asks) {
                (Some(call), Some(asks)) => PyCall::wakes(call, asks, future)?,
                (Some(call), None) => PyCall::continues_with(call, future)?,
                (None, _) => future,
            });
            if is_over() {
                return Ok(());
            }
        }
        let holds = self.engine.lease_holds();
        while let Some(ticket) = left.due.pop_front() {
            left.futures.extend(match asks {
                Some(asks) if holds => self.ask_resting(py, asks, ticket)?,
                _ => self.wake_resting(py, asks, ticket)?,
            });
            if left.due.len().is_multiple_of(16) && is_over() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A task of this driver, unless the loop has ended.
    fn spawn<'py>(
        &self,
        driver: &Bound<'py, PyDriver>,
        vars: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = driver.py();
        let Some(bodies) = self.body_loop(py) else { return Ok(None) };
        let spawn = gil::getattr(&bodies, pyo3::intern!(py, "drive"))?;
        Ok(Some(gil::call_args(&spawn, &[driver.as_any(), vars])?.into_bound()))
    }

    /// The tasks of bodies that have suspended and are as wanted.
    fn tasks<'py>(
        bodies: Vec<Bound<'py, PyCoroutine>>,
        wanted: impl Fn(&PyCoroutine) -> bool,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let wanted = bodies.into_iter().filter(|body| wanted(body.get()));
        wanted.filter_map(|body| PyCoroutine::task_of(&body).transpose()).collect()
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
    fn turn(slf: &Bound<'_, Self>) -> PyResult<Vec<Py<PyAny>>> {
        panics::method(|| {
            let (py, this) = (slf.py(), slf.get());
            this.home.check("Runner")?;
            let mut left = Left::take(this);
            left.woken.extend(this.queue.take());
            this.commit_gathered(py);
            let Some(coroutines) = this.engine.dispatch().coroutines() else {
                left.backlog = Backlog::default();
                return Ok(Vec::new());
            };
            left.rung.extend(coroutines.take_rung());
            left.due.extend(coroutines.take_due(this.engine.clock().steady()));
            if left.is_empty() {
                return Ok(Vec::new());
            }
            let asks = this.body_loop(py).map_or(Ok(None), |bodies| Asks::here(&this.queue, &bodies))?;
            this.work_off(py, asks.as_ref(), &mut left)?;
            let complete = |future: Kept| future.into_owned(py).into_bound().unbind();
            Ok(std::mem::take(&mut left.futures).into_iter().map(complete).collect())
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
    fn suspend<'py>(&self, py: Python<'py>, closing: bool, all: bool) -> PyResult<Vec<Bound<'py, PyAny>>> {
        panics::method(|| {
            let bodies = self.suspended.lock().all(py);
            Self::tasks(bodies, |body| {
                let suspends = body.lost() || (closing && (all || body.deferred()));
                if suspends {
                    body.suspend();
                }
                suspends
            })
        })
    }

    /// The tasks of bodies that are to be cancelled because their runs were, or because they were cut off.
    fn interrupted<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        panics::method(|| {
            let Some(coroutines) = self.engine.dispatch().coroutines() else { return Ok(Vec::new()) };
            let interrupted = coroutines.take_interrupted();
            if interrupted.is_empty() {
                return Ok(Vec::new());
            }
            let suspended = self.suspended.lock();
            let bodies = interrupted.into_iter().flat_map(|place| suspended.of(py, place)).collect();
            drop(suspended);
            Self::tasks(bodies, PyCoroutine::take_interrupt)
        })
    }

    /// A body that waits without a task gets one, in which it continues.
    fn attach(slf: &Bound<'_, Self>, body: &Bound<'_, PyCoroutine>) -> PyResult<()> {
        panics::method(|| {
            let (py, own) = (slf.py(), body.get());
            let found = own.with_driven(|driven| match driven {
                Driven::Detached { coroutine, vars } => {
                    Some((coroutine.clone_ref(py), vars.as_ref().map(|vars| vars.bind(py).clone())))
                }
                _ => None,
            });
            let Some((coroutine, vars)) = found else { return Ok(()) };
            let vars = match vars {
                Some(vars) => vars,
                None => {
                    let fresh = new_vars(py)?;
                    gil::call_args(names(py)?.run_in_vars.bind(py), &[&fresh, set_here(py)?, body.as_any()])?;
                    fresh
                }
            };
            let suspended = Suspended { body: body.clone().unbind(), coroutine: Kept::new(coroutine), vars: None };
            let driver = Bound::new(py, PyDriver::resumes(slf, suspended, &vars))?;
            // Until it has a task it is as it was.
            if let Some(task) = slf.get().spawn(&driver, &vars)? {
                let driven = Driven::ByTask { task: Kept::new(task.unbind()), vars: Kept::new(vars.unbind()) };
                drop(own.set_driven(driven));
            }
            Ok(())
        })
    }

    /// Makes a spare task, unless there is one.
    fn needs_spare(slf: &Bound<'_, Self>) -> PyResult<()> {
        panics::method(|| {
            let (py, queue) = (slf.py(), &slf.get().queue);
            if queue.spare.lock().is_some() {
                return Ok(());
            }
            let vars = new_vars(py)?;
            let driver = Bound::new(py, PyDriver::spare(slf, &vars))?;
            let Some(task) = slf.get().spawn(&driver, &vars)? else { return Ok(()) };
            let keep = |object: Bound<'_, PyAny>| Kept::new(object.unbind());
            let spare = Spare { task: keep(task), vars: keep(vars), driver: keep(driver.into_any()), is_there: false };
            let before = queue.spare.lock().replace(spare);
            drop(before);
            Ok(())
        })
    }

    /// The loop was closed: the bodies that wait are suspended, without anything of theirs that could await.
    fn abandon(&self, py: Python<'_>) -> PyResult<()> {
        panics::method(|| {
            let suspended = std::mem::take(&mut *self.suspended.lock());
            for body in suspended.all(py) {
                body.get().abandon();
            }
            Ok(())
        })
    }

    /// The task in which the conditions of bodies without a task are asked, which is not needed any more.
    fn take_spare<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        let spare = self.queue.spare.lock().take();
        spare.map(|spare| spare.task.into_owned(py).into_bound())
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
