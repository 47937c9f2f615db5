//! Times as Python sees them.

use bide_core::Time;
use pyo3::prelude::*;

use crate::errors::names;
use crate::gil;

/// A stored time as a datetime in UTC.
pub(crate) fn datetime<'py>(py: Python<'py>, time: Time) -> PyResult<Bound<'py, PyAny>> {
    let names = names(py)?;
    let seconds = (time.0 as f64 / 1e6).into_pyobject(py)?.into_any();
    Ok(gil::call_args(names.from_timestamp.bind(py), &[&seconds, names.utc.bind(py)])?.into_bound())
}
