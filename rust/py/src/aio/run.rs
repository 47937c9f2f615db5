//! Executes coroutines that are ready, within an `asyncio` task that `bide/_loop.py` calls a driver: each in
//! contextvars of its own, up to the first that suspends. That one keeps the driver; one that does not suspend costs no
//! task.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bide_executor::Start;
use bide_sync::Mutex;
use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyTuple;

use super::coroutine::PyCoroutine;
use super::pending::PyPending;
use super::queue::LoopQueue;
use crate::errors::{Names, names};
use crate::gil::{self, Owned, Raised};
use crate::host::{PyEngine, Python3};
use crate::panics;

/// After this long the loop has a turn.
const BUDGET: Duration = Duration::from_millis(2);

/// How many bodies are taken at once.
const BATCH: usize = 16;

/// Why the execution of bodies was left.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Left {
    /// There is nothing more for now.
    Idle = 0,
    /// The loop is to have a turn.
    Budget = 1,
    /// A body has suspended: its coroutine, what that awaits, and its contextvars.
    Suspended = 2,
    /// A body has to wait before it begins.
    Begins = 3,
    /// A body has cancelled the driver.
    Cancelled = 4,
    /// The end of a body has to be waited for.
    Ends = 5,
}

/// Why it was left, and with which body.
pub(super) type Stop<'py> = (u8, Option<Bound<'py, PyCoroutine>>, [Option<Bound<'py, PyAny>>; 3]);

/// Executes bodies. `cancelling` is that method of the driver.
pub(super) fn run_ready<'py>(
    py: Python<'py>,
    queue: &Arc<LoopQueue>,
    engine: &Arc<PyEngine>,
    starts: &Mutex<Starts>,
    cancelling: &Bound<'py, PyAny>,
) -> PyResult<Stop<'py>> {
    let Some(coroutines) = engine.dispatch().coroutines() else { return Ok(stop(Left::Idle)) };
    let names = names(py)?;
    let begun = engine.steady();
    loop {
        if engine.steady().saturating_sub(begun) > BUDGET {
            return Ok(stop(Left::Budget));
        }
        queue.beat();
        let start = {
            let mut starts = starts.lock();
            if starts.is_empty() {
                starts.extend(coroutines.take(BATCH));
            }
            starts.pop_front()
        };
        let Some(start) = start else { return Ok(stop(Left::Idle)) };
        let body = Bound::new(py, PyCoroutine::new(queue, engine, start))?;
        if let Some(stop) = execute(py, names, body)? {
            return Ok(stop);
        }
        if gil::is_truthy(&*gil::call0(cancelling)?)? {
            return Ok(stop(Left::Cancelled));
        }
    }
}

fn stop<'py>(left: Left) -> Stop<'py> {
    (left as u8, None, [None, None, None])
}

/// Executes a body. `None` if it has ended.
fn execute<'py>(py: Python<'py>, names: &Names, body: Bound<'py, PyCoroutine>) -> PyResult<Option<Stop<'py>>> {
    let own = body.get();
    if let Some(pending) = own.begin()? {
        let pending = Bound::new(py, pending)?.into_any();
        return Ok(Some((Left::Begins as u8, Some(body), [Some(pending), None, None])));
    }
    if !own.begun() {
        return Ok(None);
    }
    match panics::no_panic(|| first_step(py, names, &body)) {
        Ok(Ok(Step::Returned(value))) => ended(py, &body, own.ends_with(&value)?),
        Ok(Ok(Step::Awaits(parts))) => {
            let parts = parts.map(|part| Some(part.into_bound()));
            Ok(Some((Left::Suspended as u8, Some(body), parts)))
        }
        Ok(Err(raised)) => ended(py, &body, own.ends_by(py, raised)?),
        Err(panicked) => ended(py, &body, own.ends_by(py, Raised::new(py, panicked.into()))?),
    }
}

/// What the first step of a body came to.
enum Step<'py> {
    Returned(Owned<'py>),
    /// The coroutine, what it awaits, and its contextvars.
    Awaits([Owned<'py>; 3]),
}

/// Calls a body, and executes its first step.
fn first_step<'py>(py: Python<'py>, names: &Names, body: &Bound<'py, PyCoroutine>) -> Result<Step<'py>, Raised> {
    let vars = within(py, names, body).map_err(|error| Raised::new(py, error))?;
    let called = body.get().call_within(body, names, &vars)?;
    let coroutine = coroutine_of(py, called).map_err(|error| Raised::new(py, error))?;
    let send = gil::getattr(&coroutine, pyo3::intern!(py, "send"))?;
    let none = py.None().into_bound(py);
    match gil::call_args(names.run_in_vars.bind(py), &[&vars, &send, &none]) {
        Ok(awaited) => Ok(Step::Awaits([coroutine, awaited, vars])),
        Err(raised) if raised.is::<PyStopIteration>(py) => {
            gil::getattr(raised.value(py), pyo3::intern!(py, "value")).map(Step::Returned)
        }
        Err(raised) => Err(raised),
    }
}

fn ended<'py>(
    py: Python<'py>,
    body: &Bound<'py, PyCoroutine>,
    pending: Option<PyPending>,
) -> PyResult<Option<Stop<'py>>> {
    let Some(pending) = pending else { return Ok(None) };
    let pending = Bound::new(py, pending)?.into_any();
    Ok(Some((Left::Ends as u8, Some(body.clone()), [Some(pending), None, None])))
}

/// The contextvars of a body: a copy of the submitter's, in which `bide._here.here` names it.
fn within<'py>(py: Python<'py>, names: &Names, body: &Bound<'py, PyCoroutine>) -> PyResult<Owned<'py>> {
    static SET: PyOnceLock<(Py<PyAny>, Py<PyAny>)> = PyOnceLock::new();
    let (set, copy) = SET.get_or_try_init(py, || {
        let set = py.import("bide._here")?.getattr("here")?.getattr("set")?.unbind();
        Ok::<_, PyErr>((set, py.import("contextvars")?.getattr("copy_context")?.unbind()))
    })?;
    let place = PyTuple::new(py, [body.as_any(), pyo3::types::PyInt::new(py, 0).as_any()])?.into_any();
    match body.get().submitters_vars() {
        None => {
            // The driver has no other contextvars.
            gil::call1(set.bind(py), &place)?;
            Ok(gil::call0(copy.bind(py))?)
        }
        Some(vars) => {
            let own = vars.copied(names, py)?;
            gil::call_args(names.run_in_vars.bind(py), &[&own, set.bind(py), &place])?;
            Ok(own)
        }
    }
}

/// The coroutine that a body's function has returned; of another awaitable one that awaits it.
fn coroutine_of<'py>(py: Python<'py>, called: Owned<'py>) -> PyResult<Owned<'py>> {
    if called.hasattr(pyo3::intern!(py, "send"))? {
        return Ok(called);
    }
    let awaits = py.import("bide._loop")?.getattr("awaits")?;
    Ok(gil::call1(&awaits, &called)?)
}

/// The bodies that were taken and not executed yet.
pub(super) type Starts = VecDeque<Start<Python3>>;
