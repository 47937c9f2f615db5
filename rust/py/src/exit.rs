//! What happens when the interpreter exits or the process forks.
//!
//! At exit, before Python joins its non-daemon threads: `closing` is set, everything registered by
//! [`close_at_exit`] begins to close, and the exiting thread waits, detached, until no thread is
//! inside a call into Python or [`GRACE`] is over. A body that never returns is abandoned: its
//! thread is parked by the guard in `gil.rs` when it next asks for the interpreter.
//!
//! In the child of a fork none of bide's threads exist. Nothing of what was made before is closed or
//! dropped there, and using it is an error that says so: each object keeps its [`Home`], and
//! `process.rs` knows which process this is.

#![expect(clippy::disallowed_methods, reason = "how long a thread is attached or waited for is not the engine's time")]

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bide_sync::Mutex;
use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::gil::{self, Raised};
use crate::process::{self, Home, Kind};
use crate::{errors, panics, thread, turn};

/// How long interpreter exit waits for bodies to end.
const GRACE: Duration = Duration::from_millis(300);
/// How long it then waits for the notifier threads to deliver what the close has reported.
const NOTIFIER_GRACE: Duration = Duration::from_millis(50);
/// How long the stores may take to be released. What is not committed by then is as after a crash.
const RELEASE: Duration = Duration::from_secs(5);

/// Set when the interpreter that had imported this module has been finalized, in a program that embeds it.
static GONE: AtomicBool = AtomicBool::new(false);
/// What to close. Locked only while attached and never while Python code runs: so no other thread
/// can hold it at a fork.
static REGISTERED: Mutex<Vec<(Home, Weak<dyn CloseAtExit>)>> = Mutex::new(Vec::new());

/// Something that runs threads and has to stop when the interpreter exits.
/// Both are called detached and must not attach.
pub(crate) trait CloseAtExit: Send + Sync {
    /// Start nothing new, wake idle workers and parked bodies so that they end. Does not block.
    fn begin_close(&self);
    /// All bodies have ended, or their time is over: commit what remains and release the store.
    fn end_close(&self);
}

/// To be called before an error is raised in a thread because the wait was ended by the close. While the interpreter
/// exits a daemon thread stays here: an error that it does not catch would only be printed.
pub(crate) fn keep_daemons(py: Python<'_>) -> Result<(), Raised> {
    if process::closing() && !process::is_own() && thread::is_daemon(py)? {
        gil::detached(py, || {
            loop {
                std::thread::park();
            }
        });
    }
    Ok(())
}

// ----------------------------------------------------------------------------------------- the module

/// To be called first when the module is imported: refuses a second interpreter, notices forks.
pub(crate) fn install(py: Python<'_>) -> PyResult<()> {
    static INTERPRETER: AtomicI64 = AtomicI64::new(-1);
    if GONE.load(Ordering::SeqCst) {
        // Its number would be the same, and all that is kept here belongs to the one that is gone.
        return Err(PyImportError::new_err(
            "bide was imported by an interpreter of this process that has been finalized, and it works in one only: \
             initialize Python once, or start a process of its own",
        ));
    }
    // SAFETY: attached.
    let id = unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) };
    if id < 0 {
        return Err(PyErr::fetch(py));
    }
    match INTERPRETER.compare_exchange(-1, id, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => {
            // SAFETY: attached; the function only stores to an atomic, and this library is never unloaded. It fails if
            // the few places for such functions are taken: then it is not noticed, as without it.
            unsafe { ffi::Py_AtExit(Some(interpreter_gone)) };
            thread::finalizing(py)?;
            thread::thread_class(py)?;
            turn::thread_count(py)?;
            notice_forks()
        }
        Err(first) if first != id => Err(PyImportError::new_err(
            "bide is in use by another interpreter of this process, and it works in one only: \
             import it there, or start a process of its own",
        )),
        Err(_) => Ok(()),
    }
}

extern "C" fn interpreter_gone() {
    GONE.store(true, Ordering::SeqCst);
}

/// Has [`CloseAtExit`] called when the interpreter exits, if the process is still the same one then
/// and the object still exists.
pub(crate) fn close_at_exit(py: Python<'_>, what: Weak<dyn CloseAtExit>) -> Result<(), Raised> {
    hook(py)?;
    // Attached, as `close_all` is when it sets this and takes what is registered: nothing comes in between.
    if process::closing() {
        return Err(Raised::new(py, errors::closed(py, "the interpreter is exiting: no runner can be made any more")));
    }
    let mut registered = REGISTERED.lock();
    registered.retain(|(home, weak)| home.is_here() && weak.strong_count() > 0);
    registered.push((Home::here(), what));
    Ok(())
}

/// Asks Python, once, to call [`close_all`]. A forked child inherits that.
fn hook(py: Python<'_>) -> Result<(), Raised> {
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.load(Ordering::SeqCst) {
        return Ok(());
    }
    let raised = |error: PyErr| Raised::new(py, error);
    let function = wrap_pyfunction!(close_all, py).map_err(raised)?.into_any();
    // Plain `atexit` runs after Python has joined the non-daemon threads, which may be waiting for a
    // run of ours: it is only for an interpreter without the other.
    let threading = py.import("threading").map_err(raised)?;
    let register = match threading.getattr("_register_atexit") {
        Ok(register) => register,
        Err(_) => py.import("atexit").and_then(|atexit| atexit.getattr("register")).map_err(raised)?,
    };
    gil::call1(&register, &function)?;
    DONE.store(true, Ordering::SeqCst);
    Ok(())
}

// ----------------------------------------------------------------------------------------------- exit

/// Closes everything of this process. Python calls it at exit; it raises nothing.
#[pyfunction]
fn close_all(py: Python<'_>) {
    process::begin_closing();
    let open: Vec<_> =
        REGISTERED.lock().drain(..).filter(|(home, _)| home.is_here()).filter_map(|(_, weak)| weak.upgrade()).collect();
    let ended = || thread::all_ended(Kind::Bodies) && gil::nobody_inside();
    if open.is_empty() && ended() && thread::all_ended(Kind::Notifier) {
        process::end_closing();
        return;
    }
    gil::detached(py, || {
        let deadline = Instant::now() + GRACE;
        for each in &open {
            // A bug in one must not keep the others open; it can no longer be reported.
            let _ = panics::no_panic(|| each.begin_close());
        }
        wait_until(deadline, ended);
        release(open);
        process::end_closing();
        // What the close reports, such as that a wait for a run has ended, is delivered through Python.
        wait_until(Instant::now() + NOTIFIER_GRACE, || thread::all_ended(Kind::Notifier));
    });
}

/// Releases the stores, on a thread of its own: one that does not answer must not keep the process from its end.
fn release(open: Vec<Arc<dyn CloseAtExit>>) {
    let (report, ended) = mpsc::channel::<()>();
    let open = Arc::new(open);
    let all = Arc::clone(&open);
    let act = move || {
        all.iter().for_each(|each| drop(panics::no_panic(|| each.end_close())));
        // The exiting thread has the last reference, so that what is dropped with it is dropped attached.
        drop(all);
        drop(report);
    };
    if std::thread::Builder::new().name("bide-close".to_owned()).spawn(act).is_ok() {
        let _ = ended.recv_timeout(RELEASE);
    } else {
        open.iter().for_each(|each| drop(panics::no_panic(|| each.end_close())));
    }
}

fn wait_until(deadline: Instant, done: impl Fn() -> bool) {
    while !done() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_micros(500));
    }
}

// ----------------------------------------------------------------------------------------------- fork

fn notice_forks() -> PyResult<()> {
    process::begin_process();
    #[cfg(unix)]
    {
        // SAFETY: the handler only calls getpid and stores to atomics, and this library is never
        // unloaded.
        let failed = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        if failed != 0 {
            return Err(PyImportError::new_err(format!(
                "bide cannot be notified of forks ({})",
                std::io::Error::from_raw_os_error(failed)
            )));
        }
    }
    Ok(())
}

#[cfg(unix)]
extern "C" fn in_child() {
    process::begin_process();
    gil::forget_other_threads();
    thread::forget_all();
}
