//! One entry of a coroutine: drives the attempt machine of `bide_core::attempt` by futures that the host polls.
//!
//! A future never blocks. It waits for commits, for alarms and for a slot, all of which complete on other threads.

mod call;
mod drive;
mod recorded;
mod sleep;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bide_core::attempt::{Attempt, CallError, Caller, Fed, Request, Standing, Within, now_value, read_now};
use bide_core::record::StepRecord;
use bide_core::{EntryKey, Event, Failure, RunId, TaskRef, Time, Value};
use bide_store::Lease;
use bide_sync::Mutex;
pub use call::OpenCall;
use recorded::Recorded;
use tokio::sync::oneshot;

use super::dispatch::{Coroutines, Counted, Slot};
use super::rest::BegunBody;
use crate::engine::Engine;
use crate::engine::show::publish;
use crate::host::Host;
use crate::ledger::{Completion, QueuedEvent};
use crate::runs::run::Run;
use crate::runs::suspects::Turn;
use crate::threads::limit::Limit;

/// A coroutine that executes or is deferred.
pub struct CoroutineBody<H: Host> {
    /// The engine that executes it.
    engine: Arc<Engine<H>>,
    /// Its dispatcher.
    pub(super) coroutines: Arc<Coroutines<H>>,
    /// Its run.
    run: Arc<Run<H>>,
    /// Its task.
    task: TaskRef,
    /// What it may call now. Never locked while code of the user's executes.
    pub(super) attempt: Mutex<Attempt>,
    /// Its slot, and what ends with it.
    held: Mutex<Holds<H>>,
    /// The remaining execution time, if its task has a limit.
    pub(super) limit: Option<Arc<Limit<H>>>,
    /// Whether the host wants to know when the end of the body is committed, and whether it is.
    pub(super) recorded: Recorded,
}

/// What a body holds: under one lock, because many bodies wait at once.
struct Holds<H: Host> {
    /// Its slot.
    slot: Held<H>,
    /// What it has until it ends.
    own: Option<Own<H>>,
    /// What few bodies have.
    seldom: Option<Box<Seldom<H>>>,
}

impl<H: Host> Default for Holds<H> {
    fn default() -> Self {
        Self { slot: Held::None, own: None, seldom: None }
    }
}

/// What few bodies have.
struct Seldom<H: Host> {
    /// It executes and its limit does not count it yet: it has left a wait.
    due: Option<oneshot::Receiver<()>>,
    /// The child runs that it has started, so that their results are read from memory.
    children: HashMap<RunId, Arc<Run<H>>>,
}

impl<H: Host> Default for Seldom<H> {
    fn default() -> Self {
        Self { due: None, children: HashMap::new() }
    }
}

/// What a body has until it ends.
pub(super) struct Own<H: Host> {
    /// Counts it as one that executes.
    pub(super) counted: Counted<H>,
    /// What few bodies have.
    pub(super) rare: Option<Box<Rare>>,
}

/// What few bodies have until they end.
pub(super) struct Rare {
    /// Its end has to be committed before its slot is released.
    pub(super) mark: bool,
    /// The turn of a body that may have ended an earlier process.
    #[expect(dead_code, reason = "dropped to end it")]
    pub(super) turn: Option<Turn>,
    /// With a clock that is moved by hand: counts its calls.
    pub(super) begun: Option<BegunBody>,
}

/// The slot of a body.
pub(super) enum Held<H: Host> {
    /// It executes.
    Slot(#[expect(dead_code, reason = "dropped to release it")] Slot<H>),
    /// It executes without one: it has left a wait, and gets the next slot that is free.
    Due(
        #[expect(dead_code, reason = "dropped to withdraw it, or to release what has come")] oneshot::Receiver<Slot<H>>,
    ),
    /// It is deferred, or has ended.
    None,
}

impl<H: Host> CoroutineBody<H> {
    pub(super) fn new(
        engine: &Arc<Engine<H>>,
        run: &Arc<Run<H>>,
        task: TaskRef,
        attempt: u32,
        slot: Slot<H>,
        own: Own<H>,
    ) -> Arc<Self> {
        let coroutines = &own.counted.coroutines;
        let name = Arc::clone(run.workflow.graph.name(task.ix));
        Arc::new(Self {
            engine: Arc::clone(engine),
            coroutines: Arc::clone(coroutines),
            limit: Limit::start(engine, run, task, attempt, H::this_thread()),
            run: Arc::clone(run),
            task,
            attempt: Mutex::new(Attempt::new(task, name, attempt)),
            held: Mutex::new(Holds { slot: Held::Slot(slot), own: Some(own), seldom: None }),
            recorded: Recorded::default(),
        })
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine<H>> {
        &self.engine
    }

    /// The run.
    #[must_use]
    pub fn run(&self) -> &Arc<Run<H>> {
        &self.run
    }

    /// The task.
    #[must_use]
    pub fn task(&self) -> TaskRef {
        self.task
    }

    /// The host's side of the task.
    #[must_use]
    pub fn target(&self) -> &H::Body {
        &self.run.workflow.bodies[self.task.ix as usize]
    }

    /// The task's name.
    #[must_use]
    pub fn task_name(&self) -> Arc<str> {
        self.run.workflow.graph.name_of(self.task)
    }

    /// Which try this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt.lock().number()
    }

    /// Whether the body holds a slot now.
    #[must_use]
    pub fn is_slot_held(&self) -> bool {
        !matches!(self.held.lock().slot, Held::None)
    }

    /// Whether the body is being suspended.
    #[must_use]
    pub fn suspending(&self) -> bool {
        self.attempt.lock().is_suspended()
    }

    /// From here on every call of the handle ends with [`CallError::Suspended`], and what the body returns does not
    /// count.
    pub fn suspend(&self) {
        let _ = self.attempt.lock().suspend();
    }

    /// Whether the run was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.run.state.lock().cancel().is_some()
    }

    /// By whom and why its run was cancelled, in words, if it was.
    #[must_use]
    pub fn cancellation(&self) -> Option<String> {
        self.run.state.lock().cancel().map(|cancel| format!("the run was {}", cancel.text()))
    }

    /// Whether the body is to be interrupted now, because its run was cancelled or it was cut off. The former is true
    /// once; a body that only reads its journal gets it at its first call that is not a replay.
    #[must_use]
    pub fn take_interrupt(&self) -> bool {
        if self.has_ended() || self.is_lost() || self.suspending() {
            return false;
        }
        let mut attempt = self.attempt.lock();
        let mut state = self.run.state.lock();
        if attempt.is_replaying_until_cancelled(&state) {
            return false;
        }
        let attempt = attempt.number();
        state.take_interrupt(self.task, attempt) || state.is_fenced(self.task, attempt)
    }

    /// Whether another runner has the run now.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.run.is_lost()
    }

    /// Whether its execution time is used up.
    #[must_use]
    pub fn is_timed_out(&self) -> bool {
        self.limit.as_ref().is_some_and(|limit| limit.is_reached())
    }

    /// Has `cancel` called when the execution time of the body is used up.
    pub fn when_timed_out(&self, cancel: impl Fn() + Send + Sync + 'static) {
        if let Some(limit) = &self.limit {
            limit.cancels(Box::new(cancel));
        }
    }

    /// Whether the body has returned.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.attempt.lock().has_ended()
    }

    /// Whether the body only reads what an earlier entry of it has recorded.
    #[must_use]
    pub fn is_replaying(&self) -> bool {
        self.attempt.lock().is_replaying(&self.run.state.lock())
    }

    /// The state of the body's last checkpoint.
    #[must_use]
    pub fn last_checkpoint(&self) -> Option<Value> {
        self.run.state.lock().last_checkpoint(self.task).cloned()
    }

    /// Whether the journal has steps of the first version.
    #[must_use]
    pub fn has_older_steps(&self) -> bool {
        self.run.state.lock().has_older_steps(self.task)
    }

    /// The time that a record of `now` has.
    ///
    /// # Errors
    /// `Failed`: the record is no time.
    pub fn read_now(&self, recorded: &Value) -> Result<Time, CallError> {
        read_now(&self.task_name(), recorded)
    }

    /// The time as it is recorded.
    #[must_use]
    pub fn now_value(&self) -> Value {
        now_value(self.engine.now())
    }

    /// The outcome of each part of a combination; none for a lone wait.
    #[must_use]
    pub fn outcomes(&self, call: &OpenCall) -> Vec<Option<Result<Value, Failure>>> {
        // In the order of all who need both.
        let call = call.call.lock();
        call.outcomes(&self.run.state.lock())
    }

    /// The keys of the parts of a call, and the child runs that are recorded under them.
    #[must_use]
    pub fn started_children(&self, call: &OpenCall) -> Vec<(EntryKey, Option<RunId>)> {
        let state = self.run.state.lock();
        let child = |key: EntryKey| {
            let id = state.started_child(self.task, &key);
            (key, id)
        };
        call.call.lock().part_keys().into_iter().map(child).collect()
    }

    /// Begins a call, made within this.
    ///
    /// # Errors
    /// See [`Attempt::begin`].
    pub fn begin(&self, name: &Arc<str>, request: Request, within: Within) -> Result<Arc<OpenCall>, CallError> {
        let standing = Standing { closing: self.engine.is_closing(), ..self.standing(Caller::Future(within)) };
        let call = self.attempt.lock().begin(name, request, standing)?;
        let under_way = self.in_book(|body| body.book().call(body.whose()));
        Ok(Arc::new(OpenCall::new(*call, under_way)))
    }

    pub(super) fn standing(&self, caller: Caller) -> Standing {
        let (lost, longest) = (self.run.is_lost(), self.engine.longest_name());
        Standing { lost, closing: false, used_up: self.is_timed_out(), caller, longest }
    }

    pub(super) fn with_attempt<R>(&self, f: impl FnOnce(&mut Attempt) -> R) -> R {
        f(&mut self.attempt.lock())
    }

    /// Leaves a call: a step is not recorded, and a wait stays open, with which the next use of its name continues. A
    /// body that was deferred gets the next slot that is free and continues without waiting for it.
    pub fn abandon(&self, call: &OpenCall) {
        call.under_way.lock().take();
        self.attempt.lock().cancel(&call.call.lock());
        let attempt = self.attempt();
        self.run.state.lock().leaves_call(self.task, attempt);
        self.regain();
    }

    /// See [`crate::BodyCx::step_record`].
    ///
    /// # Errors
    /// What another call of the handle would be refused for now.
    pub fn step_record(&self, call: &OpenCall, value: Value) -> Result<(Lease, StepRecord), CallError> {
        let lease = self.engine.lease();
        let call = call.call.lock();
        self.attempt.lock().may_show(self.standing(Caller::Future(Within::Step)))?;
        Ok((lease, self.run.state.lock().step_record(&call, value, self.engine.now())))
    }

    /// Keeps child runs that it has started in memory: never more than `most` at once.
    pub(super) fn keep_children(&self, runs: &[Arc<Run<H>>], most: usize) {
        let mut held = self.held.lock();
        let children = &mut held.seldom.get_or_insert_default().children;
        let room = most.saturating_sub(children.len());
        children.extend(runs.iter().take(room).map(|run| (run.id, Arc::clone(run))));
    }

    /// A child of this body whose end it has waited for, if it is still in memory.
    pub fn take_child(&self, id: RunId) -> Option<Arc<Run<H>>> {
        self.held.lock().seldom.as_mut()?.children.remove(&id)
    }

    fn regain(&self) {
        let mut held = self.held.lock();
        if !matches!(held.slot, Held::None) || self.has_ended() {
            return;
        }
        held.slot = match self.coroutines.resume(self.run.priority()) {
            Ok(slot) => Held::Slot(slot),
            Err(due) => Held::Due(due),
        };
        drop(held);
        let due = self.engine.limiter().resume(&self.run, self.task);
        if due.is_some() {
            self.held.lock().seldom.get_or_insert_default().due = due;
        }
        if let Some(limit) = &self.limit {
            limit.resume();
        }
    }

    /// The body has ended: what it held until now.
    pub(super) fn take(&self) -> (Option<Own<H>>, Held<H>) {
        let Holds { slot, mut own, seldom } = std::mem::take(&mut *self.held.lock());
        drop(seldom);
        let begun = own.as_mut().and_then(|own| own.rare.as_mut()?.begun.take());
        drop(begun);
        (own, slot)
    }

    /// Commits an event of a call. It is queued at once, not when the future is polled: many calls wait at the same
    /// time, and an event is large.
    fn commit_for(&self, call: &OpenCall, event: Event) -> impl Future<Output = Fed> {
        call.committing.store(true, Ordering::Relaxed);
        let committed = self.commit(event);
        async move {
            let fed = committed.await;
            call.committing.store(false, Ordering::Relaxed);
            fed
        }
    }

    /// Commits an event of this body. It is queued at once.
    pub(super) fn commit(&self, event: Event) -> impl Future<Output = Fed> {
        let (completion, outcome) = oneshot::channel();
        self.enqueue(event, Some(completion));
        async move {
            match outcome.await {
                Ok(Ok(())) => Fed::Committed { deadline: None },
                Ok(Err(refused)) if !self.run.is_lost() => Fed::Refused(refused),
                Ok(Err(_)) | Err(_) => Fed::Stopped,
            }
        }
    }

    fn enqueue(&self, event: Event, completion: Option<Completion>) {
        let at = self.engine.now();
        let event = QueuedEvent { run: Arc::clone(&self.run), event, at, completion };
        let coroutines = &self.coroutines;
        if self.engine.store().blocks() {
            self.engine.path().ledger.enqueue(event);
        } else {
            coroutines.group.push(event, self.engine.clock().machine());
            coroutines.commit_gathered();
        }
    }

    /// Waits for a commit under way in which the run has a part, as the body of a thread does: true if what was read from
    /// the run's state before is committed. False if the engine has stopped, or has lost the run.
    async fn is_committed(&self) -> bool {
        let engine = &self.engine;
        if !engine.path().ledger.has_committed(&self.run) {
            // Commits are made one after the other: this one comes after it.
            let _ = self.commit(publish()).await;
        }
        engine.stopped().is_none() && !self.run.is_lost()
    }

    fn release(&self) -> Fed {
        if self.limit.as_ref().is_some_and(|limit| !limit.pause()) {
            return Fed::NotReleased;
        }
        let slot = std::mem::replace(&mut self.held.lock().slot, Held::None);
        drop(slot);
        let due = self.held.lock().seldom.as_mut().and_then(|seldom| seldom.due.take());
        drop(due);
        self.engine.limiter().idle(&self.run, self.task);
        Fed::Released
    }

    /// Takes a slot again. False: none is given out any more.
    async fn acquire(&self) -> bool {
        let limited = self.engine.limiter().resume(&self.run, self.task);
        if let Some(due) = limited
            && due.await.is_err()
        {
            return false;
        }
        let slot = match self.coroutines.resume(self.run.priority()) {
            Ok(slot) => slot,
            Err(due) => {
                let _waits = self.engine.slot_queue().enter(self.run.id.row(), self.task);
                let Ok(slot) = due.await else { return false };
                slot
            }
        };
        self.held.lock().slot = Held::Slot(slot);
        if let Some(limit) = &self.limit {
            limit.resume();
        }
        true
    }

    /// While its run is paused it gets no slot: it is entered again afterwards.
    fn is_held(&self) -> bool {
        self.run.state.lock().is_held()
    }
}
