//! Submitting runs: what Python gives as the engine takes it, in one commit.

use std::sync::Arc;

use bide_core::{RunOptions, Value};
use bide_executor::{Handle, Inputs, RunRequest, SubmitError};
use pyo3::prelude::*;

use crate::host::{Local, Originals, PyEngine, Python3, Vars};
use crate::process::SLICE;
use crate::refused::refused;
use crate::workflow::PyWorkflow;
use crate::{exit, gil};

/// The inputs of a run to submit, encoded, by name; and its key.
pub(crate) type RunInput = (Vec<(String, Vec<u8>)>, Option<String>);

/// How runs are submitted.
#[derive(Clone, Copy)]
pub(crate) struct How {
    /// To return only once the first of them has ended, or a little later, if the store takes its time.
    pub(crate) linger: bool,
    /// For the words of errors: which of them was refused.
    pub(crate) many: bool,
    /// The caller waits for them until their ends.
    pub(crate) awaited: bool,
}

/// The inputs and the key of a run as the engine takes them.
pub(crate) fn taken((inputs, key): RunInput) -> (Inputs, Option<Arc<str>>) {
    let inputs = inputs.into_iter().map(|(name, value)| (name.into(), Value::new(&value))).collect();
    (PyEngine::ordered(inputs), key.map(Into::into))
}

/// What the engine is asked for. The run's original exceptions are kept in `originals`.
pub(crate) fn request(
    (inputs, key): (Inputs, Option<Arc<str>>),
    options: RunOptions,
    vars: Option<Arc<Vars>>,
    originals: &Arc<Originals>,
) -> RunRequest<Python3> {
    let local = Local::new(vars, originals);
    RunRequest::new(inputs).with_key(key).with_options(options).with_local(local)
}

/// Creates runs in one commit, or attaches to those that their keys name. `contextvars` are those of each run, or one for
/// all. `handle` makes the handles of Python.
pub(crate) fn submit<T>(
    py: Python<'_>,
    engine: &Arc<PyEngine>,
    workflow: &PyWorkflow,
    (runs, options): (Vec<RunInput>, RunOptions),
    contextvars: Vec<Bound<'_, PyAny>>,
    how: How,
    handle: impl Fn(Handle<Python3>, Arc<Originals>) -> T,
) -> PyResult<Vec<T>> {
    let contextvars = contextvars.into_iter().map(|vars| Ok(Vars::new(vars)?.map(Arc::new)));
    let contextvars = contextvars.collect::<PyResult<Vec<_>>>()?;
    let of_run = |at: usize| contextvars.get(at).or(contextvars.first()).cloned().flatten();
    // Until the handles of Python have them.
    let originals: Vec<Arc<Originals>> = runs.iter().map(|_| Arc::default()).collect();
    let wanted =
        runs.into_iter().zip(&originals).enumerate().map(|(at, (run, originals))| {
            request(taken(run), options.clone(), of_run(at), originals).awaited(how.awaited)
        });
    let (graph, bodies) = workflow.shared(py);
    let submitted = gil::detached(py, || {
        let workflow = engine.register(graph, bodies).map_err(SubmitError::Store)?;
        let handles = engine.submit(&workflow, wanted)?;
        if let Some(first) = handles.first()
            && how.linger
            && engine.store().blocks()
        {
            let _ = gil::idling(|| first.settled().wait(SLICE));
        }
        Ok(handles)
    });
    match submitted {
        Ok(handles) => Ok(handles.into_iter().zip(originals).map(|(run, originals)| handle(run, originals)).collect()),
        Err(error) => {
            exit::keep_daemons(py)?;
            Err(refused(py, workflow.name(), &error, how.many))
        }
    }
}
