//! `_core.Driver`: the coroutine of an `asyncio.Task` that executes bodies, one after the other, each up to its end.
//!
//! A body that suspends keeps the task as its own, and another driver takes over; unless it waits for bide, which it does
//! without a task (`driven.rs`). So a body that never suspends costs no task. Bodies execute in the contextvars of the
//! task. If one has changed them, the driver ends with it; one whose submitter has contextvars executes in a copy of
//! those.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bide_executor::{Beginning, Begun};
use bide_sync::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::prelude::*;

use super::call::PyCall;
use super::coroutine::PyCoroutine;
use super::driven::{Driven, Uses, is_marked};
use super::imports::{current_task, set_here};
use super::pending::PyPending;
use super::step::{blocks, coroutine_of, ended, resume, thrown};
use super::turn::PyLoopQueue;
use crate::errors::{Names, names};
use crate::gil::{self, Kept, Owned, Raised, Sent};
use crate::host::Python3;
use crate::panics;

/// After this long the loop has a turn.
pub(super) const BUDGET: Duration = Duration::from_millis(2);

/// How many drivers there are at most, if each is kept by its first body.
const MOST: usize = 32;

/// How many bodies are taken at once.
const BATCH: usize = 16;

/// The name of the tasks of drivers: `bide._loop.DRIVER`.
const NAME: &str = "bide";

/// How often a driver that makes a step refers to its task: as what it has just found to be the current one.
const BY_ITSELF: isize = 1;

/// Executes bodies within a task.
#[pyclass(frozen, module = "bide._core", name = "Driver")]
pub(crate) struct PyDriver {
    /// Where bodies come from.
    owner: Py<PyLoopQueue>,
    /// The contextvars of its task.
    vars: Kept,
    /// The uses of its task before a body has begun in it.
    uses: Mutex<Option<Uses>>,
    /// What it does. Never locked while Python code runs.
    state: Mutex<State>,
}

enum State {
    /// It executes what is ready. With what `yielded` was when it was made.
    Drives(usize),
    /// It waits, by this coroutine, until a body has begun.
    Begins(Kept, Arc<Mutex<Option<Begun<Python3>>>>),
    /// It executes a body that has suspended.
    Executes(Suspended),
    /// It waits, by this coroutine, until the end of its body is committed.
    Ends(Kept),
    /// It waits for a body that has none, by this future of `asyncio`'s once it has begun to.
    Spare(Option<Kept>),
    /// It has ended, or makes a step.
    Over,
}

/// A body that has suspended.
pub(super) struct Suspended {
    pub(super) body: Py<PyCoroutine>,
    /// Its coroutine.
    pub(super) coroutine: Kept,
    /// The contextvars that it executes in, if those are not the task's.
    pub(super) vars: Option<Kept>,
}

/// What a body has come to in its first step.
enum First<'py> {
    /// It has ended, but for what is to be waited for.
    Ended(Option<PyPending>),
    /// It has suspended, and awaits this.
    Awaits(Suspended, Owned<'py>),
}

/// Why a driver ends.
#[derive(Clone, Copy, PartialEq)]
enum Left {
    /// Another one may take over.
    Free,
    /// As `Free`: a body keeps the task.
    Kept,
    /// The loop is to have a turn.
    Budget,
}

impl PyDriver {
    /// One that executes what is ready, in a task with these contextvars.
    pub(super) fn new(owner: &Bound<'_, PyLoopQueue>, vars: &Bound<'_, PyAny>) -> Self {
        let yielded = owner.get().yielded.load(Ordering::Relaxed);
        Self::of(owner, vars, State::Drives(yielded))
    }

    /// One that continues a body, in a task with its contextvars.
    pub(super) fn resumes(owner: &Bound<'_, PyLoopQueue>, body: Suspended, vars: &Bound<'_, PyAny>) -> Self {
        Self::of(owner, vars, State::Executes(body))
    }

    /// One that waits for a body that has no task.
    pub(super) fn spare(owner: &Bound<'_, PyLoopQueue>, vars: &Bound<'_, PyAny>) -> Self {
        Self::of(owner, vars, State::Spare(None))
    }

    fn of(owner: &Bound<'_, PyLoopQueue>, vars: &Bound<'_, PyAny>, state: State) -> Self {
        let vars = Kept::new(vars.clone().unbind());
        Self { owner: owner.clone().unbind(), vars, uses: Mutex::default(), state: Mutex::new(state) }
    }

    /// Makes a step: returns what it awaits, or `None` if it has ended.
    fn step<'py>(&self, py: Python<'py>, thrown: Option<&Bound<'py, PyAny>>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let state = std::mem::replace(&mut *self.state.lock(), State::Over);
        if self.uses.lock().is_none() {
            let task = current_task(py)?;
            let own = if matches!(state, State::Executes(_) | State::Spare(_)) { BY_ITSELF + 1 } else { BY_ITSELF };
            *self.uses.lock() = Some(Uses::of(&task, own)?);
        }
        match state {
            State::Over => Err(PyRuntimeError::new_err("this driver of bide's has ended")),
            State::Drives(yielded) => match thrown {
                None if yielded != self.owner.get().yielded.load(Ordering::Relaxed) => {
                    // The loop's turn is on its way, which makes another one.
                    self.owner.get().driving.fetch_sub(1, Ordering::Relaxed);
                    Ok(None)
                }
                None => self.drive(py),
                Some(error) => {
                    self.leave(py, Left::Free)?;
                    Err(PyErr::from_value(error.clone()))
                }
            },
            State::Begins(waits, begun) => match resume(py, waits.bind(py), None, thrown)? {
                Sent::Awaits(awaited) => self.awaits(State::Begins(waits, begun), awaited),
                Sent::Returned(_) => {
                    let begun = begun.lock().take();
                    begun.map_or(Ok(None), |begun| self.execute(py, begun))
                }
            },
            State::Executes(suspended) => {
                let vars = suspended.vars.as_ref().map(|vars| vars.bind(py));
                let coroutine = suspended.coroutine.bind(py);
                let sent = panics::no_panic(|| resume(py, coroutine, vars, thrown));
                if let Ok(Ok(Sent::Awaits(awaited))) = sent {
                    let task = current_task(py)?;
                    return self.suspends(py, suspended, awaited, &task, BY_ITSELF + 1);
                }
                let body = suspended.body.bind(py).clone();
                drop(suspended);
                self.owner.get().forget(&body);
                let ended = ended(py, body.get(), sent)?;
                self.ends(py, ended)
            }
            State::Ends(waits) => match resume(py, waits.bind(py), None, thrown)? {
                Sent::Awaits(awaited) => self.awaits(State::Ends(waits), awaited),
                Sent::Returned(_) => Ok(None),
            },
            State::Spare(_) => {
                if let Some(error) = thrown {
                    let spare = self.owner.get().queue.spare.lock().take();
                    drop(spare);
                    return Err(PyErr::from_value(error.clone()));
                }
                let Some(bodies) = self.owner.get().body_loop(py) else { return Ok(None) };
                let future = gil::call0(&*gil::getattr(&bodies, pyo3::intern!(py, "future"))?)?;
                blocks(&future)?;
                let kept = Some(Kept::new(Bound::clone(&future).unbind()));
                let awaits = self.awaits(State::Spare(kept), future);
                if let Some(spare) = &mut *self.owner.get().queue.spare.lock() {
                    spare.is_there = true;
                }
                awaits
            }
        }
    }

    fn awaits<'py>(&self, state: State, awaited: Owned<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        *self.state.lock() = state;
        Ok(Some(awaited.into_bound()))
    }

    /// Its body has ended: waits for what has to be waited for.
    fn ends<'py>(&self, py: Python<'py>, ended: Option<PyPending>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(pending) = ended else { return Ok(None) };
        let Some(bodies) = self.owner.get().body_loop(py) else { return Ok(None) };
        let pending = Bound::new(py, pending)?.into_any();
        let waits = gil::call_method1(&bodies, pyo3::intern!(py, "ended"), &pending)?;
        *self.state.lock() = State::Ends(Kept::new(waits.into_bound().unbind()));
        self.step(py, None)
    }

    /// Executes the one body that it waited for.
    fn execute<'py>(&self, py: Python<'py>, begun: Begun<Python3>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let task = current_task(py)?;
        self.begins_within(Some(&task));
        let first = self.first(py, names(py)?, begun, true);
        self.begins_within(None);
        match first? {
            First::Ended(pending) => self.ends(py, pending),
            First::Awaits(suspended, awaited) => {
                let body = suspended.body.bind(py).clone();
                let awaited = self.suspends(py, suspended, awaited, &task, BY_ITSELF)?;
                // Asked for before it was known to have suspended.
                if body.get().take_interrupt()
                    && let Some(bodies) = self.owner.get().body_loop(py)
                    && let Some(task) = PyCoroutine::task_of(&body)?
                {
                    gil::call_method1(&bodies, pyo3::intern!(py, "interrupt"), &task)?;
                }
                Ok(awaited)
            }
        }
    }

    /// Executes what is ready, up to a body that suspends.
    fn drive<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let owner = self.owner.get();
        let engine = &owner.engine;
        let Some(coroutines) = engine.dispatch().coroutines() else { return Ok(None) };
        let names = names(py)?;
        let task = current_task(py)?;
        let cancelling = gil::getattr(&task, pyo3::intern!(py, "cancelling"))?;
        self.begins_within(Some(&task));
        let since = engine.clock().machine();
        // The end of a body has read the clock.
        let mut is_read = true;
        loop {
            let now = if is_read { coroutines.last_end() } else { engine.clock().machine() };
            is_read = false;
            if now.saturating_sub(since) > BUDGET {
                self.leave(py, Left::Budget)?;
                return Ok(None);
            }
            owner.queue.beat();
            let start = {
                let mut starts = owner.starts.lock();
                if starts.is_empty() {
                    starts.extend(coroutines.take(BATCH));
                }
                starts.pop_front()
            };
            let Some(start) = start else { break };
            let run = Arc::clone(&start.ready().run);
            let begun = match start.begin() {
                Beginning::Done(None) => continue,
                Beginning::Done(Some(begun)) => begun,
                Beginning::Waits(waits) => {
                    let vars = run.local.own_vars(names, py)?.into_bound();
                    self.begin_aside(py, waits, vars)?;
                    continue;
                }
            };
            match self.first(py, names, begun, run.local.contextvars().is_none())? {
                First::Ended(None) => is_read = true,
                First::Ended(Some(pending)) => {
                    if let Some(bodies) = owner.body_loop(py) {
                        let pending = Bound::new(py, pending)?.into_any();
                        gil::call_method1(&bodies, pyo3::intern!(py, "end_aside"), &pending)?;
                    }
                }
                First::Awaits(suspended, awaited) => {
                    // The queue refers to it as well, and the method above.
                    match self.suspends(py, suspended, awaited, &task, BY_ITSELF + 2) {
                        Ok(None) => {}
                        Ok(Some(awaited)) => {
                            self.leave(py, Left::Kept)?;
                            return Ok(Some(awaited));
                        }
                        Err(error) => {
                            self.leave(py, Left::Free)?;
                            return Err(error);
                        }
                    }
                }
            }
            // A body has cancelled the task, or has changed the contextvars.
            if gil::is_truthy(&*gil::call0(&cancelling)?)? || self.vars.bind(py).len()? > 1 {
                break;
            }
        }
        self.leave(py, Left::Free)?;
        Ok(None)
    }

    /// Waits in a task of its own until a body has begun, and executes it there.
    fn begin_aside<'py>(
        &self,
        py: Python<'py>,
        waits: impl Future<Output = Option<Begun<Python3>>> + Send + 'static,
        vars: Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let owner = self.owner.get();
        let Some(bodies) = owner.body_loop(py) else { return Ok(()) };
        let begun = Arc::new(Mutex::new(None));
        let place = Arc::clone(&begun);
        let pending = PyPending::new(&owner.queue, async move {
            let done = waits.await;
            *place.lock() = done;
        });
        let pending = Bound::new(py, pending)?.into_any();
        let waits = gil::call_method1(&bodies, pyo3::intern!(py, "finished"), &pending)?;
        let state = State::Begins(Kept::new(waits.into_bound().unbind()), begun);
        let driver = Bound::new(py, Self::of(self.owner.bind(py), &vars, state))?.into_any();
        gil::call_args(&*gil::getattr(&bodies, pyo3::intern!(py, "aside"))?, &[&driver, &vars])?;
        Ok(())
    }

    /// A body has suspended and awaits this. It keeps the task, and what the task is to await is returned; or it waits
    /// without one. `own`: how often bide itself refers to the task here.
    fn suspends<'py>(
        &self,
        py: Python<'py>,
        suspended: Suspended,
        awaited: Owned<'py>,
        task: &Bound<'py, PyAny>,
        own: isize,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let body = suspended.body.bind(py).clone();
        let call = awaited.cast::<PyCall>().ok().cloned();
        let uses = *self.uses.lock();
        let leaves = match (&call, uses) {
            (Some(call), Some(uses)) => {
                let is_own = call.get().is_of(&body);
                is_own && !uses.have_grown(task, own)? && !is_marked(task, NAME)? && self.has_spare(py)
            }
            _ => false,
        };
        let vars = suspended.vars.as_ref().unwrap_or(&self.vars);
        let driven = if leaves {
            let has_own = suspended.vars.is_some() || self.vars.bind(py).len()? > 1;
            let vars = has_own.then(|| Kept::new(vars.clone_ref(py)));
            Driven::Detached { coroutine: Kept::new(suspended.coroutine.clone_ref(py)), vars }
        } else {
            Driven::ByTask { task: Kept::new(task.clone().unbind()), vars: Kept::new(vars.clone_ref(py)) }
        };
        let before = body.get().set_driven(driven);
        if matches!(before, Driven::First) {
            self.owner.get().remember(&body);
            body.get().suspends();
            if body.get().has_timeout()
                && let Some(bodies) = self.owner.get().body_loop(py)
            {
                gil::call_method1(&bodies, pyo3::intern!(py, "limit"), body.as_any())?;
            }
        }
        drop(before);
        let awaited = match &call {
            Some(call) if leaves => {
                PyCall::parks(call, None)?;
                return Ok(None);
            }
            Some(call) => PyCall::future(call)?,
            None => {
                body.get().awaits_other();
                awaited.into_bound()
            }
        };
        *self.state.lock() = State::Executes(suspended);
        Ok(Some(awaited))
    }

    /// Whether conditions of bodies without a task can be asked.
    fn has_spare(&self, py: Python<'_>) -> bool {
        self.owner.get().queue.needs_spare(py).is_ok()
    }

    /// Bodies make their first step within this task from here on.
    fn begins_within(&self, task: Option<&Bound<'_, PyAny>>) {
        let task = task.map(|task| Kept::new(task.clone().unbind()));
        let before = std::mem::replace(&mut *self.owner.get().queue.first.lock(), task);
        drop(before);
    }

    /// It executes nothing more of what is ready.
    fn leave(&self, py: Python<'_>, left: Left) -> PyResult<()> {
        self.begins_within(None);
        let owner = self.owner.get();
        owner.driving.fetch_sub(1, Ordering::Relaxed);
        let wanted = owner.wanted.load(Ordering::Relaxed);
        let wanted = if left == Left::Kept { MOST.min(wanted * 2) } else { 1 };
        owner.wanted.store(wanted, Ordering::Relaxed);
        owner.commit_gathered(py);
        if left == Left::Budget {
            owner.yielded.fetch_add(1, Ordering::Relaxed);
            owner.queue.wake();
        } else if let Some(bodies) = owner.body_loop(py) {
            gil::call0(&*gil::getattr(&bodies, pyo3::intern!(py, "take_over"))?)?;
        }
        Ok(())
    }

    /// Calls a body and makes its first step: in the contextvars that are current, or in a copy of its submitter's.
    fn first<'py>(&self, py: Python<'py>, names: &Names, begun: Begun<Python3>, here: bool) -> PyResult<First<'py>> {
        let Begun { body, args } = begun;
        let body = Bound::new(py, PyCoroutine::new(&self.owner.get().queue, &body))?;
        let stepped = panics::no_panic(|| {
            let vars = match body.get().submitters_vars() {
                Some(vars) if !here => Some(vars.copied(names, py)?),
                _ => None,
            };
            let set = set_here(py).map_err(|error| Raised::new(py, error))?;
            match &vars {
                None => gil::call1(set, body.as_any())?,
                Some(vars) => gil::call_args(names.run_in_vars.bind(py), &[vars, set, body.as_any()])?,
            };
            let called = PyCoroutine::call(&body, names, &args, vars.as_deref())?;
            let coroutine = coroutine_of(py, called)?;
            Ok((resume(py, &coroutine, vars.as_deref(), None)?, coroutine, vars))
        });
        Ok(match stepped {
            Ok(Ok((Sent::Awaits(awaited), coroutine, vars))) => {
                let kept = |owned: Owned<'py>| Kept::new(owned.into_bound().unbind());
                let suspended = Suspended { body: body.unbind(), coroutine: kept(coroutine), vars: vars.map(kept) };
                First::Awaits(suspended, awaited)
            }
            Ok(Ok((sent, ..))) => First::Ended(ended(py, body.get(), Ok(Ok(sent)))?),
            Ok(Err(raised)) => First::Ended(ended(py, body.get(), Ok(Err(raised)))?),
            Err(panicked) => First::Ended(ended(py, body.get(), Err(panicked))?),
        })
    }
}

#[pymethods]
impl PyDriver {
    /// Its task, which was the spare one, becomes the own one of a body that has none. Returns what the task awaits.
    fn takes<'py>(
        &self,
        body: &Bound<'py, PyCoroutine>,
        task: Py<PyAny>,
        vars: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        panics::method(|| {
            let py = body.py();
            let Driven::Detached { coroutine, vars: own } = body.get().set_driven(Driven::First) else {
                return Ok(None);
            };
            if own.is_none() {
                gil::call_args(names(py)?.run_in_vars.bind(py), &[vars, set_here(py)?, body.as_any()])?;
            }
            let within = own.as_ref().map_or_else(|| vars.clone().unbind(), |own| own.clone_ref(py));
            drop(body.get().set_driven(Driven::ByTask { task: Kept::new(task), vars: Kept::new(within) }));
            let suspended = Suspended { body: body.clone().unbind(), coroutine, vars: own };
            let before = std::mem::replace(&mut *self.state.lock(), State::Executes(suspended));
            let future = if let State::Spare(future) = before { future } else { None };
            Ok(future.map(|future| future.into_owned(py).into_bound()))
        })
    }

    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        panics::method(|| self.step(py, None))
    }

    fn send<'py>(&self, py: Python<'py>, _value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| self.step(py, None)?.ok_or_else(|| PyStopIteration::new_err(())))
    }

    #[pyo3(signature = (exception, value=None, _traceback=None))]
    fn throw<'py>(
        &self,
        exception: Bound<'py, PyAny>,
        value: Option<Bound<'py, PyAny>>,
        _traceback: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| {
            let py = exception.py();
            let exception = thrown(exception, value)?;
            self.step(py, Some(&exception))?.ok_or_else(|| PyStopIteration::new_err(()))
        })
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        panics::method(|| {
            let state = std::mem::replace(&mut *self.state.lock(), State::Over);
            if let State::Executes(Suspended { coroutine, vars, .. }) = state {
                let close = gil::getattr(coroutine.bind(py), pyo3::intern!(py, "close"))?;
                match &vars {
                    None => gil::call0(&close)?,
                    Some(vars) => gil::call_args(names(py)?.run_in_vars.bind(py), &[vars.bind(py), &close])?,
                };
            }
            Ok(())
        })
    }
}
