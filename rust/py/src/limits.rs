//! Limits, as `bide._limits` gives and takes them.

use std::sync::Arc;
use std::time::Duration;

use bide_core::{Counted, Graph, LimitSpec, Rate};
use bide_executor::{HeldBack, Source, TaskLimit};
use bide_store::{LimitInfo, LimitUse};
use pyo3::prelude::*;

use crate::host::PyEngine;
use crate::{errors, gil};

/// `Limit._parts()`: name, executing, `in_flight`, how many starts in how many seconds, key.
type PyLimit = (String, Option<u32>, Option<u32>, Option<u32>, Option<f64>, Option<String>);

/// What is used of a limit: the value of the key, bodies, attempts, starts, held back.
type PyUse = (String, u64, u64, u64, u64);

/// A limit, and what is used of it: see [`PyLimit`].
pub(crate) type PyLimitInfo = (String, Option<u32>, Option<u32>, Option<u32>, Option<f64>, Option<String>, Vec<PyUse>);

/// What holds a task back: the name of the limit, the value of its key, what counts, place, how many wait.
pub(crate) type PyHeldBack = (String, Option<String>, Option<&'static str>, usize, usize);

/// Reads a `bide.Limit`. Its key is the name of a task of the graph or else of an input.
pub(crate) fn read(limit: &Bound<'_, PyAny>, graph: &Graph) -> PyResult<TaskLimit> {
    let parts = gil::call0(&limit.getattr(pyo3::intern!(limit.py(), "_parts"))?)?;
    let (name, executing, in_flight, count, span, key): PyLimit = parts.extract()?;
    let rate = count.zip(span).map(|(count, span)| Rate { count, span: Duration::from_secs_f64(span) });
    let source = key.as_deref().map(|key| graph.find(key).map_or_else(|| Source::Input(key.into()), Source::Output));
    let spec = LimitSpec { name: name.into(), executing, in_flight, rate, key: key.map(Into::into) };
    Ok(TaskLimit { spec, key: source })
}

/// All limits of the store.
pub(crate) fn all(py: Python<'_>, engine: &Arc<PyEngine>) -> PyResult<Vec<PyLimitInfo>> {
    let found = gil::detached(py, || engine.limits()).map_err(|error| errors::store(py, &error))?;
    Ok(found.into_iter().map(info).collect())
}

fn info(LimitInfo { spec, uses }: LimitInfo) -> PyLimitInfo {
    let used = |one: LimitUse| (one.key.to_string(), one.executing, one.in_flight, one.started, one.waiting);
    (
        spec.name.to_string(),
        spec.executing,
        spec.in_flight,
        spec.rate.map(|rate| rate.count),
        spec.rate.map(|rate| rate.span.as_secs_f64()),
        spec.key.as_deref().map(str::to_owned),
        uses.into_iter().map(used).collect(),
    )
}

/// What holds a task back.
pub(crate) fn held_back(held: &HeldBack) -> PyHeldBack {
    let key = (!held.key.is_empty()).then(|| held.key.to_string());
    (held.limit.to_string(), key, held.counted.map(Counted::name), held.place, held.waiting)
}
