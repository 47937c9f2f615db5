//! Requests: messages whose senders wait for an answer, as a body takes and answers them and as they are sent.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bide_core::attempt::{CallError, Request, reply_name};
use bide_core::{Address, DefinitionError, Failure, FailureKind, MessageKind, RunId, Value, taken_request};
use bide_store::StoreError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::blocking::blocking;
use super::body::BodyState;
use super::closures::{BoxFuture, Closures};
use super::codec::{decode, encode, serialization_failure};
use super::error::Error;
use super::handle::TaskHandle;
use super::kinds::{Kind, Outcome, Wait};
use super::run_handle::RunHandle;
use super::runner::Runner;
use super::signal::refusal;
use super::task_error::TaskError;
use crate::engine::Engine;
use crate::runs::answers::Reply;
use crate::runs::mail::Letter;
use crate::runs::requests::{Outlook, PendingRequest};

/// How often a sender looks whether it can still expect an answer.
const LOOK: Duration = Duration::from_millis(200);

/// A request of this name to the run ([`Runner::request`]): a message whose sender waits for an answer. The wait
/// returns what was sent, with which the body answers. Each request satisfies one wait, the oldest.
///
/// ```
/// use bide_executor::store::MemoryStore;
/// use bide_executor::{Runner, TaskContext, Workflow, request};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bide_executor::Error> {
/// let seller = Workflow::builder("seller")
///     .task("sell", |cx: TaskContext| async move {
///         let asked = cx.handle().wait(request::<String, u64>("quote")).await?;
///         asked.reply(&if asked.value == "nuts" { 7 } else { 0 }).await
///     })
///     .build()?;
/// let runner = Runner::open(MemoryStore::new()).slots(1).start()?;
/// let run = runner.submit(&seller, &()).await?;
/// let cents: u64 = run.request("quote", "nuts").await?;
/// assert_eq!(cents, 7);
/// # run.result().await?;
/// runner.close().await;
/// # Ok(())
/// # }
/// ```
pub fn request<'a, In, Out>(name: impl Into<Arc<str>>) -> Wait<'a, Received<In, Out>>
where
    In: DeserializeOwned + 'a,
    Out: 'a,
{
    let name = name.into();
    Wait::new(Kind::Message(Address::request(&name)), move |outcomes| {
        let Some((number, sent)) = taken_request(outcomes.value()) else {
            let why = format!("task '{}': what is recorded of the request '{name}' is no request", outcomes.task);
            return Err(TaskError::failed(serialization_failure(&why)));
        };
        let value = outcomes.decoded_from(&sent)?;
        let (handle, name) = ((outcomes.handle)(), Arc::clone(&name));
        Ok(Received { value, handle, name, number, answer: PhantomData })
    })
}

/// A request that a body has taken, and has to answer. The answer is recorded: it is given once, also across a crash. A
/// request without one when its task ends is refused.
pub struct Received<In, Out> {
    /// What was sent.
    pub value: In,
    /// The handle of the body that has taken it.
    handle: TaskHandle,
    /// Its name.
    name: Arc<str>,
    /// Its number.
    number: i64,
    /// What its sender reads the answer as.
    answer: PhantomData<fn(&Out)>,
}

impl<In: fmt::Debug, Out> fmt::Debug for Received<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Received({:?}: {:?})", self.name, self.value)
    }
}

impl<In, Out> Received<In, Out> {
    /// Answers it: this is what its sender gets.
    ///
    /// # Errors
    /// The answer cannot be stored; it was answered before; or the body is to return.
    pub async fn reply(&self, answer: &Out) -> Result<(), TaskError>
    where
        Out: Serialize,
    {
        let answer = encode(answer).map_err(|why| {
            let (task, name) = (self.handle.task_name(), &self.name);
            let why = format!("task '{task}': the answer to the request '{name}' cannot be stored: {why}");
            TaskError::failed(serialization_failure(&why))
        })?;
        self.answer(Ok(answer)).await
    }

    /// Refuses it: its sender gets [`Error::RequestRefused`] with this reason.
    ///
    /// # Errors
    /// It was answered before; or the body is to return.
    pub async fn refuse(&self, reason: impl fmt::Display) -> Result<(), TaskError> {
        self.answer(Err(refused(&reason.to_string()))).await
    }

    async fn answer(&self, answer: Reply) -> Result<(), TaskError> {
        self.handle.0.reply(&self.name, self.number, answer).await.map_err(TaskError::of_call)
    }
}

fn refused(reason: &str) -> Failure {
    Failure::new(FailureKind::RequestRefused, "bide.RequestRefused", reason)
}

impl BodyState {
    async fn reply(&self, name: &str, request: i64, answer: Reply) -> Result<(), CallError> {
        self.record_own(&reply_name(name, request), Request::Reply { request, answer }).await.map(drop)
    }

    /// Refuses the requests that a wait has taken and that its body does not get: nobody else can answer them.
    pub(super) async fn refuse_unread<T>(&self, wait: &Wait<'_, T>, outcomes: &[Outcome], error: &TaskError) {
        for (part, outcome) in wait.parts.iter().zip(outcomes) {
            let Kind::Message(Address { kind: MessageKind::Request, name }) = &part.kind else { continue };
            if let Some((number, _)) = outcome.value.as_ref().and_then(taken_request) {
                // If that is not recorded, the next call of the handle says why.
                let _ = self.reply(name, number, Err(refused(&error.to_string()))).await;
            }
        }
    }
}

/// A request to be sent, by awaiting it: that returns its answer. Dropped before, it is withdrawn, unless a body has
/// taken it.
#[must_use = "a request is sent when this is awaited"]
pub struct SendRequest<Out> {
    /// The engine that sends it.
    engine: Arc<Engine<Closures>>,
    /// To which run.
    run: RunId,
    /// Its name.
    name: Arc<str>,
    /// The sender's id.
    id: Option<Arc<str>>,
    /// How long the sender waits.
    timeout: Option<Duration>,
    /// Its value, or why that cannot be stored.
    value: Result<Value, String>,
    /// What its answer is read as.
    answer: PhantomData<fn() -> Out>,
}

impl<Out> SendRequest<Out> {
    /// An id of the sender's: the same request with the same id once more waits for the answer to the first one.
    pub fn id(mut self, id: impl Into<Arc<str>>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// How long to wait for the answer: then the request is withdrawn, unless a body has taken it, and awaiting it
    /// returns
    /// [`Error::TimedOut`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl<Out: DeserializeOwned + 'static> IntoFuture for SendRequest<Out> {
    type Output = Result<Out, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { engine, run, name, id, timeout, value, .. } = self;
            let value = value
                .map_err(|why| DefinitionError(format!("the value of the request '{name}' cannot be stored: {why}")))?;
            let letter = Letter { run, address: Address::request(&name), id, content: Ok(value) };
            // Made where it is sent: dropped meanwhile, it is withdrawn too.
            let send = move |engine: &Arc<Engine<Closures>>| -> Result<_, StoreError> {
                let sender = |pending| Sender { engine: Arc::clone(engine), run, pending, answered: false };
                Ok(engine.request(letter)?.map(|pending| sender(Arc::new(pending))))
            };
            let mut sender = match blocking(&engine, send).await?? {
                Ok(sender) => sender,
                Err(sent) => return Err(refusal(sent, &format!("the request '{name}'"), run)),
            };
            // On the engine's runtime: the caller's may have no clock.
            let runtime = engine.dispatch().runtime().clone();
            let mut waits = Aborted(runtime.spawn(async move { sender.wait(timeout).await }));
            let answer = (&mut waits.0).await.map_err(|_| Error::Closed)??;
            let Some(answer) = answer else {
                let span = timeout.unwrap_or_default();
                return Err(Error::TimedOut(format!(
                    "the request '{name}' to run {run} was not answered within {span:?}; it is withdrawn, unless a task \
                     has taken it"
                )));
            };
            let value = answer.map_err(|failure| Error::RequestRefused(failure.message()))?;
            decode(&value).map_err(|why| {
                Error::Serialization(format!("the answer to '{name}' does not read back as what is asked for: {why}"))
            })
        })
    }
}

/// A task that ends when nobody waits for it any more.
struct Aborted<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Aborted<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A sender that waits for an answer. Dropped before, it withdraws its request.
struct Sender {
    engine: Arc<Engine<Closures>>,
    run: RunId,
    pending: Arc<PendingRequest<Closures>>,
    /// There is nothing to withdraw any more.
    answered: bool,
}

impl Sender {
    /// Waits for the answer; `None` if the time is over.
    async fn wait(&mut self, timeout: Option<Duration>) -> Result<Option<Reply>, Error> {
        let answer = match timeout {
            None => self.answer().await.map(Some),
            Some(timeout) => tokio::time::timeout(timeout, self.answer()).await.ok().transpose(),
        };
        self.answered = true;
        if matches!(answer, Ok(None)) {
            let pending = Arc::clone(&self.pending);
            blocking(&self.engine, move |engine| engine.withdraw(&pending)).await??;
        }
        answer
    }

    async fn answer(&self) -> Result<Reply, Error> {
        loop {
            let pending = Arc::clone(&self.pending);
            // Before the first wait too: from then on other processes tell this one of the run.
            match blocking(&self.engine, move |engine| engine.outlook(&pending)).await?? {
                Outlook::Open => {}
                Outlook::Answered(answer) => return Ok(answer),
                Outlook::Ended(status) => {
                    let why = format!("run {} has ended ({status}), and no task has taken it", self.run);
                    return Ok(Err(refused(&why)));
                }
                Outlook::Gone => return Ok(Err(refused(&format!("run {} was deleted", self.run)))),
                Outlook::Stopped(settlement) => return Err(Error::settled(settlement)),
            }
            tokio::select! {
                biased;
                answer = self.pending.answered() => return Ok(answer),
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if !self.answered {
            let (engine, pending) = (Arc::clone(&self.engine), Arc::clone(&self.pending));
            // What cannot be withdrawn is refused when its task or run ends.
            self.engine.dispatch().runtime().spawn_blocking(move || drop(engine.withdraw(&pending)));
        }
    }
}

impl Runner {
    /// A request to a run, wherever that is executed: awaiting it returns what a body answers. Not for bodies, which
    /// would hold their slot meanwhile: a body makes a callback, sends its token with a signal and waits for the
    /// callback.
    pub fn request<T, Out>(&self, run: RunId, name: impl Into<Arc<str>>, value: &T) -> SendRequest<Out>
    where
        T: Serialize + ?Sized,
    {
        send(&self.engine, run, name.into(), encode(value))
    }
}

impl RunHandle {
    /// As [`Runner::request`], to this run.
    pub fn request<T, Out>(&self, name: impl Into<Arc<str>>, value: &T) -> SendRequest<Out>
    where
        T: Serialize + ?Sized,
    {
        send(&self.engine, self.id(), name.into(), encode(value))
    }
}

fn send<Out>(
    engine: &Arc<Engine<Closures>>,
    run: RunId,
    name: Arc<str>,
    value: Result<Value, String>,
) -> SendRequest<Out> {
    SendRequest { engine: Arc::clone(engine), run, name, id: None, timeout: None, value, answer: PhantomData }
}
