//! How long a worker may stay attached. Callables written in C never look whether another thread
//! wants the interpreter, and a bare detach and attach (or a yield) does not let it in either: the
//! leaving thread is back before the waiting one has woken. So a worker that has been attached for
//! [`TURN`] stays away for [`AWAY`], unless there is nobody to make room for.

use std::cell::Cell;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::gil;
use crate::host::PyEngine;

/// After this long attached, a worker makes room.
const TURN: Duration = Duration::from_millis(1);
/// A neighbour that has been waiting needs this long to wake and get in.
const AWAY: Duration = Duration::from_micros(50);
/// Threads that neither Python nor bide started are in no count. They get their chance this often
/// even when everybody else is idle; it costs half a percent.
const UNSEEN: Duration = Duration::from_millis(20);

thread_local! {
    /// The body on this thread has waited, which nobody else here takes part in: whoever wanted the interpreter had it.
    static WAITED: Cell<bool> = const { Cell::new(false) };
}

/// A body on this thread has waited.
pub(crate) fn waited() {
    WAITED.set(true);
}

/// A worker's own account of how long it has been attached, by the engine's steady clock. Consulted between two bodies.
pub(crate) struct Turn {
    since: Duration,
    away: Duration,
}

impl Turn {
    /// The thread has just attached.
    pub(crate) fn begin(engine: &PyEngine) -> Self {
        let now = engine.steady();
        Self { since: now, away: now }
    }

    /// Between two bodies: makes room for others if it is time to. `now` is the caller's, who has it
    /// anyway; a comparison is all that this costs.
    #[inline]
    pub(crate) fn between(&mut self, py: Python<'_>, engine: &PyEngine, now: Duration) {
        if now.saturating_sub(self.since) >= TURN {
            self.make_room(py, engine, now);
        }
    }

    /// As [`gil::detached`]; counts as having made room if it took long enough.
    pub(crate) fn detached<R: Send>(
        &mut self,
        py: Python<'_>,
        engine: &PyEngine,
        work: impl FnOnce() -> R + Send,
    ) -> R {
        self.away(engine, || gil::detached(py, work))
    }

    /// As [`gil::idle`]; counts as having made room if it took long enough.
    pub(crate) fn idle<R: Send>(&mut self, py: Python<'_>, engine: &PyEngine, wait: impl FnOnce() -> R + Send) -> R {
        self.away(engine, || gil::idle(py, wait))
    }

    fn away<R>(&mut self, engine: &PyEngine, leave: impl FnOnce() -> R) -> R {
        let left = engine.steady();
        let result = leave();
        let back = engine.steady();
        if back.saturating_sub(left) >= AWAY {
            self.since = back;
            self.away = back;
        }
        result
    }

    #[cold]
    fn make_room(&mut self, py: Python<'_>, engine: &PyEngine, now: Duration) {
        if WAITED.take() {
            self.since = now;
            self.away = now;
        } else if now.saturating_sub(self.away) < UNSEEN && all_others_idle(py) {
            self.since = now;
        } else {
            self.detached(py, engine, || std::thread::sleep(AWAY));
        }
    }
}

/// Whether every other thread that Python knows of waits inside bide.
fn all_others_idle(py: Python<'_>) -> bool {
    let count = thread_count(py)
        .map_err(|error| gil::Raised::new(py, error))
        .and_then(gil::call0)
        .ok()
        .and_then(|count| count.extract::<i64>().ok());
    // The count has this thread in it and lacks the main one: it is the number of the others.
    count.is_some_and(|others| gil::idle_threads() >= others)
}

/// `_thread._count`. First asked for when the module is imported, where importing is safe.
pub(crate) fn thread_count(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static COUNT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    COUNT.import(py, "_thread", "_count")
}
