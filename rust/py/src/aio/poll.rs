//! Asks waits between two polls, in a turn of the loop and outside of the task that waits. One that answers no at once
//! costs no step of the task; whatever else it does is left to its call.

use pyo3::prelude::*;

use super::call::{Asks, PyCall};
use super::rest::Resting;
use super::turn::PyLoopQueue;
use super::within::Within;
use crate::gil::Kept;

impl PyLoopQueue {
    /// Asks a wait that is due. Returns its future if its task is to continue.
    pub(super) fn ask_resting<'py>(&self, py: Python<'py>, asks: &Asks<'py>, ticket: u64) -> PyResult<Option<Kept>> {
        let Some(coroutines) = self.engine.dispatch().coroutines() else { return Ok(None) };
        let Some(call) = &self.resting(py, ticket) else { return Ok(None) };
        let Some(condition) = call.get().condition(py, 0)? else { return Ok(None) };
        let coroutine = call.get().parts().0.bind(py);
        let within = Within::of(coroutine, || asks.spare())?.filter(|_| coroutines.may_poll(ticket));
        let Some(within) = within else { return self.wake_resting(py, Some(asks), ticket) };
        call.get().enters(py)?;
        let asked = asks.ask_at_rest(call.get(), coroutine, &within, &condition);
        let given = asks.settles(&within, coroutine, &asked);
        let given = match given {
            Ok(given) => given,
            Err(error) => {
                call.get().leaves(py)?;
                return Err(error);
            }
        };
        // Most answer this.
        let is_no = |value: &Bound<'_, PyAny>| value.is_none() || value.is(&*pyo3::types::PyBool::new(py, false));
        if given.is_none() && asked.as_ref().is_ok_and(|value| is_no(value)) && coroutines.rests_on(ticket) {
            call.get().leaves(py)?;
            return Ok(None);
        }
        let Some(Resting { future, .. }) = self.leaves(call, ticket)? else {
            call.get().leaves(py)?;
            return Ok(None);
        };
        call.get().asked_at_rest()?;
        PyCall::answered_at_rest(call, asks, asked, given.or(future))
    }

    /// Continues a wait that was rung, or that may not be asked at rest. Returns its future if its task is to continue.
    pub(super) fn wake_resting<'py>(
        &self,
        py: Python<'py>,
        asks: Option<&Asks<'py>>,
        ticket: u64,
    ) -> PyResult<Option<Kept>> {
        let Some(call) = &self.resting(py, ticket) else { return Ok(None) };
        let Some(Resting { future, .. }) = self.leaves(call, ticket)? else { return Ok(None) };
        call.get().wake_from_rest()?;
        match asks {
            Some(asks) => PyCall::wakes(call, asks, future),
            None => PyCall::continues_with(call, future),
        }
    }

    /// The call that rests with this ticket.
    fn resting<'py>(&self, py: Python<'py>, ticket: u64) -> Option<Bound<'py, PyCall>> {
        let call = self.queue.resting.lock().get(ticket).map(|resting| resting.call.bind(py).clone())?;
        call.cast_into::<PyCall>().ok().filter(|call| call.get().rests_at(ticket))
    }

    fn leaves(&self, call: &Bound<'_, PyCall>, ticket: u64) -> PyResult<Option<Resting>> {
        let resting = self.queue.resting.lock().take(ticket);
        if resting.is_some() {
            call.get().leave_rest(ticket)?;
        }
        Ok(resting)
    }
}
