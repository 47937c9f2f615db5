//! Callbacks: what a body hands out and waits for, and how anybody answers it.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;

use bide_core::attempt::{Action, CallError, Fed, Request};
use bide_core::{CallbackToken, DefinitionError, Failure, FailureKind, RecordKind, Value};
use bide_store::Sent;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::blocking::blocking;
use super::body::BodyState;
use super::closures::{BoxFuture, Closures};
use super::codec::encode;
use super::error::Error;
use super::handle::TaskHandle;
use super::kinds::{IntoWait, Kind, Wait};
use super::runner::Runner;
use super::signal::refusal;
use super::task_error::TaskError;
use crate::engine::Engine;
use crate::ids;
use crate::runs::mail::Letter;

/// A wait for an answer from outside, of which the body knows the token: see [`TaskHandle::callback`]. It can be waited
/// for several times, and as one of several waits: the answer is kept.
pub struct Callback<T> {
    /// Its name in the journal.
    name: Arc<str>,
    /// What names it to the outside.
    token: CallbackToken,
    /// What its answer is read as.
    answer: PhantomData<fn() -> T>,
}

impl<T> Callback<T> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What answers it: `runner.resolve(token, value)`. A secret, safe in a URL, the same after a re-entry.
    #[must_use]
    pub fn token(&self) -> String {
        self.token.to_string()
    }
}

impl<T> Clone for Callback<T> {
    fn clone(&self) -> Self {
        Self { name: Arc::clone(&self.name), token: self.token, answer: PhantomData }
    }
}

/// A log is no place for the token.
impl<T> fmt::Debug for Callback<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Callback({:?} of run {})", self.name, self.token.run)
    }
}

impl<T: DeserializeOwned> Callback<T> {
    /// The wait for its answer.
    pub fn wait<'a>(&self) -> Wait<'a, T>
    where
        T: 'a,
    {
        let wait = Wait::new(Kind::Message(self.token.address()), |outcomes| outcomes.decoded());
        wait.named(Arc::clone(&self.name))
    }
}

impl<'a, T: DeserializeOwned + 'a> IntoWait<'a> for Callback<T> {
    type Value = T;

    fn into_wait(self) -> Wait<'a, T> {
        self.wait()
    }
}

impl<'a, T: DeserializeOwned + 'a> IntoWait<'a> for &Callback<T> {
    type Value = T;

    fn into_wait(self) -> Wait<'a, T> {
        self.wait()
    }
}

impl TaskHandle {
    /// Makes a callback, whose [`token`](Callback::token) lets anybody answer it by [`Runner::resolve`] or
    /// [`Runner::reject`], from any process, without knowing run or task. On re-entry it is the same.
    ///
    /// ```
    /// # use bide_executor::{TaskContext, TaskError};
    /// # async fn send_invoice(_: &str) {}
    /// # async fn body(cx: TaskContext) -> Result<u64, TaskError> {
    /// let handle = cx.handle();
    /// let paid = handle.callback::<u64>("paid").await?;
    /// send_invoice(&format!("https://example.org/paid/{}", paid.token())).await;
    /// let cents = handle.wait(&paid).await?;
    /// # Ok(cents)
    /// # }
    /// ```
    ///
    /// # Errors
    /// The body is to return; or the system has no random numbers.
    pub async fn callback<T: DeserializeOwned>(&self, name: impl Into<Arc<str>>) -> Result<Callback<T>, TaskError> {
        let name = name.into();
        let token = self.0.make_callback(&name).await.map_err(TaskError::of_call)?;
        Ok(Callback { name, token, answer: PhantomData })
    }
}

impl BodyState {
    async fn make_callback(&self, name: &Arc<str>) -> Result<CallbackToken, CallError> {
        let run = self.run.id;
        let value = ids::token(run)?.to_value();
        let recorded = self.record_own(name, Request::Record { kind: RecordKind::Callback, value }).await?;
        ids::recorded_token(run, self.task_name(), name, &recorded)
    }

    /// Has bide record something of its own: that a callback was made, or the answer to a request.
    pub(super) async fn record_own(&self, name: &Arc<str>, request: Request) -> Result<Value, CallError> {
        let mut call = self.begin(name, request)?;
        match self.drive(&mut call, Fed::Begin).await {
            Action::Done(result) => result,
            action => unreachable!("{action:?} of a record"),
        }
    }
}

/// The answer to a callback, to be given by awaiting this. It is committed when that returns.
#[must_use = "a callback is answered when this is awaited"]
pub struct AnswerCallback {
    /// The engine that sends it.
    engine: Arc<Engine<Closures>>,
    /// The token, as it was given.
    token: String,
    /// The sender's id.
    id: Option<Arc<str>>,
    /// The value or the rejection, or why the value cannot be stored.
    content: Result<Result<Value, Failure>, String>,
}

impl AnswerCallback {
    /// An id of the sender's: the same answer with the same id once more is accepted, and changes nothing.
    pub fn id(mut self, id: impl Into<Arc<str>>) -> Self {
        self.id = Some(id.into());
        self
    }
}

impl IntoFuture for AnswerCallback {
    type Output = Result<(), Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { engine, token, id, content } = self;
            let content =
                content.map_err(|why| DefinitionError(format!("the answer to a callback cannot be stored: {why}")))?;
            let Ok(read) = token.parse::<CallbackToken>() else {
                let (begin, length) = (token.chars().take(8).collect::<String>(), token.chars().count());
                let why = format!("the token {begin:?}... ({length} characters) is no token of bide");
                return Err(Error::SignalRejected(format!("{why}: it is mistyped or cut off")));
            };
            let run = read.run;
            let letter = Letter { run, address: read.address(), id, content };
            match blocking(&engine, move |engine| engine.send(letter)).await?? {
                Sent::Stored | Sent::Duplicate => Ok(()),
                Sent::NoRun => Err(Error::SignalRejected(format!(
                    "the token is that of a callback of run {run}, which is not in this store: it is of another \
                     store, or the run was deleted"
                ))),
                refused => Err(refusal(refused, "the answer", run)),
            }
        })
    }
}

impl Runner {
    /// Answers the callback that has this token: every wait for it returns the value. It has one answer: a second one
    /// is
    /// [`Error::SignalRejected`].
    pub fn resolve<T: Serialize + ?Sized>(&self, token: impl Into<String>, value: &T) -> AnswerCallback {
        self.answer(token.into(), encode(value).map(Ok))
    }

    /// Rejects the callback that has this token: every wait for it fails with the reason
    /// ([`TaskError::is_callback_rejected`]).
    pub fn reject(&self, token: impl Into<String>, reason: impl fmt::Display) -> AnswerCallback {
        let rejected = Failure::new(FailureKind::CallbackRejected, "bide.CallbackRejected", &reason.to_string());
        self.answer(token.into(), Ok(Err(rejected)))
    }

    fn answer(&self, token: String, content: Result<Result<Value, Failure>, String>) -> AnswerCallback {
        AnswerCallback { engine: Arc::clone(&self.engine), token, id: None, content }
    }
}
