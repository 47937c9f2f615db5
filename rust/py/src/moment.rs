//! Times as Python sees them.

use bide_core::Time;
use pyo3::prelude::*;

use crate::errors::{self, names};
use crate::gil;

/// A stored time as a datetime in UTC.
pub(crate) fn datetime<'py>(py: Python<'py>, time: Time) -> PyResult<Bound<'py, PyAny>> {
    let names = names(py)?;
    let seconds = (time.0 as f64 / 1e6).into_pyobject(py)?.into_any();
    let made = gil::call_args(names.from_timestamp.bind(py), &[&seconds, names.utc.bind(py)]);
    let made = made.map_err(|_| {
        let time = time.0;
        let why = format!(
            "the time {time} (in microseconds since 1970) does not read back: it is none of Python's; the file was \
             changed by another program or is damaged"
        );
        errors::bide(py, &why)
    });
    Ok(made?.into_bound())
}
