//! A step of a coroutine, and its end.

use pyo3::exceptions::{PyBaseException, PyStopIteration};
use pyo3::prelude::*;

use super::coroutine::PyCoroutine;
use super::imports::coroutine_type;
use super::pending::PyPending;
use crate::errors::names;
use crate::gil::{self, Owned, Raised, Sent};
use crate::panics;

/// A body has come to its end. What to wait for, if anything.
pub(super) fn ended<'py>(
    py: Python<'py>,
    body: &PyCoroutine,
    sent: Result<Result<Sent<'py>, Raised>, panics::Panicked>,
) -> PyResult<Option<PyPending>> {
    panics::method(|| {
        Ok(match sent {
            Ok(Ok(Sent::Returned(value) | Sent::Awaits(value))) => body.ends_with(&value),
            Ok(Err(raised)) => body.ends_by(py, raised),
            Err(panicked) => body.ends_by(py, Raised::new(py, panicked.into())),
        })
    })
}

/// A future of `asyncio`'s is awaited, as its own iterator says it before a task gets it.
pub(super) fn blocks(future: &Bound<'_, PyAny>) -> Result<(), Raised> {
    let py = future.py();
    gil::setattr(future, pyo3::intern!(py, "_asyncio_future_blocking"), pyo3::types::PyBool::new(py, true).as_any())
}

/// The exception that `throw` was called with: itself, or its class with a value.
pub(super) fn thrown<'py>(
    exception: Bound<'py, PyAny>,
    value: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = exception.py();
    let made = match value {
        Some(value) if value.is_instance_of::<PyBaseException>() => value,
        Some(value) => gil::call1(&exception, &value)?.into_bound(),
        None => exception,
    };
    Ok(PyErr::from_value(made).into_value(py).into_bound(py).into_any())
}

/// Has a coroutine make its next step, or throws an exception into it; within contextvars, if any are given.
pub(super) fn resume<'py>(
    py: Python<'py>,
    coroutine: &Bound<'py, PyAny>,
    vars: Option<&Bound<'py, PyAny>>,
    thrown: Option<&Bound<'py, PyAny>>,
) -> Result<Sent<'py>, Raised> {
    let made = match (vars, thrown) {
        (None, None) => return gil::send(coroutine),
        (None, Some(error)) => gil::call_method1(coroutine, pyo3::intern!(py, "throw"), error),
        (Some(vars), thrown) => {
            let names = names(py).map_err(|error| Raised::new(py, error))?;
            let name = if thrown.is_some() { pyo3::intern!(py, "throw") } else { pyo3::intern!(py, "send") };
            let method = gil::getattr(coroutine, name)?;
            let none = py.None().into_bound(py);
            gil::call_args(names.run_in_vars.bind(py), &[vars, &method, thrown.unwrap_or(&none)])
        }
    };
    match made {
        Ok(awaited) => Ok(Sent::Awaits(awaited)),
        Err(raised) if raised.is::<PyStopIteration>(py) => {
            gil::getattr(raised.value(py), pyo3::intern!(py, "value")).map(Sent::Returned)
        }
        Err(raised) => Err(raised),
    }
}

/// The coroutine that a body's function has returned; of another awaitable one that awaits it.
pub(super) fn coroutine_of<'py>(py: Python<'py>, called: Owned<'py>) -> Result<Owned<'py>, Raised> {
    // SAFETY: attached, and the type of a live object.
    let is_coroutine = unsafe { pyo3::ffi::Py_TYPE(called.as_ptr()) == coroutine_type(py)?.as_ptr().cast() };
    if is_coroutine || gil::getattr(&called, pyo3::intern!(py, "send")).is_ok() {
        return Ok(called);
    }
    let awaits = py.import("bide._loop").and_then(|module| module.getattr("awaits"));
    gil::call1(&awaits.map_err(|error| Raised::new(py, error))?, &called)
}
