//! What a handle holds, and what the files that extend it share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bide_executor::{Attached, BodyCx, CallError};
use pyo3::prelude::*;

use crate::context::read_only;
use crate::gil::{self, Kept, Raised};
use crate::host::{PyEngine, Python3};
use crate::process::Home;
use crate::{errors, stack, turn};

/// What a body with a handle gets. Use it only within the body that it was given to.
#[pyclass(frozen, module = "bide", name = "TaskHandle")]
pub(crate) struct PyTaskHandle {
    /// The entry of the body, in the engine.
    pub(super) body: Arc<BodyCx<Python3>>,
    /// The `bide.Context` of the body, if it takes one.
    context: Option<Kept>,
    /// How many steps and conditions execute, within which it cannot be changed.
    read_only: AtomicU32,
    /// The process in which it was made.
    pub(super) home: Home,
}

/// A thread of the host within a body.
pub(crate) struct Here<'a, 'py>(Python<'py>, &'a PyEngine);

impl Attached for Here<'_, '_> {
    fn detached(&mut self, f: &mut dyn FnMut()) {
        let f = gil::Engines(f);
        turn::detached(self.0, self.1, move || f.call());
    }

    fn idle(&mut self, f: &mut dyn FnMut()) {
        let f = gil::Engines(f);
        turn::idle(self.0, self.1, move || f.call());
    }

    fn parks(&mut self) {
        stack::release_unused();
    }
}

impl PyTaskHandle {
    /// The context of an element is read-only all the time.
    pub(crate) fn new(body: Arc<BodyCx<Python3>>, context: Option<Kept>, is_element: bool) -> Self {
        Self { body, context, read_only: AtomicU32::new(u32::from(is_element)), home: Home::here() }
    }

    /// The task's name.
    pub(crate) fn task(&self) -> Arc<str> {
        self.body.task_name()
    }

    /// Whether the body has returned.
    pub(crate) fn has_ended(&self) -> bool {
        self.body.has_ended()
    }

    /// What the body talks to the engine through.
    pub(crate) fn body(&self) -> &Arc<BodyCx<Python3>> {
        &self.body
    }

    pub(crate) fn here<'py>(&self, py: Python<'py>) -> Here<'_, 'py> {
        Here(py, self.body.engine())
    }

    pub(crate) fn error(&self, py: Python<'_>, error: &CallError) -> PyErr {
        errors::wait(py, error, &self.body.task_name())
    }

    /// Within a step or a condition the context cannot be changed. Several steps may execute at once.
    pub(crate) fn with_context_read_only<R>(
        &self,
        py: Python<'_>,
        f: impl FnOnce() -> Result<R, Raised>,
    ) -> Result<R, Raised> {
        let Some(context) = &self.context else { return f() };
        if self.read_only.fetch_add(1, Ordering::SeqCst) == 0 {
            read_only(py, context.bind(py), true)?;
        }
        let result = f();
        if self.read_only.fetch_sub(1, Ordering::SeqCst) == 1 {
            read_only(py, context.bind(py), false)?;
        }
        result
    }
}
