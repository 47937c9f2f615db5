//! Steps and checkpoints of a body, as Python asks for them: read, executed, recorded. Which record belongs to a step
//! and when it is tried again is decided below (`bide_core::attempt`).

use std::sync::Arc;

use bide_core::event::Retry;
use bide_core::{Failure, FailureKind, RetryPolicy, Value};
use bide_executor::{CallError, StepEnd, StepRequest, StepStart};
use pyo3::exceptions::{PyBaseException, PyException};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use crate::body::PyRetry;
use crate::errors::{self, names};
use crate::gil::{self, Owned, Raised};
use crate::handle::PyTaskHandle;
use crate::in_step::InStep;
use crate::test_hooks;
use crate::value::Codec;
use crate::workflow::read_retry;

/// What `handle.step` takes beside the function and its arguments; `None` where nothing is said.
#[derive(Clone, Copy)]
pub(crate) struct Options<'a, 'py> {
    /// `name=`.
    pub(crate) name: Option<&'a Bound<'py, PyAny>>,
    /// `key=`.
    pub(crate) key: Option<&'a Bound<'py, PyAny>>,
    /// `retry=`.
    pub(crate) retry: Option<&'a Bound<'py, PyAny>>,
    /// `once=`.
    pub(crate) once: Option<&'a Bound<'py, PyAny>>,
}

/// A step that a body asks for.
pub(crate) struct Step<'a, 'py> {
    /// What is called.
    function: &'a Bound<'py, PyAny>,
    /// With these arguments.
    arguments: &'a Bound<'py, PyTuple>,
    /// And with these by keyword.
    keywords: Option<&'a Bound<'py, PyDict>>,
    /// Its name in the journal.
    name: String,
    /// How it is found and executed.
    request: StepRequest,
    /// Which exceptions have it tried again.
    retry: Option<PyRetry>,
    /// How its result is stored.
    codec: Codec,
}

/// `bide._steps.describe_step_with`: name, proof, codec, key and whether it is executed at most once.
pub(crate) type Described = (String, Option<Vec<u8>>, Codec, Option<String>, bool);

impl<'a, 'py> Step<'a, 'py> {
    /// Reads the arguments of `handle.step`, and checks them.
    pub(crate) fn read(
        function: &'a Bound<'py, PyAny>,
        arguments: &'a Bound<'py, PyTuple>,
        keywords: Option<&'a Bound<'py, PyDict>>,
        options: Options<'_, 'py>,
    ) -> PyResult<Self> {
        let py = function.py();
        let all = keywords.map_or_else(|| PyDict::new(py), Bound::clone);
        let none = py.None().into_bound(py);
        let of = |option: Option<&Bound<'py, PyAny>>| option.cloned().unwrap_or_else(|| none.clone());
        let Options { name, key, retry, once } = options;
        let names = names(py)?;
        let (name, retry_of) = (of(name), of(retry));
        let (name, proof, codec, key, once) = if key.is_none() && retry.is_none() && once.is_none() {
            let described = [function, arguments.as_any(), all.as_any(), &name];
            let described = gil::call_args(names.describe_step.bind(py), &described)?;
            let (name, proof, codec): (String, Vec<u8>, Codec) = described.extract()?;
            (name, Some(proof), codec, None, false)
        } else {
            let described = [function, arguments.as_any(), all.as_any(), &name, &of(key), &retry_of, &of(once)];
            let described = gil::call_args(names.describe_step_with.bind(py), &described)?;
            described.extract::<Described>()?
        };
        let mut policy = RetryPolicy::NONE;
        let retry = (!retry_of.is_none()).then(|| read_retry(&retry_of, &mut policy, false)).transpose()?;
        let (proof, key) = (proof.map(Into::into), key.map(Into::into));
        let retried = retry.as_ref().map(|_| policy);
        let request = StepRequest { proof, key, once, retry: retried, advice: None };
        Ok(Self { function, arguments, keywords, name, request, retry, codec })
    }
}

impl PyTaskHandle {
    /// What is recorded of a step; else it is called, as often as its policy says.
    pub(crate) fn record_step<'py>(&self, step: &Step<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        let py = step.function.py();
        let here = &mut self.here(py);
        let mut older = || step.first_proof();
        let start = self.body().begin_step(here, &step.name.as_str().into(), step.request.clone(), &mut older);
        let mut start = start.map_err(|error| self.error(py, &error))?;
        loop {
            let call = match start {
                StepStart::Returned(value) => return Ok(step.codec.decode(py, &value)?.into_bound()),
                StepStart::Execute(call) => call,
            };
            let raised = match self.execute_step(step) {
                Ok(value) => {
                    let ended = self.body().end_step(here, call, StepEnd::Executed(Ok(value)));
                    start = ended.map_err(|error| self.error(py, &error))?;
                    continue;
                }
                Err(raised) => raised,
            };
            if !raised.is::<PyException>(py) {
                self.body().abandon_step(call);
                return Err(raised.into_err(py));
            }
            if raised.is_a(names(py)?.unrecorded.bind(py)) {
                let ended = self.body().end_step(here, call, StepEnd::Unrecorded);
                ended.map_err(|error| self.error(py, &error))?;
                return unrecorded(py, raised);
            }
            let (raised, covered) = step.covers(py, raised);
            let failure = errors::describe(py, &raised);
            let end = if covered {
                StepEnd::Raised(failure, Retry { random: self.body().engine().random() })
            } else {
                StepEnd::Executed(Err(failure))
            };
            start = match self.body().end_step(here, call, end) {
                Ok(again @ StepStart::Execute(_)) => again,
                // The run was cancelled before its next try.
                Err(error @ CallError::Failed(Failure { kind: FailureKind::Cancelled, .. })) => {
                    return Err(self.error(py, &error));
                }
                // The exception itself, with its traceback.
                Ok(StepStart::Returned(_)) | Err(CallError::Failed(_)) => return Err(raised.into_err(py)),
                Err(error) => return Err(self.error(py, &error)),
            };
        }
    }

    fn execute_step(&self, step: &Step<'_, '_>) -> Result<Value, Raised> {
        let value = self.call_step(&step.name, step.function, step.arguments, step.keywords)?;
        step.codec.encode(&value)
    }

    /// Calls the function of a step, or what a test has in its place.
    pub(crate) fn call_step<'py>(
        &self,
        name: &str,
        function: &Bound<'py, PyAny>,
        arguments: &Bound<'py, PyTuple>,
        keywords: Option<&Bound<'py, PyDict>>,
    ) -> Result<Owned<'py>, Raised> {
        let _in_step = InStep::enter();
        let py = function.py();
        let (engine, run) = (self.body().engine(), self.body().run().id);
        let stub = test_hooks::step(engine, run, name, function).map_err(|error| Raised::new(py, error))?;
        let function = stub.as_ref().unwrap_or(function);
        self.with_context_read_only(py, || gil::call(function, arguments, keywords))
    }

    /// Records a state in the place of the journal.
    pub(crate) fn record_checkpoint(&self, state: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = state.py();
        let codec: Codec = self.checkpoint_codec(state.get_type().as_any())?;
        let state = codec.encode(state)?;
        self.body().checkpoint(&mut self.here(py), state).map_err(|error| self.error(py, &error))
    }

    /// The state of the last checkpoint.
    pub(crate) fn read_checkpoint<'py>(&self, class: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let codec = self.checkpoint_codec(class)?;
        let Some(state) = self.body().last_checkpoint() else { return Ok(None) };
        Ok(Some(codec.decode(class.py(), &state)?.into_bound()))
    }

    fn checkpoint_codec(&self, class: &Bound<'_, PyAny>) -> PyResult<Codec> {
        let py = class.py();
        let make = py.import("bide._steps")?.getattr("checkpoint_codec")?;
        gil::call_args(&make, &[class, PyString::new(py, &self.task()).as_any()])?.extract()
    }
}

impl Step<'_, '_> {
    /// Whether its policy has it tried again after an exception. If the policy itself raises, that is what the step has
    /// raised.
    fn covers(&self, py: Python<'_>, raised: Raised) -> (Raised, bool) {
        match self.retry.as_ref().map(|retry| retry.covers(py, raised.value(py))) {
            None => (raised, false),
            Some(Ok(covered)) => (raised, covered),
            Some(Err(broken)) => (broken, false),
        }
    }

    /// The proof of its arguments as the first version of bide computed it. `None`: it would have refused them.
    #[cold]
    fn first_proof(&self) -> Option<Arc<[u8]>> {
        let py = self.function.py();
        let digest = py.import("bide._digest_v1").and_then(|module| module.getattr("digest_of_arguments")).ok()?;
        let keywords = self.keywords.map_or_else(|| PyDict::new(py), Bound::clone);
        let proof = gil::call_args(&digest, &[self.arguments.as_any(), keywords.as_any()]).ok()?;
        proof.extract::<Option<Vec<u8>>>().ok()?.map(Into::into)
    }
}

/// What `handle.step` does after `bide.Unrecorded`: raises its exception, or returns its value.
#[cold]
fn unrecorded(py: Python<'_>, raised: Raised) -> PyResult<Bound<'_, PyAny>> {
    let outcome = raised.value(py).getattr(pyo3::intern!(py, "outcome"))?;
    if outcome.is_instance_of::<PyBaseException>() {
        return Err(PyErr::from_value(outcome));
    }
    Ok(outcome)
}
