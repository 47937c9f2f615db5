//! Callbacks that a body makes, their tokens, and its answers to requests.

use bide_core::{CallbackToken, Failure, FailureKind, RunId, Value};
use bide_executor::{Attached, BodyCx};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::host::Python3;
use crate::{errors, gil};

/// Makes a callback, or finds the recorded one: a `bide.Callback`.
pub(crate) fn new<'py>(
    body: &BodyCx<Python3>,
    at: &mut dyn Attached,
    name: &Bound<'py, PyAny>,
    kind: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = name.py();
    let new = py.import("bide._callbacks")?.getattr("new")?;
    let run = PyString::new(py, &body.run().id.to_string()).into_any();
    let new = match kind {
        None => gil::call_args(&new, &[&run, name])?,
        Some(kind) => gil::call_args(&new, &[&run, name, kind])?,
    };
    let (name, made): (String, Bound<'py, PyAny>) = new.extract()?;
    let token = body.make_callback(at, &name.into());
    let token = token.map_err(|error| errors::wait(py, &error, &body.task_name()))?;
    let secret = PyString::new(py, &token.address().name);
    Ok(gil::call1(&made, secret.as_any())?.into_bound())
}

/// The token of a callback of a run with a secret.
#[pyfunction]
#[pyo3(name = "_callback_token")]
pub(crate) fn token(py: Python<'_>, run: &str, secret: &str) -> PyResult<String> {
    let read = run.parse().ok().and_then(|run: RunId| {
        let recorded = Value::tagged(b's', secret.as_bytes());
        CallbackToken::from_value(run, &recorded)
    });
    read.map(|token| token.to_string()).ok_or_else(|| errors::definition(py, "the secret of a callback is damaged"))
}

/// The run and the secret of a token; `None` if bide has not made it.
#[pyfunction]
#[pyo3(name = "_read_callback_token")]
pub(crate) fn read_token(token: &str) -> Option<(String, String)> {
    let token: CallbackToken = token.parse().ok()?;
    Some((token.run.to_string(), token.address().name.to_string()))
}

/// Answers a request, given by its name and number; without an answer it is refused for a reason.
pub(crate) fn reply(
    py: Python<'_>,
    body: &BodyCx<Python3>,
    at: &mut dyn Attached,
    (name, number): (&str, i64),
    answer: Option<&[u8]>,
    reason: &str,
) -> PyResult<()> {
    let answer = answer.map(Value::new).ok_or_else(|| refused(reason));
    body.reply(at, name, number, answer).map_err(|error| errors::wait(py, &error, &body.task_name()))
}

/// How a body refuses a request.
pub(crate) fn refused(reason: &str) -> Failure {
    Failure::new(FailureKind::RequestRefused, "bide.RequestRefused", reason)
}
