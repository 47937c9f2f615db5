//! PyO3 bindings of bide: this file only registers.

use pyo3::prelude::*;

mod errors;
mod exit;
mod flow;
mod gil;
mod graph;
mod handle;
mod host;
mod maps;
mod notify;
mod panics;
mod run_handle;
mod runner;
mod snapshot;
mod thread;
mod turn;
mod value;

/// How often this process has attached to the interpreter, committed and woken a thread: for tests.
#[pyfunction]
fn counts() -> (u64, u64, u64) {
    let bide_executor::Counts { commits, wakes } = bide_executor::counts();
    (gil::attaches(), commits, wakes)
}

#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    exit::install(m.py())?;
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add_class::<graph::PyGraph>()?;
    m.add_class::<flow::PyFlow>()?;
    m.add_class::<runner::PyRunner>()?;
    m.add_class::<run_handle::PyRunHandle>()?;
    m.add_class::<snapshot::PySnapshot>()?;
    m.add_class::<handle::PyTaskHandle>()?;
    m.add_function(wrap_pyfunction!(counts, m)?)?;
    Ok(())
}
