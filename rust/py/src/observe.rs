//! `Runner(on_event=)`: what has happened, delivered by the notifier's thread. See `bide._observe`.

use std::sync::Arc;
use std::time::Duration;

use bide_core::observe::{ClosedWait, Happened, What};
use bide_core::{EntryKind, EntryState, NO_MAP, Time};
use bide_executor::Observer;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt, PyTuple};

use crate::errors::names;
use crate::gil::{self, Kept};
use crate::host::{PyRun, Python3};
use crate::moment::datetime;
use crate::notify::Notifier;
use crate::why::word;

/// An event on its way to Python.
pub(crate) struct Observed {
    /// What is called with it.
    callback: Arc<Kept>,
    /// Whether it gets times as microseconds since 1970.
    in_micros: bool,
    run: Arc<PyRun>,
    happened: Happened,
}

/// How long a commit took, on its way to Python.
pub(crate) struct ObservedCommit {
    callback: Arc<Kept>,
    took: Duration,
}

impl ObservedCommit {
    /// Calls what is to be called.
    pub(crate) fn deliver(&self, py: Python<'_>) -> PyResult<()> {
        gil::call1(self.callback.bind(py), PyFloat::new(py, self.took.as_secs_f64()).as_any())?;
        Ok(())
    }
}

/// What has the notifier call this with the seconds that each commit took.
pub(crate) fn commits(callback: Py<PyAny>, notifier: &Arc<Notifier>) -> impl Fn(Duration) + Send + Sync + 'static {
    let (callback, notifier) = (Arc::new(Kept::new(callback)), Arc::clone(notifier));
    move |took| notifier.committed(ObservedCommit { callback: Arc::clone(&callback), took })
}

/// An observer that has the notifier call this with each event: with datetimes, or with times as microseconds since 1970.
pub(crate) fn observer(callback: Py<PyAny>, in_micros: bool, notifier: &Arc<Notifier>) -> Observer<Python3> {
    let (callback, notifier) = (Arc::new(Kept::new(callback)), Arc::clone(notifier));
    Box::new(move |run, happened| {
        for one in happened {
            notifier.observed(Observed {
                callback: Arc::clone(&callback),
                in_micros,
                run: Arc::clone(run),
                happened: one.clone(),
            });
        }
    })
}

impl Observed {
    /// Calls what is to be called.
    pub(crate) fn deliver(&self, py: Python<'_>) -> PyResult<()> {
        let event = self.event(py)?;
        gil::call1(self.callback.bind(py), event.as_any())?;
        Ok(())
    }

    /// Kind, run, workflow, key, task, attempt, status, name and kind of a wait, when, error, and what else there is:
    /// retried at, when it began, which use of a name, how often a condition was asked; of a run that has ended the run above it, its version, and a
    /// copy of the submitter's contextvars.
    fn event<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let Happened { what, at, since, task, attempt, failure } = &self.happened;
        let mut asked = None;
        let (kind, status, wait, until): (_, _, _, Option<Time>) = match what {
            What::TaskEnded(status) => ("task ended", Some(status.as_str()), None, None),
            What::RunEnded(status) => ("run ended", Some(status.as_str()), None, None),
            What::WaitOpened(name, kind, deadline) => ("wait opened", None, Some((name, None, *kind)), *deadline),
            What::WaitClosed(ClosedWait { name, n, kind, state, due, polls }) => {
                asked = *polls;
                let outcome = match state {
                    EntryState::Satisfied => "satisfied",
                    EntryState::Lost => "lost",
                    _ => "failed",
                };
                ("wait closed", Some(outcome), Some((name, Some(*n), *kind)), *due)
            }
            What::StepEnded(name, n, returned) => {
                let outcome = if *returned { "satisfied" } else { "failed" };
                ("step ended", Some(outcome), Some((name, Some(*n), EntryKind::Step)), None)
            }
            What::Retried(at) => ("retry", None, None, Some(*at)),
        };
        let workflow = &self.run.workflow;
        let task = task.and_then(|(id, map)| {
            let name = workflow.graph.name(workflow.ix(id)?);
            Some(if map == NO_MAP { name.to_string() } else { format!("{name}[{map}]") })
        });
        let time = |at: Time| match self.in_micros {
            true => Ok(PyInt::new(py, at.0).into_any()),
            false => datetime(py, at),
        };
        let moment = |at: Option<Time>| at.map(time).transpose();
        let (wait, n, wait_kind) =
            wait.map_or((None, None, None), |(name, n, kind)| (Some(&**name), n, Some(word(kind))));
        let of_run = self.of_run(py)?;
        let since = if of_run.is_some() { Some(self.run.created_at) } else { *since };
        let rest = (moment(until)?, moment(since)?, n, asked, of_run);
        let who = (kind, self.run.id.to_string(), workflow.graph.workflow().to_string(), self.run.key.as_deref());
        let error = failure.as_ref().map(ToString::to_string);
        (who.0, who.1, who.2, who.3, task, *attempt, status, wait, wait_kind, time(*at)?, error, rest).into_pyobject(py)
    }

    /// Of a run that has ended: the run above it, its version, and a copy of the submitter's contextvars.
    #[expect(clippy::type_complexity, reason = "a tuple for Python")]
    fn of_run<'py>(&self, py: Python<'py>) -> PyResult<Option<(Option<String>, &str, Option<Bound<'py, PyAny>>)>> {
        if !matches!(self.happened.what, What::RunEnded(_)) {
            return Ok(None);
        }
        let parent = self.run.parent.as_ref().map(|parent| parent.id.to_string());
        let vars = match self.run.local.contextvars() {
            Some(vars) => Some(vars.copied(names(py)?, py)?.into_bound()),
            None => None,
        };
        Ok(Some((parent, self.run.workflow.graph.version(), vars)))
    }
}
