//! An open gate whose condition is a coroutine function, or whose time one computes: `bide/_loop.py` calls it.

use std::sync::Arc;
use std::time::Duration;

use bide_core::attempt::Polled;
use bide_core::{Failure, GateTime};
use bide_executor::{Coroutines, Gate, GateWatch};
use bide_sync::Mutex;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

use super::pending::PyPending;
use super::queue::{Executing, LoopQueue};
use crate::errors::{self, names};
use crate::gil::{self, Raised};
use crate::host::{PyEngine, Python3};
use crate::{panics, worker};

/// A gate to poll.
#[pyclass(frozen, module = "bide._core", name = "GateWatch")]
pub(crate) struct PyGateWatch {
    /// The gate, in the engine.
    watch: Arc<GateWatch<Python3>>,
    /// Where it is woken.
    queue: Arc<LoopQueue>,
    /// Whether it is to be polled, as it was last found out.
    may_poll: Arc<Mutex<bool>>,
    /// While its function executes.
    asking: Mutex<Option<Executing>>,
}

impl PyGateWatch {
    pub(super) fn new(
        queue: &Arc<LoopQueue>,
        engine: &Arc<PyEngine>,
        coroutines: &Arc<Coroutines<Python3>>,
        gate: Gate<Python3>,
    ) -> Self {
        let watch = Arc::new(GateWatch::new(engine, coroutines, gate));
        Self { watch, queue: Arc::clone(queue), may_poll: Arc::default(), asking: Mutex::default() }
    }

    fn judge(&self, py: Python<'_>, polled: Polled, covered: Option<bool>) -> Option<PyPending> {
        self.is_answered();
        let gate = self.watch.gate();
        let retries = |failure: &Failure| covered.unwrap_or_else(|| worker::gate_retries(py, gate, failure));
        let span = self.watch.judge(polled, retries)?;
        Some(PyPending::new(&self.queue, Arc::clone(&self.watch).sleep(span)))
    }

    fn is_answered(&self) {
        let asked = self.asking.lock().take();
        drop(asked);
    }

    /// Its function has computed this time.
    fn computed(&self, value: &Bound<'_, PyAny>) -> Option<PyPending> {
        let gate = self.watch.gate();
        let target = gate.run.workflow.bodies[gate.task.ix as usize].gate(gate.part);
        let time =
            target.map_or(Ok(GateTime::After(Duration::ZERO)), |target| worker::computed_time(value, target.purpose));
        match time {
            Err(raised) => return self.failed(value.py(), raised),
            Ok(time) => {
                self.is_answered();
                self.watch.timed(Ok(time), |_| false);
            }
        }
        None
    }

    /// It has raised an exception. If the task's retry policy cannot say whether it covers that, it is not asked again.
    fn failed(&self, py: Python<'_>, raised: Raised) -> Option<PyPending> {
        let gate = self.watch.gate();
        let covered = worker::covers(&gate.run.workflow.bodies[gate.task.ix as usize], py, raised.value(py));
        let failure = errors::describe_end(py, covered.as_ref().err().unwrap_or(&raised));
        if self.watch.is_computed() {
            self.is_answered();
            self.watch.timed(Err(failure), |_| covered.is_ok_and(|covered| covered));
            return None;
        }
        let tolerable = covered.is_ok() && raised.is::<PyException>(py);
        let polled = if tolerable { Polled::Raised(failure) } else { Polled::Broken(failure) };
        self.judge(py, polled, Some(covered.is_ok_and(|covered| covered)))
    }
}

#[pymethods]
impl PyGateWatch {
    /// The contextvars that its function is called in: a copy of the submitter's.
    fn contextvars<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| Ok(self.watch.gate().run.local.own_vars(names(py)?, py)?.into_bound()))
    }

    /// Finds out whether it is to be polled now: `None` if that is known.
    fn check(&self) -> PyResult<Option<PyPending>> {
        panics::method(|| {
            let (watch, answer) = (Arc::clone(&self.watch), Arc::clone(&self.may_poll));
            Ok(PyPending::of(&self.queue, async move {
                let may = watch.may_poll().await;
                *answer.lock() = may;
            }))
        })
    }

    /// Whether it is to be polled now, as `check` has found out.
    #[getter]
    fn may_poll(&self) -> bool {
        *self.may_poll.lock()
    }

    /// Calls its function; returns a coroutine.
    fn call<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| {
            *self.asking.lock() = Some(Executing::of(&self.queue));
            let gate = self.watch.gate();
            let body = &gate.run.workflow.bodies[gate.task.ix as usize];
            let Some(target) = body.gate(gate.part) else { return Ok(py.None().into_bound(py)) };
            let called = worker::with_gate_call(py, self.watch.engine(), gate, target, |call, function| {
                call.call_here(function, &target.binding)
            });
            Ok(called?.into_bound())
        })
    }

    /// The function has returned. What to wait for before it is called again; `None` if it is not.
    fn asked(&self, value: &Bound<'_, PyAny>) -> PyResult<Option<PyPending>> {
        panics::method(|| {
            let py = value.py();
            if self.watch.is_computed() {
                return Ok(self.computed(value));
            }
            let polled = match gil::is_truthy(value) {
                Err(raised) => return Ok(self.failed(py, raised)),
                Ok(false) => Polled::False,
                Ok(true) => match names(py)?.plain_codec.encode(value) {
                    Ok(value) => Polled::True(value),
                    Err(raised) => {
                        let name = self.watch.gate().spec().map(|spec| Arc::clone(&spec.name));
                        Polled::Broken(errors::unencodable(py, &raised, &name.unwrap_or_default()))
                    }
                },
            };
            Ok(self.judge(py, polled, None))
        })
    }

    /// The function has raised an exception. As `asked`.
    fn raised(&self, py: Python<'_>, exception: Bound<'_, PyAny>) -> PyResult<Option<PyPending>> {
        panics::method(|| Ok(self.failed(py, Raised::new(py, PyErr::from_value(exception)))))
    }
}
