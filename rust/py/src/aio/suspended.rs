//! The bodies that have suspended and not ended, by their tasks.

use std::collections::HashMap;

use bide_core::TaskRef;
use bide_core::record::RunRowId;
use pyo3::prelude::*;

use super::coroutine::PyCoroutine;

/// All of a loop. A hundred thousand may wait at once.
#[derive(Default)]
pub(super) struct AllSuspended {
    /// The last attempt of each task.
    last: HashMap<(RunRowId, TaskRef), Py<PyCoroutine>>,
    /// Earlier attempts, which are over and have not returned yet.
    earlier: Vec<Py<PyCoroutine>>,
}

impl AllSuspended {
    pub(super) fn add(&mut self, body: &Bound<'_, PyCoroutine>) {
        let before = self.last.insert(body.get().place(), body.clone().unbind());
        self.earlier.extend(before.filter(|before| !before.is(body)));
    }

    /// It has returned.
    pub(super) fn remove(&mut self, body: &Bound<'_, PyCoroutine>) -> Option<Py<PyCoroutine>> {
        let place = body.get().place();
        if self.last.get(&place).is_some_and(|last| last.is(body)) {
            return self.last.remove(&place);
        }
        let at = self.earlier.iter().position(|earlier| earlier.is(body))?;
        Some(self.earlier.swap_remove(at))
    }

    /// The attempts of a task.
    pub(super) fn of<'a, 'py>(
        &'a self,
        py: Python<'py>,
        place: (RunRowId, TaskRef),
    ) -> impl Iterator<Item = Bound<'py, PyCoroutine>> + use<'a, 'py> {
        let earlier = self.earlier.iter().filter(move |body| body.get().place() == place);
        self.last.get(&place).into_iter().chain(earlier).map(move |body| body.bind(py).clone())
    }

    pub(super) fn all<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyCoroutine>> {
        self.last.values().chain(&self.earlier).map(|body| body.bind(py).clone()).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.last.len() + self.earlier.len()
    }
}
