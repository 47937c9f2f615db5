//! References and errors whose drop may run Python code, and therefore goes under the guard.
//! PyO3's own `Bound`, `Py` and `PyErr` are for what surely is not the last reference.

use std::mem::{self, ManuallyDrop};
use std::ops::Deref;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use bide_sync::Mutex;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::{AWAY, guarded};

/// What a guarded call returned. Reads like the `Bound` in it, and is dropped under the guard.
pub(crate) struct Owned<'py>(ManuallyDrop<Bound<'py, PyAny>>);

impl<'py> Owned<'py> {
    /// The reference itself, whose drop is no longer guarded: for handing it to Python.
    #[inline]
    pub(crate) fn into_bound(self) -> Bound<'py, PyAny> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped and not used again.
        unsafe { ManuallyDrop::take(&mut this.0) }
    }
}

impl<'py> From<Bound<'py, PyAny>> for Owned<'py> {
    fn from(bound: Bound<'py, PyAny>) -> Self {
        Self(ManuallyDrop::new(bound))
    }
}

impl<'py> Deref for Owned<'py> {
    type Target = Bound<'py, PyAny>;
    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for Owned<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: taken once, here, and not used again.
        let bound = unsafe { ManuallyDrop::take(&mut self.0) };
        release(bound.py(), bound.unbind());
    }
}

/// A tuple as [`Owned`] keeps any object.
pub(crate) struct OwnedTuple<'py>(pub(super) Owned<'py>);

impl<'py> Deref for OwnedTuple<'py> {
    type Target = Bound<'py, PyTuple>;
    fn deref(&self) -> &Self::Target {
        // SAFETY: made as a tuple.
        unsafe { self.0.cast_unchecked() }
    }
}

/// A reference held by Rust data of unknown lifetime. It may be dropped anywhere: attached it is
/// released under the guard, otherwise it waits in a bin that the next thread to attach empties.
pub(crate) struct Kept(ManuallyDrop<Py<PyAny>>);

static BIN: Mutex<Vec<Py<PyAny>>> = Mutex::new(Vec::new());
static BIN_IS_FULL: AtomicBool = AtomicBool::new(false);

impl Kept {
    /// Keeps `object`.
    #[inline]
    pub(crate) fn new(object: Py<PyAny>) -> Self {
        Self(ManuallyDrop::new(object))
    }

    /// The object as its owner.
    #[inline]
    pub(crate) fn into_owned(self, py: Python<'_>) -> Owned<'_> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped and not used again.
        Owned::from(unsafe { ManuallyDrop::take(&mut this.0) }.into_bound(py))
    }
}

impl Deref for Kept {
    type Target = Py<PyAny>;
    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // SAFETY: taken once, here, and not used again.
        let object = unsafe { ManuallyDrop::take(&mut self.0) };
        if is_attached() {
            // SAFETY: just seen to be attached, and nothing here detaches.
            release(unsafe { Python::assume_attached() }, object);
        } else {
            BIN.lock().push(object);
            BIN_IS_FULL.store(true, Ordering::Release);
        }
    }
}

/// Whether this thread is attached: it has a thread state and is not within [`detached`], which is the
/// only way to detach. (`PyGILState_Check` is not in the stable ABI.)
fn is_attached() -> bool {
    // SAFETY: may be called by any thread at any time.
    !AWAY.get() && !unsafe { ffi::PyGILState_GetThisThreadState() }.is_null()
}

/// Drops a reference that may be the last one.
#[inline]
fn release(py: Python<'_>, object: Py<PyAny>) {
    let c = unwinds!(ffi::Py_DecRef as fn(*mut PyObject));
    let pointer = object.into_ptr();
    // SAFETY: attached, and the reference was ours until here.
    guarded(py, || unsafe { c(pointer) });
}

/// Releases what was dropped by threads that were not attached.
#[inline]
pub(super) fn empty_bin(py: Python<'_>) {
    if BIN_IS_FULL.load(Ordering::Relaxed) && BIN_IS_FULL.swap(false, Ordering::Acquire) {
        let objects = mem::take(&mut *BIN.lock());
        for object in objects {
            release(py, object);
        }
    }
}

// ------------------------------------------------------------------------------------------- errors

/// An exception that a guarded call raised. The exception holds frames, and those hold the locals of
/// a body, so that dropping it may run Python code: it is kept as [`Kept`] keeps an object.
pub(crate) struct Raised(Kept);

impl Raised {
    /// The exception that a C call has just set.
    #[cold]
    pub(super) fn take(py: Python<'_>) -> Self {
        let mut kind = ptr::null_mut();
        let mut value = ptr::null_mut();
        let mut traceback = ptr::null_mut();
        // SAFETY: attached; the three are owned by us afterwards and may be null.
        // (`PyErr_GetRaisedException` is in the stable ABI from 3.12 on only.)
        unsafe { ffi::PyErr_Fetch(&mut kind, &mut value, &mut traceback) };
        type Three = *mut *mut PyObject;
        let c = unwinds!(ffi::PyErr_NormalizeException as fn(Three, Three, Three));
        // Normalizing may call the exception's class.
        // SAFETY: the three that were fetched.
        guarded(py, || unsafe { c(&raw mut kind, &raw mut value, &raw mut traceback) });
        if value.is_null() {
            let none_set = pyo3::exceptions::PySystemError::new_err("a call failed without setting an exception");
            return Self::new(py, none_set);
        }
        // SAFETY: owned references; the class and the traceback are released after the exception has
        // taken its own reference of the latter, so neither is the last.
        unsafe {
            if !traceback.is_null() {
                ffi::PyException_SetTraceback(value, traceback);
                ffi::Py_DecRef(traceback);
            }
            ffi::Py_DecRef(kind);
            Self(Kept::new(Bound::from_owned_ptr(py, value).unbind()))
        }
    }

    /// An error that Rust made, or that PyO3 returned.
    pub(crate) fn new(py: Python<'_>, error: PyErr) -> Self {
        Self(Kept::new(error.into_value(py).into_any()))
    }

    /// The exception.
    pub(crate) fn value<'a, 'py>(&'a self, py: Python<'py>) -> &'a Bound<'py, PyAny> {
        self.0.bind(py)
    }

    /// Whether it is an instance of `T`. Runs no Python code.
    pub(crate) fn is<T: pyo3::PyTypeInfo>(&self, py: Python<'_>) -> bool {
        self.is_a(T::type_object(py).as_any())
    }

    /// As [`Raised::is`], for a class that Python has defined.
    pub(crate) fn is_a(&self, class: &Bound<'_, PyAny>) -> bool {
        // SAFETY: attached; the type of an exception.
        let is_type = unsafe { ffi::PyType_Check(class.as_ptr()) != 0 };
        // SAFETY: attached; an exception, and just seen to be a type.
        is_type && unsafe { ffi::PyType_IsSubtype(ffi::Py_TYPE(self.0.as_ptr()), class.as_ptr().cast()) != 0 }
    }

    /// The exception as PyO3 wants it, for raising it to a Python caller.
    pub(crate) fn into_err(self, py: Python<'_>) -> PyErr {
        PyErr::from_value(self.0.into_owned(py).into_bound())
    }
}

impl From<Raised> for PyErr {
    fn from(raised: Raised) -> Self {
        super::here(|py| raised.into_err(py))
    }
}

impl std::fmt::Debug for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Raised")
    }
}
