//! The context of a body: what it sees as a `bide.Context` of its own, and what it has changed.

use std::sync::Arc;

use bide_core::shown::shown;
use bide_core::{TaskRef, Value, pack};
use bide_executor::Level;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::errors;
use crate::errors::names;
use crate::gil::{self, Owned, Raised};
use crate::host::{PyEngine, PyRun};

/// What a body sees of the context, as a `bide.Context` of its own.
#[inline(never)]
pub(crate) fn context_of<'py>(
    py: Python<'py>,
    engine: &PyEngine,
    run: &PyRun,
    task: TaskRef,
) -> Result<Owned<'py>, Raised> {
    let (values, conflicts) =
        run.context_of(task.ix).map_err(|why| Raised::new(py, errors::bide(py, &why.to_string())))?;
    for conflict in run.unreported(conflicts) {
        engine.log(Level::Warning, &conflict.message(&run.workflow.graph));
    }
    let base = gil::dict(py)?;
    for (key, value) in values {
        let key = PyString::new(py, &key).into_any();
        gil::set_item(&base, &key, PyBytes::new(py, value.as_bytes()).as_any())?;
    }
    let whose = PyString::new(py, &format!("task '{}'", shown(&run.workflow.graph.name_of(task)))).into_any();
    let make = names(py).map_err(|error| Raised::new(py, error))?;
    gil::call_args(make.context.bind(py), &[&base, &whose])
}

/// What a body changed, packed.
#[inline(never)]
pub(crate) fn changes_of(py: Python<'_>, context: &Bound<'_, PyAny>) -> Result<Option<Arc<[u8]>>, Raised> {
    let changes = gil::getattr(context, &PyString::new(py, "changes"))?;
    let changes = gil::call0(&changes)?;
    let pairs: Vec<(String, Option<Vec<u8>>)> = changes.extract().map_err(|error| Raised::new(py, error))?;
    if pairs.is_empty() {
        return Ok(None);
    }
    let pairs: Vec<(String, Option<Value>)> =
        pairs.into_iter().map(|(key, value)| (key, value.map(|value| Value::new(&value)))).collect();
    Ok(Some(pack::pack(pairs.iter().map(|(key, value)| (&**key, value.as_ref()))).into()))
}

/// Makes a context read-only, as it is within a step and a condition.
pub(crate) fn read_only(py: Python<'_>, context: &Bound<'_, PyAny>, yes: bool) -> Result<(), Raised> {
    let set = gil::getattr(context, &PyString::new(py, "_set_read_only"))?;
    gil::call1(&set, pyo3::types::PyBool::new(py, yes).as_any()).map(drop)
}
