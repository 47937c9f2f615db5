//! `_core.Channel`, and what bodies show: events that they emit to one, and their progress.

use bide_core::Channel;
use bide_executor::{Attached, BodyCx};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyAny, PyType};
use pyo3::{PyTraverseError, PyVisit};

use crate::errors;
use crate::gil;
use crate::host::Python3;
use crate::value::Codec;

/// A channel of events: its name, the type of its values, and how many it keeps. Made by `bide.channel`.
#[pyclass(frozen, module = "bide", name = "Channel")]
pub(crate) struct PyChannel {
    /// The channel, as the engine knows it.
    pub(crate) channel: Channel,
    /// How its values are stored.
    pub(crate) codec: Codec,
}

#[pymethods]
impl PyChannel {
    #[new]
    fn new(name: String, type_name: String, keep: Option<u32>, codec: Codec) -> Self {
        Self { channel: Channel { name: name.into(), type_name: type_name.into(), keep }, codec }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.codec.traverse(&visit)
    }

    /// For annotations: `Channel[State]`.
    #[classmethod]
    fn __class_getitem__<'py>(cls: &Bound<'py, PyType>, _item: &Bound<'py, PyAny>) -> Bound<'py, PyType> {
        cls.clone()
    }

    /// Its name.
    #[getter]
    fn name(&self) -> &str {
        &self.channel.name
    }

    /// How many of the last events it keeps.
    #[getter]
    fn keep(&self) -> Option<u32> {
        self.channel.keep
    }

    fn __repr__(&self) -> String {
        let Channel { name, type_name, keep } = &self.channel;
        let of_type = if type_name.is_empty() { String::new() } else { format!(", {type_name}") };
        let keep = keep.map_or_else(String::new, |keep| format!(", keep={keep}"));
        format!("bide.channel('{}'{of_type}{keep})", bide_core::shown::shown(name))
    }
}

/// The Python side.
struct Functions {
    /// The channel of the name `events`.
    default_channel: Py<PyChannel>,
    /// The channel that an argument names.
    channel_of: Py<PyAny>,
    /// Checks the arguments of `handle.progress`.
    check_progress: Py<PyAny>,
}

fn functions(py: Python<'_>) -> PyResult<&Functions> {
    static FUNCTIONS: PyOnceLock<Functions> = PyOnceLock::new();
    FUNCTIONS.get_or_try_init(py, || {
        let module = py.import("bide._events")?;
        let channel_of = module.getattr("channel_of")?.unbind();
        Ok(Functions {
            default_channel: module.getattr("EVENTS")?.cast_into::<PyChannel>()?.unbind(),
            check_progress: module.getattr("check_progress")?.unbind(),
            channel_of,
        })
    })
}

/// Imports what emitting needs, where importing is safe.
pub(crate) fn prepare(py: Python<'_>) -> PyResult<()> {
    functions(py).map(drop)
}

/// The channel that a body emits to, and the value as it is stored.
pub(crate) fn encoded(
    value: &Bound<'_, PyAny>,
    channel: Option<&Bound<'_, PyAny>>,
) -> PyResult<(Channel, bide_core::Value)> {
    let functions = functions(value.py())?;
    let named;
    let channel = match channel {
        None => functions.default_channel.bind(value.py()),
        Some(channel) => match channel.cast_exact::<PyChannel>() {
            Ok(channel) => channel,
            Err(_) => {
                let found = gil::call1(functions.channel_of.bind(value.py()), channel)?;
                named = found.into_bound().cast_into::<PyChannel>()?;
                &named
            }
        },
    };
    let channel = channel.get();
    Ok((channel.channel.clone(), channel.codec.encode(value)?))
}

/// What a body emits.
pub(crate) fn emit(
    body: &BodyCx<Python3>,
    here: &mut dyn Attached,
    value: &Bound<'_, PyAny>,
    channel: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let py = value.py();
    let (channel, value) = encoded(value, channel)?;
    body.emit(here, &channel, &value).map_err(|error| errors::wait(py, &error, &body.task_name()))
}

/// The arguments of `handle.progress`, checked.
pub(crate) fn checked_progress(
    py: Python<'_>,
    done: &Bound<'_, PyAny>,
    total: &Bound<'_, PyAny>,
    message: &Bound<'_, PyAny>,
) -> PyResult<(f64, Option<f64>, Option<String>)> {
    gil::call_args(functions(py)?.check_progress.bind(py), &[done, total, message])?.extract()
}

/// How far a body says that it has come.
pub(crate) fn progress(
    py: Python<'_>,
    body: &BodyCx<Python3>,
    done: &Bound<'_, PyAny>,
    total: &Bound<'_, PyAny>,
    message: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let (done, total, message) = checked_progress(py, done, total, message)?;
    let said = body.progress(done, total, message.as_deref());
    said.map_err(|error| errors::wait(py, &error, &body.task_name()))
}
