//! What a body can do while it executes: wait, record steps, ask where it is. The order of a wait is that of
//! `body.rs`, without a thread: see `wait.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bide_core::event::Wait;
use bide_core::{
    Asked, EntryKey, EntryKind, Event, Failure, FailureKind, Recall, Refused, RunId, TaskRef, Uses, Value,
};
use bide_sync::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::codec::{decode, encode, serialization_failure};
use super::context::TaskContext;
use super::error::{Ended, TaskError};
use super::lane::Lane;
use super::workflow::Closures;
use crate::commit::Done;
use crate::engine::Engine;
use crate::flow::Run;
use crate::host::Host;
use bide_core::attempt::CallError;

/// What a body uses to talk to the executor. Clones are the same handle; it is of no use once its body has returned.
#[derive(Clone)]
pub struct TaskHandle(pub(super) Arc<BodyState>);

/// A body that has asked for a handle.
pub(super) struct BodyState {
    pub(super) lane: Arc<Lane>,
    pub(super) run: Arc<Run<Closures>>,
    pub(super) task: TaskRef,
    pub(super) attempt: u32,
    pub(super) turn: u64,
    uses: Mutex<Uses>,
    ended: AtomicBool,
    suspended: AtomicBool,
    /// The step, condition or wait of this body that is going on.
    inside: Mutex<Option<String>>,
    deferred: Mutex<Deferred>,
}

/// How long a body has had no slot.
#[derive(Default)]
struct Deferred {
    before: Duration,
    since: Option<Duration>,
}

impl Deferred {
    fn until(&self, now: Duration) -> Duration {
        self.before + self.since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }
}

/// While it lives, nothing else of its body may be recorded.
pub(super) struct Inside<'a>(&'a BodyState);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        *self.0.inside.lock() = None;
    }
}

impl BodyState {
    pub(super) fn new(cx: &TaskContext, ended: bool) -> Arc<Self> {
        Arc::new(Self {
            lane: Arc::clone(&cx.lane),
            run: Arc::clone(&cx.scope.run),
            task: cx.scope.task,
            attempt: cx.attempt,
            turn: cx.turn,
            uses: Mutex::default(),
            ended: AtomicBool::new(ended),
            suspended: AtomicBool::new(false),
            inside: Mutex::default(),
            deferred: Mutex::default(),
        })
    }

    pub(super) fn engine(&self) -> &Arc<Engine<Closures>> {
        &self.lane.engine
    }

    pub(super) fn task_name(&self) -> &Arc<str> {
        self.run.flow.graph.name(self.task.ix)
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// The body gives its slot away.
    pub(super) fn defers(&self) {
        self.deferred.lock().since = Some(self.engine().clock.steady());
    }

    /// The body has a slot again.
    pub(super) fn goes_on(&self) {
        let mut deferred = self.deferred.lock();
        deferred.before = deferred.until(self.engine().clock.steady());
        deferred.since = None;
    }

    /// How long it has had no slot until now.
    pub(super) fn deferred(&self, now: Duration) -> Duration {
        self.deferred.lock().until(now)
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(super) fn suspending(&self) -> bool {
        self.suspended.load(Ordering::Acquire)
    }

    pub(super) fn suspend(&self) -> CallError {
        self.suspended.store(true, Ordering::Release);
        CallError::Suspended
    }

    /// Before something that others may be doing by now if this process hung: a poll, a step.
    pub(super) async fn sure_of_lease(&self) -> Result<(), CallError> {
        if self.lane.is_sure_of_lease().await && !self.run.is_lost() { Ok(()) } else { Err(self.suspend()) }
    }

    /// Begins a wait or a step.
    pub(super) fn begin(&self, what: &str) -> Result<Inside<'_>, CallError> {
        if self.has_ended() {
            return Err(CallError::Over(Refused::AttemptOver));
        }
        if self.suspending() || self.engine().is_closing() || self.run.is_lost() {
            return Err(self.suspend());
        }
        let mut inside = self.inside.lock();
        if let Some(inside) = &*inside {
            return Err(CallError::Misuse(format!(
                "task '{}': {what} inside {inside}: a body waits or records a step one after the other, and never \
                 within a step or a condition",
                self.task_name()
            )));
        }
        *inside = Some(what.to_owned());
        Ok(Inside(self))
    }

    /// What the journal knows of the next wait or step, and under which key it is recorded. Code that asks for
    /// something else than what is recorded pauses the run.
    pub(super) async fn recall(&self, asked: &Asked) -> Result<(EntryKey, Recall), CallError> {
        self.sure_of_lease().await?;
        let recall = {
            let mut uses = self.uses.lock();
            self.run.state.lock().recall(self.task, self.attempt, &mut uses, asked)
        };
        match recall.map_err(CallError::Over)? {
            (_, Recall::Mismatch(why)) => {
                let reason = format!("task '{}': {why}", self.task_name());
                self.commit(Event::Block { reason: reason.as_str().into() }).await?;
                Err(CallError::Mismatch(reason))
            }
            recall => Ok(recall),
        }
    }

    /// Commits an event of this body. On an error the body is to unwind.
    pub(super) async fn commit(&self, event: Event) -> Result<(), CallError> {
        let (reply, outcome) = oneshot::channel();
        let engine = self.engine();
        let (run, at) = (Arc::clone(&self.run), engine.clock.now());
        engine.hand_in(Done { run, event, at, reply: Some(reply) });
        match outcome.await {
            Ok(outcome) => outcome.map_err(CallError::Over),
            Err(_stopped) => Err(self.suspend()),
        }
    }

    pub(super) fn recorded(&self, wait: Wait, result: Result<Value, Failure>) -> Event {
        Event::Recorded { task: self.task, attempt: self.attempt, wait, result }
    }
}

impl TaskHandle {
    pub(super) fn of(cx: &TaskContext) -> Self {
        Self(cx.lane.body(cx))
    }

    /// The run's id.
    #[must_use]
    pub fn run_id(&self) -> RunId {
        self.0.run.id
    }

    /// The task's name.
    #[must_use]
    pub fn task_name(&self) -> &str {
        self.0.task_name()
    }

    /// Which try this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// Whether the body holds a slot: not while a wait of it is open.
    #[must_use]
    pub fn is_slot_held(&self) -> bool {
        !self.0.has_ended() && self.0.lane.holds_slot(self.0.turn)
    }

    /// Whether the body is being suspended: it is to return, and will be entered again.
    #[must_use]
    pub fn suspending(&self) -> bool {
        self.0.suspending() || self.0.engine().is_closing()
    }

    /// Executes something once: what it returned (or how it failed) is recorded and never executed again, unless the
    /// task is retried after it failed. `args` is all that it depends on: if they differ from the recorded ones, the
    /// result does not belong to this call, and the run is paused.
    ///
    /// # Errors
    /// What the step failed with; or the body is to return.
    pub async fn step<A, F, R, T>(&self, name: impl Into<Arc<str>>, args: &A, step: F) -> Result<T, TaskError>
    where
        A: Serialize + ?Sized,
        F: FnOnce() -> R,
        R: Future<Output = Result<T, TaskError>>,
        T: Serialize + DeserializeOwned,
    {
        let body = &self.0;
        let name = name.into();
        let refused = |what: &str, why: &str| {
            let message = format!("task '{}': {what} of the step '{name}' cannot be stored: {why}", body.task_name());
            serialization_failure(&message)
        };
        let proof: Arc<[u8]> =
            encode(args).map_err(|why| TaskError::failed(refused("the arguments", &why)))?.as_bytes().into();
        let _inside = body.begin(&format!("the step '{name}'")).map_err(TaskError::of_call)?;
        let asked = Asked {
            advice: <Closures as Host>::STEP_ADVICE,
            ..Asked::new(Arc::clone(&name), EntryKind::Step, Some(Arc::clone(&proof)))
        };
        let (key, recall) = body.recall(&asked).await.map_err(TaskError::of_call)?;
        match recall {
            Recall::Satisfied(value) => return self.decoded(&name, &value),
            Recall::Failed(failure) => return Err(TaskError::failed(failure)),
            Recall::Ask { .. } | Recall::Open { .. } | Recall::Mismatch(_) => {}
        }
        let result = match step().await {
            Ok(value) => encode(&value).map_err(|why| refused("what it returned", &why)),
            Err(error) => match error.end() {
                Ended::Failed(failure) => Err(failure),
                Ended::Skipped(reason) => return Err(super::error::Skip(reason).into()),
                Ended::Unwound => return Err(TaskError::of_call(body.suspend())),
            },
        };
        let wait = Wait { key, kind: EntryKind::Step, proof: Some(proof), due: None, timeout: None };
        body.commit(body.recorded(wait, result.clone())).await.map_err(TaskError::of_call)?;
        match result {
            Ok(value) => self.decoded(&name, &value),
            Err(failure) => Err(TaskError::failed(failure)),
        }
    }

    pub(super) fn decoded<T: DeserializeOwned>(&self, name: &str, value: &Value) -> Result<T, TaskError> {
        decode(value).map_err(|why| {
            let message = format!(
                "task '{}': the recorded value of '{name}' does not read back as what is asked for: {why}",
                self.0.task_name()
            );
            TaskError::failed(Failure::new(FailureKind::Serialization, "bide.SerializationError", &message))
        })
    }
}
