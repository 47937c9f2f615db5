//! The journals of a run's tasks as Python reads them, for those who export a run.

use bide_core::record::StoredRun;
use bide_core::{Entry, EntryKind, NO_MAP, TaskId, Time};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::moment::datetime;

/// Of an entry: task, name, which use of the name, kind, state, when it was opened and closed, when it is due and when it
/// times out, its value and failure as stored (but no
/// secrets).
pub(crate) type PyEntry<'py> = (
    String,
    String,
    u32,
    String,
    String,
    (Option<Bound<'py, PyAny>>, Option<Bound<'py, PyAny>>),
    (Option<Bound<'py, PyAny>>, Option<Bound<'py, PyAny>>),
    Option<Bound<'py, PyBytes>>,
    Option<Bound<'py, PyBytes>>,
);

/// An entry of a task of a run.
pub(crate) fn shown<'py>(
    py: Python<'py>,
    stored: &StoredRun,
    (task, map): (TaskId, i32),
    entry: &Entry,
) -> PyResult<PyEntry<'py>> {
    let known = stored.tasks.iter().find(|known| known.id == task).map_or("?", |known| &*known.name);
    let name = if map == NO_MAP { known.to_owned() } else { format!("{known}[{map}]") };
    let at = |time: Option<Time>| time.filter(|time| *time != Time::NEVER).map(|time| datetime(py, time)).transpose();
    // The value of a callback is the secret in its token.
    let value = entry.value.as_ref().filter(|_| entry.kind() != EntryKind::Callback);
    Ok((
        name,
        entry.key.name.to_string(),
        entry.key.n,
        entry.kind().as_str().to_lowercase(),
        entry.state.as_str().to_lowercase(),
        (at(Some(entry.opened_at))?, at(entry.closed_at)?),
        (at(entry.due())?, at(entry.deadline)?),
        value.map(|value| PyBytes::new(py, value.as_bytes())),
        entry.failure.as_ref().map(|failure| PyBytes::new(py, failure.as_json().as_bytes())),
    ))
}
