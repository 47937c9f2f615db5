//! One entry of an async body: drives the attempt machine of `bide_core::attempt` without a thread of its own.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use bide_core::attempt::{Action, Attempt, Call, CallError, Caller, Fed, Request, Sleep, Standing};
use bide_core::{Event, TaskRef, Value};
use bide_sched::Alarm;
use bide_sync::Mutex;
use tokio::sync::{Notify, oneshot};

use super::closures::Closures;
use super::dispatch::Phase;
use super::enqueue::enqueue;
use super::lane::{Entry, Lane};
use super::within;
use crate::engine::Engine;
use crate::ledger::QueuedEvent;
use crate::runs::run::Run;

/// The longest span between two looks at the wall clock.
const RECHECK: Duration = Duration::from_secs(30);

/// A body that has asked for a handle.
pub(super) struct BodyState {
    /// The lane that executes it.
    pub(super) lane: Arc<Lane>,
    /// Its run.
    pub(super) run: Arc<Run<Closures>>,
    /// Its task.
    pub(super) task: TaskRef,
    /// Which body of the lane it is: a handle of an earlier one is refused.
    pub(super) turn: u64,
    /// Never locked across an await.
    attempt: Mutex<Attempt>,
    /// How long it has been deferred.
    deferred: Mutex<Deferred>,
    /// Wakes it while it sleeps until a time or its next poll.
    woken: Arc<Closed>,
}

/// Wakes a body whose wait was closed.
struct Closed(Notify);

impl Alarm for Closed {
    fn ring(self: Arc<Self>, _ticket: u64) {
        self.0.notify_one();
    }
}

/// How long a body has had no slot.
#[derive(Default)]
struct Deferred {
    /// In deferrals that have ended.
    before: Duration,
    /// When the current deferral began, by the steady clock.
    since: Option<Duration>,
}

impl Deferred {
    fn until(&self, now: Duration) -> Duration {
        self.before + self.since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }
}

/// A call of the handle. Dropped before its end it is abandoned, and another one may begin.
pub(super) struct OpenCall<'a> {
    /// The body that makes the call.
    body: &'a BodyState,
    /// The call in progress.
    call: Box<Call>,
}

impl Deref for OpenCall<'_> {
    type Target = Call;

    fn deref(&self) -> &Call {
        &self.call
    }
}

impl DerefMut for OpenCall<'_> {
    fn deref_mut(&mut self) -> &mut Call {
        &mut self.call
    }
}

impl Drop for OpenCall<'_> {
    fn drop(&mut self) {
        self.body.attempt.lock().abandon(&self.call);
    }
}

impl BodyState {
    /// `ended`: its body has returned already.
    pub(super) fn new(lane: &Arc<Lane>, body: &Entry<'_>, ended: bool) -> Arc<Self> {
        let (run, task) = (Arc::clone(body.run), body.task);
        let mut attempt = Attempt::new(task, Arc::clone(run.workflow.graph.name(task.ix)), body.attempt);
        if ended {
            attempt.end();
        }
        let (lane, attempt) = (Arc::clone(lane), Mutex::new(attempt));
        let (deferred, woken) = (Mutex::default(), Arc::new(Closed(Notify::new())));
        Arc::new(Self { lane, run, task, turn: body.turn, attempt, deferred, woken })
    }

    pub(super) fn engine(&self) -> &Arc<Engine<Closures>> {
        &self.lane.engine
    }

    pub(super) fn task_name(&self) -> &Arc<str> {
        self.run.workflow.graph.name(self.task.ix)
    }

    pub(super) fn attempt(&self) -> u32 {
        self.attempt.lock().number()
    }

    pub(super) fn end(&self) {
        self.attempt.lock().end();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.attempt.lock().has_ended()
    }

    pub(super) fn suspending(&self) -> bool {
        self.attempt.lock().is_suspended()
    }

    pub(super) fn is_replaying(&self) -> bool {
        self.attempt.lock().is_replaying(&self.run.state.lock())
    }

    pub(super) fn last_checkpoint(&self) -> Option<Value> {
        self.run.state.lock().last_checkpoint(self.task).cloned()
    }

    pub(super) fn suspend(&self) -> CallError {
        self.attempt.lock().suspend()
    }

    /// How long it has had no slot until now.
    pub(super) fn deferred(&self, now: Duration) -> Duration {
        self.deferred.lock().until(now)
    }

    /// Begins a wait or a step.
    pub(super) fn begin(&self, name: &Arc<str>, request: Request) -> Result<OpenCall<'_>, CallError> {
        // A handle may be used on any thread, and a body whose time is used up is dropped.
        let (lost, closing) = (self.run.is_lost(), self.engine().is_closing());
        let caller = Caller::Future(within::here());
        let longest = self.engine().longest_name();
        let standing = Standing { lost, closing, caller, longest, ..Standing::default() };
        let call = self.attempt.lock().begin(name, request, standing)?;
        Ok(OpenCall { body: self, call })
    }

    /// Whether the body may show something now: see [`Attempt::may_show`].
    pub(super) fn may_show(&self) -> Result<Option<Arc<str>>, CallError> {
        let (lost, caller) = (self.run.is_lost(), Caller::Future(within::here()));
        self.attempt.lock().may_show(Standing { lost, caller, ..Standing::default() })
    }

    /// Feeds a call, and carries out its actions up to one that needs the user's code.
    pub(super) async fn drive(&self, call: &mut OpenCall<'_>, mut fed: Fed) -> Action {
        loop {
            let asked = matches!(fed, Fed::Asked(_));
            let action = self.attempt.lock().advance(call, fed, &**self.engine());
            if asked {
                self.run.note_error(self.task, call.last_error());
            }
            fed = match action {
                Action::CheckLease => {
                    let holds = self.lane.is_sure_of_lease().await && !self.run.is_lost();
                    if holds { Fed::LeaseHeld } else { Fed::LeaseLost }
                }
                Action::Recall => {
                    let recalled = self.attempt.lock().recall(call, &mut self.run.state.lock());
                    if call.is_pushed() && !self.is_committed().await { Fed::Stopped } else { recalled }
                }
                Action::Commit(event) => self.commit(call, *event).await,
                Action::Release => self.release(),
                Action::Sleep(sleep) => self.sleep_in(call, sleep).await,
                Action::CommitAndAcquire(event) => self.commit_and_acquire(call, Some(*event)).await,
                Action::Acquire => self.commit_and_acquire(call, None).await,
                Action::Read => {
                    let closed = self.attempt.lock().read(call, &self.run.state.lock());
                    if closed.is_some() && !self.is_committed().await { Fed::Stopped } else { Fed::EntryRead(closed) }
                }
                action => return action,
            };
        }
    }

    /// Waits for a commit under way in which the run has a part, as the body of a thread does: true if what was read from
    /// the run's state before is committed. False if the engine has stopped, or has lost the run.
    async fn is_committed(&self) -> bool {
        let engine = self.engine();
        if !engine.path().ledger.has_committed(&self.run) {
            let engine = Arc::clone(engine);
            let waits = move || drop(engine.path().ledger.lock());
            // It fails only while the runtime shuts down: then nobody says whether it is committed.
            if tokio::task::spawn_blocking(waits).await.is_err() {
                return false;
            }
        }
        engine.stopped().is_none() && !self.run.is_lost()
    }

    /// Begins a step: what is recorded of it, or `None` if it has to be executed.
    pub(super) async fn begin_step(&self, call: &mut OpenCall<'_>) -> Result<Option<Value>, CallError> {
        match self.drive(call, Fed::Begin).await {
            Action::Execute => Ok(None),
            Action::Done(result) => result.map(Some),
            action => unreachable!("{action:?} of a step"),
        }
    }

    /// Ends a step: commits its result and returns it, or `None` if it has to be executed again, after its delay.
    pub(super) async fn end_step(&self, call: &mut OpenCall<'_>, ended: Fed) -> Result<Option<Value>, CallError> {
        match self.drive(call, ended).await {
            Action::Execute => Ok(None),
            Action::Done(result) => result.map(Some),
            action => unreachable!("{action:?} of a step"),
        }
    }

    /// Records a value of bide's own: on re-entry it is the same again.
    pub(super) async fn record(
        &self,
        name: &str,
        proof: Arc<[u8]>,
        value: impl FnOnce() -> Value,
    ) -> Result<Value, CallError> {
        let mut call = self.begin(&name.into(), Request::step(Some(proof)))?;
        match self.begin_step(&mut call).await? {
            Some(value) => Ok(value),
            None => Ok(self.end_step(&mut call, Fed::Executed(Ok(value()))).await?.unwrap_or(Value::NONE)),
        }
    }

    async fn commit(&self, call: &Call, event: Event) -> Fed {
        let opens = matches!(event, Event::Opened { .. });
        let (completion, outcome) = oneshot::channel();
        let engine = self.engine();
        let (run, at) = (Arc::clone(&self.run), engine.clock().now());
        enqueue(engine, QueuedEvent { run, event, at, completion: Some(completion) });
        match outcome.await {
            Ok(Ok(())) if opens => Fed::Committed { deadline: self.run.state.lock().deadline(self.task, call.key()) },
            Ok(Ok(())) => Fed::Committed { deadline: None },
            Ok(Err(refused)) if !self.run.is_lost() => Fed::Refused(refused),
            Ok(Err(_)) | Err(_) => Fed::Stopped,
        }
    }

    /// Drops the slot. A body that dropped its last wait before the end has none.
    fn release(&self) -> Fed {
        self.deferred.lock().since.get_or_insert(self.engine().clock().steady());
        drop(self.lane.release_slot(self.turn));
        Fed::Released
    }

    async fn sleep_in(&self, call: &mut Call, sleep: Sleep) -> Fed {
        let engine = self.engine();
        for event in self.run.note_sleep((self.task, self.attempt.lock().number()), call, sleep, &**engine.clock()) {
            let (run, at) = (Arc::clone(&self.run), engine.clock().now());
            enqueue(engine, QueuedEvent { run, event, at, completion: None });
        }
        match sleep {
            Sleep::Closed => self.sleep_until_closed(call, None).await,
            Sleep::PollOrClosed(span) => self.sleep_until_closed(call, Some(span)).await,
            Sleep::Poll(_) | Sleep::Until(_) => {
                let fed = self.sleep(call, sleep).await;
                let deadline = self.run.state.lock().deadline(self.task, call.key());
                call.set_deadline(deadline);
                fed
            }
        }
    }

    /// Sleeps until a time or the next poll, or until the run machine has closed the wait, unless the runner closes.
    async fn sleep(&self, call: &Call, sleep: Sleep) -> Fed {
        let mut phase = self.engine().dispatch().phase();
        self.run.set_alarm(self.task, call.key(), Arc::clone(&self.woken) as Arc<dyn Alarm>, 0);
        loop {
            let span = match sleep {
                Sleep::Poll(span) => span,
                Sleep::Until(due) => due.since(self.engine().clock().now()).min(RECHECK),
                Sleep::Closed | Sleep::PollOrClosed(_) => RECHECK,
            };
            tokio::select! {
                biased;
                () = Phase::ended(&mut phase, Phase::Open) => return Fed::Stopped,
                () = self.woken.0.notified() => {}
                () = tokio::time::sleep(span) => {}
            }
            if self.run.state.lock().closed_entry(self.task, call.key()).is_some() {
                return Fed::Closed;
            }
            match sleep {
                Sleep::Until(due) if due > self.engine().clock().now() => {}
                _ => return Fed::Woken,
            }
        }
    }

    /// Sleeps until the run machine has closed the wait, at most for a span, unless the runner closes.
    async fn sleep_until_closed(&self, call: &Call, span: Option<Duration>) -> Fed {
        let mut phase = self.engine().dispatch().phase();
        let closed = Arc::new(Closed(Notify::new()));
        self.run.set_alarm(self.task, call.key(), Arc::clone(&closed) as Arc<dyn Alarm>, 0);
        tokio::select! {
            biased;
            () = Phase::ended(&mut phase, Phase::Open) => Fed::Stopped,
            () = closed.0.notified() => Fed::Woken,
            () = tokio::time::sleep(span.unwrap_or(Duration::MAX)) => Fed::Woken,
        }
    }

    /// Commits the end of an open wait, unless the run machine has, and takes a slot again.
    async fn commit_and_acquire(&self, call: &Call, event: Option<Event>) -> Fed {
        let commit = match event {
            None => Ok(()),
            Some(event) => match self.commit(call, event).await {
                Fed::Refused(refused) => Err(CallError::Over(refused)),
                Fed::Stopped => Err(CallError::Suspended),
                _ => Ok(()),
            },
        };
        if self.run.state.lock().is_held() {
            // While its run is paused it gets no slot: it is entered again afterwards.
            return Fed::Acquired { commit, slot: false };
        }
        let slot = self.engine().dispatch().resume(self.engine(), &self.run, self.task).await;
        let acquired = slot.is_some();
        if let Some(slot) = slot {
            self.lane.keep_slot(self.turn, slot);
            let mut deferred = self.deferred.lock();
            deferred.before = deferred.until(self.engine().clock().steady());
            deferred.since = None;
        }
        Fed::Acquired { commit, slot: acquired }
    }
}
