//! The course of a call: what the engine asks for is done here, or by Python.

use bide_core::FailureKind;
use bide_core::attempt::{Action, Fed, Sleep};
use bide_executor::CallError;
use pyo3::prelude::*;

use super::state::{Next, Progress, PyCall, What};
use super::{ASKING, CANCELLED, CREATE, DONE, EXECUTE, PENDING};
use crate::aio::queue::Parked;
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

    /// An `asyncio` future to await, which is completed once it is to be continued.
    pub(super) fn waits<'py>(&self, slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let future = {
            let bodies = self.coroutine.get().queue.bodies.lock();
            bodies.as_ref().map(|bodies| bodies.bind(py).clone())
        };
        let Some(bodies) = future else { return Err(super::super::coroutine::suspended(py)) };
        let future = gil::call0(&*gil::getattr(&bodies, pyo3::intern!(py, "future"))?)?.into_bound();
        let sleeps = self.state.lock().take_sleep();
        if let Some(span) = sleeps {
            Self::rests(slf, span, Kept::new(future.clone().unbind()))?;
            return Ok(future);
        }
        let call = self.asks_aside(py)?.then(|| Kept::new(slf.clone().into_any().unbind()));
        if let Some(own) = &self.state.lock().future {
            own.park(Parked { future: Kept::new(future.clone().unbind()), call });
        }
        Ok(future)
    }
}
