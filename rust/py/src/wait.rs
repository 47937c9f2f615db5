//! `bide.until`, `bide.after` and `bide.at` as Rust reads them, and what proves a condition to be the same.

use std::sync::Arc;
use std::time::Duration;

use bide_core::poll::Tolerance;
use bide_core::{PollPolicy, Time};
use bide_executor::alike::Alike;
use pyo3::prelude::*;

use crate::errors::names;
use crate::gil;

/// What a gate or a body can wait for.
pub(crate) enum Wait<'py> {
    /// A condition.
    Until(Box<Until<'py>>),
    /// A time span.
    After(Duration),
    /// A moment.
    At(Time),
}

/// A condition that is polled.
pub(crate) struct Until<'py> {
    /// What is called.
    pub(crate) condition: Bound<'py, PyAny>,
    /// Whether it is a coroutine function.
    pub(crate) is_async: bool,
    /// The name that the user gave it.
    pub(crate) name: Option<String>,
    /// How long it may take to become true.
    pub(crate) timeout: Option<Duration>,
    /// When it is polled.
    pub(crate) policy: PollPolicy,
}

/// `Until._parts()`: condition, name, timeout, every, backoff, `max_every`, jitter, how many exceptions in a row end
/// the wait after how many seconds, and whether it is a coroutine function.
type UntilParts<'py> =
    (Bound<'py, PyAny>, Option<String>, Option<f64>, f64, f64, Option<f64>, f64, Option<(u32, f64)>, bool);

impl<'py> Wait<'py> {
    /// Reads an object of one of the three classes; `None` for any other.
    pub(crate) fn read(wait: &Bound<'py, PyAny>) -> PyResult<Option<Self>> {
        let py = wait.py();
        let names = names(py)?;
        let class = wait.get_type();
        if class.is(&names.until) {
            return Ok(Some(Self::Until(Box::new(Until::read(wait)?))));
        }
        if class.is(&names.after) {
            let seconds = wait.getattr(pyo3::intern!(py, "span"))?.extract()?;
            return Ok(Some(Self::After(Duration::from_secs_f64(seconds))));
        }
        if class.is(&names.at) {
            let timestamp = wait.getattr(pyo3::intern!(py, "timestamp"))?.extract()?;
            return Ok(Some(Self::At(time_of(timestamp))));
        }
        Ok(None)
    }
}

impl<'py> Until<'py> {
    fn read(until: &Bound<'py, PyAny>) -> PyResult<Self> {
        let parts = gil::call0(&until.getattr(pyo3::intern!(until.py(), "_parts"))?)?;
        let (condition, name, timeout, every, backoff, max_every, jitter, tolerance, is_async): UntilParts<'py> =
            parts.extract()?;
        let policy = PollPolicy {
            every: Duration::from_secs_f64(every),
            backoff,
            max_every: max_every.map_or(Duration::MAX, Duration::from_secs_f64),
            jitter,
            tolerate: match tolerance {
                None => Tolerance::Ignore,
                Some((errors, seconds)) => Tolerance::Tolerate(errors, Duration::from_secs_f64(seconds)),
            },
        };
        Ok(Self { condition, is_async, name, timeout: timeout.map(Duration::from_secs_f64), policy })
    }
}

/// A condition's name in the journal, unless the user gave it one.
pub(crate) fn name_of(condition: &Bound<'_, PyAny>) -> PyResult<String> {
    gil::call1(names(condition.py())?.name_of.bind(condition.py()), condition)?.extract()
}

/// What proves a condition to be the same; `None` if nothing can.
pub(crate) fn proof_of(condition: &Bound<'_, PyAny>) -> PyResult<Option<Arc<[u8]>>> {
    let py = condition.py();
    static PROOFS: Alike<[u8]> = Alike::new();
    let proof = gil::call1(names(py)?.proof_of.bind(py), condition)?;
    let proof: Option<&[u8]> = proof.extract()?;
    Ok(proof.map(|proof| PROOFS.shared(proof)))
}

/// Seconds since the Unix epoch as a stored time, rounded up: never early.
pub(crate) fn time_of(seconds: f64) -> Time {
    Time((seconds * 1e6).ceil() as i64)
}
