//! An open gate whose condition is a coroutine function: `bide/_loop.py` asks it.

use std::sync::Arc;

use bide_core::Failure;
use bide_core::attempt::Polled;
use bide_executor::failpoint::{self, Failpoint};
use bide_executor::{Args, Coroutines, Gate, GateWatch};
use bide_sync::Mutex;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

use super::pending::PyPending;
use super::queue::{Executing, LoopQueue};
use crate::call::Arguments;
use crate::context::{context_of, read_only};
use crate::errors::{self, names};
use crate::gil::{self, Raised};
use crate::host::{PyEngine, Python3};
use crate::{panics, test_hooks, worker};

/// A gate to poll.
#[pyclass(frozen, module = "bide._core", name = "GateWatch")]
pub(crate) struct PyGateWatch {
    /// The gate, in the engine.
    watch: Arc<GateWatch<Python3>>,
    /// Where it is woken.
    queue: Arc<LoopQueue>,
    /// Whether it is to be polled, as it was last found out.
    may_poll: Arc<Mutex<bool>>,
    /// While its condition executes.
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
        let asked = self.asking.lock().take();
        drop(asked);
        let gate = self.watch.gate();
        let retries = |failure: &Failure| covered.unwrap_or_else(|| worker::gate_retries(py, gate, failure));
        let span = self.watch.judge(polled, retries)?;
        Some(PyPending::new(&self.queue, Arc::clone(&self.watch).sleep(span)))
    }

    /// It has raised an exception. If the task's retry policy cannot say whether it covers that, it is not asked again.
    fn failed(&self, py: Python<'_>, raised: Raised) -> Option<PyPending> {
        let gate = self.watch.gate();
        let covered = worker::covers(&gate.run.workflow.bodies[gate.task.ix as usize], py, raised.value(py));
        let failure = errors::describe_end(py, covered.as_ref().err().unwrap_or(&raised));
        let tolerable = covered.is_ok() && raised.is::<PyException>(py);
        let polled = if tolerable { Polled::Raised(failure) } else { Polled::Broken(failure) };
        self.judge(py, polled, Some(covered.is_ok_and(|covered| covered)))
    }
}

#[pymethods]
impl PyGateWatch {
    /// The contextvars that the condition is asked in: a copy of the submitter's.
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

    /// Calls the condition; returns its coroutine.
    fn call<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| {
            failpoint::hit(Failpoint::Gate);
            *self.asking.lock() = Some(self.queue.executes());
            let gate = self.watch.gate();
            let body = &gate.run.workflow.bodies[gate.task.ix as usize];
            let Some(target) = body.gate(gate.part) else { return Ok(py.None().into_bound(py)) };
            let args = if body.sources.is_empty() {
                Args::new()
            } else {
                gate.run.args(gate.task, &body.sources, &gate.run.state.lock())
            };
            let context = if target.binding.wants_context {
                let context = context_of(py, self.watch.engine(), &gate.run, gate.task)?;
                read_only(py, &context, true)?;
                Some(context)
            } else {
                None
            };
            let (run, task) = (&gate.run, gate.task);
            let arguments = Arguments { py, run, task, args: &args, context: context.as_ref(), handle: None };
            let (function, name) = (target.function.bind(py), gate.spec().map(|spec| &*spec.name).unwrap_or_default());
            let stub = test_hooks::condition(self.watch.engine(), run.id, name, function)?;
            Ok(arguments.call_here(stub.as_ref().unwrap_or(function), &target.binding)?.into_bound())
        })
    }

    /// It has returned. What to wait for before it is asked again, if it is, and whether it is.
    fn asked(&self, value: &Bound<'_, PyAny>) -> PyResult<Option<PyPending>> {
        panics::method(|| {
            let py = value.py();
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

    /// It has raised an exception. As `asked`.
    fn raised(&self, py: Python<'_>, exception: Bound<'_, PyAny>) -> PyResult<Option<PyPending>> {
        panics::method(|| Ok(self.failed(py, Raised::new(py, PyErr::from_value(exception)))))
    }
}
