//! An engine without threads of its own, driven turn by turn: for simulators, which choose which thread acts next.
//!
//! Every turn is the code that the thread of that name executes; nothing is decided here. Not for programs: a wait
//! ends only when the timer's turn is called.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bide_core::attempt::CallError;
use bide_core::run::Entered;
use bide_core::{Channel, Event, Origin, Outcome, Progress, TaskRef, Time, Value};
use bide_store::{Lease, Store, StoreError};

use crate::clock::Clock;
use crate::control::{Control, Role};
use crate::engine::Engine;
use crate::host::{Free, Host, Ready};
pub use crate::ledger::Lost;
use crate::ledger::{Group, QueuedEvent};
use crate::log::Log;
use crate::runs::run::{RegisteredWorkflow, Run, RunRequest};
pub use crate::runs::suspects::Turn;
use crate::runs::watches::{WatchError, WatchRequest};
use crate::services::lease::LeaseState;
use crate::services::retention::{RETENTION, Sweep};
use crate::services::schedules::Agenda;
use crate::services::timers::Alarm;
use crate::threads::limit::Limit;
use crate::threads::pool::Pool;

/// An engine, and the state that its threads would have.
pub struct Driver<H: Host> {
    /// The engine that is driven.
    engine: Arc<Engine<H>>,
    /// The state of the lease thread.
    lease_state: LeaseState,
    /// The state of the retention thread.
    sweep: Sweep,
    /// The state of the schedules thread.
    agenda: Agenda,
    /// The state of the timer thread.
    timer: Sleep,
}

/// The sleep of the timer thread.
#[derive(Default)]
struct Sleep {
    /// By the steady clock.
    until: Duration,
    /// What was due first when it fell asleep: an earlier one wakes it.
    first: Option<Duration>,
}

/// Results that gather on a slot until they are committed together.
pub struct Gathering<H: Host>(Arc<Group<H>>);

impl<H: Host> Gathering<H> {
    /// Whether nothing has gathered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The remaining execution time of an attempt.
pub struct Allowance<H: Host>(Arc<Limit<H>>);

impl<H: Host> Allowance<H> {
    /// The body is deferred from here on. False: its time is used up already, and it is to unwind.
    #[must_use]
    pub fn pause(&self) -> bool {
        self.0.pause()
    }

    /// The body executes again.
    pub fn resume(&self) {
        self.0.resume();
    }

    /// Whether it is used up: the attempt has failed, and the body is to unwind.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.0.is_reached()
    }

    /// The body has returned. The attempt that waited for that, if there is one.
    #[must_use]
    pub fn end(&self) -> Option<Ready<H>> {
        self.0.end()
    }
}

/// The share of a body that resumes.
pub struct Share(Option<tokio::sync::oneshot::Receiver<()>>);

impl Share {
    /// Whether the body has it; none if it does not get it yet.
    pub fn is_granted(&mut self) -> Option<bool> {
        use tokio::sync::oneshot::error::TryRecvError;
        match self.0.as_mut().map_or(Ok(()), tokio::sync::oneshot::Receiver::try_recv) {
            Ok(()) => {
                self.0 = None;
                Some(true)
            }
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Closed) => Some(false),
        }
    }
}

struct Ring<F>(F);

impl<F: Fn() + Send + Sync> Alarm for Ring<F> {
    fn ring(self: Arc<Self>, _ticket: u64) {
        (self.0)();
    }
}

impl<H: Host> Driver<H> {
    /// An engine on a store. `seed` is for what is random in it: ids and jitter.
    ///
    /// # Errors
    /// If the store gives no lease.
    pub fn open(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        dispatch: H::Dispatch,
        log: Log,
        seed: u64,
    ) -> Result<Self, StoreError> {
        Self::open_with(store, clock, dispatch, log, seed, Some(RETENTION))
    }

    /// As [`Driver::open`], with another time for which ended runs are kept (`None`: for ever).
    ///
    /// # Errors
    /// As [`Driver::open`].
    pub fn open_with(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        dispatch: H::Dispatch,
        log: Log,
        seed: u64,
        retention: Option<Duration>,
    ) -> Result<Self, StoreError> {
        let lease_state = LeaseState::since(clock.machine());
        let control = Control::enroll(Role::Runner, store, clock, dispatch, log, Arc::default())?;
        let engine = Engine::assemble(control, seed, retention);
        // No thread of its own takes turns here.
        engine.limits_started.store(true, Ordering::Relaxed);
        Ok(Self { engine, lease_state, sweep: Sweep::new(), agenda: Agenda::default(), timer: Sleep::default() })
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine<H>> {
        &self.engine
    }

    /// The lease that it has now.
    #[must_use]
    pub fn lease(&self) -> Lease {
        self.engine.control.lease()
    }

    /// The timer thread's turn: rings what is due, unless it sleeps still. Returns how long it sleeps from here on.
    pub fn timer_turn(&mut self) -> Duration {
        let (now, first) = (self.engine.clock().steady(), self.engine.timers.first_due());
        let notified = first.is_some_and(|due| self.timer.first.is_none_or(|before| due < before));
        if now < self.timer.until && !notified {
            return self.timer.until - now;
        }
        let span = self.engine.timers.ring_due();
        self.timer = Sleep { until: now + span, first: self.engine.timers.first_due() };
        span
    }

    /// When the timer thread has something to ring next, by the steady clock.
    #[must_use]
    pub fn first_due(&self) -> Option<Duration> {
        self.engine.timers.first_due()
    }

    /// The committer thread's turn: commits the events queued for it, and groups that have waited for too long.
    pub fn committer_turn(&self) {
        self.engine.path.ledger.committer_turn(&self.engine.path);
    }

    /// What a worker asks before each body (and step, and poll): false if nothing may start any more. A body whose run
    /// is lost by the answer finds it over.
    #[must_use]
    pub fn may_start(&self) -> bool {
        self.engine.lease_holds() || self.engine.make_sure_of_lease()
    }

    /// The lease thread's turn.
    pub fn lease_turn(&mut self) {
        self.engine.lease_service.turn(&mut self.lease_state, Duration::ZERO);
    }

    /// The schedules thread's turn.
    pub fn schedules_turn(&mut self) {
        self.engine.schedules_service.turn(&mut self.agenda);
    }

    /// Defines a watch, whose source is called by [`Driver::source_turn`].
    ///
    /// # Errors
    /// From the store. A watch of another workflow is left as it is.
    pub fn define_watch(&self, workflow: &Arc<RegisteredWorkflow<H>>, request: WatchRequest) -> Result<(), StoreError> {
        match self.engine.watcher().define(workflow, request) {
            Err(WatchError::Store(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// A thread that polls has its turn with a watch that is due; how long until it is due again, if it is.
    #[must_use]
    pub fn source_turn(&self, watch: &str) -> Option<Duration> {
        let watch = self.engine.watcher().local(watch)?;
        self.engine.poll_source(&watch, &mut Free).after
    }

    /// Reports the sources that have not returned for a long time.
    pub fn look_at_sources(&self) {
        self.engine.watcher().look();
    }

    /// The retention thread's turn: one step, if it is due. Returns how long it would rest then.
    pub fn retention_turn(&mut self) -> Duration {
        self.engine.retention_service.step(&mut self.sweep)
    }

    /// Where a slot's results gather; the committer looks after it from now on.
    #[must_use]
    pub fn gathering(&self) -> Gathering<H> {
        let group = Group::new();
        self.engine.path.ledger.look_after(Arc::clone(&group));
        Gathering(group)
    }

    /// Adds the result of a body; true if its worker is to commit now.
    pub fn gather(&self, on: &Gathering<H>, run: Arc<Run<H>>, event: Event) -> bool {
        let at = self.engine.clock().now();
        on.0.push(QueuedEvent { run, event, at, completion: None }, self.engine.clock().machine())
    }

    /// Whether a worker continues instead of committing what has gathered: the next commit of another thread takes it.
    #[must_use]
    pub fn leaves_to_next(&self, what: &Gathering<H>) -> bool {
        self.engine.path.ledger.leaves_to_next(&what.0)
    }

    /// Whether what was read of a run before is committed, as far as a body can tell without waiting.
    #[must_use]
    pub fn has_committed(&self, run: &Run<H>) -> bool {
        self.engine.path.ledger.has_committed(run)
    }

    /// A worker commits what has gathered; returns what may start now.
    pub fn commit(&self, what: &Gathering<H>) -> Vec<Ready<H>> {
        let mut ready = Vec::new();
        self.engine.commit_group(&what.0, &mut ready);
        ready
    }

    /// A body commits an event of its own, after what has gathered on its slot.
    ///
    /// # Errors
    /// See [`Lost`]; the body is to unwind.
    pub fn commit_own(&self, on: Option<&Gathering<H>>, run: &Arc<Run<H>>, event: Event) -> Result<(), Lost> {
        self.engine.commit_own(on.map(|on| &*on.0), run, event)
    }

    /// A body creates child runs, each in one commit with the record of its start.
    ///
    /// # Errors
    /// See [`Lost`]. Of many some may have been created.
    pub fn start_children(
        &self,
        parent: &Arc<Run<H>>,
        record: Event,
        workflow: &Arc<RegisteredWorkflow<H>>,
        requests: Vec<RunRequest<H>>,
    ) -> Result<Vec<Arc<Run<H>>>, Lost> {
        self.engine.start_children(parent, record, workflow, requests)
    }

    /// How many threads wait for another one to commit for them.
    #[must_use]
    pub fn waiting_to_commit(&self) -> usize {
        self.engine.path.ledger.waiting()
    }

    /// A body emits an event.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn emit(&self, run: &Arc<Run<H>>, channel: &Channel, origin: Origin, value: &Value) -> Result<(), CallError> {
        self.engine.emit(run, channel, origin, value).map(drop)
    }

    /// A body says how far it has come.
    pub fn progress(&self, run: &Arc<Run<H>>, task: TaskRef, attempt: u32, progress: Progress) {
        self.engine.progress(run, task, attempt, progress);
    }

    /// Queues an event for the committer.
    pub fn enqueue(&self, run: Arc<Run<H>>, event: Event) {
        self.engine.enqueue(run, event);
    }

    /// Holds a body back while its last attempt has timed out and not returned yet.
    #[must_use]
    pub fn unless_overdue(&self, ready: Ready<H>) -> Option<Ready<H>> {
        Arc::clone(&ready.run).wait_for_overdue(ready)
    }

    /// A body that may execute beside the others: with its turn, if an earlier process may have died of it. One that
    /// may not will be ready again.
    #[must_use]
    pub fn admit_suspect(&self, ready: Ready<H>) -> Option<(Ready<H>, Option<Turn>)> {
        self.engine.admit_suspect(ready)
    }

    /// Whether the thread of limits has something to do.
    #[must_use]
    pub fn has_limits_to_ask(&self) -> bool {
        self.engine.control.limits.is_asked()
    }

    /// The thread of limits has its turn.
    pub fn limits_turn(&self) {
        crate::limits::turn(&self.engine.control, &self.engine.timers);
    }

    /// Enters a ready body, if it may be entered now.
    #[must_use]
    pub fn enter(&self, run: &Arc<Run<H>>, task: TaskRef) -> Option<Entered> {
        let (now, clock) = (self.engine.now(), self.engine.clock());
        self.engine.limiter().enter(run, task, now, &**clock, |now| run.state.lock().enter(task, now))
    }

    /// A body that has not ended does not execute any more.
    pub fn idle(&self, run: &Run<H>, task: TaskRef) {
        self.engine.limiter().idle(run, task);
    }

    /// The body that may start because this one has ended, which has recorded nothing.
    #[must_use]
    pub fn passes_on(&self, run: &Run<H>, task: TaskRef, attempt: u32, outcome: &Outcome) -> Option<Ready<H>> {
        self.engine.passes_on(run, task, attempt, outcome)
    }

    /// The share that a body needs to execute again.
    #[must_use]
    pub fn share(&self, run: &Arc<Run<H>>, task: TaskRef) -> Share {
        Share(self.engine.limiter().resume(run, task))
    }

    /// A body that has been entered begins to use up its time, if its task has a timeout.
    #[must_use]
    pub fn allowance(&self, run: &Arc<Run<H>>, task: TaskRef, attempt: u32) -> Option<Allowance<H>> {
        Limit::start(&self.engine, run, task, attempt, 0).map(Allowance)
    }

    /// Calls back in the timer's turn after a span of steady time.
    pub fn ring_after(&self, span: Duration, ring: impl Fn() + Send + Sync + 'static) {
        self.engine.timers.after(span, Arc::new(Ring(ring)), 0);
    }

    /// Calls back in the timer's turn when the wall shows this time.
    pub fn ring_at(&self, time: Time, ring: impl Fn() + Send + Sync + 'static) {
        self.engine.timers.at(time, Arc::new(Ring(ring)), 0);
    }
}

impl<H: Host<Dispatch = Pool<H>>> Driver<H> {
    /// Lets the threads that poll gates look at the clock, which was moved by hand. Returns when the first gate is
    /// asked next, by the steady clock.
    pub fn gates_turn(&self) -> Option<Duration> {
        self.engine.dispatch().gates.clock_was_moved()
    }
}

impl<H: Host> Drop for Driver<H> {
    /// As when a process dies: nothing is written. (The alarms keep the engine, and it keeps them.)
    fn drop(&mut self) {
        self.engine.timers.clear();
    }
}
