//! Control requests, as Python makes them: see `bide._control`.

use std::sync::Arc;
use std::time::Duration;

use bide_core::{Ask, Control, Value};
use pyo3::prelude::*;

use crate::host::PyEngine;
use crate::messages::{PySent, in_words, run_id};
use crate::{errors, gil};

/// What is asked, with the arguments of all kinds of requests.
#[derive(FromPyObject)]
pub(crate) struct PyAsk {
    /// The name of the request.
    what: String,
    /// Who asks.
    by: Option<String>,
    /// Why.
    reason: Option<String>,
    /// Which task it is about.
    task: Option<String>,
    /// The encoded value of the wait to satisfy.
    value: Option<Vec<u8>>,
    /// How much longer a wait may take.
    seconds: f64,
    /// `force` of a cancellation, `fresh` of a retry.
    flag: bool,
}

/// Asks something of runs; says of each what became of that. Those that are executed here share commits.
pub(crate) fn ask(py: Python<'_>, engine: &PyEngine, runs: &[String], asked: PyAsk) -> PyResult<Vec<PySent>> {
    let PyAsk { what, by, reason, task, value, seconds, flag } = asked;
    let named = || -> PyResult<Arc<str>> {
        task.as_deref().map(Into::into).ok_or_else(|| errors::definition(py, &format!("{what} needs a task")))
    };
    let ask = match &*what {
        "cancel" => Ask::Cancel { force: flag },
        "pause" => Ask::Pause,
        "resume" => Ask::Resume,
        "retry" => Ask::Retry { from: task.as_deref().map(Into::into), fresh: flag },
        "satisfy" => Ask::Satisfy { task: named()?, value: value.map_or(Value::NONE, |value| Value::new(&value)) },
        "extend" => {
            let span = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
            Ask::Extend { task: named()?, span }
        }
        "poll_now" => Ask::PollNow { task: named()? },
        "skip" => Ask::Skip { task: named()? },
        _ => return Err(errors::definition(py, &format!("there is no request {what}"))),
    };
    let control = Control { ask, by: by.map(Into::into), reason: reason.map(Into::into) };
    let runs = runs.iter().map(|run| run_id(py, run)).collect::<PyResult<Vec<_>>>()?;
    let asked = || match &*runs {
        [run] => engine.ask(*run, &control).map(|sent| vec![sent]),
        runs => engine.ask_all(runs, &control),
    };
    let sent = gil::detached(py, asked).map_err(|error| errors::store(py, &error))?;
    Ok(sent.into_iter().map(in_words).collect())
}
