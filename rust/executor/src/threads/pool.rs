//! Bodies that block a thread: the pool of `bide-sched` as a dispatcher of the engine, and what it asks of the engine.

use std::fmt::{self, Display};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bide_core::{Event, TaskRef, Time};
use bide_sched::Upcalls;

use crate::coroutines::Coroutines;
use crate::engine::Engine;
use crate::host::{Dispatch, Gate, Host, Load, Ready};
use crate::ledger::Group;
use crate::log::Level;
use crate::runs::polls::{GatePolls, RestingPolls};
use crate::runs::run::Run;
use crate::services::timers::Alarm;
use crate::threads::gates::Gates;

/// Where a thread of the pool sleeps.
pub(crate) type Parker<H> = bide_sched::Parker<Engine<H>>;

/// The permit to execute a body on a slot.
pub(crate) type Permit<H> = bide_sched::Permit<Engine<H>>;

/// Starts a worker thread; false if the host is ending and needs none. Called only on threads of the host that may
/// start threads.
pub type StartWorker<H> = bide_sched::StartWorker<Engine<H>>;

/// The dispatcher of hosts whose bodies block a thread.
pub struct Pool<H: Host> {
    /// The threads that execute bodies.
    pub(crate) workers: bide_sched::Pool<Engine<H>>,
    /// The gates that wait for a condition.
    pub(crate) gates: Gates<H>,
    /// Bodies that do not block a thread, if the host has such.
    coroutines: Option<Arc<Coroutines<H>>>,
    /// The engine that it was opened for.
    engine: OnceLock<Weak<Engine<H>>>,
}

impl<H: Host> Pool<H> {
    /// A pool without threads; `start_worker` starts each one. At most `max_parked` bodies with a handle execute or are
    /// parked at once.
    #[must_use]
    pub fn new(slots: u32, max_parked: usize, start_worker: StartWorker<H>) -> Self {
        Self {
            workers: bide_sched::Pool::new(slots, max_parked, start_worker),
            gates: Gates::new(slots as usize + 1),
            coroutines: None,
            engine: OnceLock::new(),
        }
    }

    /// The same with a dispatcher of bodies that do not block a thread.
    #[must_use]
    pub fn with_coroutines(self, coroutines: Coroutines<H>) -> Self {
        Self { coroutines: Some(Arc::new(coroutines)), ..self }
    }

    /// The dispatcher of bodies that do not block a thread, if there is one.
    #[must_use]
    pub fn coroutines(&self) -> Option<&Arc<Coroutines<H>>> {
        self.coroutines.as_ref()
    }

    /// Its engine; none before it is opened, and none once the engine is gone.
    fn engine(&self) -> Option<Arc<Engine<H>>> {
        self.engine.get()?.upgrade()
    }

    /// Gives it its engine, starts the first worker thread and lets the committer look after the groups. Call once,
    /// before a workflow is registered, on a thread that may start threads.
    ///
    /// # Errors
    /// Says why the thread cannot be started.
    pub fn open(&self, engine: &Arc<Engine<H>>) -> Result<(), String> {
        self.opens(engine);
        self.workers.open(engine)
    }

    /// As [`Pool::open`], for a host whose first start fails with more than a text.
    ///
    /// # Errors
    /// The error of `start_first`.
    pub fn open_by<E>(&self, engine: &Arc<Engine<H>>, start_first: impl FnOnce() -> Result<bool, E>) -> Result<(), E> {
        self.opens(engine);
        self.workers.open_by(engine, start_first)
    }

    fn opens(&self, engine: &Arc<Engine<H>>) {
        let _ = self.engine.set(Arc::downgrade(engine));
        if let Some(coroutines) = &self.coroutines {
            coroutines.open(engine);
        }
    }

    /// How many slots are in use, and how many there are.
    #[must_use]
    pub fn slots_in_use(&self) -> (usize, usize) {
        self.workers.slots_in_use()
    }

    /// How many bodies with a handle execute or are parked, and how many may.
    #[must_use]
    pub fn handles(&self) -> (usize, usize) {
        self.workers.handles()
    }

    /// Waits until no body executes, at most for a span. True if none does. Blocks.
    #[must_use]
    pub fn wait_idle(&self, span: Duration) -> bool {
        self.workers.wait_idle(span)
    }
}

impl<H: Host> Dispatch<H> for Pool<H> {
    fn ready(&self, ready: &mut Vec<Ready<H>>) {
        self.divert(ready);
        if !ready.is_empty() {
            self.workers.push(ready);
        }
    }

    fn divert(&self, ready: &mut Vec<Ready<H>>) {
        if let Some(coroutines) = &self.coroutines {
            coroutines.divert(ready);
        }
    }

    fn coming(&self) {
        self.workers.announce();
    }

    fn came(&self) {
        self.workers.withdraw_announcement();
    }

    fn gate(&self, gate: Gate<H>) {
        let body = &gate.run.workflow.bodies[gate.task.ix as usize];
        if let Some(coroutines) = self.coroutines.as_ref().filter(|_| H::is_coroutine_gate(body, gate.part)) {
            coroutines.gate(gate);
        } else if let Some(engine) = self.engine() {
            self.gates.watch(&engine, gate);
        }
    }

    fn poll_now(&self, run: &Arc<Run<H>>, task: TaskRef) {
        if let Some(engine) = self.engine() {
            self.gates.poll_now(&engine, run, task);
        }
        if let Some(coroutines) = &self.coroutines {
            coroutines.poll_now(run, task);
        }
    }

    fn interrupt(&self, run: &Run<H>, task: TaskRef) {
        if let Some(coroutines) = &self.coroutines {
            coroutines.interrupt(run, task);
        }
    }

    fn polls(&self, is_wanted: &dyn Fn(&Gate<H>) -> bool) -> Vec<GatePolls> {
        self.gates.polls(is_wanted)
    }

    fn resting(&self, is_wanted: &dyn Fn(&Run<H>) -> bool) -> Vec<RestingPolls> {
        self.coroutines.as_ref().map_or_else(Vec::new, |coroutines| coroutines.resting_of(is_wanted))
    }

    fn close(&self) {
        self.workers.close();
        self.gates.close();
        if let Some(coroutines) = &self.coroutines {
            coroutines.close();
        }
    }

    fn lost(&self) {
        // Every parked body belongs to a lost run: under the new lease there are none yet.
        self.workers.suspend_bodies();
        if let Some(coroutines) = &self.coroutines {
            coroutines.lost();
        }
    }

    fn load(&self, coroutines: bool) -> Load {
        match &self.coroutines {
            Some(own) if coroutines => own.load(),
            _ => {
                let (slots, bodies) = self.workers.load();
                Load { slots, bodies }
            }
        }
    }

    fn look(&self) {
        if let Some(engine) = self.engine() {
            self.gates.look(&engine);
            engine.watcher().look();
            self.workers.sweep(&engine);
        }
        if let Some(coroutines) = &self.coroutines {
            coroutines.look();
        }
    }
}

/// A body that executes.
pub struct Executing<H: Host> {
    /// The run of the body.
    pub(crate) run: Arc<Run<H>>,
    /// The task of the body.
    pub(crate) task: TaskRef,
    /// The attempt that the body executes.
    pub(crate) attempt: u32,
}

impl<H: Host> Display for Executing<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task '{}' in run {}", self.run.workflow.graph.name_of(self.task), self.run.id)
    }
}

impl<H: Host> Upcalls for Engine<H> {
    type Job = Ready<H>;
    type Body = Executing<H>;
    type Group = Group<H>;

    fn now(&self) -> Time {
        self.clock().now()
    }

    fn steady(&self) -> Duration {
        self.clock().machine()
    }

    fn ring_soon(&self, span: Duration, alarm: Arc<dyn Alarm>, ticket: u64) {
        self.timers().soon(span, alarm, ticket);
    }

    fn ring_poll(&self, span: Duration, endless: bool, alarm: Arc<dyn Alarm>, ticket: u64) {
        self.timers().poll_after(span, endless, alarm, ticket);
    }

    fn is_manual(&self) -> bool {
        self.clock().is_manual()
    }

    fn warn(&self, line: &str) {
        self.log(Level::Warning, line);
    }

    fn look_after(&self, group: &Arc<Group<H>>) {
        self.path().ledger.look_after(Arc::clone(group));
    }

    fn leave(&self, group: &Group<H>) {
        if !group.is_empty() {
            self.path().ledger.arm();
        }
    }

    fn is_empty(group: &Group<H>) -> bool {
        group.is_empty()
    }

    fn commit(self: &Arc<Self>, group: &Group<H>, ready: &mut Vec<Ready<H>>) {
        self.commit_group(group, ready);
    }

    fn show_start(&self, body: Executing<H>) {
        let Executing { run, task, attempt } = body;
        self.enqueue(run, Event::Started { task, attempt });
    }

    fn priority(job: &Ready<H>) -> i32 {
        job.run.priority()
    }

    fn set_blocked(job: &Ready<H>, by: Option<String>) {
        job.run.note(job.task, by);
    }
}
