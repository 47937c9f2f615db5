//! Forks and adoptions of runs, as Python asks for them: see `bide._repair`.

use bide_core::{Fork, Value};
use bide_executor::{ForkRequest, Handle, NotAdopted, SubmitError};
use pyo3::prelude::*;

use crate::host::{Local, PyEngine, Python3, Vars};
use crate::messages::run_id;
use crate::refused::refused;
use crate::worker::start_gates;
use crate::workflow::PyWorkflow;
use crate::{errors, gil};

/// Encoded values by name.
type Values = Vec<(String, Vec<u8>)>;

/// `bide._repair.Forking`: the run, the tasks at which the new one starts, the outputs that it has instead of recorded
/// ones, its inputs if they are others, which of these are read by which task, who asks, and why.
#[derive(FromPyObject)]
pub(crate) struct PyFork {
    run: String,
    start_at: Vec<String>,
    edit: Values,
    inputs: Option<Values>,
    changed: Vec<(String, String)>,
    by: Option<String>,
    reason: Option<String>,
}

/// Forks a run.
pub(crate) fn fork(
    py: Python<'_>,
    engine: &std::sync::Arc<PyEngine>,
    workflow: &PyWorkflow,
    asked: PyFork,
    contextvars: Bound<'_, PyAny>,
) -> PyResult<Handle<Python3>> {
    let PyFork { run, start_at, edit, inputs, changed, by, reason } = asked;
    let from = run_id(py, &run)?;
    start_gates(py, engine, workflow)?;
    let vars = Vars::new(contextvars)?.map(std::sync::Arc::new);
    let value = |(name, value): (String, Vec<u8>)| (name.into(), Value::new(&value));
    let request = ForkRequest {
        from,
        fork: Fork {
            start_at: start_at.into_iter().map(Into::into).collect(),
            edit: edit.into_iter().map(value).collect(),
            changed: changed.into_iter().map(|(input, task)| (input.into(), task.into())).collect(),
        },
        inputs: inputs.map(|inputs| PyEngine::ordered(inputs.into_iter().map(value).collect())),
        by: by.map(Into::into),
        reason: reason.map(Into::into),
        local: Local::of_child(vars),
    };
    let (graph, bodies) = workflow.shared(py);
    let forked = gil::detached(py, || {
        let workflow = engine.register(graph, bodies).map_err(SubmitError::Store)?;
        engine.fork(&workflow, request)
    });
    forked.map_err(|error| refused(py, workflow.name(), &error, false))
}

/// Has a run continue with a workflow. Says why not, if not, and the names of the tasks that this is about.
pub(crate) fn adopt(
    py: Python<'_>,
    engine: &std::sync::Arc<PyEngine>,
    workflow: &PyWorkflow,
    run: &str,
    by: Option<String>,
    reason: Option<String>,
) -> PyResult<(&'static str, Vec<String>)> {
    let run = run_id(py, run)?;
    start_gates(py, engine, workflow)?;
    let (graph, bodies) = workflow.shared(py);
    let adopted = gil::detached(py, || {
        let workflow = engine.register(graph, bodies)?;
        engine.adopt(run, &workflow, by.map(Into::into), reason.map(Into::into))
    });
    Ok(match adopted.map_err(|error| errors::store(py, &error))? {
        Ok(()) => ("adopted", Vec::new()),
        Err(NotAdopted::NoRun) => ("no run", Vec::new()),
        Err(NotAdopted::Completed) => ("completed", Vec::new()),
        Err(NotAdopted::Executed) => ("executed", Vec::new()),
        Err(NotAdopted::KeyTaken) => ("key taken", Vec::new()),
        Err(NotAdopted::Unfinished(tasks)) => ("unfinished", tasks.iter().map(ToString::to_string).collect()),
    })
}
