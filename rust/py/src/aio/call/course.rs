//! The course of a call: what the engine asks for is done here, or by Python.

use bide_core::FailureKind;
use bide_core::attempt::{Action, Fed, Sleep};
use bide_executor::CallError;
use pyo3::prelude::*;

use super::state::{Next, Progress, PyCall};
use super::what::What;
use super::{ASKING, CANCELLED, CREATE, DONE, EXECUTE, PENDING};
use crate::aio::queue::Parked;
use crate::aio::step::blocks;
use crate::gil::{self, Kept};

impl PyCall {
    /// Continues. Returns what Python has to do.
    pub(super) fn advance(&self, py: Python<'_>) -> PyResult<i32> {
        loop {
            {
                let state = self.state.lock();
                match state.next.as_deref() {
                    Some(Next::Asking(_)) => return Ok(ASKING),
                    Some(Next::Sleeps(_)) => return Ok(PENDING),
                    _ => {}
                }
            }
            let action = match self.poll()? {
                Progress::Over => return Ok(DONE),
                Progress::Waits => return Ok(PENDING),
                Progress::Needs(action) => action,
            };
            match action {
                Action::Ask => {
                    self.enters(py)?;
                    return Ok(0);
                }
                Action::AskPart(part) => {
                    self.enters(py)?;
                    return Ok(i32::try_from(part).unwrap_or(i32::MAX));
                }
                Action::Sleep(Sleep::Poll(span)) if self.asks_aside(py)? => {
                    self.state.lock().next = Some(Box::new(Next::Sleeps(span)));
                    return Ok(PENDING);
                }
                Action::Sleep(Sleep::Poll(span)) => self.sleep(span)?,
                Action::Prove => self.feed(py, Fed::Proved(self.is_unchanged(py, 0)))?,
                Action::ProvePart(part) => self.feed(py, Fed::Proved(self.is_unchanged(py, part)))?,
                Action::Execute => {
                    if matches!(self.state.lock().what, What::Record) {
                        // The time is the only step of bide's own.
                        let now = self.body()?.now_value();
                        self.feed(py, Fed::Executed(Ok(now)))?;
                        continue;
                    }
                    self.enters(py)?;
                    return Ok(EXECUTE);
                }
                Action::StartChildren { which, event } => {
                    self.state.lock().next = Some(Box::new(Next::Creates(which, event)));
                    return Ok(CREATE);
                }
                Action::Done(result) => {
                    let is_cancelled =
                        matches!(&result, Err(CallError::Failed(failure)) if failure.kind == FailureKind::Cancelled);
                    self.state.lock().next = Some(Box::new(Next::Result(result)));
                    return Ok(if is_cancelled { CANCELLED } else { DONE });
                }
                action => unreachable!("{action:?} is carried out below"),
            }
        }
    }

    /// Continues in a step of the task that awaits it. Returns what Python has to do.
    pub(in crate::aio) fn continues(slf: &Bound<'_, Self>) -> PyResult<i32> {
        slf.get().is_back(slf.py())?;
        slf.get().advance(slf.py())
    }

    /// What a wait is to await that has come to `PENDING`: the call itself, if its body may leave its task. The driver of
    /// the body gets it.
    pub(in crate::aio) fn awaited<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        if slf.get().may_leave(slf.py())? { Ok(slf.clone().into_any()) } else { Self::future(slf) }
    }

    /// An `asyncio` future to await, which is completed once it is to be continued.
    pub(super) fn waits<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let bodies = slf.get().coroutine.get().queue.body_loop(py);
        let Some(bodies) = bodies else { return Err(super::super::coroutine::suspended(py)) };
        let future = gil::call0(&*gil::getattr(&bodies, pyo3::intern!(py, "future"))?)?.into_bound();
        Self::parks(slf, Some(Kept::new(future.clone().unbind())))?;
        Ok(future)
    }

    /// As [`PyCall::waits`], for a task to await at once.
    pub(in crate::aio) fn future<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let future = Self::waits(slf)?;
        blocks(&future)?;
        Ok(future)
    }

    /// It waits until it is to be continued, with what its task awaits, if its body has one.
    pub(in crate::aio) fn parks(slf: &Bound<'_, Self>, future: Option<Kept>) -> PyResult<()> {
        let (py, own) = (slf.py(), slf.get());
        let sleeps = own.state.lock().take_sleep();
        if let Some(span) = sleeps {
            return Self::rests(slf, span, future);
        }
        let is_looked_at = future.is_none() || own.asks_aside(py)?;
        let call = is_looked_at.then(|| Kept::new(slf.clone().into_any().unbind()));
        if let Some(own) = &own.state.lock().future {
            own.park(Parked { future, call });
        }
        Ok(())
    }
}
