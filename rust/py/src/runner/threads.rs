//! The threads of a runner: their start, and how long its close waits for them.

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;

use crate::gil;
use crate::host::PyEngine;
use crate::notify::Notifier;
use crate::process::Kind;
use crate::thread;
use crate::thread::StartError;
use crate::worker::Thread;

/// How long the last bodies may take to end, even if the caller's grace is shorter.
const MIN_GRACE: Duration = Duration::from_millis(20);

pub(super) fn start(py: Python<'_>, engine: &Arc<PyEngine>, notifier: &Arc<Notifier>) -> PyResult<()> {
    let notifier = Arc::clone(notifier);
    thread::start_thread(py, "bide-notify", Kind::Notifier, move |py| notifier.run(py))?;
    engine.dispatch().open_by(engine, || start_worker_attached(py, engine))?;
    Ok(())
}

/// True if all bodies have ended. A signal that raises cuts the grace short and is raised after the close.
pub(super) fn wait_for_bodies(py: Python<'_>, engine: &PyEngine, grace: f64) -> PyResult<bool> {
    let pool = engine.dispatch();
    let mut remaining = Duration::try_from_secs_f64(grace).unwrap_or(Duration::MAX).max(MIN_GRACE);
    let idle = |span| pool.wait_idle(span) && pool.coroutines().is_none_or(|coroutines| coroutines.wait_idle(span));
    while !gil::idle(py, || idle(remaining.min(Duration::from_millis(50)))) {
        py.check_signals()?;
        remaining = remaining.saturating_sub(Duration::from_millis(50));
        if remaining.is_zero() {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn start_worker(engine: &Arc<PyEngine>) -> Result<bool, String> {
    let started = gil::attach(|py| start_worker_attached(py, engine).map_err(|error| error.to_string()));
    started.unwrap_or(Ok(false))
}

/// False if the interpreter is exiting: the thread is not needed any more.
fn start_worker_attached(py: Python<'_>, engine: &Arc<PyEngine>) -> Result<bool, StartError> {
    let engine = Arc::clone(engine);
    let started = thread::start_thread(py, "bide-worker", Kind::Bodies, move |py| {
        let mut here = Thread::new(py, Arc::clone(&engine));
        engine.work(&mut here);
    });
    match started {
        Ok(()) => Ok(true),
        Err(StartError::Exiting) => Ok(false),
        Err(error) => Err(error),
    }
}
