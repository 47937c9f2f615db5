//! Asks a condition by `async def` on the loop, but outside of its task: one that answers at once, and no, costs no step
//! of the task. One that suspends is awaited by its task from there on.

use std::cell::RefCell;
use std::num::NonZeroU64;
use std::sync::Arc;

use bide_core::attempt::{Action, Sleep};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyInt, PyTuple};

use super::state::{Asking, Next, Progress, PyCall};
use crate::aio::coroutine::PyCoroutine;
use crate::aio::driven::Driven;
use crate::aio::imports::{current_task, imported, reset_here, set_here};
use crate::aio::queue::{LoopQueue, Parked};
use crate::aio::rest::Resting;
use crate::aio::within::{SpareHere, Within};
use crate::errors::{Names, names};
use crate::gil::{self, Kept, Owned, Raised, Sent};

/// What conditions are asked with.
pub(in crate::aio) struct Asks<'py> {
    /// What other threads leave to the loop.
    queue: Arc<LoopQueue>,
    /// The spare task, once it was looked for in this turn.
    spare: RefCell<Option<Option<SpareHere<'py>>>>,
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
    pub(in crate::aio) fn here(queue: &Arc<LoopQueue>, bodies: &Bound<'py, PyAny>) -> PyResult<Option<Self>> {
        static ENTER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        static LEAVE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        static ASK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = bodies.py();
        if !current_task(py)?.is_none() {
            return Ok(None);
        }
        let ask = ASK.get_or_try_init(py, || Ok::<_, PyErr>(wrap_pyfunction!(ask_once, py)?.into_any().unbind()));
        Ok(Some(Self {
            queue: Arc::clone(queue),
            spare: RefCell::new(None),
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

    /// The task in which conditions of bodies without one are asked, if it is there.
    pub(in crate::aio) fn spare(&self) -> PyResult<Option<SpareHere<'py>>> {
        let mut spare = self.spare.borrow_mut();
        if spare.is_none() {
            *spare = Some(SpareHere::of(&self.queue, self.event_loop.py())?);
        }
        Ok(spare.as_ref().and_then(Clone::clone))
    }

    /// After a condition was asked: the spare task becomes the body's own if the condition continues in it, or has left
    /// something there. Returns what the task awaits, then.
    pub(in crate::aio) fn settles(
        &self,
        within: &Within<'py>,
        coroutine: &Bound<'py, PyCoroutine>,
        asked: &Result<Owned<'py>, Raised>,
    ) -> PyResult<Option<Kept>> {
        let goes_on = match asked {
            Ok(answer) => self.is_begun(answer),
            Err(raised) => !raised.is::<PyException>(coroutine.py()),
        };
        if !within.is_used(goes_on)? {
            return Ok(None);
        }
        *self.spare.borrow_mut() = None;
        let given = self.queue.give_spare(coroutine)?;
        self.queue.needs_spare(coroutine.py())?;
        Ok(given)
    }

    /// Whether a condition has answered with a `Begun`.
    fn is_begun(&self, answer: &Bound<'py, PyAny>) -> bool {
        answer.get_type().is(self.begun)
    }

    /// Makes the first step of a condition, as if the task of its body did.
    fn ask(
        &self,
        coroutine: &Bound<'py, PyCoroutine>,
        within: &Within<'py>,
        condition: &Bound<'py, PyAny>,
    ) -> Result<Owned<'py>, Raised> {
        let place = self.place(coroutine)?;
        self.within_task(&within.task, &[&within.vars, self.ask, condition, &place])
    }

    /// The same at rest. The contextvars say from the first poll on where they are used: nothing else is executed in them
    /// until the wait is over.
    pub(in crate::aio) fn ask_at_rest(
        &self,
        call: &PyCall,
        coroutine: &Bound<'py, PyCoroutine>,
        within: &Within<'py>,
        condition: &Bound<'py, PyAny>,
    ) -> Result<Owned<'py>, Raised> {
        let Within { task, vars, has_own_vars, .. } = within;
        if !has_own_vars {
            return self.ask(coroutine, within, condition);
        }
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
        let has_conditions = !self.state.lock().what.conditions().is_empty();
        Ok(has_conditions && self.has_only_async_conditions() && self.is_in_task(py)?)
    }

    /// Whether all its conditions are coroutine functions.
    fn has_only_async_conditions(&self) -> bool {
        let state = self.state.lock();
        state.what.is_wait() && state.what.conditions().iter().all(|asked| asked.is_async)
    }

    /// Whether what executes here is the task of its body.
    fn is_in_task(&self, py: Python<'_>) -> PyResult<bool> {
        let coroutine = self.coroutine.get();
        let task = coroutine.with_driven(|driven| match driven {
            Driven::ByTask { task, .. } => Some(task.bind(py).clone()),
            // In its first step the body executes within a task that it may keep.
            Driven::First => coroutine.queue.first.lock().as_ref().map(|task| task.bind(py).clone()),
            Driven::Detached { .. } => None,
        });
        task.map_or(Ok(false), |task| Ok(task.is(&current_task(py)?)))
    }

    /// Whether its body may leave its task while it waits.
    pub(super) fn may_leave(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.coroutine.get().answers_at_once() && self.is_in_task(py)?)
    }

    /// Whether it is a call of this body.
    pub(in crate::aio) fn is_of(&self, body: &Bound<'_, PyCoroutine>) -> bool {
        self.coroutine.is(body)
    }

    /// Continues it. Returns its future if that is to be completed, so that its task continues.
    pub(in crate::aio) fn wakes<'py>(
        slf: &Bound<'py, Self>,
        asks: &Asks<'py>,
        mut future: Option<Kept>,
    ) -> PyResult<Option<Kept>> {
        let (py, own) = (slf.py(), slf.get());
        loop {
            let action = match own.poll()? {
                Progress::Over => return Self::continues_with(slf, future),
                Progress::Waits => {
                    let call = Some(Kept::new(slf.clone().into_any().unbind()));
                    if let Some(waits) = &own.state.lock().future {
                        waits.park(Parked { future, call });
                    }
                    return Ok(None);
                }
                Progress::Needs(action) => action,
            };
            let coroutine = own.coroutine.bind(py);
            let within = if own.has_only_async_conditions() { Within::of(coroutine, || asks.spare())? } else { None };
            let (part, within) = match (action, within) {
                (Action::Sleep(Sleep::Poll(span)), Some(_)) => {
                    Self::rests(slf, span, future)?;
                    return Ok(None);
                }
                (Action::Ask, Some(within)) => (0, within),
                (Action::AskPart(part), Some(within)) => (part, within),
                (other, _) => {
                    own.state.lock().next = Some(Box::new(Next::Ready(other)));
                    return Self::continues_with(slf, future);
                }
            };
            own.enters(py)?;
            let condition = own.condition(py, part)?.unwrap_or_else(|| py.None().into_bound(py));
            let asked = asks.ask(coroutine, &within, &condition);
            match asks.settles(&within, coroutine, &asked) {
                Ok(given) => future = given.or(future),
                Err(error) => {
                    own.leaves(py)?;
                    return Err(error);
                }
            }
            if !own.answered_aside(asks, part, asked)? {
                return Self::continues_with(slf, future);
            }
        }
    }

    /// As [`PyCall::wakes`], with what its condition has answered at rest.
    pub(in crate::aio) fn answered_at_rest<'py>(
        slf: &Bound<'py, Self>,
        asks: &Asks<'py>,
        asked: Result<Owned<'py>, Raised>,
        future: Option<Kept>,
    ) -> PyResult<Option<Kept>> {
        if slf.get().answered_aside(asks, 0, asked)? {
            Self::wakes(slf, asks, future)
        } else {
            Self::continues_with(slf, future)
        }
    }

    /// Its task is to continue: returns the future that it awaits, or gives the body a task.
    pub(in crate::aio) fn continues_with(slf: &Bound<'_, Self>, future: Option<Kept>) -> PyResult<Option<Kept>> {
        if future.is_none() {
            PyCoroutine::attach(slf.get().coroutine.bind(slf.py()))?;
        }
        Ok(future)
    }

    /// What a condition has come to in its first step. False: its task is to go on with that.
    fn answered_aside<'py>(&self, asks: &Asks<'py>, part: usize, asked: Result<Owned<'py>, Raised>) -> PyResult<bool> {
        let py = asks.event_loop.py();
        let begun = match asked {
            Ok(value) if asks.is_begun(&value) => Ok(Kept::new(value.into_bound().unbind())),
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
    pub(super) fn rests(slf: &Bound<'_, Self>, span: std::time::Duration, future: Option<Kept>) -> PyResult<()> {
        let (py, own) = (slf.py(), slf.get());
        if future.is_none() {
            own.coroutine.get().queue.needs_spare(py)?;
        }
        let body = own.body()?;
        let coroutine = own.coroutine.get();
        let ticket = body.rest(&own.call, span);
        let before = {
            let mut state = own.state.lock();
            state.rests = NonZeroU64::new(ticket);
            state.future.take()
        };
        drop(before);
        let resting = Resting { call: Kept::new(slf.clone().into_any().unbind()), future };
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

    /// Whether it rests with this ticket.
    pub(in crate::aio) fn rests_at(&self, ticket: u64) -> bool {
        self.state.lock().rests.is_some_and(|own| own.get() == ticket)
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
