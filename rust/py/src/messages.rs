//! Messages to runs, as Python sends them: signals, answers to callbacks, and requests, whose answers are waited for
//! here.

use std::time::{Duration, Instant};

use bide_core::{Address, Failure, FailureKind, MessageKind, RunId, RunStatus, Value};
use bide_executor::{Letter, Outlook, Reply};
use bide_store::{Sent, StoreError};
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::PyBytes;

use crate::callback::refused;
use crate::host::PyEngine;
use crate::process::SLICE;
use crate::{errors, gil};

/// A signal: to which run, name, value, and the sender's id.
pub(crate) type PyLetter = (PyBackedStr, PyBackedStr, PyBackedBytes, Option<PyBackedStr>);

/// What became of a message, in one word, with what belongs to it: see `bide._mail`.
pub(crate) type PySent = (&'static str, Vec<String>);

/// Sends signals, and says of each what became of it. All that concerns runs that are executed here is one commit.
pub(crate) fn send(py: Python<'_>, engine: &PyEngine, letters: Vec<PyLetter>) -> PyResult<Vec<PySent>> {
    let mut read = Vec::with_capacity(letters.len());
    for (run, name, value, id) in letters {
        let run = run_id(py, &run)?;
        let address = Address { kind: MessageKind::Signal, name: (*name).into() };
        read.push(Letter { run, address, id: id.map(|id| (*id).into()), content: Ok(Value::new(&value)) });
    }
    let sent = gil::detached(py, || engine.send_all(read));
    let sent: Vec<Sent> =
        sent.into_iter().collect::<Result<_, StoreError>>().map_err(|error| errors::store(py, &error))?;
    Ok(sent.into_iter().map(in_words).collect())
}

/// Answers a callback, found by its run and secret: with a value, or by rejecting it for a reason.
pub(crate) fn answer(
    py: Python<'_>,
    engine: &PyEngine,
    (run, secret): (&str, &str),
    value: Option<&[u8]>,
    reason: &str,
    id: Option<&str>,
) -> PyResult<PySent> {
    let content = value.map(Value::new).ok_or_else(|| rejected(reason));
    let address = Address { kind: MessageKind::Answer, name: secret.into() };
    let letter = Letter { run: run_id(py, run)?, address, id: id.map(Into::into), content };
    let sent = gil::detached(py, || engine.send(letter)).map_err(|error| errors::store(py, &error))?;
    Ok(in_words(sent))
}

fn rejected(reason: &str) -> Failure {
    Failure::new(FailureKind::CallbackRejected, "bide.CallbackRejected", reason)
}

/// Sends a request and waits for its answer. Returns what became of it, and the answer; none if the time is over.
#[expect(clippy::disallowed_methods, reason = "how long a caller waits is not the engine's time")]
pub(crate) fn request<'py>(
    py: Python<'py>,
    engine: &PyEngine,
    (run, name): (&str, &str),
    value: &[u8],
    id: Option<&str>,
    timeout: Option<f64>,
) -> PyResult<(PySent, Option<Bound<'py, PyBytes>>)> {
    let until = timeout
        .and_then(|seconds| Instant::now().checked_add(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)));
    let address = Address { kind: MessageKind::Request, name: name.into() };
    let content = Ok(Value::new(value));
    let letter = Letter { run: run_id(py, run)?, address, id: id.map(Into::into), content };
    let store_error = |error: StoreError| errors::store(py, &error);
    let pending = match gil::detached(py, || engine.request(letter)).map_err(store_error)? {
        Ok(pending) => pending,
        Err(sent) => return Ok((in_words(sent), None)),
    };
    let answered = |answer: Reply| match answer {
        Ok(value) => Ok((in_words(Sent::Stored), Some(PyBytes::new(py, value.as_bytes())))),
        Err(failure) => Err(errors::rebuild(py, &failure)),
    };
    loop {
        // Before the first wait too: from then on other processes tell this one of the run.
        match gil::detached(py, || engine.outlook(&pending)).map_err(store_error)? {
            Outlook::Open => {}
            Outlook::Answered(answer) => return answered(answer),
            Outlook::Ended(status) => {
                let why = format!("run {run} has ended ({status}), and no task has taken it");
                return answered(Err(refused(&why)));
            }
            Outlook::Gone => return answered(Err(refused(&format!("run {run} was deleted")))),
            Outlook::Stopped(settlement) => return Err(errors::settlement(py, &settlement)),
        }
        let remaining = until.map_or(SLICE, |until| until.saturating_duration_since(Instant::now()));
        if let Some(answer) = gil::idle(py, || pending.wait(remaining.min(SLICE))) {
            return answered(answer);
        }
        let interrupted = py.check_signals();
        if remaining.is_zero() || interrupted.is_err() {
            gil::detached(py, || engine.withdraw(&pending)).map_err(store_error)?;
            return interrupted.map(|()| (in_words(Sent::Stored), None));
        }
    }
}

/// A run's id as Python gives it.
pub(crate) fn run_id(py: Python<'_>, run: &str) -> PyResult<RunId> {
    run.parse().map_err(|()| errors::definition(py, &format!("'{run}' is not the id of a run")))
}

pub(crate) fn in_words(sent: Sent) -> PySent {
    match sent {
        Sent::Stored => ("stored", vec![]),
        Sent::Duplicate => ("duplicate", vec![]),
        Sent::Answered => ("answered", vec![]),
        Sent::IdTaken => ("id taken", vec![]),
        Sent::Ended(status) => ("ended", vec![RunStatus::as_str(status).to_owned()]),
        Sent::NoRun => ("no run", vec![]),
        Sent::NoCallback => ("no callback", vec![]),
        Sent::Undeclared(signals) => ("undeclared", signals),
    }
}
