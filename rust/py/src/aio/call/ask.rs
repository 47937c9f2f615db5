//! Asks a condition by `async def` on the loop, but outside of its task: one that answers at once, and no, costs no step
//! of the task. One that suspends is awaited by its task from there on.

use bide_core::attempt::Action;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyInt, PyTuple};

use super::state::{Asking, Progress, PyCall, What};
use crate::aio::imports::{current_task, imported};
use crate::aio::queue::Parked;
use crate::errors::names;
use crate::gil::{self, Kept, Owned, Raised};

/// What conditions are asked with.
pub(in crate::aio) struct Asks<'py> {
    /// The event loop.
    event_loop: Bound<'py, PyAny>,
    /// `asyncio.tasks._enter_task` and `_leave_task`, which asyncio has for other implementations of tasks.
    enter: Bound<'py, PyAny>,
    leave: Bound<'py, PyAny>,
    /// `bide._async_calls.ask_once`.
    ask: Bound<'py, PyAny>,
    /// `bide._async_calls.Begun`.
    begun: Bound<'py, PyAny>,
    /// `bide._here.CONDITION`.
    within: Bound<'py, PyInt>,
}

impl<'py> Asks<'py> {
    /// With this `BodyLoop`. `None`: a task executes here.
    pub(in crate::aio) fn here(bodies: &Bound<'py, PyAny>) -> PyResult<Option<Self>> {
        static ENTER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        static LEAVE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        static ASK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        static BEGUN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = bodies.py();
        if !current_task(py)?.is_none() {
            return Ok(None);
        }
        let calls = "bide._async_calls";
        Ok(Some(Self {
            event_loop: gil::getattr(bodies, pyo3::intern!(py, "loop"))?.into_bound(),
            enter: imported(py, &ENTER, "asyncio.tasks", "_enter_task")?.clone(),
            leave: imported(py, &LEAVE, "asyncio.tasks", "_leave_task")?.clone(),
            ask: imported(py, &ASK, calls, "ask_once")?.clone(),
            begun: imported(py, &BEGUN, calls, "Begun")?.clone(),
            within: PyInt::new(py, 2),
        }))
    }
}

impl PyCall {
    /// Whether its conditions can be asked outside of its task: they are coroutine functions, and it is the body's own
    /// task that waits.
    pub(super) fn asks_aside(&self, py: Python<'_>) -> PyResult<bool> {
        let is_async = match &self.state.lock().what {
            What::Wait(asked, _) => !asked.is_empty() && asked.iter().all(|asked| asked.is_async),
            _ => false,
        };
        let task = self.coroutine.get().task(py).filter(|_| is_async);
        task.map_or(Ok(false), |task| Ok(task.is(&current_task(py)?)))
    }

    /// Continues it. `None`: it waits again; else its future, to be completed, so that its task continues.
    pub(in crate::aio) fn wakes(call: &Kept, py: Python<'_>, asks: &Asks<'_>, future: Kept) -> PyResult<Option<Kept>> {
        let Ok(slf) = call.bind(py).cast::<Self>() else { return Ok(Some(future)) };
        let own = slf.get();
        loop {
            let action = match own.poll() {
                Progress::Over => return Ok(Some(future)),
                Progress::Waits => {
                    let call = Some(Kept::new(call.clone_ref(py)));
                    if let Some(waits) = &own.state.lock().future {
                        waits.park(Parked { future, call });
                    }
                    return Ok(None);
                }
                Progress::Needs(action) => action,
            };
            let (part, (task, vars)) = match (action, own.coroutine.get().task_and_vars(py)) {
                (Action::Ask, Some(within)) => (0, within),
                (Action::AskPart(part), Some(within)) => (part, within),
                (other, _) => {
                    own.state.lock().ready = Some(other);
                    return Ok(Some(future));
                }
            };
            own.enters(py)?;
            let asked = own.ask_once(py, asks, &task, &vars, part);
            let begun = match asked {
                Ok(value) if value.get_type().is(&asks.begun) => Ok(Kept::new(value.into_bound().unbind())),
                Ok(value) => {
                    own.asked(part, &value)?;
                    continue;
                }
                Err(raised) if raised.is::<PyException>(py) => {
                    own.ask_raised(py, part, raised.value(py).clone())?;
                    continue;
                }
                Err(raised) => Err(raised),
            };
            own.state.lock().asking = Some(Asking { part, begun });
            return Ok(Some(future));
        }
    }

    /// Makes the first step of a condition, as if its task did.
    fn ask_once<'py>(
        &self,
        py: Python<'py>,
        asks: &Asks<'py>,
        task: &Bound<'py, PyAny>,
        vars: &Bound<'py, PyAny>,
        part: usize,
    ) -> Result<Owned<'py>, Raised> {
        let names = names(py).map_err(|error| Raised::new(py, error))?;
        let condition = self.condition(py, part).map_err(|error| Raised::new(py, error))?;
        let condition = condition.unwrap_or_else(|| py.None().into_bound(py));
        let place = PyTuple::new(py, [self.coroutine.bind(py).as_any(), asks.within.as_any()]);
        let place = place.map_err(|error| Raised::new(py, error))?.into_any();
        gil::call_args(&asks.enter, &[&asks.event_loop, task])?;
        let asked = gil::call_args(names.run_in_vars.bind(py), &[vars, &asks.ask, &place, &condition]);
        gil::call_args(&asks.leave, &[&asks.event_loop, task])?;
        asked
    }
}
