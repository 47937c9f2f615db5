//! Waits between two polls, as the loop keeps them: what is asked of each, in a turn of the loop and outside of the task
//! that waits. One that answers no at once costs no step of the task; whatever else it does is left to its call.

use bide_executor::place_of;
use pyo3::prelude::*;

use super::call::{Asks, PyCall};
use super::coroutine::PyCoroutine;
use super::turn::PyLoopQueue;
use crate::gil::Kept;

/// A wait that rests.
pub(super) struct Resting {
    /// The `PyCall`.
    pub(super) call: Kept,
    /// The `asyncio.Future` that is completed when its task is to continue.
    pub(super) future: Kept,
    /// Its condition, a coroutine function.
    pub(super) condition: Kept,
    /// Its body.
    pub(super) coroutine: Py<PyCoroutine>,
}

/// All of a loop, by the places in their tickets.
#[derive(Default)]
pub(super) struct AllResting(Vec<Option<(u32, Resting)>>);

impl AllResting {
    pub(super) fn keep(&mut self, ticket: u64, resting: Resting) -> Option<(u32, Resting)> {
        let place = place_of(ticket);
        if place >= self.0.len() {
            self.0.resize_with(place + 1, || None);
        }
        self.0[place].replace(((ticket >> 32) as u32, resting))
    }

    pub(super) fn take(&mut self, ticket: u64) -> Option<Resting> {
        let place = self.0.get_mut(place_of(ticket))?;
        place.take_if(|(generation, _)| u64::from(*generation) == ticket >> 32).map(|(_, resting)| resting)
    }

    fn get(&self, ticket: u64) -> Option<&Resting> {
        let (generation, resting) = self.0.get(place_of(ticket))?.as_ref()?;
        (u64::from(*generation) == ticket >> 32).then_some(resting)
    }
}

impl PyLoopQueue {
    /// Asks a wait that is due. Returns its future if its task is to continue.
    pub(super) fn ask_resting(&self, py: Python<'_>, asks: &Asks<'_>, ticket: u64) -> PyResult<Option<Kept>> {
        let Some(coroutines) = self.engine.dispatch().coroutines() else { return Ok(None) };
        let (call, condition, coroutine) = {
            let all = self.queue.resting.lock();
            let Some(Resting { call, condition, coroutine, .. }) = all.get(ticket) else { return Ok(None) };
            (call.bind(py).clone(), condition.bind(py).clone(), coroutine.bind(py).clone())
        };
        let within = coroutine.get().task_and_vars(py).filter(|_| coroutines.may_poll(ticket));
        let Some(within) = within else { return self.wake_resting(py, Some(asks), ticket) };
        let Ok(call) = call.cast::<PyCall>() else { return Ok(None) };
        let has_context = coroutine.get().has_context();
        if has_context {
            call.get().enters(py)?;
        }
        let asked = asks.ask_at_rest(call.get(), &coroutine, &within, &condition);
        if has_context {
            call.get().leaves(py)?;
        }
        // Most answer this.
        let is_no = |value: &Bound<'_, PyAny>| value.is_none() || value.is(&*pyo3::types::PyBool::new(py, false));
        if asked.as_ref().is_ok_and(|value| is_no(value)) && coroutines.rests_on(ticket) {
            return Ok(None);
        }
        let Some(Resting { future, .. }) = self.leaves(call, ticket)? else { return Ok(None) };
        call.get().asked_at_rest()?;
        PyCall::answered_at_rest(call, asks, asked, future)
    }

    /// Continues a wait that was rung, or that may not be asked at rest. Returns its future if its task is to continue.
    pub(super) fn wake_resting(&self, py: Python<'_>, asks: Option<&Asks<'_>>, ticket: u64) -> PyResult<Option<Kept>> {
        let call = self.queue.resting.lock().get(ticket).map(|resting| resting.call.bind(py).clone());
        let Some(Ok(call)) = call.as_ref().map(|call| call.cast::<PyCall>()) else { return Ok(None) };
        let Some(Resting { future, .. }) = self.leaves(call, ticket)? else { return Ok(None) };
        call.get().wake_from_rest()?;
        match asks {
            Some(asks) => PyCall::wakes(call, asks, future),
            None => Ok(Some(future)),
        }
    }

    fn leaves(&self, call: &Bound<'_, PyCall>, ticket: u64) -> PyResult<Option<Resting>> {
        let resting = self.queue.resting.lock().take(ticket);
        if resting.is_some() {
            call.get().leave_rest(ticket)?;
        }
        Ok(resting)
    }
}
