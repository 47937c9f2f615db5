//! Defining a workflow of async closures.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bide_core::{DefinitionError, Failure, FailureKind, Graph, RetryPolicy, RunIf, TaskSpec, Value};
use serde::Serialize;

use super::closures::BoxFuture;
use super::codec::{encode, serialization_failure};
use super::context::TaskContext;
use super::kinds::{Condition, Kind, Outcomes, Wait, WaitPart};
use super::task_error::TaskError;

type Call = Box<dyn Fn(TaskContext) -> BoxFuture<'static, Result<Value, TaskError>> + Send + Sync>;
type GateValue = Box<dyn Fn(&Outcomes<'_>) -> Result<Box<dyn Any + Send>, TaskError> + Send + Sync>;
type Covers = Box<dyn Fn(&Failure) -> bool + Send + Sync>;

/// A task's closure.
pub struct ClosureBody {
    /// Executes the task.
    pub(super) call: Call,
    /// Which failures the retry policy covers; `None`: all but timeouts of waits and values that cannot be stored.
    covers: Option<Covers>,
    /// Its gate, if it has one.
    pub(super) gate: Option<BodyGate>,
}

impl ClosureBody {
    pub(super) fn retries(&self, failure: &Failure) -> bool {
        match &self.covers {
            Some(covers) => covers(failure),
            None => !matches!(failure.kind, FailureKind::WaitTimeout | FailureKind::Serialization),
        }
    }

    /// The condition that is this part of its gate.
    pub(super) fn gate_condition(&self, part: u16) -> Option<&Condition<'static>> {
        match &self.gate.as_ref()?.parts.get(usize::from(part))?.kind {
            Kind::Condition(condition) => Some(condition),
            _ => None,
        }
    }
}

/// A task's gate, as its closures have it.
pub(super) struct BodyGate {
    /// Its parts, by number.
    parts: Vec<WaitPart<'static>>,
    /// Makes the value that the body reads.
    pub(super) value: GateValue,
    /// The type of that value, for messages.
    pub(super) type_name: &'static str,
}

/// A named, validated DAG of tasks. Cheap to clone.
#[derive(Clone)]
pub struct Workflow {
    /// The tasks and their dependencies.
    pub(super) graph: Arc<Graph>,
    /// What each task executes, by position in the graph.
    pub(super) bodies: Arc<[ClosureBody]>,
}

impl Workflow {
    /// Begins a workflow.
    #[must_use]
    pub fn builder(name: impl Into<String>) -> WorkflowBuilder {
        WorkflowBuilder {
            name: name.into(),
            specs: Vec::new(),
            bodies: Vec::new(),
            fail_fast: false,
            signals: None,
            run_timeout: None,
            renamed: Vec::new(),
            refused: None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.graph.workflow()
    }

    /// Its shape.
    #[must_use]
    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }
}

impl fmt::Debug for Workflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workflow({})", self.graph.title())
    }
}

/// A workflow being defined: [`task`](Self::task) adds one, what follows says more about it.
pub struct WorkflowBuilder {
    /// The name of the workflow.
    name: String,
    /// The tasks added so far.
    specs: Vec<TaskSpec>,
    /// What each of them executes.
    bodies: Vec<ClosureBody>,
    /// Whether the run fails as soon as a task does.
    fail_fast: bool,
    /// The signals that its runs understand; `None`: any.
    signals: Option<Vec<String>>,
    /// How long after it begins a run must have ended.
    run_timeout: Option<Duration>,
    /// The names that tasks had before, with the new ones.
    renamed: Vec<(String, String)>,
    /// The first thing that cannot work, returned by [`build`](Self::build).
    refused: Option<DefinitionError>,
}

impl WorkflowBuilder {
    /// Adds a task. Its closure is called once for each attempt (and again for a re-entry), so it moves or clones what
    /// it needs into its future; what the future returns is the task's output.
    #[must_use]
    pub fn task<F, R, T>(mut self, name: impl Into<Arc<str>>, body: F) -> Self
    where
        F: Fn(TaskContext) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, TaskError>> + Send + 'static,
        T: Serialize,
    {
        let body = Arc::new(body);
        let call: Call = Box::new(move |cx| {
            let body = Arc::clone(&body);
            let scope = cx.scope.clone();
            // Called within the future, so that a panic of the closure itself is caught with those of its future.
            Box::pin(async move {
                let output = body(cx).await?;
                encode(&output).map_err(|why| {
                    let message = format!("what task '{}' returned cannot be stored: {why}", scope.task_name());
                    TaskError::failed(serialization_failure(&message))
                })
            })
        });
        self.specs.push(TaskSpec::new(name));
        self.bodies.push(ClosureBody { call, covers: None, gate: None });
        self
    }

    fn last(mut self, what: &str, change: impl FnOnce(&mut TaskSpec, &mut ClosureBody)) -> Self {
        match (self.specs.last_mut(), self.bodies.last_mut()) {
            (Some(spec), Some(body)) => change(spec, body),
            _ => self.refuse(format!("{what} stands before the first task; it says more about the task before it")),
        }
        self
    }

    fn refuse(&mut self, why: String) {
        let message = format!("workflow '{}': {why}", self.name);
        self.refused.get_or_insert(DefinitionError(message));
    }

    /// The task depends on these: it starts when they have ended.
    #[must_use]
    pub fn after<N: Into<Arc<str>>>(self, names: impl IntoIterator<Item = N>) -> Self {
        self.last("after", |spec, _| spec.dependencies.extend(names.into_iter().map(Into::into)))
    }

    /// How often the task is tried.
    #[must_use]
    pub fn retry(self, policy: RetryPolicy) -> Self {
        self.last("retry", |spec, _| spec.retry = policy)
    }

    /// Which failures are tried again, instead of all but timeouts of waits and values that cannot be stored.
    #[must_use]
    pub fn retry_if(self, covers: impl Fn(&Failure) -> bool + Send + Sync + 'static) -> Self {
        self.last("retry_if", |_, body| body.covers = Some(Box::new(covers)))
    }

    /// How long one attempt may execute, the time that it is deferred excluded: then it is dropped and has failed.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        self.last("timeout", |spec, _| spec.timeout = Some(timeout))
    }

    /// When the task runs, decided once all that it depends on has ended.
    #[must_use]
    pub fn run_if(self, run_if: RunIf) -> Self {
        self.last("run_if", |spec, _| spec.run_if = run_if)
    }

    /// A wait that must be satisfied before the task's body starts; it takes a row and a timer, no slot. Its value is
    /// what [`TaskContext::gate`] returns.
    #[must_use]
    pub fn gate<T: Send + 'static>(mut self, gate: Wait<'static, T>) -> Self {
        let spec_of_gate = gate.validate().and_then(|()| gate.gate());
        if let (Err(DefinitionError(why)), Some(spec)) = (&spec_of_gate, self.specs.last()) {
            let why = format!("task '{}': its gate: {why}", spec.name);
            self.refuse(why);
        }
        self.last("gate", |spec, body| {
            spec.gate = spec_of_gate.ok();
            let (parts, _, finish) = gate.into_parts();
            let value: GateValue = Box::new(move |outcomes| Ok(Box::new(finish(outcomes)?)));
            body.gate = Some(BodyGate { parts, value, type_name: std::any::type_name::<T>() });
        })
    }

    /// The signals that its runs understand: to send one of another name is refused then. Without this any is
    /// understood.
    #[must_use]
    pub fn signals<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.signals.get_or_insert_default().extend(names.into_iter().map(Into::into));
        self
    }

    /// How long after it begins a run must have ended: what has not by then fails, waits included.
    #[must_use]
    pub fn run_timeout(mut self, timeout: Duration) -> Self {
        if timeout.is_zero() {
            self.refuse("run_timeout must be more than zero".to_owned());
        }
        self.run_timeout = Some(timeout);
        self
    }

    /// A task was called otherwise before: unfinished runs of older code continue with what they have recorded of it.
    #[must_use]
    pub fn renamed(mut self, old: impl Into<String>, new: impl Into<String>) -> Self {
        self.renamed.push((old.into(), new.into()));
        self
    }

    /// The first failure skips what has not started.
    #[must_use]
    pub fn fail_fast(mut self) -> Self {
        self.fail_fast = true;
        self
    }

    /// Validates the workflow.
    ///
    /// # Errors
    /// Names the culprit: a duplicate or unknown name, a cycle, no task, a policy that cannot work, a gate that waits
    /// for a signal that is not declared.
    pub fn build(self) -> Result<Workflow, DefinitionError> {
        if let Some(refused) = self.refused {
            return Err(refused);
        }
        let graph = Graph::build(&self.name, self.specs, self.fail_fast)?.with_signals(self.signals)?;
        let graph = graph.with_renamed(self.renamed)?.with_timeout(self.run_timeout);
        Ok(Workflow { graph: Arc::new(graph), bodies: self.bodies.into() })
    }
}
