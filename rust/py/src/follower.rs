//! `_core.Follower`: reads the events of a channel of a run, and waits for more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bide_core::{RunId, StoredEvents};
use bide_executor::Bell;
use bide_store::{EventRange, StoreError};
use pyo3::prelude::*;
use pyo3::types::PyAny;

use crate::channel::PyChannel;
use crate::gil::{self, Kept};
use crate::host::PyEngine;
use crate::moment::datetime;
use crate::notify::Notifier;
use crate::process::{Home, SLICE};
use crate::{errors, exit, panics};

/// An event: value, offset, time, task, attempt, entry.
pub(crate) type Event<'py> = (Bound<'py, PyAny>, u64, Bound<'py, PyAny>, String, u32, Option<String>);

/// The events after an offset, decoded.
fn decoded<'py>(
    py: Python<'py>,
    engine: &PyEngine,
    run: RunId,
    channel: &PyChannel,
    stored: &[StoredEvents],
    after: u64,
) -> PyResult<Vec<Event<'py>>> {
    let mut events = Vec::new();
    for chunk in stored {
        let task = chunk.task_name();
        let unpacked = chunk.events().map_err(|damage| {
            let store = engine.store();
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
    engine: &PyEngine,
    run: RunId,
    channel: &PyChannel,
) -> PyResult<Option<Event<'py>>> {
    let name = &channel.channel.name;
    let read = gil::detached(py, || engine.store().events(run, name, EventRange::Last));
    let stored = read.map_err(|error| failed(py, &error))?.ok_or_else(|| gone(py, run))?;
    Ok(decoded(py, engine, run, channel, &stored, 0)?.pop())
}

/// Follows a channel of a run.
#[pyclass(frozen, module = "bide._core", name = "Follower")]
pub(crate) struct PyFollower {
    /// The engine of the runner that it was got from.
    engine: Arc<PyEngine>,
    /// Calls back.
    notifier: Arc<Notifier>,
    /// The process in which the runner was made.
    home: Home,
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
    pub(crate) fn new(
        engine: &Arc<PyEngine>,
        notifier: &Arc<Notifier>,
        home: Home,
        run: RunId,
        channel: &Bound<'_, PyChannel>,
    ) -> Self {
        let (bell, seen) = (engine.bell(run), AtomicU64::new(0));
        let (engine, notifier, channel) = (Arc::clone(engine), Arc::clone(notifier), channel.clone().unbind());
        Self { engine, notifier, home, run, channel, bell, seen }
    }
}

#[pymethods]
impl PyFollower {
    /// Reads about `most` events after an offset, and whether the run has ended and these are the last.
    fn read<'py>(&self, py: Python<'py>, after: u64, most: usize) -> PyResult<(Vec<Event<'py>>, bool)> {
        panics::method(|| {
            self.home.check("Follower")?;
            self.seen.store(self.bell.rings(), Ordering::Relaxed);
            let channel = self.channel.get();
            let name = &channel.channel.name;
            let read = gil::detached(py, || self.engine.follow(self.run, name, after, most));
            let followed = read.map_err(|error| failed(py, &error))?.ok_or_else(|| gone(py, self.run))?;
            let events = decoded(py, &self.engine, self.run, channel, &followed.events, after)?;
            let last = followed.ended && events.is_empty();
            Ok((events, last))
        })
    }

    /// Waits until there may be something new since the last `read`.
    #[expect(clippy::disallowed_methods, reason = "how long a caller waits is not the engine's time")]
    fn wait(&self, py: Python<'_>) -> PyResult<()> {
        panics::method(|| {
            self.home.check("Follower")?;
            let seen = self.seen.load(Ordering::Relaxed);
            let until = Instant::now() + self.engine.follow_patience(self.run);
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
            self.home.check("Follower")?;
            let (notifier, callback) = (Arc::clone(&self.notifier), Kept::new(callback));
            let seen = self.seen.load(Ordering::Relaxed);
            self.bell.on_ring(seen, Box::new(move || notifier.call(callback)));
            Ok(())
        })
    }

    /// After how many seconds to read even if nothing rings.
    #[getter]
    fn patience(&self) -> f64 {
        let patience: Duration = self.engine.follow_patience(self.run);
        patience.as_secs_f64()
    }
}
