//! Messages to runs, as Python sends them.

use bide_core::{Address, MessageKind, RunId, RunStatus, Value};
use bide_executor::Letter;
use bide_store::{Sent, StoreError};
use pyo3::prelude::*;

use crate::host::PyEngine;
use crate::{errors, gil};

/// A message: to which run, `MessageKind` as a number, name, value, and the sender's id.
pub(crate) type PyLetter = (String, i64, String, Vec<u8>, Option<String>);

/// What became of a message, in one word, with what belongs to it: see `bide._mail`.
pub(crate) type PySent = (&'static str, Vec<String>);

/// Sends messages, and says of each what became of it. All that concerns runs that are executed here is one commit.
pub(crate) fn send(py: Python<'_>, engine: &PyEngine, letters: Vec<PyLetter>) -> PyResult<Vec<PySent>> {
    let mut read = Vec::with_capacity(letters.len());
    for (run, kind, name, value, id) in letters {
        let run: RunId =
            run.parse().map_err(|()| errors::definition(py, &format!("'{run}' is not the id of a run")))?;
        let kind = MessageKind::from_code(kind).unwrap_or(MessageKind::Signal);
        let address = Address { kind, name: name.into() };
        read.push(Letter { run, address, id: id.map(Into::into), content: Ok(Value::new(&value)) });
    }
    let sent = gil::detached(py, || engine.send_all(read));
    let sent: Vec<Sent> =
        sent.into_iter().collect::<Result<_, StoreError>>().map_err(|error| errors::store(py, &error))?;
    Ok(sent.into_iter().map(in_words).collect())
}

fn in_words(sent: Sent) -> PySent {
    match sent {
        Sent::Stored => ("stored", vec![]),
        Sent::Duplicate => ("duplicate", vec![]),
        Sent::Answered => ("answered", vec![]),
        Sent::Ended(status) => ("ended", vec![RunStatus::as_str(status).to_owned()]),
        Sent::NoRun => ("no run", vec![]),
        Sent::NoCallback => ("no callback", vec![]),
        Sent::Undeclared(signals) => ("undeclared", signals),
    }
}
