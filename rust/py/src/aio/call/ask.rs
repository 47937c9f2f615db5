//! Asks a condition by `async def` on the loop, but outside of its task: one that answers at once, and no, costs no step
//! of the task. One that suspends is awaited by its task from there on.

use bide_core::attempt::{Action, Sleep};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyInt, PyTuple};

use super::state::{Asking, Next, Progress, PyCall, What};
use crate::aio::coroutine::PyCoroutine;
use crate::aio::imports::{current_task, imported, reset_here, set_here};
use crate::aio::queue::Parked;
use crate::aio::rest::Resting;
use crate::errors::{Names, names};
use crate::gil::{self, Kept, Owned, Raised, Sent};

/// What conditions are asked with.
pub(in crate::aio) struct Asks<'py> {
    /// The Python side.
    names: &'py Names,
    /// The event loop.
    event_loop: Bound<'py, PyAny>,
    /// `asyncio.tasks._enter_task` and `_leave_task`, which asyncio has for other implementations of tasks.
    enter: &'py Bound<'py, PyAny>,
    leave: &'py Bound<'py, PyAny>,
    /// [`ask_once`].
    ask: &'py Bound<'py, PyAny>,
    /// `bide._async_calls.Begun`.
    begun: &'py Bound<'py, PyAny>,
    /// `bide._here.CONDITION`.
    within: Bound<'py, PyInt>,
}

/// Makes the first step of a condition; returns its answer, or a `Begun`. `place`: what `here` is meanwhile, if it is not
/// that already.
#[pyfunction]
#[pyo3(signature = (condition, place=None))]
fn ask_once<'py>(condition: &Bound<'py, PyAny>, place: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
    let py = condition.py();
    let set = place.map(|place| Ok::<_, PyErr>(gil::call1(set_here(py)?, place)?)).transpose()?;
    let made = || {
        let coroutine = gil::call0(condition)?;
        match gil::send(&coroutine)? {
            Sent::Returned(answer) => Ok(answer),
            Sent::Awaits(awaited) => {
                let begun = begun(py).map_err(|error| Raised::new(py, error))?;
                gil::call_args(begun, &[&coroutine, &awaited])
            }
        }
    };
    let made: Result<Owned<'_>, Raised> = made();
    if let Some(token) = set {
        gil::call1(reset_here(py)?, &token)?;
    }
    Ok(made?.into_bound())
}

fn begun(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static BEGUN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    imported(py, &BEGUN, "bide._async_calls", "Begun")
}

impl<'py> Asks<'py> {
    /// With this `BodyLoop`. `None`: a task executes here.
    pub(in crate::aio) fn here(bodies: &Bound<'py, PyAny>) -> PyResult<Option<Self>> {
        static ENTER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        static LEAVE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        static ASK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = bodies.py();
        if !current_task(py)?.is_none() {
            return Ok(None);
        }
        let ask = ASK.get_or_try_init(py, || Ok::<_, PyErr>(wrap_pyfunction!(ask_once, py)?.into_any().unbind()));
        Ok(Some(Self {
            names: names(py)?,
            event_loop: gil::getattr(bodies, pyo3::intern!(py, "loop"))?.into_bound(),
            enter: imported(py, &ENTER, "asyncio.tasks", "_enter_task")?,
            leave: imported(py, &LEAVE, "asyncio.tasks", "_leave_task")?,
            ask: ask?.bind(py),
            begun: begun(py)?,
            within: PyInt::new(py, 2),
        }))
    }

    /// What `here` is within a condition of a body.
    fn place(&self, coroutine: &Bound<'py, PyCoroutine>) -> Result<Bound<'py, PyAny>, Raised> {
        let py = coroutine.py();
        let place = PyTuple::new(py, [coroutine.as_any(), self.within.as_any()]);
        Ok(place.map_err(|error| Raised::new(py, error))?.into_any())
    }

    /// Makes the first step of a condition, as if the task of its body did.
    fn ask(
        &self,
        coroutine: &Bound<'py, PyCoroutine>,
        (task, vars): &(Bound<'py, PyAny>, Bound<'py, PyAny>),
        condition: &Bound<'py, PyAny>,
    ) -> Result<Owned<'py>, Raised> {
        let place = self.place(coroutine)?;
        self.within_task(task, &[vars, self.ask, condition, &place])
    }

    /// The same at rest. The contextvars say from the first poll on where they are used: nothing else is executed in them
    /// until the wait is over.
    pub(in crate::aio) fn ask_at_rest(
        &self,
        call: &PyCall,
        coroutine: &Bound<'py, PyCoroutine>,
        (task, vars): &(Bound<'py, PyAny>, Bound<'py, PyAny>),
        condition: &Bound<'py, PyAny>,
    ) -> Result<Owned<'py>, Raised> {
        if !std::mem::replace(&mut call.state.lock().is_placed, true) {
            let py = coroutine.py();
            let set = set_here(py).map_err(|error| Raised::new(py, error))?;
            gil::call_args(self.names.run_in_vars.bind(py), &[vars, set, &self.place(coroutine)?])?;
        }
        self.within_task(task, &[vars, self.ask, condition])
    }

    fn within_task(&self, task: &Bound<'py, PyAny>, run: &[&Bound<'py, PyAny>]) -> Result<Owned<'py>, Raised> {
        gil::call_args(self.enter, &[&self.event_loop, task])?;
        let asked = gil::call_args(self.names.run_in_vars.bind(task.py()), run);
        gil::call_args(self.leave, &[&self.event_loop, task])?;
        asked
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
        if !is_async {
            return Ok(false);
        }
        let coroutine = self.coroutine.get();
        // In its first step the body executes within a task that it will keep.
        let first = || coroutine.queue.first.lock().as_ref().map(|task| task.bind(py).clone());
        let task = coroutine.task(py).or_else(first);
        task.map_or(Ok(false), |task| Ok(task.is(&current_task(py)?)))
    }

    /// Continues it. `None`: it waits again; else its future, to be completed, so that its task continues.
    pub(in crate::aio) fn wakes(slf: &Bound<'_, Self>, asks: &Asks<'_>, future: Kept) -> PyResult<Option<Kept>> {
        let (py, own) = (slf.py(), slf.get());
        loop {
            let action = match own.poll()? {
                Progress::Over => return Ok(Some(future)),
                Progress::Waits => {
                    let call = Some(Kept::new(slf.clone().into_any().unbind()));
                    if let Some(waits) = &own.state.lock().future {
                        waits.park(Parked { future, call });
                    }
                    return Ok(None);
                }
                Progress::Needs(action) => action,
            };
            let (part, within) = match (action, own.coroutine.get().task_and_vars(py)) {
                (Action::Sleep(Sleep::Poll(span)), Some(_)) => {
                    Self::rests(slf, span, future)?;
                    return Ok(None);
                }
                (Action::Ask, Some(within)) => (0, within),
                (Action::AskPart(part), Some(within)) => (part, within),
                (other, _) => {
                    own.state.lock().next = Some(Box::new(Next::Ready(other)));
                    return Ok(Some(future));
                }
            };
            own.enters(py)?;
            let condition = own.condition(py, part)?.unwrap_or_else(|| py.None().into_bound(py));
            let asked = asks.ask(own.coroutine.bind(py), &within, &condition);
            if !own.answered_aside(asks, part, asked)? {
                return Ok(Some(future));
            }
        }
    }

    /// As [`PyCall::wakes`], with what its condition has answered at rest.
    pub(in crate::aio) fn answered_at_rest<'py>(
        slf: &Bound<'py, Self>,
        asks: &Asks<'py>,
        asked: Result<Owned<'py>, Raised>,
        future: Kept,
    ) -> PyResult<Option<Kept>> {
        if slf.get().answered_aside(asks, 0, asked)? { Self::wakes(slf, asks, future) } else { Ok(Some(future)) }
    }

    /// What a condition has come to in its first step. False: its task is to go on with that.
    fn answered_aside<'py>(&self, asks: &Asks<'py>, part: usize, asked: Result<Owned<'py>, Raised>) -> PyResult<bool> {
        let py = asks.event_loop.py();
        let begun = match asked {
            Ok(value) if value.get_type().is(asks.begun) => Ok(Kept::new(value.into_bound().unbind())),
            Ok(value) => return self.asked(part, &value).map(|()| true),
            Err(raised) if raised.is::<PyException>(py) => {
                return self.ask_raised(py, part, raised.value(py).clone()).map(|()| true);
            }
            Err(raised) => Err(raised),
        };
        self.state.lock().next = Some(Box::new(Next::Asking(Asking { part, begun })));
        Ok(false)
    }

    /// It is asked by the loop from here on, until its future is completed.
    pub(super) fn rests(slf: &Bound<'_, Self>, span: std::time::Duration, future: Kept) -> PyResult<()> {
        let (py, own) = (slf.py(), slf.get());
        let body = own.body()?;
        let coroutine = own.coroutine.get();
        let condition = own.condition(py, 0)?.unwrap_or_else(|| py.None().into_bound(py));
        let ticket = body.rest(&own.call, span);
        let before = {
            let mut state = own.state.lock();
            state.rests = Some(ticket);
            state.future.take()
        };
        drop(before);
        let keep = |object: Bound<'_, PyAny>| Kept::new(object.unbind());
        let resting = Resting { call: keep(slf.clone().into_any()), future, condition: keep(condition) };
        let before = coroutine.queue.resting.lock().keep(ticket, resting);
        drop(before);
        Ok(())
    }

    /// Its task continues within its contextvars, in which it was asked at rest: they say again where that is.
    pub(super) fn is_back(&self, py: Python<'_>) -> PyResult<()> {
        if std::mem::take(&mut self.state.lock().is_placed) {
            gil::call1(set_here(py)?, self.coroutine.bind(py).as_any())?;
        }
        Ok(())
    }

    /// It does not rest any more.
    pub(in crate::aio) fn leave_rest(&self, ticket: u64) -> PyResult<()> {
        self.state.lock().rests = None;
        let resting = self.coroutine.get().queue.resting.lock().take(ticket);
        drop(resting);
        self.body()?.leave_rest(ticket);
        Ok(())
    }

    /// It is to be fed what its condition has come to at rest, which it has left.
    pub(in crate::aio) fn asked_at_rest(&self) -> PyResult<()> {
        self.body()?.asked_at_rest(&self.call);
        Ok(())
    }

    /// It continues: it was rung at rest, which it has left.
    pub(in crate::aio) fn wake_from_rest(&self) -> PyResult<()> {
        let fed = self.body()?.woken(&self.call);
        self.drive(fed)
    }
}
