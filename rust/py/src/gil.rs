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

#![expect(clippy::disallowed_methods, reason = "this is where they are wrapped")]

use std::cell::Cell;
use std::ffi::c_int;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use pyo3::exceptions::PySystemExit;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use crate::{exit, thread};

/// How many guarded calls are under way, nested ones counted each. Changed only while attached: the
/// interpreter lock makes load-then-store safe, and it is cheaper than an atomic addition.
static INSIDE: AtomicI64 = AtomicI64::new(0);
/// How many Rust-owned threads are attached or about to be. Changed by threads that are not attached.
static VISITS: AtomicI64 = AtomicI64::new(0);
/// How many threads wait, detached, for something that only bide can tell them.
static IDLE: AtomicI64 = AtomicI64::new(0);
/// How often threads have attached; see [`count_attach`].
static ATTACHES: AtomicU64 = AtomicU64::new(0);
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
fn guarded<R>(py: Python<'_>, c_call: impl FnOnce() -> R) -> R {
    let forks = FORKS.load(Ordering::Relaxed);
    INSIDE.store(INSIDE.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    let guard = ParkForEver;
    let result = c_call();
    mem::forget(guard);
    if forks == FORKS.load(Ordering::Relaxed) {
        INSIDE.store(INSIDE.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
    } else {
        returned_in_child(py);
    }
    result
}

/// What was called has forked, and has returned in the child as well. On a thread of bide's that is the end: there is
/// no runner in the child for the thread to go on with, and no other thread that would end the process. As Python does
/// for a thread, what was raised is printed, and `SystemExit` has the last word.
#[cold]
fn returned_in_child(py: Python<'_>) {
    if !thread::is_own() {
        return;
    }
    let code = match PyErr::take(py) {
        None => 0,
        Some(error) if error.is_instance_of::<PySystemExit>(py) => {
            let code = error.value(py).getattr("code").ok();
            code.map_or(1, |code| if code.is_none() { 0 } else { code.extract().unwrap_or(1) })
        }
        Some(error) => {
            error.print(py);
            1
        }
    };
    // SAFETY: ends the process at once. Nothing that it shares with its parent is touched on the way.
    unsafe { libc::_exit(code) }
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

// After the macro, which it uses.
mod refs;
use refs::empty_bin;
pub(crate) use refs::{Kept, Owned, OwnedTuple, Raised};

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

// --------------------------------------------------------------------------- leaving and coming back

/// Releases the interpreter around work that can block, such as a commit.
#[inline]
pub(crate) fn detached<R: Send>(py: Python<'_>, work: impl FnOnce() -> R + Send) -> R {
    let result = py.detach(|| {
        let _away = Away::set(true);
        work()
    });
    count_attach();
    empty_bin(py);
    result
}

/// Releases the interpreter to wait for something that only bide can tell: a worker for work, a
/// parked body for its turn, a caller for its result. Whoever runs meanwhile need not make room.
#[inline]
pub(crate) fn idle<R: Send>(py: Python<'_>, wait: impl FnOnce() -> R + Send) -> R {
    detached(py, || idling(wait))
}

/// Within [`detached`]: from here on as in [`idle`].
#[inline]
pub(crate) fn idling<R>(wait: impl FnOnce() -> R) -> R {
    let _counted = Counted::in_(&IDLE);
    wait()
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
        count_attach();
        if exit::closing() {
            return None;
        }
        empty_bin(py);
        Some(visit(py))
    })
    .flatten()
}

/// For conversions, which are handed no token: on a thread that is attached, as whoever raises an error is.
pub(crate) fn here<R>(f: impl FnOnce(Python<'_>) -> R) -> R {
    Python::attach(f)
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

/// How often threads have come back to the interpreter, or to it for the first time.
pub(crate) fn attaches() -> u64 {
    ATTACHES.load(Ordering::Relaxed)
}

/// Called attached, which makes load-then-store safe, as at [`INSIDE`].
fn count_attach() {
    ATTACHES.store(ATTACHES.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
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
