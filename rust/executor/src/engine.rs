//! The engine: what all threads of a runner share, its start and its end.
//!
//! How things are created is in `submit.rs`, how they are committed in `ledger/`, how runs are taken up in
//! `take_up.rs`. The engine decides nothing about runs (core does) and nothing about who executes (the slot
//! machine does).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use bide_core::record::RunRowId;
use bide_core::shown::shown;
use bide_core::{Event, Graph, Outcome, RunId, TaskId};
use bide_store::{Lease, Store, StoreError};
use bide_sync::{Mutex, RwLock};

use crate::clock::Clock;
use crate::closed::Closed;
use crate::host::{Dispatch, Host};
use crate::ids::{IdMaker, seed};
use crate::ledger::{Ledger, QueuedEvent};
use crate::runs::registry::{RegisteredWorkflow, RegisteredWorkflows};
use crate::runs::run::Run;
use crate::runs::settled::{Settled, Settlement};
use crate::runs::suspects::Suspects;
use crate::services::lease::LeaseService;
use crate::services::retention::{RETENTION, RetentionService};
use crate::services::timers::Timers;

/// The default number of slots: one for each processor and four more, at most 32.
#[must_use]
pub fn default_slots() -> u32 {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(cpus + 4).unwrap_or(32).min(32)
}

/// What all threads of a runner share.
pub struct Engine<H: Host> {
    pub(crate) clock: Arc<dyn Clock>,
    /// The store; once closed, something that refuses everything.
    store: RwLock<Arc<dyn Store>>,
    pub(crate) dispatch: H::Dispatch,
    pub(crate) timers: Arc<Timers>,
    /// The way to the store's writes of runs.
    pub(crate) ledger: Ledger<H>,
    pub(crate) lease: RwLock<Lease>,
    pub(crate) workflows: RwLock<RegisteredWorkflows<H>>,
    pub(crate) runs: Mutex<HashMap<RunRowId, Arc<Run<H>>>>,
    pub(crate) watched: Mutex<HashMap<RunId, std::sync::Weak<Settled>>>,
    pub(crate) ids: IdMaker,
    /// The bodies that may have ended an earlier process; shared by all engines of this one.
    pub(crate) suspects: Arc<Suspects>,
    pub(crate) lease_service: LeaseService,
    pub(crate) retention_service: RetentionService,
    /// How long ended runs are kept; `None`: for ever.
    pub(crate) retention: Option<Duration>,
    stopped: OnceLock<Settlement>,
    closing: AtomicBool,
    /// The lease was given back and the store let go of.
    left: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Writes a line to the host's log, names in it escaped.
    log: Log,
}

/// Where lines for the host's log go. Called on any thread; must not block.
pub type Log = Box<dyn Fn(Level, &str) + Send + Sync>;

/// How much a line of the log matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something the user should change.
    Warning,
    /// Something went wrong.
    Error,
    /// A body does not return; the host can tell where it is.
    Stuck {
        /// The host's name of the thread.
        thread: u64,
    },
}

impl<H: Host> Engine<H> {
    /// Starts an engine on a store: its timer, committer, lease and retention threads run from here on. Ended runs are
    /// kept for [`RETENTION`].
    ///
    /// # Errors
    /// If the store gives no lease, or a thread cannot be started.
    pub fn start(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        dispatch: H::Dispatch,
        log: Log,
    ) -> Result<Arc<Self>, StoreError> {
        Self::start_with(store, clock, dispatch, log, Some(RETENTION))
    }

    /// As [`Engine::start`], with another time for which ended runs are kept (`None`: for ever).
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub fn start_with(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        dispatch: H::Dispatch,
        log: Log,
        retention: Option<Duration>,
    ) -> Result<Arc<Self>, StoreError> {
        let engine = Self::without_threads(store, clock, dispatch, log, seed(), retention, Suspects::of_process())?;
        // Whatever fails from here on: the lease is given back and no thread is left.
        engine.start_threads().inspect_err(|_| engine.finish_close())?;
        Ok(engine)
    }

    fn start_threads(self: &Arc<Self>) -> Result<(), StoreError> {
        while let Some(warning) = self.store().warning() {
            self.log(Level::Warning, &warning);
        }
        let timers = Arc::clone(&self.timers);
        self.spawn("bide-timer", move || timers.run())?;
        let this = Arc::clone(self);
        self.spawn("bide-commit", move || this.ledger.run_committer(&this))?;
        let this = Arc::clone(self);
        self.spawn("bide-lease", move || this.run_lease_service())?;
        let this = Arc::clone(self);
        self.spawn("bide-retention", move || this.run_retention_service())
    }

    /// An engine that does only what it is told to: `drive.rs` takes the turns of its threads.
    pub(crate) fn without_threads(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        dispatch: H::Dispatch,
        log: Log,
        seed: u64,
        retention: Option<Duration>,
        suspects: Arc<Suspects>,
    ) -> Result<Arc<Self>, StoreError> {
        let now = clock.lease_time();
        let lease = store.enroll(now)?;
        let lease_service = LeaseService::default();
        lease_service.lasts_from(now);
        Ok(Arc::new(Self {
            timers: Timers::new(Arc::clone(&clock)),
            ledger: Ledger::new(Arc::clone(&clock), store.blocks()),
            lease: RwLock::new(lease),
            workflows: RwLock::default(),
            runs: Mutex::default(),
            watched: Mutex::default(),
            ids: IdMaker::new(seed),
            suspects,
            lease_service,
            retention_service: RetentionService::default(),
            retention,
            stopped: OnceLock::new(),
            closing: AtomicBool::new(false),
            left: AtomicBool::new(false),
            threads: Mutex::default(),
            clock,
            store: RwLock::new(store),
            dispatch,
            log,
        }))
    }

    fn spawn(self: &Arc<Self>, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
        let engine = Arc::downgrade(self);
        let guarded = move || {
            if let Err(why) = H::no_panic(body)
                && let Some(engine) = engine.upgrade()
            {
                engine.panicked(&why);
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(guarded).map_err(|error| {
            StoreError::Unavailable(format!(
                "the runner on {} cannot start its thread {name}: {error}; the system or this process's limits give no \
                 more threads",
                self.store().name()
            ))
        })?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store.read())
    }

    /// How bodies get to execute.
    #[must_use]
    pub fn dispatch(&self) -> &H::Dispatch {
        &self.dispatch
    }

    /// Writes a line to the host's log.
    pub fn log(&self, level: Level, line: &str) {
        (self.log)(level, &shown(line));
    }

    /// A random number in 0..1, for jitter.
    #[must_use]
    pub fn random(&self) -> f64 {
        self.ids.random()
    }

    /// Registers a workflow: its unfinished runs that nobody has are taken up from now on.
    ///
    /// # Errors
    /// From the store.
    pub fn register(
        self: &Arc<Self>,
        graph: Arc<Graph>,
        bodies: Arc<[H::Body]>,
    ) -> Result<Arc<RegisteredWorkflow<H>>, StoreError> {
        let known = self.workflows.read().get(graph.workflow()).cloned();
        if let Some(workflow) = known.filter(|workflow| Arc::ptr_eq(&workflow.graph, &graph)) {
            return Ok(workflow);
        }
        let tasks: Vec<(Arc<str>, Vec<Arc<str>>)> = (0..graph.len() as u32)
            .map(|ix| {
                let dependencies = graph.dependencies(ix).iter().map(|dep| Arc::clone(graph.name(*dep))).collect();
                (Arc::clone(graph.name(ix)), dependencies)
            })
            .collect();
        let stored = self.store().register(graph.workflow(), graph.version(), &tasks)?;
        let ids: Arc<[TaskId]> = stored.tasks.iter().map(|task| task.id).collect();
        let workflow = Arc::new(RegisteredWorkflow {
            bodies,
            number: stored.number,
            version: stored.version,
            ids,
            recorded: stored.tasks,
            fits: Mutex::default(),
            graph,
        });
        let before = self.workflows.write().insert(Arc::clone(&workflow));
        if let Err(error) = self.take_up_registered(&workflow) {
            // As if it had not been registered: whoever tries again takes up what is there.
            let mut workflows = self.workflows.write();
            match before {
                Some(before) => drop(workflows.insert(before)),
                None => workflows.remove(workflow.graph.workflow()),
            }
            return Err(error);
        }
        Ok(workflow)
    }

    /// Why the engine does nothing more, if so.
    #[must_use]
    pub fn stopped(&self) -> Option<&Settlement> {
        self.stopped.get()
    }

    /// Whether it is being closed: no body starts or resumes any more.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Stops at once because of the store: nothing is committed any more, and every caller is told.
    pub(crate) fn break_down(self: &Arc<Self>, error: &StoreError) {
        let first = self.stop_over(error);
        self.tell_of_break_down(error, first);
    }

    /// First half of it: nothing is committed any more. True for who is to do the second half.
    pub(crate) fn stop_over(&self, error: &StoreError) -> bool {
        self.stopped.set(Settlement::Broken(Box::new(error.clone()))).is_ok()
    }

    /// Second half of it, without the commit lock.
    pub(crate) fn tell_of_break_down(self: &Arc<Self>, error: &StoreError, first: bool) {
        if first {
            self.tell_of_stop(&Settlement::Broken(Box::new(error.clone())), &error.to_string());
        }
    }

    /// Stops at once because of a bug in bide; `why` is what [`Host::no_panic`] made of it.
    pub fn panicked(self: &Arc<Self>, why: &str) {
        let settlement = Settlement::Panicked(why.into());
        if self.stopped.set(settlement.clone()).is_ok() {
            self.tell_of_stop(&settlement, why);
        }
    }

    fn tell_of_stop(self: &Arc<Self>, settlement: &Settlement, why: &str) {
        self.log(Level::Error, &format!("the runner on {} stops: {why}", self.store().name()));
        self.closing.store(true, Ordering::Release);
        self.dispatch.close(self);
        self.forget_suspects();
        self.settle_all(settlement);
    }

    /// First half of the end: no body starts or resumes any more, deferred ones are suspended.
    pub fn begin_close(self: &Arc<Self>) {
        if !self.closing.swap(true, Ordering::AcqRel) {
            self.dispatch.close(self);
            self.forget_suspects();
        }
    }

    /// Second half: commits what has gathered, ends the threads and gives the lease back. Blocks, but not on bodies:
    /// one that still executes finds the engine stopped and has changed nothing.
    pub fn finish_close(self: &Arc<Self>) {
        self.begin_close();
        // The threads first: what one of them has in its hands is committed before the engine counts as stopped.
        self.stop_threads();
        self.ledger.flush(self);
        self.suspend_entered();
        {
            // Whoever commits holds the commit lock: once this is set nobody does, so that the lease is given back last.
            let _lock = self.ledger.lock();
            let _ = self.stopped.set(Settlement::Closed);
        }
        if self.left.swap(true, Ordering::AcqRel) {
            return;
        }
        // A runner that had to stop gives back what it can, too: what it had goes on at once where the store works.
        let lease = *self.lease.read();
        let store = self.store();
        if !matches!(self.stopped(), Some(Settlement::Broken(error)) if matches!(**error, StoreError::Busy { .. }))
            && let Err(error) = store.leave(lease)
        {
            self.log(Level::Warning, &format!("the lease could not be given back: {error}"));
        }
        *self.store.write() = Arc::new(Closed { name: store.name().to_owned() });
        self.settle_late_comers();
    }

    /// Fences the bodies that have not returned: what they do from here on changes nothing, and their runs are not
    /// taken for ones that kill their process.
    fn suspend_entered(self: &Arc<Self>) {
        let runs: Vec<_> = self.runs.lock().values().cloned().collect();
        let at = self.clock.now();
        let mut events = Vec::new();
        for run in runs {
            let entered = run.state.lock().entered();
            events.extend(entered.into_iter().map(|(task, attempt)| QueuedEvent {
                run: Arc::clone(&run),
                event: Event::Ended { task, attempt, outcome: Outcome::Suspended },
                at,
                completion: None,
            }));
        }
        self.commit(&mut events, &mut Vec::new());
    }

    fn stop_threads(&self) {
        self.timers.stop();
        self.ledger.stop_committer();
        self.lease_service.stop();
        self.store().interrupt_waits();
        self.retention_service.stop();
        let threads = std::mem::take(&mut *self.threads.lock());
        let me = std::thread::current().id();
        for thread in threads {
            if thread.thread().id() != me {
                let _ = thread.join();
            }
        }
    }

    /// Tells the callers of runs that were created while the engine stopped: their runs came too late for its end.
    pub(crate) fn settle_late_comers(&self) {
        if let Some(settlement) = self.stopped() {
            self.settle_all(settlement);
        }
    }

    fn settle_all(&self, settlement: &Settlement) {
        let runs: Vec<_> = self.runs.lock().drain().map(|(_, run)| run).collect();
        for run in runs {
            run.settled.settle(settlement.clone());
        }
        let watched: Vec<_> = self.watched.lock().drain().filter_map(|(_, settled)| settled.upgrade()).collect();
        for settled in watched {
            settled.settle(settlement.clone());
        }
    }

    /// Another runner has taken over: every run in memory is dropped at once, and a new lease is taken. `lost` is the
    /// lease that was fenced: several threads may find out, the first one acts.
    pub(crate) fn fenced(self: &Arc<Self>, lost: Lease) {
        let mut lease = self.lease.write();
        if *lease != lost || self.stopped().is_some() {
            return;
        }
        self.log(Level::Warning, "the lease was lost: another runner has taken the runs over");
        let runs: Vec<_> = self.runs.lock().drain().map(|(_, run)| run).collect();
        for run in runs {
            run.state.lock().abandon();
            run.settled.settle(Settlement::Elsewhere);
        }
        self.dispatch.lost(self);
        let now = self.clock.lease_time();
        match self.store().enroll(now) {
            Ok(new) => {
                *lease = new;
                self.lease_service.lasts_from(now);
            }
            Err(error) => {
                drop(lease);
                self.break_down(&error);
            }
        }
    }

    /// The workflow registered under this name.
    #[must_use]
    pub fn workflow(&self, name: &str) -> Option<Arc<RegisteredWorkflow<H>>> {
        self.workflows.read().get(name).cloned()
    }

    /// The live run of this row number.
    #[must_use]
    pub fn live(&self, id: RunId) -> Option<Arc<Run<H>>> {
        self.runs.lock().get(&id.row()).cloned()
    }

    /// How many runs are in memory.
    #[must_use]
    pub fn live_count(&self) -> usize {
        self.runs.lock().len()
    }
}
