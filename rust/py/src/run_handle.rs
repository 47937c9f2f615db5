//! `_core.RunHandle`: a run that a caller may wait for.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bide_core::{BlockReason, RunId, RunStatus};
use bide_executor::{Awaiting, Handle, Settlement};
use bide_sync::Mutex;
use pyo3::prelude::*;

use crate::exit;
use crate::gil;
use crate::host::{Originals, Python3};
use crate::process::{self, SLICE};
use crate::runner::Inner;
use crate::snapshot::PySnapshot;
use crate::{errors, panics};

/// A run to wait for.
#[pyclass(frozen, module = "bide._core", name = "RunHandle")]
pub(crate) struct PyRunHandle {
    /// The runner that it was got from.
    runner: Arc<Inner>,
    /// Live, or watched once another runner has claimed the run.
    handle: Mutex<Handle<Python3>>,
    /// The original exceptions of a run in memory.
    originals: OnceLock<Arc<Originals>>,
}

impl PyRunHandle {
    pub(crate) fn new(runner: Arc<Inner>, handle: Handle<Python3>) -> Self {
        let originals = match &handle {
            Handle::Live(run) => OnceLock::from(run.local.originals()),
            Handle::Watched(_) => OnceLock::new(),
        };
        Self { runner, handle: Mutex::new(handle), originals }
    }

    /// Of a run that was submitted here, with where its original exceptions are kept if it comes to be executed here later.
    pub(crate) fn submitted(runner: Arc<Inner>, handle: Handle<Python3>, originals: Arc<Originals>) -> Self {
        let new = Self::new(runner, handle);
        let _ = new.originals.set(originals);
        new
    }

    fn run(&self) -> RunId {
        self.handle.lock().id()
    }

    /// Whether there is something to report to who waits for the run.
    pub(crate) fn is_settled(&self) -> bool {
        self.handle.lock().settled().get().is_some()
    }

    pub(crate) fn handle(&self) -> Handle<Python3> {
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

    /// Waits until the run ends, at most `timeout` seconds: true if it has. Raises if this process does not execute it.
    #[pyo3(signature = (timeout=None))]
    #[expect(clippy::disallowed_methods, reason = "how long a caller waits is not the engine's time")]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        panics::method(|| {
            self.runner.home.check("RunHandle")?;
            let until = timeout.and_then(|seconds| {
                Instant::now().checked_add(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX))
            });
            let mut handle = self.handle();
            let mut _awaiting = Awaiting::new(&handle);
            if handle.settled().get().is_some_and(|settlement| !settlement.is_final()) {
                let renewed = gil::detached(py, || self.runner.engine.renewed(&handle));
                if let Some(renewed) = renewed.map_err(|error| errors::store(py, &error))? {
                    *self.handle.lock() = renewed.clone();
                    handle = renewed;
                    _awaiting = Awaiting::new(&handle);
                }
            }
            loop {
                if let Some(live) = handle.ended_here() {
                    *self.handle.lock() = live.clone();
                    handle = live;
                }
                if let Handle::Live(run) = &handle {
                    self.originals.get_or_init(|| run.local.originals());
                }
                match (handle.settled().get(), &handle) {
                    (None, _) => {}
                    (Some(Settlement::Elsewhere), Handle::Live(_)) => {
                        handle = self.follow(py)?;
                        _awaiting = Awaiting::new(&handle);
                        continue;
                    }
                    (Some(settlement), _) => return self.settlement(py, &settlement),
                }
                if process::closed() {
                    // It came too late to be settled with the others.
                    return self.settlement(py, &Settlement::Closed);
                }
                let remaining = until.map_or(SLICE, |until| until.saturating_duration_since(Instant::now()));
                if remaining.is_zero() {
                    return Ok(false);
                }
                let _ = gil::idle(py, || handle.settled().wait(remaining.min(SLICE)));
                py.check_signals()?;
            }
        })
    }

    /// Its caller does not wait for it any more.
    fn give_up(&self) {
        self.handle().settled().give_up();
    }

    /// The run as it stands.
    fn snapshot(&self, py: Python<'_>) -> PyResult<Option<PySnapshot>> {
        panics::method(|| {
            self.runner.home.check("RunHandle")?;
            match self.handle() {
                Handle::Live(run) => PySnapshot::live(py, &self.runner.engine, run).map(Some),
                Handle::Watched(watched) => PySnapshot::watched(py, &self.runner.engine, &watched),
            }
        })
    }

    /// The original exceptions of tasks that failed for good in this process, by task; returned once.
    fn take_originals(&self, py: Python<'_>) -> PyResult<Vec<(String, Py<PyAny>)>> {
        panics::method(|| {
            self.runner.home.check("RunHandle")?;
            let (Handle::Live(run), Some(originals)) = (self.handle(), self.originals.get()) else {
                return Ok(Vec::new());
            };
            let originals = std::mem::take(&mut *originals.lock());
            Ok(originals
                .into_iter()
                .map(|(task, kept)| {
                    (run.workflow.graph.name_of(task).to_string(), kept.into_owned(py).into_bound().unbind())
                })
                .collect())
        })
    }
}

impl PyRunHandle {
    /// Looks the run up again: another runner has claimed it, or may have.
    fn follow(&self, py: Python<'_>) -> PyResult<Handle<Python3>> {
        let handle =
            gil::detached(py, || self.runner.engine.handle(self.run())).map_err(|error| errors::store(py, &error))?;
        *self.handle.lock() = handle.clone();
        Ok(handle)
    }

    fn settlement(&self, py: Python<'_>, settlement: &Settlement) -> PyResult<bool> {
        self.handle().settled().observe();
        match settlement {
            Settlement::Run(status) if status.is_ended() => Ok(true),
            Settlement::Run(RunStatus::Paused) => Err(self.paused(py)?),
            Settlement::Elsewhere => Err(errors::bide(
                py,
                &format!("run {} is not in the store any more: it was deleted, or its retention is over", self.run()),
            )),
            other => {
                exit::keep_daemons(py)?;
                Err(errors::settlement(py, other))
            }
        }
    }

    fn paused(&self, py: Python<'_>) -> PyResult<PyErr> {
        let stored = gil::detached(py, || self.runner.engine.store().load(self.run()));
        let stored = stored.map_err(|error| errors::store(py, &error))?;
        let reason = stored.and_then(|stored| stored.run.blocked_by);
        let text = reason.as_ref().map_or("no reason is recorded".to_owned(), BlockReason::told);
        let message = format!("run {} is paused: {text}", self.run());
        let names = errors::names(py)?;
        let class = match reason {
            Some(BlockReason::Mismatch { .. }) => &names.replay_mismatch,
            _ => &names.bide_error,
        };
        Ok(errors::error(class, py, &message))
    }
}
