//! PyO3 bindings of bide: this file only registers.

#![cfg_attr(
    not(feature = "probe"),
    expect(
        dead_code,
        unused_imports,
        reason = "the bindings that use it are not here yet"
    )
)]

use pyo3::prelude::*;

mod exit;
mod gil;
mod panics;
#[cfg(feature = "probe")]
mod probe;
mod thread;
mod turn;

#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    exit::install(m.py())?;
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    #[cfg(feature = "probe")]
    probe::register(m)?;
    Ok(())
}
