//! The body that a thread executes, for `bide.current()`: its handle, made when it is first asked for.

use std::cell::{Cell, OnceCell};
use std::ptr;

use bide_core::shown::shown;
use bide_executor::Call;
use pyo3::exceptions::PyLookupError;
use pyo3::prelude::*;

use crate::errors;
use crate::gil::{Kept, Owned};
use crate::handle::PyTaskHandle;
use crate::host::Python3;
use crate::process;

/// A body that executes.
pub(crate) struct Executing<'a> {
    /// What its thread executes.
    pub(crate) call: &'a Call<'a, Python3>,
    /// The `bide.Context` of the body, if it takes one.
    pub(crate) context: Option<Kept>,
    /// Its handle, once it has one.
    pub(crate) handle: OnceCell<Kept>,
}

thread_local! {
    /// The body that the thread executes; null outside of bodies.
    static EXECUTING: Cell<*const Executing<'static>> = const { Cell::new(ptr::null()) };
}

/// While it exists, the thread executes a body.
pub(crate) struct Scope(());

impl Executing<'_> {
    /// The thread executes this body from here on. The caller keeps the body until it has dropped the scope.
    pub(crate) fn enter(&self) -> Scope {
        EXECUTING.set(ptr::from_ref(self).cast());
        Scope(())
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        EXECUTING.set(ptr::null());
    }
}

/// Whether the calling thread executes a plain function's body.
#[pyfunction]
#[pyo3(name = "_executes_here")]
pub(crate) fn executes_here() -> bool {
    !EXECUTING.get().is_null() && process::is_in_body()
}

/// The handle of the body that the calling thread executes. `last` is the handle found earlier in the same contextvars,
/// or in those that they were copied from.
#[pyfunction]
#[pyo3(name = "_current")]
pub(crate) fn current<'py>(py: Python<'py>, last: Option<&Bound<'py, PyTaskHandle>>) -> PyResult<Bound<'py, PyAny>> {
    let executing = EXECUTING.get();
    // In the child of a fork within a body, no body executes.
    if executing.is_null() || !process::is_in_body() {
        return Err(none_here(py, last));
    }
    // SAFETY: it was set by this thread, within a frame that is still on its stack: the frame clears it before it ends.
    let executing = unsafe { &*executing };
    if let Some(handle) = executing.handle.get() {
        return Ok(handle.bind(py).clone());
    }
    let context = executing.context.as_ref().map(|context| Kept::new(context.bind(py).clone().unbind()));
    let handle =
        PyTaskHandle::new(executing.call.late_body().clone(), context, executing.call.task.map != bide_core::NO_MAP);
    let handle = Bound::new(py, handle)?.into_any();
    let _ = executing.handle.set(Kept::new(handle.clone().unbind()));
    Ok(handle)
}

/// No body executes on the calling thread.
fn none_here(py: Python<'_>, last: Option<&Bound<'_, PyTaskHandle>>) -> PyErr {
    if process::is_in_body() {
        return PyLookupError::new_err("bide.current(): this is the condition of a gate, and no body executes here");
    }
    let Some(last) = last.map(Bound::get) else {
        return PyLookupError::new_err(
            "bide.current(): no body executes on this thread; on a thread that a body has started, pass it the handle",
        );
    };
    let task = last.task();
    let task = shown(&task);
    if last.has_ended() {
        return errors::bide(py, &format!("bide.current(): the body of task '{task}' has ended"));
    }
    PyLookupError::new_err(format!(
        "bide.current(): the body of task '{task}' executes on another thread; pass this one the handle"
    ))
}

/// A reference of its own to what a body already has.
pub(crate) fn kept(object: &Owned<'_>) -> Kept {
    Kept::new(Bound::clone(object).unbind())
}
