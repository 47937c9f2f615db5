//! All use of the interpreter lock from Rust: guarded calls into Python, detaching and attaching, and
//! references that may be the last ones.
//! Nothing is decided here: what runs and when is up to the executor.
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
use std::mem;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use pyo3::exceptions::PySystemExit;
use pyo3::prelude::*;

use crate::process;

/// How many guarded calls are under way, nested ones counted each. Changed only while attached: the
/// interpreter lock makes load-then-store safe, and it is cheaper than an atomic addition.
static INSIDE: AtomicI64 = AtomicI64::new(0);
/// How many Rust-owned threads are attached or about to be. Changed by threads that are not attached.
static VISITS: AtomicI64 = AtomicI64::new(0);
/// How many threads wait, detached, for something that only bide can signal.
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
/// no runner in the child for the thread to continue with, and no other thread that would end the process. As Python
/// does for a thread, what was raised is printed, and `SystemExit` sets the exit code.
#[cold]
fn returned_in_child(py: Python<'_>) {
    if !process::is_own() {
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

// After the macro, which they use.
mod calls;
mod refs;
pub(crate) use calls::{
    Sent, call, call_args, call_method1, call0, call1, dict, getattr, is_truthy, send, set_item, setattr, str, tuple,
};
use refs::empty_bin;
pub(crate) use refs::{Kept, Owned, OwnedTuple, Raised};

// --------------------------------------------------------------------------- leaving and coming back

/// Releases the interpreter around work that can block, such as a commit.
#[inline]
pub(crate) fn detached<R: Send>(py: Python<'_>, work: impl FnOnce() -> R + Send) -> R {
    let result = py.detach(|| {
        let _away = DetachedMark::set(true);
        work()
    });
    count_attach();
    empty_bin(py);
    result
}

/// Releases the interpreter to wait for something that only bide can signal: a worker for work, a
/// parked body for its turn, a caller for its result. Threads that run meanwhile need not make room.
#[inline]
pub(crate) fn idle<R: Send>(py: Python<'_>, wait: impl FnOnce() -> R + Send) -> R {
    detached(py, || idling(wait))
}

/// Within [`detached`]: from here on as in [`idle`].
#[inline]
pub(crate) fn idling<R>(wait: impl FnOnce() -> R) -> R {
    let _counted = CountGuard::add(&IDLE);
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
    let _counted = CountGuard::add(&VISITS);
    if process::closing() {
        return None;
    }
    Python::try_attach(|py| {
        let _here = DetachedMark::set(false);
        count_attach();
        if process::closing() {
            return None;
        }
        empty_bin(py);
        Some(visit(py))
    })
    .flatten()
}

/// For conversions, which get no token. Call on a thread that is attached, as one that raises an error is.
pub(crate) fn here<R>(f: impl FnOnce(Python<'_>) -> R) -> R {
    Python::attach(f)
}

/// Marks the thread as detached or attached until dropped, also by a panic.
struct DetachedMark(bool);

impl DetachedMark {
    fn set(away: bool) -> Self {
        Self(AWAY.replace(away))
    }
}

impl Drop for DetachedMark {
    fn drop(&mut self) {
        AWAY.set(self.0);
    }
}

/// One more in a counter until dropped, also by a panic.
struct CountGuard(&'static AtomicI64, u32);

impl CountGuard {
    fn add(counter: &'static AtomicI64) -> Self {
        counter.fetch_add(1, Ordering::SeqCst);
        Self(counter, FORKS.load(Ordering::SeqCst))
    }
}

impl Drop for CountGuard {
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

/// In the child of a fork: of all the threads that were counted, only this one remains, and it is
/// inside no call that will be subtracted. Async-signal-safe.
pub(crate) fn forget_other_threads() {
    FORKS.fetch_add(1, Ordering::SeqCst);
    for counter in [&INSIDE, &VISITS, &IDLE] {
        counter.store(0, Ordering::SeqCst);
    }
}
