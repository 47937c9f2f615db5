//! The threads of a runner: their start, and how long its close waits for them.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use pyo3::prelude::*;

use super::Inner;
use crate::exit::CloseAtExit;
use crate::gil;
use crate::host::PyEngine;
use crate::notify::Notifier;
use crate::panics;
use crate::process::Kind;
use crate::thread;
use crate::thread::StartError;
use crate::worker::Thread;

/// How long the last bodies may take to end, even if the caller's grace is shorter.
const MIN_GRACE: Duration = Duration::from_millis(20);

/// How often a signal is looked for meanwhile.
const SLICE: Duration = Duration::from_millis(50);

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
    while !gil::idle(py, || idle(remaining.min(SLICE))) {
        py.check_signals()?;
        remaining = remaining.saturating_sub(SLICE);
        if remaining.is_zero() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Releases the store, on a thread of its own: a server that does not answer must not keep the caller from Ctrl-C.
pub(super) fn release(py: Python<'_>, inner: &Arc<Inner>) -> PyResult<()> {
    let (report, mut ended) = mpsc::channel::<()>();
    let closing = Arc::clone(inner);
    let act = move || {
        drop(panics::no_panic(|| closing.end_close()));
        drop(closing);
        drop(report);
    };
    let Ok(thread) = std::thread::Builder::new().name("bide-close".to_owned()).spawn(act) else {
        gil::detached(py, || inner.end_close());
        return Ok(());
    };
    loop {
        let ended = &mut ended;
        if gil::idle(py, move || ended.recv_timeout(SLICE)) != Err(RecvTimeoutError::Timeout) {
            break;
        }
        py.check_signals()?;
    }
    let _ = gil::detached(py, || thread.join());
    Ok(())
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
