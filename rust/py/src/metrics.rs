//! `bide.metrics()` and `Runner.metrics()`: what the engines of this process have counted, and what they have now.

use std::sync::{Arc, Weak};

use bide_core::EntryKind;
use bide_core::observe::is_wait;
use bide_executor::{ENDS, Figures, Spans};
use bide_sync::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::runner::inner::Inner;
use crate::why::word;
use crate::{gil, panics};

/// The runners of this process. Locked only while attached and never while Python code runs: so no other thread can hold
/// it at a fork.
static RUNNERS: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());

/// A runner was made.
pub(crate) fn add(runner: &Arc<Inner>) {
    let mut runners = RUNNERS.lock();
    runners.retain(|weak| weak.strong_count() > 0);
    runners.push(Arc::downgrade(runner));
}

/// What runners have counted and have now.
struct Metrics {
    /// Of their engines.
    figures: Figures,
    /// The slots of threads in use, and in all.
    threads: (usize, usize),
    /// The same of coroutines.
    coroutines: (usize, usize),
}

impl Metrics {
    /// Those of a runner. Waits for no commit.
    fn of(runner: &Inner) -> Self {
        let pool = runner.engine.dispatch();
        let coroutines = pool.coroutines().map_or((0, 0), |coroutines| coroutines.slots_in_use());
        Self { figures: runner.engine.figures(), threads: pool.slots_in_use(), coroutines }
    }

    /// Those of runners that are gone.
    fn gone() -> Self {
        Self { figures: Figures::gone(), threads: (0, 0), coroutines: (0, 0) }
    }

    fn add(&mut self, other: &Self) {
        self.figures.add(&other.figures);
        for (slots, others) in [(&mut self.threads, other.threads), (&mut self.coroutines, other.coroutines)] {
            (slots.0, slots.1) = (slots.0 + others.0, slots.1 + others.1);
        }
    }

    fn dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let Self { figures, threads, coroutines } = self;
        let all = PyDict::new(py);
        all.set_item("bide.run.open", figures.open_runs)?;
        let ends = ENDS.iter().map(|end| end.as_str()).zip(figures.runs);
        all.set_item("bide.run.duration", by_name(py, ends)?)?;
        let open = PyDict::new(py);
        for (at, name) in waits() {
            open.set_item(name, figures.open_waits[at])?;
        }
        all.set_item("bide.wait.open", open)?;
        all.set_item("bide.wait.duration", by_name(py, waits().map(|(at, name)| (name, figures.waits[at])))?)?;
        all.set_item("bide.wait.lateness", by_name(py, waits().map(|(at, name)| (name, figures.lateness[at])))?)?;
        all.set_item("bide.wait.polls", figures.polls)?;
        let (used, free) = (PyDict::new(py), PyDict::new(py));
        for (name, slots) in [("thread", threads), ("coroutine", coroutines)] {
            used.set_item(name, slots.0)?;
            free.set_item(name, slots.1 - slots.0)?;
        }
        all.set_item("bide.slot.used", used)?;
        all.set_item("bide.slot.free", free)?;
        all.set_item("bide.commit.duration", span(py, &figures.commits)?)?;
        Ok(all)
    }
}

/// The kinds of waits: where each is in the figures, and what it is called.
fn waits() -> impl Iterator<Item = (usize, &'static str)> {
    let kinds = EntryKind::ALL.iter().enumerate().filter(|(_, kind)| is_wait(**kind));
    kinds.map(|(at, kind)| (at, word(*kind)))
}

fn by_name<'py>(py: Python<'py>, spans: impl Iterator<Item = (&'static str, Spans)>) -> PyResult<Bound<'py, PyDict>> {
    let named = PyDict::new(py);
    for (name, spans) in spans {
        named.set_item(name, span(py, &spans)?)?;
    }
    Ok(named)
}

fn span<'py>(py: Python<'py>, spans: &Spans) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("count", spans.count)?;
    dict.set_item("sum", spans.total.as_secs_f64())?;
    dict.set_item("max", spans.longest.as_secs_f64())?;
    Ok(dict)
}

/// What a runner has counted, and what it has now.
pub(crate) fn of<'py>(py: Python<'py>, runner: &Inner) -> PyResult<Bound<'py, PyDict>> {
    panics::method(|| {
        runner.home.check("Runner")?;
        gil::detached(py, || Metrics::of(runner)).dict(py)
    })
}

/// What all runners of this process have counted, also those that are gone, and what they have now.
#[pyfunction]
pub(crate) fn metrics(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    panics::method(|| {
        let mut open: Vec<_> = RUNNERS.lock().iter().filter_map(Weak::upgrade).collect();
        open.retain(|runner| runner.home.is_here());
        let all = gil::detached(py, move || {
            let mut all = Metrics::gone();
            open.iter().for_each(|runner| all.add(&Metrics::of(runner)));
            all
        });
        all.dict(py)
    })
}
