//! Where a condition is asked outside of a step of its body's task. For a body without a task that is the spare one, which
//! becomes the body's own if the condition awaits something, or leaves something there.

use pyo3::prelude::*;

use super::coroutine::PyCoroutine;
use super::driven::{Driven, Uses, is_to_end};
use super::queue::LoopQueue;
use crate::gil::{self, Kept};

/// The spare task, for one turn.
#[derive(Clone)]
pub(super) struct SpareHere<'py> {
    task: Bound<'py, PyAny>,
    vars: Bound<'py, PyAny>,
    uses: Uses,
}

impl<'py> SpareHere<'py> {
    /// `None`: it is not there yet.
    pub(super) fn of(queue: &LoopQueue, py: Python<'py>) -> PyResult<Option<Self>> {
        let found = {
            let spare = queue.spare.lock();
            let spare = spare.as_ref().filter(|spare| spare.is_there);
            spare.map(|spare| (spare.task.bind(py).clone(), spare.vars.bind(py).clone()))
        };
        let Some((task, vars)) = found else { return Ok(None) };
        if is_to_end(&task)? {
            return Ok(None);
        }
        let uses = Uses::of(&task, 0)?;
        Ok(Some(Self { task, vars, uses }))
    }
}

/// Where a condition is asked.
pub(super) struct Within<'py> {
    pub(super) task: Bound<'py, PyAny>,
    pub(super) vars: Bound<'py, PyAny>,
    /// The contextvars are the body's.
    pub(super) has_own_vars: bool,
    /// It is the spare task, with its uses before.
    spare: Option<Uses>,
}

impl<'py> Within<'py> {
    /// Where a condition of this body can be asked now, if anywhere.
    pub(super) fn of(
        coroutine: &Bound<'py, PyCoroutine>,
        spare: impl FnOnce() -> PyResult<Option<SpareHere<'py>>>,
    ) -> PyResult<Option<Self>> {
        let py = coroutine.py();
        let (task, own_vars) = coroutine.get().with_driven(|driven| match driven {
            Driven::First => (None, None),
            Driven::ByTask { task, vars } => (Some(task.bind(py).clone()), Some(vars.bind(py).clone())),
            Driven::Detached { vars, .. } => (None, vars.as_ref().map(|vars| vars.bind(py).clone())),
        });
        if let (Some(task), Some(vars)) = (task, &own_vars) {
            return Ok(Some(Self { task, vars: vars.clone(), has_own_vars: true, spare: None }));
        }
        if !coroutine.get().is_detached() {
            return Ok(None);
        }
        let Some(SpareHere { task, vars, uses }) = spare()? else { return Ok(None) };
        let has_own_vars = own_vars.is_some();
        Ok(Some(Self { task, vars: own_vars.unwrap_or(vars), has_own_vars, spare: Some(uses) }))
    }

    /// After a condition was asked, which continues if it has not answered: whether the spare task has to become the body's
    /// own.
    pub(super) fn is_used(&self, goes_on: bool) -> PyResult<bool> {
        let Some(before) = self.spare else { return Ok(false) };
        let has_left = !self.has_own_vars && self.vars.len()? > 0;
        Ok(goes_on || has_left || before.have_grown(&self.task, 1)?)
    }
}

impl LoopQueue {
    /// The spare task becomes a body's own. Returns what it awaits.
    pub(super) fn give_spare(&self, body: &Bound<'_, PyCoroutine>) -> PyResult<Option<Kept>> {
        let py = body.py();
        if !body.get().is_detached() {
            return Ok(None);
        }
        let spare = self.spare.lock().take();
        let Some(spare) = spare else { return Ok(None) };
        let (task, vars) = (spare.task.bind(py), spare.vars.bind(py));
        let takes = gil::getattr(spare.driver.bind(py), pyo3::intern!(py, "takes"));
        match takes.and_then(|takes| gil::call_args(&takes, &[body.as_any(), task, vars])) {
            Ok(future) => Ok((!future.is_none()).then(|| Kept::new(future.into_bound().unbind()))),
            Err(raised) => {
                let before = self.spare.lock().replace(spare);
                drop(before);
                Err(raised.into_err(py))
            }
        }
    }

    /// Conditions of bodies without a task are to be asked.
    pub(super) fn needs_spare(&self, py: Python<'_>) -> PyResult<()> {
        let has_one = self.spare.lock().is_some();
        if !has_one && let Some(bodies) = self.body_loop(py) {
            gil::call0(&*gil::getattr(&bodies, pyo3::intern!(py, "needs_spare"))?)?;
        }
        Ok(())
    }
}
