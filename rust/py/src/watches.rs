//! Watches, as Python asks for them: see `bide._watches`.

use std::sync::Arc;
use std::time::Duration;

use bide_core::{Time, Value, pack};
use bide_executor::{SourceAnswer, SourceId, WatchError, WatchRequest, WatchSource, WatchView};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::gil::{self, Kept, Raised};
use crate::host::PyEngine;
use crate::moment::datetime;
use crate::worker::start_poller;
use crate::workflow::PyWorkflow;
use crate::{errors, panics};

/// `bide._watches.Asked`: what a caller says about a watch.
#[derive(FromPyObject)]
pub(crate) struct PyWatch {
    name: String,
    /// Microseconds from one call of the source to the next.
    every: u64,
    /// What messages call the source.
    shown: String,
    /// Called with the encoded cursor, and what `source_is_ready` is called with if it answers later; see [`PyAnswer`].
    source: Py<PyAny>,
}

/// What a source of Python returns, unless it answers later.
#[derive(FromPyObject)]
enum PyAnswer {
    /// The items, each with its key and its encoded inputs, and the next encoded cursor.
    Items(Vec<PyItem>, Vec<u8>),
    /// How it has failed.
    Failed(String),
}

/// An item: its key, and the encoded inputs of its run.
type PyItem = (String, Vec<(String, Vec<u8>)>);

/// Calls a source of Python, on a thread that polls.
fn source(function: Py<PyAny>) -> WatchSource {
    let function = Kept::new(function);
    Box::new(move |id, cursor| {
        let called = panics::no_panic(|| gil::attach(|py| call(py, &function, id, cursor)));
        match called {
            Ok(answer) => answer.unwrap_or(SourceAnswer::Later),
            Err(panicked) => SourceAnswer::Failed(panicked.to_string().into()),
        }
    })
}

fn call(py: Python<'_>, function: &Kept, id: SourceId, cursor: &Value) -> SourceAnswer {
    let cursor = PyBytes::new(py, cursor.as_bytes());
    let Ok(number) = id.0.into_pyobject(py);
    let returned = gil::call_args(function.bind(py), &[cursor.as_any(), number.as_any()]);
    let answer = returned.and_then(|value| value.extract::<Option<PyAnswer>>().map_err(|error| Raised::new(py, error)));
    match answer {
        Ok(None) => SourceAnswer::Later,
        Ok(Some(PyAnswer::Failed(why))) => SourceAnswer::Failed(why.into()),
        Ok(Some(PyAnswer::Items(items, cursor))) => {
            let item = |(key, inputs): PyItem| {
                let inputs = inputs.into_iter().map(|(name, value)| (name.into(), Value::new(&value)));
                let inputs = PyEngine::ordered(inputs.collect());
                (key.into(), pack::pack(inputs.iter().map(|(name, value)| (&**name, Some(value)))).into())
            };
            SourceAnswer::Items(items.into_iter().map(item).collect(), Value::new(&cursor))
        }
        Err(raised) => SourceAnswer::Failed(errors::describe_end(py, &raised).to_string().into()),
    }
}

/// An error, as what Python raises: `KeyError` without arguments if there is no such watch.
fn raised(py: Python<'_>, error: WatchError, name: &str) -> PyErr {
    match error {
        WatchError::NoWatch => pyo3::exceptions::PyKeyError::new_err(name.to_owned()),
        WatchError::OtherWorkflow(workflow) => errors::definition(
            py,
            &format!(
                "the watch '{name}' starts runs of workflow '{workflow}': give this one another name, or remove that one, \
                 runner.unwatch('{name}')"
            ),
        ),
        WatchError::Store(error) => errors::store(py, &error),
    }
}

/// A watch as a dict: the fields of `bide.Watch`.
fn shown<'py>(py: Python<'py>, view: &WatchView) -> PyResult<Bound<'py, PyDict>> {
    let (watch, dict) = (&view.watch, PyDict::new(py));
    let moment = |time: Option<Time>| time.map(|time| datetime(py, time)).transpose();
    dict.set_item("name", &*watch.name)?;
    dict.set_item("workflow", &*watch.workflow)?;
    dict.set_item("every", watch.every)?;
    dict.set_item("cursor", PyBytes::new(py, watch.cursor.as_bytes()))?;
    dict.set_item("created_at", moment(Some(watch.created_at))?)?;
    dict.set_item("paused_at", moment(watch.paused_at)?)?;
    dict.set_item("served", view.is_served)?;
    dict.set_item("next", moment(view.next)?)?;
    dict.set_item("calling", moment(view.calling)?)?;
    dict.set_item("started", watch.started)?;
    dict.set_item("last", moment(watch.last.map(|(at, _)| at))?)?;
    dict.set_item("last_run", watch.last.map(|(_, run)| run.to_string()))?;
    dict.set_item("error", watch.error.as_ref().map(|(_, error)| &**error))?;
    dict.set_item("failing_since", moment(watch.error.as_ref().map(|(since, _)| *since))?)?;
    Ok(dict)
}

/// Defines a watch, or changes it, and has its source called here.
pub(crate) fn define<'py>(
    py: Python<'py>,
    engine: &Arc<PyEngine>,
    workflow: &PyWorkflow,
    asked: PyWatch,
) -> PyResult<Bound<'py, PyDict>> {
    let PyWatch { name, every, shown: text, source: function } = asked;
    start_poller(py, engine)?;
    let (graph, bodies) = workflow.shared(py);
    let request = WatchRequest {
        name: name.as_str().into(),
        every: Duration::from_micros(every),
        shown: text.into(),
        source: source(function),
    };
    let made = gil::detached(py, || engine.define_watch(&engine.register(graph, bodies)?, request));
    shown(py, &made.map_err(|error| raised(py, error, &name))?)
}

/// All watches.
pub(crate) fn list<'py>(py: Python<'py>, engine: &PyEngine) -> PyResult<Vec<Bound<'py, PyDict>>> {
    let found = gil::detached(py, || engine.watches()).map_err(|error| errors::store(py, &error))?;
    found.iter().map(|view| shown(py, view)).collect()
}

/// Pauses, resumes or removes a watch.
pub(crate) fn alter(py: Python<'_>, engine: &PyEngine, name: &str, what: &str) -> PyResult<()> {
    let done = gil::detached(py, || match what {
        "pause" => engine.pause_watch(name),
        "resume" => engine.resume_watch(name),
        _ => engine.unwatch(name),
    });
    done.map_err(|error| raised(py, error, name))
}
