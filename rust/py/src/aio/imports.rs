//! What the loop's side uses of Python's modules, each imported once.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::gil::{self, Raised};

/// `types.CoroutineType`.
pub(super) fn coroutine_type<'py>(py: Python<'py>) -> Result<&'py Bound<'py, PyAny>, Raised> {
    static TYPE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    imported(py, &TYPE, "types", "CoroutineType").map_err(|error| Raised::new(py, error))
}

/// The task that executes here.
pub(super) fn current_task(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static CURRENT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    Ok(gil::call0(imported(py, &CURRENT, "asyncio", "current_task")?)?.into_bound())
}

/// Contextvars with nothing in them.
pub(super) fn new_vars(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static CONTEXT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    Ok(gil::call0(imported(py, &CONTEXT, "contextvars", "Context")?)?.into_bound())
}

/// `bide._here.here.set`.
pub(super) fn set_here(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static SET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let set =
        SET.get_or_try_init(py, || Ok::<_, PyErr>(py.import("bide._here")?.getattr("here")?.getattr("set")?.unbind()));
    set.map(|set| set.bind(py))
}

/// `bide._here.here.reset`.
pub(super) fn reset_here(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static RESET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let reset = RESET
        .get_or_try_init(py, || Ok::<_, PyErr>(py.import("bide._here")?.getattr("here")?.getattr("reset")?.unbind()));
    reset.map(|reset| reset.bind(py))
}

pub(super) fn imported<'py>(
    py: Python<'py>,
    cell: &'static PyOnceLock<Py<PyAny>>,
    module: &str,
    name: &str,
) -> PyResult<&'py Bound<'py, PyAny>> {
    let found = cell.get_or_try_init(py, || Ok::<_, PyErr>(py.import(module)?.getattr(name)?.unbind()));
    found.map(|found| found.bind(py))
}
