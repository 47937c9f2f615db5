//! Child runs: how a body starts one, and what the wait for its end returns.

use std::future::IntoFuture;
use std::sync::Arc;

use bide_core::attempt::{Action, CallError, Fed, Request, child_name};
use bide_core::{DefinitionError, EntryKey, RunId};
use serde::{Deserialize, Serialize};

use super::blocking::blocking;
use super::body::BodyState;
use super::closures::{BoxFuture, Closures};
use super::codec;
use super::error::{Error, RunFailed};
use super::handle::TaskHandle;
use super::kinds::{IntoWait, Kind, Wait};
use super::result::RunResult;
use super::run_handle::RunHandle;
use super::runner::register;
use super::task_error::TaskError;
use super::workflow::Workflow;
use crate::ledger::Lost;
use crate::runs::run::{Inputs, RegisteredWorkflow, RunRequest, packed};
use crate::threads::body::StartIdentity;

/// A run that a body has started, and the wait for its end: see [`TaskHandle::start`]. It is a plain value: a body can
/// return it, or keep it in a checkpoint, and any body of the same run can wait for it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ChildRun {
    /// Its id.
    #[serde(with = "as_text")]
    id: RunId,
    /// Its workflow's name.
    workflow: String,
    /// The name of the wait for it.
    name: String,
}

impl ChildRun {
    /// Its id.
    #[must_use]
    pub const fn id(&self) -> RunId {
        self.id
    }

    /// Its workflow's name.
    #[must_use]
    pub fn workflow(&self) -> &str {
        &self.workflow
    }

    /// The wait for its end: returns its result, or fails if it has failed ([`TaskError::run_failed`]).
    pub fn wait<'a>(&self) -> Wait<'a, RunResult> {
        let wait = Wait::new(Kind::Child(self.id), |outcomes| {
            let ended = outcomes.parts[0].child.clone();
            ended.ok_or_else(|| TaskError::new("a child run ended, and its result was not read"))
        });
        wait.named(self.name.as_str())
    }
}

impl<'a> IntoWait<'a> for ChildRun {
    type Value = RunResult;

    fn into_wait(self) -> Wait<'a, RunResult> {
        self.wait()
    }
}

impl<'a> IntoWait<'a> for &ChildRun {
    type Value = RunResult;

    fn into_wait(self) -> Wait<'a, RunResult> {
        self.wait()
    }
}

/// A run's id as text.
mod as_text {
    use bide_core::RunId;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(id: &RunId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<RunId, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(|()| D::Error::custom(format!("'{text}' is not the id of a run")))
    }
}

/// A child run to be started, by awaiting it.
#[must_use = "a child run is started when this is awaited"]
pub struct StartChild {
    /// The handle of the body that starts it.
    handle: TaskHandle,
    /// Its workflow.
    workflow: Workflow,
    /// Its inputs, or why they are refused.
    inputs: Result<Inputs, DefinitionError>,
    /// The key of the start.
    key: Option<Arc<str>>,
}

impl StartChild {
    /// The key says which child it is, within the run, instead of the inputs and the order of starts: a body that is
    /// entered again finds the child of the same key.
    pub fn key(self, key: impl Into<Arc<str>>) -> Self {
        Self { key: Some(key.into()), ..self }
    }
}

impl IntoFuture for StartChild {
    type Output = Result<ChildRun, TaskError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { handle, workflow, inputs, key } = self;
            let body = &handle.0;
            let inputs = inputs.map_err(|DefinitionError(why)| {
                TaskError::definition(&format!(
                    "task '{}': child run of '{}': {why}",
                    body.task_name(),
                    workflow.name()
                ))
            })?;
            let workflow = body.child_workflow(workflow).await?;
            body.start_child(&workflow, inputs, key).await.map_err(TaskError::of_call)
        })
    }
}

/// A child run to be started and waited for, by awaiting it.
#[must_use = "a child run is started when this is awaited"]
pub struct RunChild(StartChild);

impl RunChild {
    /// As [`StartChild::key`].
    pub fn key(self, key: impl Into<Arc<str>>) -> Self {
        Self(self.0.key(key))
    }
}

impl IntoFuture for RunChild {
    type Output = Result<RunResult, TaskError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let handle = self.0.handle.clone();
            let child = self.0.await?;
            handle.wait(child).await
        })
    }
}

impl TaskHandle {
    /// Starts a run of a workflow as a child of this run, in the commit of its record: a body that is entered again
    /// gets the same child. The workflow is registered with the runner. Wait for the child as for anything else.
    ///
    /// Also register the workflows of children when a program starts ([`Runner::register`](crate::Runner::register)):
    /// otherwise their unfinished runs continue only when a body comes to their start again.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use bide_executor::{TaskContext, TaskError, Workflow, after};
    /// # async fn body(cx: TaskContext, invoice: Workflow) -> Result<(), TaskError> {
    /// let handle = cx.handle();
    /// let one = handle.start(&invoice, &[("customer", 7)]).await?;
    /// let other = handle.start(&invoice, &[("customer", 8)]).await?;
    /// let (one, other) = handle.wait_all((one, other)).await?;
    /// # let _ = (one, other);
    /// # Ok(())
    /// # }
    /// ```
    pub fn start<T: Serialize + ?Sized>(&self, workflow: &Workflow, inputs: &T) -> StartChild {
        let (handle, workflow, inputs) = (self.clone(), workflow.clone(), codec::inputs(inputs));
        StartChild { handle, workflow, inputs, key: None }
    }

    /// Starts a child run and waits for its end, without a slot; returns its result.
    pub fn run<T: Serialize + ?Sized>(&self, workflow: &Workflow, inputs: &T) -> RunChild {
        RunChild(self.start(workflow, inputs))
    }
}

impl BodyState {
    /// Registers the workflow of a child.
    async fn child_workflow(&self, workflow: Workflow) -> Result<Arc<RegisteredWorkflow<Closures>>, TaskError> {
        let run = Arc::clone(&self.run);
        let registered = blocking(self.engine(), move |engine| {
            let registered = register(engine, &workflow)?;
            match engine.refuse_level(&run, &registered) {
                None => Ok(registered),
                Some(why) => Err(Error::Definition(DefinitionError(why))),
            }
        });
        registered.await.and_then(|registered| registered).map_err(|error| self.failed_in_engine(error))
    }

    /// An error of the engine, for the body: one that stops the engine suspends the body.
    fn failed_in_engine(&self, error: Error) -> TaskError {
        match error {
            Error::Definition(DefinitionError(why)) => {
                TaskError::definition(&format!("task '{}': {why}", self.task_name()))
            }
            Error::Closed => TaskError::of_call(self.suspend()),
            _ if self.engine().stopped().is_some() => TaskError::of_call(self.suspend()),
            other => other.into(),
        }
    }

    async fn start_child(
        &self,
        workflow: &Arc<RegisteredWorkflow<Closures>>,
        inputs: Inputs,
        key: Option<Arc<str>>,
    ) -> Result<ChildRun, CallError> {
        let of = workflow.graph.workflow();
        let identity = key.map_or_else(|| StartIdentity::Inputs(packed(&inputs)), StartIdentity::Key);
        let mut call = self.begin(of, Request::Start(vec![identity.request::<Closures>(of, false)]))?;
        let mut request = Some(RunRequest::new(inputs));
        let (mut new, mut fed) = (None, Fed::Begin);
        loop {
            fed = match self.drive(&mut call, fed).await {
                Action::StartChildren { event, .. } => {
                    let (run, workflow) = (Arc::clone(&self.run), Arc::clone(workflow));
                    let requests = request.take().into_iter().collect();
                    let started =
                        blocking(self.engine(), move |engine| engine.start_children(&run, *event, &workflow, requests));
                    match started.await {
                        Ok(Ok(children)) => {
                            new = children.first().map(|child| child.id);
                            Fed::Committed { deadline: None }
                        }
                        Ok(Err(Lost::Refused(refused))) if !self.run.is_lost() => Fed::Refused(refused),
                        _ => Fed::Stopped,
                    }
                }
                Action::Done(result) => {
                    result?;
                    break;
                }
                action => unreachable!("{action:?} of a start"),
            };
        }
        let key = call.part_keys().pop();
        let recorded = |key: &EntryKey| self.run.state.lock().started_child(self.task, key);
        let child = key.and_then(|key| Some((new.or_else(|| recorded(&key))?, child_name(&key))));
        let Some((id, name)) = child else { return Err(self.suspend()) };
        Ok(ChildRun { id, workflow: of.to_string(), name: name.to_string() })
    }

    /// Refuses the wait for a run that no body of this run has started: nothing would ever end it.
    pub(super) fn check_children<T>(&self, wait: &Wait<'_, T>) -> Result<(), CallError> {
        let state = self.run.state.lock();
        let stranger = wait.parts.iter().find_map(|part| match part.kind {
            Kind::Child(child) if !state.has_child(child) => Some(child),
            _ => None,
        });
        match stranger {
            None => Ok(()),
            Some(stranger) => Err(CallError::Misuse(format!(
                "task '{}' waits for run {stranger}, which is no child of its run {}: a body waits for runs that \
                 handle.start has started in a body of the same run",
                self.task_name(),
                self.run.id
            ))),
        }
    }

    /// The child as it has ended, which is committed.
    pub(super) async fn child_result(&self, child: RunId) -> Result<RunResult, TaskError> {
        let handle = blocking(self.engine(), move |engine| engine.handle(child)).await;
        let handle = handle.and_then(|handle| Ok(handle?)).map_err(|error| self.failed_in_engine(error))?;
        match RunHandle::new(self.engine(), handle).result().await {
            Ok(result) => Ok(result),
            Err(Error::Failed(failed)) => Ok(failed.result),
            Err(error) => Err(self.failed_in_engine(error)),
        }
    }

    /// The error of a wait for a child that has failed.
    pub(super) async fn child_failed(&self, child: RunId) -> TaskError {
        match self.child_result(child).await {
            Ok(result) => TaskError::child_failed(RunFailed { result }),
            Err(error) => error,
        }
    }
}
