//! Calls into Python under the guard: each may run code of the user's, and returns what is dropped under the guard too.

use std::ffi::c_int;
use std::mem;
use std::ptr;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use super::guarded;
use super::refs::{Owned, OwnedTuple, Raised};

/// Calls `function()`.
#[inline]
pub(crate) fn call0<'py>(function: &Bound<'py, PyAny>) -> Result<Owned<'py>, Raised> {
    let c = unwinds!(ffi::PyObject_CallNoArgs as fn(*mut PyObject) -> *mut PyObject);
    // SAFETY: attached, and the callable is a live reference.
    let result = guarded(function.py(), || unsafe { c(function.as_ptr()) });
    owned(function.py(), result)
}

/// Calls `function(argument)` without making a tuple.
#[inline]
pub(crate) fn call1<'py>(function: &Bound<'py, PyAny>, argument: &Bound<'py, PyAny>) -> Result<Owned<'py>, Raised> {
    let c = unwinds!(ffi::PyObject_CallFunctionObjArgs as fn(*mut PyObject; ...) -> *mut PyObject);
    let end = ptr::null_mut::<PyObject>();
    // SAFETY: attached, live references, and the list of arguments ends with null.
    let result = guarded(function.py(), || unsafe { c(function.as_ptr(), argument.as_ptr(), end) });
    owned(function.py(), result)
}

/// What a step of a coroutine has come to.
pub(crate) enum Sent<'py> {
    /// It awaits this.
    Awaits(Owned<'py>),
    /// It has returned this.
    Returned(Owned<'py>),
}

/// Has a coroutine make its next step, without a `StopIteration` at its end.
#[inline]
pub(crate) fn send<'py>(coroutine: &Bound<'py, PyAny>) -> Result<Sent<'py>, Raised> {
    let py = coroutine.py();
    let c = unwinds!(ffi::PyIter_Send as fn(*mut PyObject, *mut PyObject, *mut *mut PyObject) -> ffi::PySendResult);
    let mut result = ptr::null_mut();
    let out = &raw mut result;
    // SAFETY: attached, live references, and a place for the result.
    let sent = guarded(py, || unsafe { c(coroutine.as_ptr(), ffi::Py_None(), out) });
    let result = owned(py, result)?;
    Ok(if sent == ffi::PySendResult::PYGEN_RETURN { Sent::Returned(result) } else { Sent::Awaits(result) })
}

/// Calls `object.name(argument)` without making a bound method.
#[inline]
pub(crate) fn call_method1<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    argument: &Bound<'py, PyAny>,
) -> Result<Owned<'py>, Raised> {
    let c = unwinds!(ffi::PyObject_CallMethodObjArgs as fn(*mut PyObject, *mut PyObject; ...) -> *mut PyObject);
    let end = ptr::null_mut::<PyObject>();
    // SAFETY: attached, live references, and the list of arguments ends with null.
    let result = guarded(object.py(), || unsafe { c(object.as_ptr(), name.as_ptr(), argument.as_ptr(), end) });
    owned(object.py(), result)
}

/// Calls `function(*arguments)` without making a tuple, for up to six arguments; with more, a tuple.
#[inline]
pub(crate) fn call_args<'py>(
    function: &Bound<'py, PyAny>,
    arguments: &[&Bound<'py, PyAny>],
) -> Result<Owned<'py>, Raised> {
    let py = function.py();
    let c = unwinds!(ffi::PyObject_CallFunctionObjArgs as fn(*mut PyObject; ...) -> *mut PyObject);
    let end = ptr::null_mut::<PyObject>();
    let f = function.as_ptr();
    // SAFETY (each): attached, live references, and the list of arguments ends with null.
    let result = match arguments {
        [] => return call0(function),
        [a] => return call1(function, a),
        // SAFETY: as said above.
        [a, b] => guarded(py, || unsafe { c(f, a.as_ptr(), b.as_ptr(), end) }),
        // SAFETY: as said above.
        [a, b, d] => guarded(py, || unsafe { c(f, a.as_ptr(), b.as_ptr(), d.as_ptr(), end) }),
        // SAFETY: as said above.
        [a, b, d, e] => guarded(py, || unsafe { c(f, a.as_ptr(), b.as_ptr(), d.as_ptr(), e.as_ptr(), end) }),
        [a, b, d, e, g] => {
            // SAFETY: as said above.
            guarded(py, || unsafe { c(f, a.as_ptr(), b.as_ptr(), d.as_ptr(), e.as_ptr(), g.as_ptr(), end) })
        }
        [a, b, d, e, g, h] => {
            // SAFETY: as said above.
            guarded(py, || unsafe { c(f, a.as_ptr(), b.as_ptr(), d.as_ptr(), e.as_ptr(), g.as_ptr(), h.as_ptr(), end) })
        }
        many => return call(function, &*tuple(py, many)?, None),
    };
    owned(py, result)
}

/// Calls `function(*arguments, **keywords)`.
#[inline]
pub(crate) fn call<'py>(
    function: &Bound<'py, PyAny>,
    arguments: &Bound<'py, PyTuple>,
    keywords: Option<&Bound<'py, PyDict>>,
) -> Result<Owned<'py>, Raised> {
    let c = unwinds!(ffi::PyObject_Call as fn(*mut PyObject, *mut PyObject, *mut PyObject) -> *mut PyObject);
    let keywords = keywords.map_or(ptr::null_mut(), Bound::as_ptr);
    // SAFETY: attached and live references; the keywords may be null.
    let result = guarded(function.py(), || unsafe { c(function.as_ptr(), arguments.as_ptr(), keywords) });
    owned(function.py(), result)
}

/// `bool(value)`.
#[inline]
pub(crate) fn is_truthy(value: &Bound<'_, PyAny>) -> Result<bool, Raised> {
    let c = unwinds!(ffi::PyObject_IsTrue as fn(*mut PyObject) -> c_int);
    // SAFETY: attached and a live reference.
    match guarded(value.py(), || unsafe { c(value.as_ptr()) }) {
        -1 => Err(Raised::take(value.py())),
        truth => Ok(truth != 0),
    }
}

/// `getattr(value, name)`.
#[inline]
pub(crate) fn getattr<'py>(value: &Bound<'py, PyAny>, name: &Bound<'py, PyString>) -> Result<Owned<'py>, Raised> {
    let c = unwinds!(ffi::PyObject_GetAttr as fn(*mut PyObject, *mut PyObject) -> *mut PyObject);
    // SAFETY: attached and live references.
    let result = guarded(value.py(), || unsafe { c(value.as_ptr(), name.as_ptr()) });
    owned(value.py(), result)
}

/// `setattr(value, name, to)`.
pub(crate) fn setattr(
    value: &Bound<'_, PyAny>,
    name: &Bound<'_, PyString>,
    to: &Bound<'_, PyAny>,
) -> Result<(), Raised> {
    let c = unwinds!(ffi::PyObject_SetAttr as fn(*mut PyObject, *mut PyObject, *mut PyObject) -> c_int);
    // SAFETY: attached and live references.
    let failed = guarded(value.py(), || unsafe { c(value.as_ptr(), name.as_ptr(), to.as_ptr()) });
    done(value.py(), failed)
}

/// A new tuple. CPython 3.11 collects garbage, and so runs finalizers, when it allocates one.
pub(crate) fn tuple<'py>(py: Python<'py>, elements: &[&Bound<'py, PyAny>]) -> Result<OwnedTuple<'py>, Raised> {
    let c = unwinds!(ffi::PyTuple_New as fn(ffi::Py_ssize_t) -> *mut PyObject);
    // A slice is never longer than isize::MAX.
    // SAFETY: attached.
    let result = guarded(py, || unsafe { c(elements.len() as ffi::Py_ssize_t) });
    let tuple = owned(py, result)?;
    for (i, element) in elements.iter().enumerate() {
        // SAFETY: a new tuple without other references, an index within it, and a reference that the
        // tuple takes over.
        unsafe {
            let element = (*element).clone().into_ptr();
            ffi::PyTuple_SetItem(tuple.as_ptr(), i as ffi::Py_ssize_t, element)
        };
    }
    Ok(OwnedTuple(tuple))
}

/// A new dict, for the reason given at [`tuple`]. Fill it with [`set_item`].
pub(crate) fn dict(py: Python<'_>) -> Result<Owned<'_>, Raised> {
    let c = unwinds!(ffi::PyDict_New as fn() -> *mut PyObject);
    // SAFETY: attached.
    owned(py, guarded(py, || unsafe { c() }))
}

/// `dict[key] = value`; the key's hash and equality may be Python code.
pub(crate) fn set_item(
    dict: &Bound<'_, PyAny>,
    key: &Bound<'_, PyAny>,
    value: &Bound<'_, PyAny>,
) -> Result<(), Raised> {
    let c = unwinds!(ffi::PyObject_SetItem as fn(*mut PyObject, *mut PyObject, *mut PyObject) -> c_int);
    // SAFETY: attached and live references.
    let failed = guarded(dict.py(), || unsafe { c(dict.as_ptr(), key.as_ptr(), value.as_ptr()) });
    done(dict.py(), failed)
}

/// `str(value)`.
pub(crate) fn str<'py>(value: &Bound<'py, PyAny>) -> Result<Owned<'py>, Raised> {
    let c = unwinds!(ffi::PyObject_Str as fn(*mut PyObject) -> *mut PyObject);
    // SAFETY: attached and a live reference.
    let result = guarded(value.py(), || unsafe { c(value.as_ptr()) });
    owned(value.py(), result)
}

fn done(py: Python<'_>, failed: c_int) -> Result<(), Raised> {
    if failed == 0 { Ok(()) } else { Err(Raised::take(py)) }
}

#[inline]
fn owned(py: Python<'_>, result: *mut PyObject) -> Result<Owned<'_>, Raised> {
    // SAFETY: a new reference, or null with an exception set.
    match unsafe { Bound::from_owned_ptr_or_opt(py, result) } {
        Some(bound) => Ok(Owned::from(bound)),
        None => Err(Raised::take(py)),
    }
}
