//! Every touch between Rust and the interpreter lock: guarded calls into Python, leaving the
//! interpreter and coming back, and references that may be the last ones.
//! It is not for deciding anything: who runs what and when is the executor's business.
//!
//! **Why calls are guarded.** Up to CPython 3.13 a daemon thread that asks for the interpreter while
//! it is being finalized is ended by `pthread_exit`, which unwinds the stack by force. Rust frames
//! cannot be unwound that way: the process aborts. So each C call that may run Python code is made
//!
//! 1. under [`ParkForEver`], whose drop (run by that unwind, and by nothing else) never returns;
//! 2. through a function pointer of type `extern "C-unwind"` that the optimizer cannot see through.
//!    PyO3 declares the same symbols as `extern "C"`, which LLVM takes as a promise that they never
//!    unwind, and then emits no clean-up for the call at all. A second declaration of a symbol would
//!    be merged with the first.
//!
//! PyO3 guards its own re-attaching likewise, so [`detached`] and [`attach`] build on it. What PyO3
//! does not guard are calls and decrefs: those go through this file.
//!
//! The functions here hold no lock while Python runs.

use std::cell::Cell;
use std::ffi::c_int;
use std::mem::{self, ManuallyDrop};
use std::ops::Deref;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use crate::exit;

/// How many guarded calls are under way, nested ones counted each. Changed only while attached: the
/// interpreter lock makes load-then-store safe, and it is cheaper than an atomic addition.
static INSIDE: AtomicI64 = AtomicI64::new(0);
/// How many Rust-owned threads are attached or about to be. Changed by threads that are not attached.
static VISITS: AtomicI64 = AtomicI64::new(0);
/// How many threads wait, detached, for something that only bide can tell them.
static IDLE: AtomicI64 = AtomicI64::new(0);
/// Counts forks, so that what was counted before one is not subtracted after it.
static FORKS: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// Whether this thread is within [`detached`] or [`idle`].
    static AWAY: Cell<bool> = const { Cell::new(false) };
}

// ---------------------------------------------------------------------------------------- the guard

/// Parks the thread for ever when dropped, which only a forced unwind does: see the module.
struct ParkForEver;

impl Drop for ParkForEver {
    fn drop(&mut self) {
        loop {
            std::thread::sleep(Duration::from_secs(3600));
        }
    }
}

/// Makes one C call that may run Python code. `c_call` must do nothing but call a pointer that
/// [`unwinds!`] made: a Rust panic in it would park the thread as well.
#[inline(always)]
fn guarded<R>(_py: Python<'_>, c_call: impl FnOnce() -> R) -> R {
    let forks = FORKS.load(Ordering::Relaxed);
    INSIDE.store(INSIDE.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    let guard = ParkForEver;
    let result = c_call();
    mem::forget(guard);
    if forks == FORKS.load(Ordering::Relaxed) {
        INSIDE.store(INSIDE.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
    }
    result
}

/// A C function as a pointer that may unwind and whose identity the optimizer does not know.
macro_rules! unwinds {
    ($function:path as fn($($argument:ty),* $(; $dots:tt)?) $(-> $result:ty)?) => {{
        type Pointer = unsafe extern "C-unwind" fn($($argument,)* $($dots)?) $(-> $result)?;
        // SAFETY: the same function with the same signature; "C-unwind" is "C" that may unwind.
        let pointer = unsafe { mem::transmute::<*const (), Pointer>($function as *const ()) };
        std::hint::black_box(pointer)
    }};
}

// ------------------------------------------------------------------------------------ guarded calls

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

/// Calls `function(*arguments)` without making a tuple, for up to four arguments; with more, a tuple.
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
        // SAFETY: a new tuple that nobody else has, an index within it, and a reference that the
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

/// Drops a reference that may be the last one.
#[inline]
pub(crate) fn release(py: Python<'_>, object: Py<PyAny>) {
    let c = unwinds!(ffi::Py_DecRef as fn(*mut PyObject));
    let pointer = object.into_ptr();
    // SAFETY: attached, and the reference was ours until here.
    guarded(py, || unsafe { c(pointer) });
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

// --------------------------------------------------------------------------------------- references

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
pub(crate) struct OwnedTuple<'py>(Owned<'py>);

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

/// Whether this thread is attached: it has a thread state, and has not left by [`detached`], which is
/// the only way out. (`PyGILState_Check` is not in the stable ABI.)
fn is_attached() -> bool {
    // SAFETY: may be called by any thread at any time.
    !AWAY.get() && !unsafe { ffi::PyGILState_GetThisThreadState() }.is_null()
}

/// Releases what was dropped by threads that were not attached.
#[inline]
fn empty_bin(py: Python<'_>) {
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
    fn take(py: Python<'_>) -> Self {
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
        let class = T::type_object(py);
        // SAFETY: attached; an exception and a type.
        unsafe { ffi::PyType_IsSubtype(ffi::Py_TYPE(self.0.as_ptr()), class.as_ptr().cast::<ffi::PyTypeObject>()) != 0 }
    }

    /// The exception as PyO3 wants it, for raising it to a Python caller.
    pub(crate) fn into_err(self, py: Python<'_>) -> PyErr {
        PyErr::from_value(self.0.into_owned(py).into_bound())
    }
}

impl From<Raised> for PyErr {
    fn from(raised: Raised) -> Self {
        Python::attach(|py| raised.into_err(py))
    }
}

impl std::fmt::Debug for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Raised")
    }
}

// --------------------------------------------------------------------------- leaving and coming back

/// Releases the interpreter around work that can block, such as a commit.
#[inline]
pub(crate) fn detached<R: Send>(py: Python<'_>, work: impl FnOnce() -> R + Send) -> R {
    let result = py.detach(|| {
        let _away = Away::set(true);
        work()
    });
    empty_bin(py);
    result
}

/// Releases the interpreter to wait for something that only bide can tell: a worker for work, a
/// parked body for its turn, a caller for its result. Whoever runs meanwhile need not make room.
#[inline]
pub(crate) fn idle<R: Send>(py: Python<'_>, wait: impl FnOnce() -> R + Send) -> R {
    detached(py, || {
        let _counted = Counted::in_(&IDLE);
        wait()
    })
}

/// A closure of the engine's, for running detached.
pub(crate) struct Engines<'a>(pub(crate) &'a mut dyn FnMut());

// SAFETY: it never leaves its thread. PyO3 asks for `Send` as its stand-in for "touches no Python object", and the
// engine, being generic over its host, has none that it could touch.
unsafe impl Send for Engines<'_> {}

impl Engines<'_> {
    pub(crate) fn call(self) {
        (self.0)();
    }
}

/// Attaches a thread that Rust owns. `None`: the interpreter is going, and `visit` was not called.
/// On a thread that is attached already it just calls.
pub(crate) fn attach<R>(visit: impl FnOnce(Python<'_>) -> R) -> Option<R> {
    // Counted first and asked afterwards, while the exit protocol sets `closing` first and counts
    // afterwards: one of the two sees the other.
    let _counted = Counted::in_(&VISITS);
    if exit::closing() {
        return None;
    }
    Python::try_attach(|py| {
        let _here = Away::set(false);
        if exit::closing() {
            return None;
        }
        empty_bin(py);
        Some(visit(py))
    })
    .flatten()
}

/// Marks the thread as detached or attached until dropped, also by a panic.
struct Away(bool);

impl Away {
    fn set(away: bool) -> Self {
        Self(AWAY.replace(away))
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        AWAY.set(self.0);
    }
}

/// One more in a counter until dropped, also by a panic.
struct Counted(&'static AtomicI64, u32);

impl Counted {
    fn in_(counter: &'static AtomicI64) -> Self {
        counter.fetch_add(1, Ordering::SeqCst);
        Self(counter, FORKS.load(Ordering::SeqCst))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.1 == FORKS.load(Ordering::SeqCst) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

// ----------------------------------------------------------------------------------------- counters

/// Whether no thread is inside a guarded call, and no Rust-owned thread is attached.
pub(crate) fn nobody_inside() -> bool {
    INSIDE.load(Ordering::SeqCst) <= 0 && VISITS.load(Ordering::SeqCst) <= 0
}

/// How many threads are idle inside bide.
pub(crate) fn idle_threads() -> i64 {
    IDLE.load(Ordering::SeqCst)
}

/// In the child of a fork: of all the threads that were counted, only this one is left, and it is
/// inside no call that will be subtracted. Async-signal-safe.
pub(crate) fn forget_other_threads() {
    FORKS.fetch_add(1, Ordering::SeqCst);
    for counter in [&INSIDE, &VISITS, &IDLE] {
        counter.store(0, Ordering::SeqCst);
    }
}
