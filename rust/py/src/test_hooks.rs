//! What the runner of a test calls in place of steps and conditions: `bide/_stubs.py` says it. Other runners are told
//! from it by their clock.

use bide_core::RunId;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::gil::{self, Raised};
use crate::host::PyEngine;

/// What is called in place of a step. `None`: the step itself.
#[inline]
pub(crate) fn step<'py>(
    engine: &PyEngine,
    run: RunId,
    name: &str,
    function: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    if engine.clock().is_manual() { replaced("step", engine, run, name, function).map(Some) } else { Ok(None) }
}

/// What is asked in place of a condition. `None`: the condition itself.
#[inline]
pub(crate) fn condition<'py>(
    engine: &PyEngine,
    run: RunId,
    name: &str,
    condition: &Bound<'py, PyAny>,
) -> Result<Option<Bound<'py, PyAny>>, Raised> {
    if !engine.clock().is_manual() {
        return Ok(None);
    }
    let replaced = replaced("condition", engine, run, name, condition);
    replaced.map(Some).map_err(|error| Raised::new(condition.py(), error))
}

#[cold]
fn replaced<'py>(
    what: &str,
    engine: &PyEngine,
    run: RunId,
    name: &str,
    function: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = function.py();
    let hook = py.import(pyo3::intern!(py, "bide._stubs"))?.getattr(what)?;
    let (run, name) = (PyString::new(py, &run.to_string()), PyString::new(py, name));
    let number = number(engine).into_pyobject(py)?;
    Ok(gil::call_args(&hook, &[number.as_any(), run.as_any(), name.as_any(), function])?.into_bound())
}

/// Tells the engines of a process apart.
pub(crate) fn number(engine: &PyEngine) -> usize {
    std::ptr::from_ref(engine).addr()
}
