//! `bide.Client`: an engine that executes nothing, behind the same class as a runner's.

use std::sync::Arc;

use bide_executor::{Engine, Pool, SystemClock};
use bide_store::Store;
use pyo3::prelude::*;

use crate::host::PyEngine;
use crate::notify::Notifier;
use crate::{errors, gil, process};

/// Starts the engine of a client on a store, and makes what delivers its reports.
pub(crate) fn start(py: Python<'_>, store: Arc<dyn Store>) -> PyResult<(Arc<PyEngine>, Arc<Notifier>)> {
    if process::closing() {
        return Err(errors::closed(py, "the interpreter is exiting: no client can be made any more"));
    }
    py.import("logging")?;
    // It executes nothing, so that its pool has no threads.
    let pool = Pool::new(1, 1, Box::new(|_| Ok(false)));
    let notifier = Arc::new(Notifier::default());
    let log = Arc::clone(&notifier);
    let started = gil::detached(py, || {
        let log = Box::new(move |level, line: &str| log.log(level, line));
        Engine::start_client(store, SystemClock::shared(), pool, log)
    });
    let engine = started.map_err(|error| errors::store(py, &error))?;
    Ok((engine, notifier))
}
