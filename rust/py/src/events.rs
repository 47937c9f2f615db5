//! What a live run shows, for Python: `_core.Channel`, emitting to one, reading and following one, and progress.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bide_core::{Channel, Progress, RunId, StoredEvents};
use bide_executor::{Attached, Bell, BodyCx};
use bide_store::{EventRange, StoreError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyAny, PyType};
use pyo3::{PyTraverseError, PyVisit};

use crate::gil::{self, Kept};
use crate::handle::datetime;
use crate::host::Python3;
use crate::run_handle::SLICE;
use crate::runner::Inner;
use crate::value::Codec;
use crate::{errors, exit, panics};

/// A channel of events: its name, the type of its values, and how many it keeps. Made by `bide.channel`.
#[pyclass(frozen, module = "bide", name = "Channel")]
pub(crate) struct PyChannel {
    /// The channel, as the engine knows it.
    channel: Channel,
    /// How its values are stored.
    codec: Codec,
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

/// What a body emits.
pub(crate) fn emit(
    body: &BodyCx<Python3>,
    here: &mut dyn Attached,
    value: &Bound<'_, PyAny>,
    channel: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let py = value.py();
    let functions = functions(py)?;
    let named;
    let channel = match channel {
        None => functions.default_channel.bind(py),
        Some(channel) => match channel.cast_exact::<PyChannel>() {
            Ok(channel) => channel,
            Err(_) => {
                let found = gil::call1(functions.channel_of.bind(py), channel)?;
                named = found.into_bound().cast_into::<PyChannel>()?;
                &named
            }
        },
    };
    let channel = channel.get();
    let value = channel.codec.encode(value)?;
    body.emit(here, &channel.channel, &value).map_err(|error| errors::wait(py, &error, body.task_name()))
}

/// How far a body says that it has come.
pub(crate) fn progress(
    py: Python<'_>,
    body: &BodyCx<Python3>,
    done: &Bound<'_, PyAny>,
    total: &Bound<'_, PyAny>,
    message: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let checked = gil::call_args(functions(py)?.check_progress.bind(py), &[done, total, message])?;
    let (done, total, message): (f64, Option<f64>, Option<String>) = checked.extract()?;
    let said = body.progress(done, total, message.as_deref());
    said.map_err(|error| errors::wait(py, &error, body.task_name()))
}

/// As a result shows it: done, total, message, and when that was said.
pub(crate) type Said<'py> = (f64, Option<f64>, Option<String>, Bound<'py, PyAny>);

/// Progress as a result shows it.
pub(crate) fn said<'py>(py: Python<'py>, progress: &Progress) -> PyResult<Said<'py>> {
    let Progress { done, total, message, said_at } = progress;
    Ok((*done, *total, message.as_deref().map(str::to_owned), datetime(py, *said_at)?))
}

/// An event: value, offset, time, task, attempt, entry.
pub(crate) type Event<'py> = (Bound<'py, PyAny>, u64, Bound<'py, PyAny>, String, u32, Option<String>);

/// The events after an offset, decoded.
fn decoded<'py>(
    py: Python<'py>,
    runner: &Inner,
    run: RunId,
    channel: &PyChannel,
    stored: &[StoredEvents],
    after: u64,
) -> PyResult<Vec<Event<'py>>> {
    let mut events = Vec::new();
    for chunk in stored {
        let task = chunk.task_name();
        let unpacked = chunk.events().map_err(|damage| {
            let store = runner.engine.store();
            let why = format!(
                "{}: run {run}: the column event.packed does not read back ({damage}); the file was changed by another \
                 program or is damaged",
                store.name()
            );
            errors::store(py, &StoreError::Corrupt(why))
        })?;
        for event in unpacked.into_iter().filter(|event| event.offset > after) {
            let value = channel.codec.decode(py, &event.value)?.into_bound();
            let entry = chunk.entry.as_deref().map(str::to_owned);
            events.push((value, event.offset, datetime(py, event.at)?, task.clone(), chunk.attempt, entry));
        }
    }
    Ok(events)
}

fn failed(py: Python<'_>, error: &StoreError) -> PyErr {
    match exit::keep_daemons(py) {
        Ok(()) => errors::store(py, error),
        Err(raised) => raised.into(),
    }
}

fn gone(py: Python<'_>, run: RunId) -> PyErr {
    errors::bide(py, &format!("run {run} is not in the store any more: it was deleted, or its retention is over"))
}

/// The last event of a channel, if there is one.
pub(crate) fn latest<'py>(
    py: Python<'py>,
    runner: &Inner,
    run: RunId,
    channel: &PyChannel,
) -> PyResult<Option<Event<'py>>> {
    let name = &channel.channel.name;
    let read = gil::detached(py, || runner.engine.store().events(run, name, EventRange::Last));
    let stored = read.map_err(|error| failed(py, &error))?.ok_or_else(|| gone(py, run))?;
    Ok(decoded(py, runner, run, channel, &stored, 0)?.pop())
}

/// Follows a channel of a run.
#[pyclass(frozen, module = "bide._core", name = "Follower")]
pub(crate) struct PyFollower {
    /// The runner that it was got from.
    runner: Arc<Inner>,
    /// The run.
    run: RunId,
    /// The channel.
    channel: Py<PyChannel>,
    /// Rings when there may be something new.
    bell: Arc<Bell>,
    /// How often it had rung when the store was read last.
    seen: AtomicU64,
}

impl PyFollower {
    pub(crate) fn new(runner: &Arc<Inner>, run: RunId, channel: &Bound<'_, PyChannel>) -> Self {
        let (runner, channel) = (Arc::clone(runner), channel.clone().unbind());
        Self { bell: runner.engine.bell(run), runner, run, channel, seen: AtomicU64::new(0) }
    }
}

#[pymethods]
impl PyFollower {
    /// Reads about `most` events after an offset, and whether the run has ended and these are the last.
    fn read<'py>(&self, py: Python<'py>, after: u64, most: usize) -> PyResult<(Vec<Event<'py>>, bool)> {
        panics::method(|| {
            self.runner.home.check("Follower")?;
            self.seen.store(self.bell.rings(), Ordering::Relaxed);
            let channel = self.channel.get();
            let name = &channel.channel.name;
            let read = gil::detached(py, || self.runner.engine.follow(self.run, name, after, most));
            let followed = read.map_err(|error| failed(py, &error))?.ok_or_else(|| gone(py, self.run))?;
            let events = decoded(py, &self.runner, self.run, channel, &followed.events, after)?;
            let last = followed.ended && events.is_empty();
            Ok((events, last))
        })
    }

    /// Waits until there may be something new since the last `read`.
    #[expect(clippy::disallowed_methods, reason = "how long a caller waits is not the engine's time")]
    fn wait(&self, py: Python<'_>) -> PyResult<()> {
        panics::method(|| {
            self.runner.home.check("Follower")?;
            let seen = self.seen.load(Ordering::Relaxed);
            let until = Instant::now() + self.runner.engine.follow_patience(self.run);
            loop {
                let remaining = until.saturating_duration_since(Instant::now());
                if remaining.is_zero() || self.bell.rings() != seen {
                    return Ok(());
                }
                gil::idle(py, || self.bell.wait(seen, remaining.min(SLICE)));
                py.check_signals()?;
            }
        })
    }

    /// Calls `callback()` on a thread of the runner once there may be something new since the last `read`.
    fn on_ring(&self, callback: Py<PyAny>) -> PyResult<()> {
        panics::method(|| {
            self.runner.home.check("Follower")?;
            let (notifier, callback) = (Arc::clone(&self.runner.notifier), Kept::new(callback));
            let seen = self.seen.load(Ordering::Relaxed);
            self.bell.on_ring(seen, Box::new(move || notifier.call(callback)));
            Ok(())
        })
    }

    /// After how many seconds to read even if nothing rings.
    #[getter]
    fn patience(&self) -> f64 {
        let patience: Duration = self.runner.engine.follow_patience(self.run);
        patience.as_secs_f64()
    }
}
