//! What the engine is generic over: a host, which knows how to execute bodies. Python is one, Rust closures another.

use std::collections::VecDeque;
use std::sync::Arc;

pub(crate) use bide_core::attempt::Polled;
use bide_core::attempt::polling::timed_out;
use bide_core::run::ElementOutcomes;
use bide_core::{Failure, GateSpec, LimitSpec, TaskRef, Time, Value};
use smallvec::SmallVec;

use crate::runs::polls::{GatePolls, RestingPolls};
use crate::runs::run::{RegisteredWorkflow, Run};

/// A language or style in which bodies are written.
pub trait Host: Send + Sync + Sized + 'static {
    /// A task's callable, with what is needed to call it.
    type Body: Send + Sync + 'static;
    /// What the host keeps with each run; the default for one that was recovered.
    type Local: Send + Sync + Default + 'static;
    /// How ready bodies get to execute.
    type Dispatch: Dispatch<Self>;

    /// What a message says about a step whose arguments differ from its record, in the words of the host's language.
    const STEP_ADVICE: &'static str =
        "If the order of its uses may change, sort them, or give each use a key of its own";

    /// What a message says about a child run whose inputs differ from its record, likewise.
    const START_ADVICE: &'static str = "If the order of its uses may change, sort them, or start each with a key";

    /// What a body is called with, in order.
    fn sources(body: &Self::Body) -> &[Source];

    /// How often a condition of a task's gate is polled: the gate itself, or this part of it ([`GateSpec::part`]).
    fn gate_policy(body: &Self::Body, part: u16) -> bide_core::PollPolicy;

    /// Runs a piece of the engine; a panic in it becomes a message for callers. A host may know more than the default.
    ///
    /// # Errors
    /// What the panic said, as a message that asks for a report.
    fn no_panic<R>(f: impl FnOnce() -> R) -> Result<R, String> {
        crate::panic::no_panic(f)
    }

    /// The limit of a task, if it has one.
    fn limit(_body: &Self::Body) -> Option<&TaskLimit> {
        None
    }

    /// Whether a body does not block a thread: its dispatcher hands it to another one.
    fn is_coroutine(_body: &Self::Body) -> bool {
        false
    }

    /// Whether the condition of this part of a task's gate does not block a thread.
    fn is_coroutine_gate(_body: &Self::Body, _part: u16) -> bool {
        false
    }

    /// What is kept with a run that comes back which was given back to the store.
    fn copy_local(_local: &Self::Local) -> Self::Local {
        Self::Local::default()
    }

    /// The host's name of the calling thread, for its log.
    fn this_thread() -> u64 {
        0
    }

    /// Whether a task's retry policy covers its `timeout`.
    fn retries_timeout(_body: &Self::Body) -> bool {
        false
    }

    /// Whether a task's retry policy covers that a wait of its gate has timed out which the host does not poll. Called
    /// on the thread of the timers. Never panics.
    fn retries_gate_timeout(_body: &Self::Body, _failure: &Failure) -> bool {
        false
    }
}

/// How ready bodies get to execute: the pool of worker threads, or an async runtime.
///
/// The engine calls it, on any thread; what it needs of the engine it is given when it opens, by the host.
pub trait Dispatch<H: Host>: Send + Sync + 'static {
    /// These bodies may start.
    fn ready(&self, ready: &mut Vec<Ready<H>>);

    /// Bodies are about to be ready, until [`Dispatch::came`] is called: a thread may be woken meanwhile.
    fn coming(&self) {}

    /// What was announced by [`Dispatch::coming`] is ready, or will not be.
    fn came(&self) {}

    /// Takes what the thread that has made it ready cannot execute itself, and dispatches that.
    fn divert(&self, _ready: &mut Vec<Ready<H>>) {}

    /// This gate is open and waits for a condition.
    fn gate(&self, gate: Gate<H>);

    /// Ask the condition of this task's gate now.
    fn poll_now(&self, _run: &Arc<Run<H>>, _task: TaskRef) {}

    /// A body that executes may have to be interrupted, because its run was cancelled.
    fn interrupt(&self, _run: &Run<H>, _task: TaskRef) {}

    /// Start nothing any more, and suspend what is deferred.
    fn close(&self);

    /// Every run in memory belongs to another runner now: suspend what is deferred.
    fn lost(&self) {}

    /// The gates that wait for their next poll, of those that are wanted: for those who look.
    fn polls(&self, _is_wanted: &dyn Fn(&Gate<H>) -> bool) -> Vec<GatePolls> {
        Vec::new()
    }

    /// The waits of coroutines that wait for their next poll, of the runs that are wanted: for those who look.
    fn resting(&self, _is_wanted: &dyn Fn(&Run<H>) -> bool) -> Vec<RestingPolls> {
        Vec::new()
    }

    /// How much there is to do for bodies that are coroutines, or for others.
    fn load(&self, _coroutines: bool) -> Load {
        Load { slots: usize::MAX, bodies: 0 }
    }

    /// Called every 50 ms or so: reports the start of bodies that have executed for a while.
    fn look(&self) {}
}

/// How much there is to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// How many bodies can execute at once.
    pub slots: usize,
    /// How many execute, or are ready to.
    pub bodies: usize,
}

/// The limit of a task.
#[derive(Clone, Debug)]
pub struct TaskLimit {
    /// What it allows.
    pub spec: LimitSpec,
    /// Where the value of its key comes from, if it has one.
    pub key: Option<Source>,
}

/// Where an argument comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The output of this task.
    Output(u32),
    /// This input of the run.
    Input(Arc<str>),
    /// What a part of the gate of this task was satisfied with.
    Gate(u32, u16),
    /// For an element: its item of the list that is the output of this task. For the mapped task itself: the list.
    ItemOfOutput(u32),
    /// For an element: its item of the list that is this input of the run. For the mapped task itself: the list.
    ItemOfInput(Arc<str>),
    /// The output of the element of this task that has the same index.
    SameElement(u32),
    /// What the elements of this mapped task have come to.
    Elements(u32),
    /// What failed of this task, if anything did.
    Failure(u32),
}

/// A body that may start.
pub struct Ready<H: Host> {
    /// Its run.
    pub run: Arc<Run<H>>,
    /// Its task.
    pub task: TaskRef,
}

impl<H: Host> Ready<H> {
    /// Adds bodies to a queue: those of a higher priority first, equal ones in the order in which they come.
    pub(crate) fn queue(queue: &mut VecDeque<Self>, ready: &mut Vec<Self>) {
        for one in ready.drain(..) {
            let priority = one.run.priority();
            let before = queue.iter().rposition(|other| other.run.priority() >= priority);
            queue.insert(before.map_or(0, |at| at + 1), one);
        }
    }
}

/// A gate that waits for a condition.
pub struct Gate<H: Host> {
    /// Its run.
    pub run: Arc<Run<H>>,
    /// Its task.
    pub task: TaskRef,
    /// Attempts before it.
    pub attempt: u32,
    /// Which of its waits: see [`GateSpec::part`].
    pub part: u16,
    /// When it times out.
    pub deadline: Option<Time>,
}

impl<H: Host> Clone for Gate<H> {
    fn clone(&self) -> Self {
        Self { run: Arc::clone(&self.run), ..*self }
    }
}

impl<H: Host> Gate<H> {
    /// The workflow that it belongs to.
    #[must_use]
    pub fn workflow(&self) -> &Arc<RegisteredWorkflow<H>> {
        &self.run.workflow
    }

    /// The gate, or the part of it, as its workflow declares it.
    #[must_use]
    pub fn spec(&self) -> Option<&GateSpec> {
        self.workflow().graph.spec(self.task.ix).gate.as_ref()?.part(self.part)
    }

    /// Whether its answer is still needed: not if its task was skipped, or its run is over or elsewhere. Checked before
    /// each poll, after the lease.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        !self.run.is_lost() && self.run.state.lock().awaits_gate(self.task, self.attempt, self.part, self.deadline)
    }

    /// The failure of a gate whose deadline has passed.
    #[must_use]
    pub fn timed_out(&self) -> Failure {
        let name = self.spec().map(|gate| &*gate.name).unwrap_or_default();
        timed_out(&self.workflow().graph.name_of(self.task), name)
    }
}

/// The arguments of a call, in the order of [`Host::sources`].
pub type Args = SmallVec<[Arg; 2]>;

/// One argument.
#[derive(Clone, Debug)]
pub enum Arg {
    /// The source has no value.
    None,
    /// A value.
    Value(Value),
    /// This item of a list, which [`Run::list`] returns.
    Item(u32),
    /// What the elements of a mapped task have come to.
    Elements(Box<ElementOutcomes>),
    /// What failed, and the name of the task or element that did.
    Failure(Box<(Arc<str>, Failure)>),
}

impl From<Option<Value>> for Arg {
    fn from(value: Option<Value>) -> Self {
        value.map_or(Self::None, Self::Value)
    }
}

/// A thread that may be attached to a resource that others need while it blocks, as to Python's interpreter.
pub trait Attached {
    /// Runs `f`, which does work that may block, with the resource released.
    fn detached(&mut self, f: &mut dyn FnMut());

    /// Runs `f`, which waits for something that only the engine can signal, with the resource released.
    fn idle(&mut self, f: &mut dyn FnMut()) {
        self.detached(f);
    }

    /// The body on this thread is about to wait for a while: releases what the thread does not need meanwhile.
    fn parks(&mut self) {}
}

impl dyn Attached + '_ {
    /// As [`Attached::detached`], with a result.
    pub fn detach<R>(&mut self, f: impl FnOnce() -> R) -> R {
        let (mut f, mut out) = (Some(f), None);
        self.detached(&mut || out = f.take().map(|f| f()));
        out.unwrap_or_else(|| unreachable!("detached runs its closure once"))
    }

    /// As [`Attached::idle`], with a result.
    pub fn wait<R>(&mut self, f: impl FnOnce() -> R) -> R {
        let (mut f, mut out) = (Some(f), None);
        self.idle(&mut || out = f.take().map(|f| f()));
        out.unwrap_or_else(|| unreachable!("idle runs its closure once"))
    }
}

/// A thread that holds nothing.
#[derive(Debug, Default)]
pub struct Free;

impl Attached for Free {
    fn detached(&mut self, f: &mut dyn FnMut()) {
        f();
    }
}
