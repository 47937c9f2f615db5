//! What executes a body, and how much a task is referred to.
//!
//! A task of asyncio's, with what belongs to it, takes more memory than all else of a waiting body: one that waits for bide
//! leaves its task, and gets another when it continues. Nobody can tell, unless somebody means the task that the body had:
//! a timeout or a task group of asyncio's around the wait, or code that is to cancel it. Such code refers to the task, so a
//! body leaves only a task that nobody else refers to.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::gil::{self, Kept};

/// What executes a body.
#[derive(Default)]
pub(super) enum Driven {
    /// A driver in its first step; or nothing any more.
    #[default]
    First,
    /// This task, within these contextvars.
    ByTask { task: Kept, vars: Kept },
    /// Nothing, while it waits. It has this coroutine, and these contextvars, if there are any.
    Detached { coroutine: Kept, vars: Option<Kept> },
}

/// How often a task is referred to, and what is to be called at its end.
#[derive(Clone, Copy)]
pub(super) struct Uses {
    references: isize,
    weak: usize,
    callbacks: usize,
}

impl Uses {
    /// Of this task now; `own` references of bide's do not count.
    pub(super) fn of(task: &Bound<'_, PyAny>, own: isize) -> PyResult<Self> {
        let callbacks = gil::getattr(task, pyo3::intern!(task.py(), "_callbacks"))?;
        let callbacks = if callbacks.is_none() { 0 } else { callbacks.len().unwrap_or(1) };
        let weak = weak_references(task)?;
        // SAFETY: attached, and a live object.
        let references = unsafe { pyo3::ffi::Py_REFCNT(task.as_ptr()) };
        Ok(Self { references: references - own, weak, callbacks })
    }

    /// Whether a task that had these uses has more by now, or was asked to end.
    pub(super) fn have_grown(self, task: &Bound<'_, PyAny>, own: isize) -> PyResult<bool> {
        let now = Self::of(task, own)?;
        let has_more = now.references > self.references || now.weak > self.weak || now.callbacks > self.callbacks;
        Ok(has_more || is_to_end(task)?)
    }
}

/// Whether a task was asked to end.
pub(super) fn is_to_end(task: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = task.py();
    // On 3.11 `uncancel()` does not take back what was asked of a task that executes.
    let must = gil::getattr(task, pyo3::intern!(py, "_must_cancel"))?;
    Ok(gil::is_truthy(&must)? || gil::is_truthy(&*gil::call0(&*gil::getattr(task, pyo3::intern!(py, "cancelling"))?)?)?)
}

/// Whether code of the user's has given a task a name, or attributes.
pub(super) fn is_marked(task: &Bound<'_, PyAny>, name: &str) -> PyResult<bool> {
    let py = task.py();
    // SAFETY: attached, and a live object. It executes no code of the user's, and returns a new reference or null.
    let attributes = unsafe {
        let attributes = pyo3::ffi::PyObject_GenericGetDict(task.as_ptr(), std::ptr::null_mut());
        Bound::from_owned_ptr_or_opt(py, attributes)
    };
    let attributes = match attributes {
        Some(attributes) => attributes.len()?,
        None => {
            // A task that cannot have any.
            let _ = PyErr::take(py);
            0
        }
    };
    let named = gil::call0(&*gil::getattr(task, pyo3::intern!(py, "get_name"))?)?;
    Ok(attributes > 0 || named.extract::<&str>()? != name)
}

fn weak_references(task: &Bound<'_, PyAny>) -> PyResult<usize> {
    static COUNT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = task.py();
    let count =
        COUNT.get_or_try_init(py, || Ok::<_, PyErr>(py.import("_weakref")?.getattr("getweakrefcount")?.unbind()));
    gil::call1(count?.bind(py), task)?.extract()
}

/// The task in which the conditions of bodies without one are asked.
pub(super) struct Spare {
    pub(super) task: Kept,
    pub(super) vars: Kept,
    /// Its `Driver`.
    pub(super) driver: Kept,
    /// It awaits what it is for.
    pub(super) is_there: bool,
}
