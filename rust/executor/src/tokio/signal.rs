//! Signals, as they are sent: from this process to a run, wherever that is executed.

use std::future::IntoFuture;
use std::sync::Arc;

use bide_core::{Address, DefinitionError, RunId, Value};
use bide_store::Sent;
use serde::Serialize;

use super::blocking::blocking;
use super::closures::{BoxFuture, Closures};
use super::codec::encode;
use super::error::Error;
use super::run_handle::RunHandle;
use super::runner::Runner;
use crate::engine::Engine;
use crate::runs::mail::Letter;

/// A signal to be sent, by awaiting it. It is committed when that returns.
#[must_use = "a signal is sent when this is awaited"]
pub struct SendSignal {
    /// The engine that sends it.
    engine: Arc<Engine<Closures>>,
    /// To which run.
    run: RunId,
    /// Its name.
    name: Arc<str>,
    /// The sender's id.
    id: Option<Arc<str>>,
    /// Its value, or why that cannot be stored.
    value: Result<Value, String>,
}

impl SendSignal {
    /// An id of the sender's: a run takes one signal with an id, so that one that is sent again changes nothing.
    pub fn id(mut self, id: impl Into<Arc<str>>) -> Self {
        self.id = Some(id.into());
        self
    }
}

impl IntoFuture for SendSignal {
    type Output = Result<(), Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { engine, run, name, id, value } = self;
            let value = value
                .map_err(|why| DefinitionError(format!("the value of the signal '{name}' cannot be stored: {why}")))?;
            let letter = Letter { run, address: Address::signal(&name), id, content: Ok(value) };
            let sent = blocking(&engine, move |engine| engine.send(letter)).await??;
            match sent {
                Sent::Stored | Sent::Duplicate => Ok(()),
                refused => Err(refusal(refused, &format!("the signal '{name}'"), run)),
            }
        })
    }
}

/// Why a run has not taken a message.
pub(super) fn refusal(sent: Sent, what: &str, run: RunId) -> Error {
    let why = match sent {
        Sent::NoRun => return Error::unknown_run(run),
        Sent::Ended(status) => format!("run {run} has ended ({status})"),
        Sent::Undeclared(known) if known.is_empty() => format!("the workflow of run {run} declares no signals"),
        Sent::Undeclared(known) => {
            let known = known.join("', '");
            format!("the workflow of run {run} does not declare it (signals: '{known}')")
        }
        Sent::IdTaken => format!("another message to run {run} has this id: give each message an id of its own"),
        Sent::Answered => format!("the callback of run {run} was answered before, and its first answer stands"),
        Sent::NoCallback => format!(
            "run {run} has no callback with this token: the token is forged, or the callback was dropped from the \
             journal of its task (by a retry with fresh, or a checkpoint)"
        ),
        Sent::Stored | Sent::Duplicate => format!("run {run} has it"),
    };
    Error::SignalRejected(format!("{what} was not sent: {why}"))
}

impl Runner {
    /// A signal to a run, wherever that is executed: it satisfies the oldest open wait for its name, or is kept for the
    /// next one. Awaiting it returns once it is committed; to a run that has ended it is [`Error::SignalRejected`].
    pub fn signal<T: Serialize + ?Sized>(&self, run: RunId, name: impl Into<Arc<str>>, value: &T) -> SendSignal {
        SendSignal { engine: Arc::clone(&self.engine), run, name: name.into(), id: None, value: encode(value) }
    }
}

impl RunHandle {
    /// As [`Runner::signal`], to this run.
    pub fn signal<T: Serialize + ?Sized>(&self, name: impl Into<Arc<str>>, value: &T) -> SendSignal {
        let engine = Arc::clone(&self.engine);
        SendSignal { engine, run: self.id(), name: name.into(), id: None, value: encode(value) }
    }
}
