//! `_core.RunHandle`: a run that a caller may wait for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bide_core::{RunId, RunStatus};
use bide_executor::{Handle, Settlement};
use parking_lot::Mutex;
use pyo3::prelude::*;

use crate::gil::{self, Kept};
use crate::host::Python3;
use crate::runner::Inner;
use crate::snapshot::PySnapshot;
use crate::{errors, panics};

/// A caller looks for signals (Ctrl-C) at least so often.
const SLICE: Duration = Duration::from_millis(50);

/// A run to wait for.
#[pyclass(frozen, module = "bide._core", name = "RunHandle")]
pub(crate) struct PyRunHandle {
    runner: Arc<Inner>,
    /// Live, or watched once another runner has taken the run over.
    handle: Mutex<Handle<Python3>>,
}

impl PyRunHandle {
    pub(crate) fn new(runner: Arc<Inner>, handle: Handle<Python3>) -> Self {
        Self { runner, handle: Mutex::new(handle) }
    }

    fn run(&self) -> RunId {
        self.handle.lock().id()
    }

    fn handle(&self) -> Handle<Python3> {
        self.handle.lock().clone()
    }
}

#[pymethods]
impl PyRunHandle {
    /// The run's id.
    #[getter]
    fn id(&self) -> String {
        self.run().to_string()
    }

    /// Waits until the run ends, at most `timeout` seconds: true if it has. Raises if nobody here takes it up.
    #[pyo3(signature = (timeout=None))]
    #[expect(clippy::disallowed_methods, reason = "a caller's patience is not the engine's time")]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        panics::method(|| {
            self.runner.home.check("RunHandle")?;
            let until = timeout.and_then(|seconds| {
                Instant::now().checked_add(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX))
            });
            let mut handle = self.handle();
            loop {
                match (handle.settled().get(), &handle) {
                    (None, _) => {}
                    (Some(Settlement::Elsewhere), Handle::Live(_)) => {
                        handle = self.follow(py)?;
                        continue;
                    }
                    (Some(settlement), _) => return self.settlement(py, &settlement),
                }
                let left = until.map_or(SLICE, |until| until.saturating_duration_since(Instant::now()));
                if left.is_zero() {
                    return Ok(false);
                }
                let _ = gil::idle(py, || handle.settled().wait(left.min(SLICE)));
                py.check_signals()?;
            }
        })
    }

    /// Calls `callback()` on a thread of the runner once there is something to be had from `wait(0)`.
    fn on_settled(&self, callback: Py<PyAny>) -> PyResult<()> {
        panics::method(|| {
            self.runner.home.check("RunHandle")?;
            let (notifier, callback) = (Arc::clone(&self.runner.notifier), Kept::new(callback));
            self.handle().settled().on_settled(Box::new(move || notifier.call(callback)));
            Ok(())
        })
    }

    /// The run as it stands.
    fn snapshot(&self, py: Python<'_>) -> PyResult<Option<PySnapshot>> {
        panics::method(|| {
            self.runner.home.check("RunHandle")?;
            match self.handle() {
                Handle::Live(run) => Ok(Some(PySnapshot::live(Arc::clone(&self.runner.engine), run))),
                Handle::Watched(watched) => PySnapshot::load(py, &self.runner.engine, watched.id),
            }
        })
    }

    /// The original exceptions of tasks that failed for good in this process, by task; handed out once.
    fn take_originals(&self, py: Python<'_>) -> PyResult<Vec<(String, Py<PyAny>)>> {
        panics::method(|| {
            let Handle::Live(run) = self.handle() else { return Ok(Vec::new()) };
            let originals = run.local.originals.lock().take();
            Ok(originals
                .into_iter()
                .flat_map(|originals| *originals)
                .map(|(ix, kept)| (run.flow.graph.name(ix).to_string(), kept.into_owned(py).into_bound().unbind()))
                .collect())
        })
    }
}

impl PyRunHandle {
    /// Another runner has taken the run over: waits for what comes of it there.
    fn follow(&self, py: Python<'_>) -> PyResult<Handle<Python3>> {
        let handle =
            gil::detached(py, || self.runner.engine.handle(self.run())).map_err(|error| errors::store(py, &error))?;
        *self.handle.lock() = handle.clone();
        Ok(handle)
    }

    fn settlement(&self, py: Python<'_>, settlement: &Settlement) -> PyResult<bool> {
        match settlement {
            Settlement::Run(status) if status.is_ended() => Ok(true),
            Settlement::Run(RunStatus::Paused) => Err(self.paused(py)?),
            other => Err(errors::settlement(py, other)),
        }
    }

    fn paused(&self, py: Python<'_>) -> PyResult<PyErr> {
        let stored = gil::detached(py, || self.runner.engine.store().load(self.run()));
        let stored = stored.map_err(|error| errors::store(py, &error))?;
        let reason = stored.and_then(|stored| stored.run.blocked_by);
        let reason = reason.unwrap_or_else(|| "no reason is recorded".into());
        let message = format!("run {} is paused: {reason}", self.run());
        let names = errors::names(py)?;
        let class = if reason.contains("was recorded") { &names.replay_mismatch } else { &names.bide_error };
        Ok(errors::error(class, py, &message))
    }
}
