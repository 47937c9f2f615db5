//! How long a worker may stay attached. Callables written in C never check whether another thread
//! waits for the interpreter, and a bare detach and attach (or a yield) does not let it in either: the
//! detaching thread is back before the waiting one has woken. So a worker that has been attached for
//! [`SPAN`] stays detached for [`AWAY`], unless no other thread can want the interpreter.

use std::cell::Cell;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::gil;
use crate::host::PyEngine;

/// After this long attached, a worker makes room.
const SPAN: Duration = Duration::from_millis(1);
/// A neighbour that has been waiting needs this long to wake and get in.
const AWAY: Duration = Duration::from_micros(50);
/// Threads that neither Python nor bide started are not counted. Room is made for them this often
/// even when all counted threads are idle; it costs half a percent.
const UNSEEN: Duration = Duration::from_millis(20);

/// A thread's account of how long it has been attached, by the machine's steady clock.
#[derive(Clone, Copy)]
struct Turn {
    since: Duration,
    away: Duration,
}

thread_local! {
    static TURN: Cell<Turn> = const { Cell::new(Turn { since: Duration::ZERO, away: Duration::ZERO }) };
}

/// The calling thread has just attached.
pub(crate) fn begin(engine: &PyEngine) {
    let now = engine.clock().machine();
    TURN.set(Turn { since: now, away: now });
}

/// Between two bodies: makes room for others if it is time to. `now` is the caller's, who has it
/// anyway; a comparison is all that this costs.
#[inline]
pub(crate) fn between(py: Python<'_>, engine: &PyEngine, now: Duration) {
    if now.saturating_sub(TURN.get().since) >= SPAN {
        make_room(py, engine, now);
    }
}

/// As [`gil::detached`]; counts as having made room if it took long enough.
pub(crate) fn detached<R: Send>(py: Python<'_>, engine: &PyEngine, work: impl FnOnce() -> R + Send) -> R {
    away(engine, || gil::detached(py, work))
}

/// As [`gil::idle`]; counts as having made room if it took long enough.
pub(crate) fn idle<R: Send>(py: Python<'_>, engine: &PyEngine, wait: impl FnOnce() -> R + Send) -> R {
    away(engine, || gil::idle(py, wait))
}

fn away<R>(engine: &PyEngine, leave: impl FnOnce() -> R) -> R {
    let detached_at = engine.clock().machine();
    let result = leave();
    let back = engine.clock().machine();
    if back.saturating_sub(detached_at) >= AWAY {
        TURN.set(Turn { since: back, away: back });
    }
    result
}

#[cold]
fn make_room(py: Python<'_>, engine: &PyEngine, now: Duration) {
    let turn = TURN.get();
    if now.saturating_sub(turn.away) < UNSEEN && all_others_idle(py) {
        TURN.set(Turn { since: now, ..turn });
    } else {
        detached(py, engine, || std::thread::sleep(AWAY));
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
