//! Starts threads that Python can see: `threading.Thread(daemon=True)` running a Rust closure. Such
//! a thread keeps one thread state for life, so that `threading.local`, `faulthandler` and profilers
//! work, and the interpreter does not wait for it at exit.

use std::sync::atomic::{AtomicI64, Ordering};

use bide_sync::Mutex;
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyString};
use pyo3::{ffi, intern};

use crate::gil::{self, Raised};
use crate::process::{self, Home, Kind};
use crate::{errors, maps, panics};

type Work = Box<dyn FnOnce(Python<'_>) + Send>;

/// Threads of each kind whose work has not returned.
static WORKING: [AtomicI64; 2] = [AtomicI64::new(0), AtomicI64::new(0)];

/// Why a thread was not started. Its work will not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The interpreter is going: nothing is started any more.
    #[error("the interpreter is exiting, so no thread can be started")]
    Exiting,
    /// The system or the interpreter has no more threads to give.
    #[error("no more threads can be started here ({0})")]
    NoMore(String),
    /// Starting raised something else.
    #[error("starting a thread raised an exception")]
    Raised(Raised),
}

impl From<StartError> for PyErr {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Raised(raised) => raised.into(),
            other => gil::here(|py| errors::bide(py, &other.to_string())),
        }
    }
}

/// What the Python thread calls.
#[pyclass(frozen, module = "bide._core", name = "_Work")]
struct ThreadWork(Kind, Mutex<Option<Work>>);

#[pymethods]
impl ThreadWork {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        let Some(work) = self.1.lock().take() else {
            return Ok(());
        };
        process::own_thread(self.0);
        let _working = Working::begin(self.0);
        panics::method(|| {
            work(py);
            Ok(())
        })
    }
}

/// Starts a daemon thread called `name` that runs `work` attached. Returns once it is running.
pub(crate) fn start_thread(
    py: Python<'_>,
    name: &str,
    kind: Kind,
    work: impl FnOnce(Python<'_>) + Send + 'static,
) -> Result<(), StartError> {
    if process::closing() {
        return Err(StartError::Exiting);
    }
    if !maps::have_room() {
        return Err(StartError::NoMore(
            "the process has nearly as many memory maps as it may: vm.max_map_count".into(),
        ));
    }
    let raised = |error: PyErr| StartError::Raised(Raised::new(py, error));
    let target = Bound::new(py, ThreadWork(kind, Mutex::new(Some(Box::new(work))))).map_err(raised)?;
    let result = start(py, name, target.as_any());
    let Err(error) = result else { return Ok(()) };
    if target.get().1.lock().take().is_none() {
        // It runs: what was raised came from elsewhere, such as a signal handler while `start`
        // waited for the thread to report.
        report_elsewhere(py, error);
        return Ok(());
    }
    if !error.is::<PyRuntimeError>(py) {
        return Err(StartError::Raised(error));
    }
    if process::closing() || is_finalizing(py) {
        return Err(StartError::Exiting);
    }
    let text = gil::str(error.value(py)).map(|text| text.to_string());
    Err(StartError::NoMore(text.unwrap_or_default()))
}

fn start(py: Python<'_>, name: &str, target: &Bound<'_, PyAny>) -> Result<(), Raised> {
    let class = thread_class(py).map_err(|error| Raised::new(py, error))?;
    let name = PyString::new(py, name).into_any();
    let group = py.None().into_bound(py);
    let thread = gil::call_args(class, &[&group, target, &name])?;
    let yes = PyBool::new(py, true).to_owned().into_any();
    gil::setattr(&thread, intern!(py, "daemon"), &yes)?;
    let start = gil::getattr(&thread, intern!(py, "start"))?;
    gil::call0(&start).map(drop)
}

/// `threading.Thread`. First asked for when the module is imported, where importing is safe.
pub(crate) fn thread_class(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    CLASS.import(py, "threading", "Thread")
}

fn report_elsewhere(py: Python<'_>, error: Raised) {
    if error.is::<PyKeyboardInterrupt>(py) {
        // SAFETY: attached. The interrupt is due again at the next check for signals.
        unsafe { ffi::PyErr_SetInterrupt() };
    } else {
        error.into_err(py).write_unraisable(py, None);
    }
}

/// Whether finalization itself has begun.
fn is_finalizing(py: Python<'_>) -> bool {
    finalizing(py)
        .map_err(|error| Raised::new(py, error))
        .and_then(gil::call0)
        .and_then(|answer| gil::is_truthy(&answer))
        .unwrap_or(true)
}

/// `sys.is_finalizing`. First asked for when the module is imported, where importing is safe.
pub(crate) fn finalizing(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static FUNCTION: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    FUNCTION.import(py, "sys", "is_finalizing")
}

/// Whether all work of a kind has returned.
pub(crate) fn all_ended(kind: Kind) -> bool {
    WORKING[kind as usize].load(Ordering::SeqCst) <= 0
}

/// Whether Python ends the calling thread at exit, wherever it is.
pub(crate) fn is_daemon(py: Python<'_>) -> Result<bool, Raised> {
    let raised = |error: PyErr| Raised::new(py, error);
    let current = py.import("threading").and_then(|module| module.getattr("current_thread")).map_err(raised)?;
    let daemon = gil::getattr(&*gil::call0(&current)?, intern!(py, "daemon"))?;
    gil::is_truthy(&daemon)
}

/// In the child of a fork no such thread exists. Async-signal-safe.
pub(crate) fn forget_all() {
    for working in &WORKING {
        working.store(0, Ordering::SeqCst);
    }
}

/// From here on a process has many threads.
const MANY: i64 = 256;

/// Linux has a table of those who sleep for a futex for each process, of a size that suits as many threads as there are
/// processors, and walks a line of it for each wake: with 10,000 parked threads half of the time went there. Newer
/// kernels let one ask for more lines; older ones have a table that is large enough, and refuse.
#[cfg(target_os = "linux")]
fn expect_many_sleepers() {
    const PR_FUTEX_HASH: libc::c_int = 78;
    const PR_FUTEX_HASH_SET_SLOTS: libc::c_ulong = 1;
    const SLOTS: libc::c_ulong = 1024;
    static ONCE: std::sync::Once = std::sync::Once::new();
    // SAFETY: changes the size of a table of the kernel's, and touches no memory of ours.
    ONCE.call_once(|| unsafe {
        libc::prctl(PR_FUTEX_HASH, PR_FUTEX_HASH_SET_SLOTS, SLOTS, 0 as libc::c_ulong, 0 as libc::c_ulong);
    });
}

#[cfg(not(target_os = "linux"))]
fn expect_many_sleepers() {}

struct Working(Kind, Home);

impl Working {
    fn begin(kind: Kind) -> Self {
        if WORKING[kind as usize].fetch_add(1, Ordering::SeqCst) == MANY {
            expect_many_sleepers();
        }
        Self(kind, Home::here())
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if self.1.is_here() {
            WORKING[self.0 as usize].fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// 10,000, or less where the system allows fewer threads.
pub(crate) fn default_max_parked() -> usize {
    let read = |path: &str| std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<usize>().ok());
    let maps = read("/proc/sys/vm/max_map_count").map_or(usize::MAX, |count| count / 6);
    let pids = read("/sys/fs/cgroup/pids.max").map_or(usize::MAX, |count| count * 3 / 4);
    10_000.min(maps).min(pids).max(1)
}
