//! PyO3 bindings of bide: this file only registers.

use bide_executor::failpoint::{self, Failpoint};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

mod aio;
mod body;
mod call;
mod callback;
mod channel;
mod children;
mod client;
mod context;
mod control;
mod current;
mod errors;
mod exit;
mod follower;
mod fork;
mod gil;
mod handle;
mod history;
mod host;
mod in_step;
mod journal;
mod limits;
mod location;
mod maps;
mod messages;
mod metrics;
mod moment;
mod notify;
mod observe;
mod options;
mod panics;
mod plan;
mod process;
mod refused;
mod run_handle;
mod runner;
mod schedules;
mod snapshot;
mod stack;
mod step;
mod submission;
mod submitter;
mod test_clock;
mod test_hooks;
mod thread;
mod transaction;
mod transfer;
mod turn;
mod value;
mod wait;
mod watches;
mod why;
mod worker;
mod workflow;

/// How often this process has attached to the interpreter, committed and woken a thread: for tests.
#[pyfunction]
fn counts() -> (u64, u64, u64) {
    let bide_executor::Counts { commits, wakes } = bide_executor::counts();
    (gil::attaches(), commits, wakes)
}

/// Whether the calling thread executes a body or a condition, of whichever runner of this process.
#[pyfunction]
fn in_body() -> bool {
    process::is_in_body()
}

/// Whether the calling thread executes a step.
#[pyfunction]
#[pyo3(name = "in_step")]
fn is_in_step() -> bool {
    in_step::in_step()
}

/// Starts the thread of a runner's own event loop: a daemon thread that calls this.
#[pyfunction]
#[pyo3(name = "_start_loop_thread")]
fn start_loop_thread(py: Python<'_>, run: Py<PyAny>) -> PyResult<()> {
    let run = gil::Kept::new(run);
    thread::start_thread(py, "bide-loop", process::Kind::Bodies, move |py| {
        if let Err(raised) = gil::call0(run.bind(py)) {
            raised.into_err(py).write_unraisable(py, None);
        }
    })?;
    Ok(())
}

/// The system's clock in seconds since 1970, even if time functions are patched in Python.
#[pyfunction]
#[pyo3(name = "_system_time")]
fn system_time() -> f64 {
    let bide_core::Time(micros) = bide_executor::SystemClock::shared().now();
    micros as f64 / 1e6
}

/// Has the next thread that comes by a place panic there: for tests. Panics are bugs, and no test can wait for one.
#[pyfunction]
#[pyo3(name = "_panic_once_at")]
fn panic_once_at(place: &str) -> PyResult<()> {
    let known = Failpoint::ALL.iter().find(|(name, _)| *name == place);
    let (_, place) = known.ok_or_else(|| PyValueError::new_err(place.to_owned()))?;
    failpoint::panic_once_at(*place);
    Ok(())
}

/// Has the thread that makes the nth commit from now on wait after it, until `_release`: for tests. 0: none.
#[pyfunction]
#[pyo3(name = "_hold_after_commit")]
fn hold_after_commit(nth: u32) {
    failpoint::hold_after_commit(nth);
}

/// Whether a thread waits after its commit.
#[pyfunction]
#[pyo3(name = "_is_held")]
fn is_held() -> bool {
    failpoint::is_held()
}

/// Lets the thread that waits after its commit continue.
#[pyfunction]
#[pyo3(name = "_release")]
fn release() {
    failpoint::release();
}

#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    exit::install(m.py())?;
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add_class::<workflow::PyWorkflow>()?;
    m.add_class::<runner::PyRunner>()?;
    m.add_class::<run_handle::PyRunHandle>()?;
    m.add_class::<test_clock::PyTestClock>()?;
    m.add_class::<snapshot::PySnapshot>()?;
    m.add_class::<handle::PyTaskHandle>()?;
    m.add_class::<transaction::PyOpenStep>()?;
    m.add_class::<aio::PyCallers>()?;
    m.add_class::<aio::PyAwaited>()?;
    m.add_class::<aio::PyLoopQueue>()?;
    m.add_class::<aio::PyCoroutine>()?;
    m.add_class::<aio::PyDriver>()?;
    m.add_class::<aio::PyCall>()?;
    m.add_class::<aio::PyWait>()?;
    m.add_class::<aio::PyPending>()?;
    m.add_class::<aio::PyGateWatch>()?;
    m.add_class::<channel::PyChannel>()?;
    m.add_class::<follower::PyFollower>()?;
    m.add_function(wrap_pyfunction!(counts, m)?)?;
    m.add_function(wrap_pyfunction!(metrics::metrics, m)?)?;
    m.add_function(wrap_pyfunction!(in_body, m)?)?;
    m.add_function(wrap_pyfunction!(is_in_step, m)?)?;
    m.add_function(wrap_pyfunction!(current::current, m)?)?;
    m.add_function(wrap_pyfunction!(callback::token, m)?)?;
    m.add_function(wrap_pyfunction!(callback::read_token, m)?)?;
    m.add_function(wrap_pyfunction!(current::executes_here, m)?)?;
    m.add_function(wrap_pyfunction!(start_loop_thread, m)?)?;
    m.add_function(wrap_pyfunction!(panic_once_at, m)?)?;
    m.add_function(wrap_pyfunction!(hold_after_commit, m)?)?;
    m.add_function(wrap_pyfunction!(is_held, m)?)?;
    m.add_function(wrap_pyfunction!(release, m)?)?;
    m.add_function(wrap_pyfunction!(system_time, m)?)?;
    m.add_function(wrap_pyfunction!(transfer::move_runs, m)?)?;
    Ok(())
}
