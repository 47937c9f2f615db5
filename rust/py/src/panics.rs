//! Turns a Rust panic into an error that says it is bide's own fault and asks for a report, so that
//! PyO3's `PanicException`, which `except Exception` does not catch, never reaches a user. Not for errors that a user
//! or a disk can cause: those are values from the start.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

use bide_core::{Failure, FailureKind};
use bide_executor::panic;
use pyo3::prelude::*;

use crate::{errors, gil};

thread_local! {
    /// How many [`no_panic`] are on this thread's stack.
    static CATCHING: Cell<u32> = const { Cell::new(0) };
    /// Where the last caught panic arose.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A panic that was caught.
#[derive(Debug, thiserror::Error)]
#[error(
    "bide itself failed ({message}, at {place}): this is a bug in bide and not in your code. Please \
     report it with this message and what led to it"
)]
pub(crate) struct Panicked {
    /// The message of the panic.
    message: String,
    /// The file and line where it arose.
    place: String,
}

impl From<Panicked> for PyErr {
    fn from(panicked: Panicked) -> Self {
        gil::here(|py| errors::bide(py, &panicked.to_string()))
    }
}

impl Panicked {
    /// What it is to the task in whose body it arose.
    pub(crate) fn failure(&self) -> Failure {
        Failure::new(FailureKind::Panic, "bide.BideError", &self.to_string())
    }
}

/// Runs `f`; a panic in it becomes an error. What `f` was changing may be half changed: the caller
/// discards it.
pub(crate) fn no_panic<R>(f: impl FnOnce() -> R) -> Result<R, Panicked> {
    install_hook();
    CATCHING.set(CATCHING.get() + 1);
    let result = std::panic::catch_unwind(AssertUnwindSafe(f));
    CATCHING.set(CATCHING.get() - 1);
    result.map_err(caught)
}

/// In a frame of its own: that of [`no_panic`] stays on the stack of every parked thread.
#[cold]
#[inline(never)]
fn caught(payload: Box<dyn Any + Send>) -> Panicked {
    Panicked {
        message: panic::text_of(payload.as_ref()),
        place: PLACE.take().unwrap_or_else(|| "an unknown place".to_owned()),
    }
}

/// The body of a Python method: as [`no_panic`], with the panic raised like any error.
pub(crate) fn method<R>(f: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    no_panic(f)?
}

/// The place goes into the error instead of stderr. Panics that are not caught are printed as usual.
/// The hook belongs to this library's own copy of the standard library, and to no other.
fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            if CATCHING.get() > 0 {
                PLACE.set(info.location().map(ToString::to_string));
            } else {
                print(info);
            }
        }));
    });
}
