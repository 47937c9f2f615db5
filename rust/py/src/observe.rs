//! `Runner(on_event=)`: what has happened, delivered by the notifier's thread. See `bide._observe`.

use std::sync::Arc;

use bide_core::observe::{Happened, What};
use bide_core::{EntryState, NO_MAP, Time};
use bide_executor::Observer;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::gil::{self, Kept};
use crate::host::{PyRun, Python3};
use crate::moment::datetime;
use crate::notify::Notifier;
use crate::why::word;

/// An event on its way to Python.
pub(crate) struct Observed {
    /// What is called with it.
    callback: Arc<Kept>,
    run: Arc<PyRun>,
    happened: Happened,
}

/// An observer that has the notifier call this with each event.
pub(crate) fn observer(callback: Py<PyAny>, notifier: &Arc<Notifier>) -> Observer<Python3> {
    let (callback, notifier) = (Arc::new(Kept::new(callback)), Arc::clone(notifier));
    Box::new(move |run, happened| {
        for one in happened {
            notifier.observed(Observed {
                callback: Arc::clone(&callback),
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

    /// Kind, run, workflow, key, task, attempt, status, name and kind of a wait, when, error, retried at.
    fn event<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let Happened { what, at, task, attempt, failure } = &self.happened;
        let (kind, status, wait, until): (_, _, _, Option<Time>) = match what {
            What::TaskEnded(status) => ("task ended", Some(status.as_str()), None, None),
            What::RunEnded(status) => ("run ended", Some(status.as_str()), None, None),
            What::WaitOpened(name, kind, deadline) => ("wait opened", None, Some((name, *kind)), *deadline),
            What::WaitClosed(name, kind, state) => {
                let outcome = match state {
                    EntryState::Satisfied => "satisfied",
                    EntryState::Lost => "lost",
                    _ => "failed",
                };
                ("wait closed", Some(outcome), Some((name, *kind)), None)
            }
            What::Retried(at) => ("retry", None, None, Some(*at)),
        };
        let workflow = &self.run.workflow;
        let task = task.and_then(|(id, map)| {
            let ix = workflow.ids.iter().position(|known| *known == id)?;
            let name = workflow.graph.name(u32::try_from(ix).ok()?);
            Some(if map == NO_MAP { name.to_string() } else { format!("{name}[{map}]") })
        });
        let until = until.map(|at| datetime(py, at)).transpose()?;
        let who = (kind, self.run.id.to_string(), workflow.graph.workflow().to_string(), self.run.key.as_deref());
        let which = (task, *attempt, status, wait.map(|(name, _)| name.to_string()), wait.map(|(_, kind)| word(kind)));
        let how = (datetime(py, *at)?, failure.as_ref().map(ToString::to_string), until);
        (who.0, who.1, who.2, who.3, which.0, which.1, which.2, which.3, which.4, how.0, how.1, how.2).into_pyobject(py)
    }
}
