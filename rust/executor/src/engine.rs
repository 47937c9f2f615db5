//! The engine: puts its parts together, starts their threads, and closes it all. What hosts and callers ask of it is in
//! `engine/api.rs`; its parts are private to it.

pub(crate) mod api;
pub(crate) mod clocks;
#[cfg(feature = "testing")]
pub mod drive;
mod limits;
mod metrics;
mod schedules;
pub(crate) mod show;
mod watches;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bide_core::{Event, Outcome};
use bide_store::{Store, StoreError};

use crate::clock::Clock;
use crate::control::{Control, Role};
use crate::host::Host;
use crate::ids::{IdMaker, seed};
use crate::ledger::{CommitPath, QueuedEvent};
use crate::log::Log;
use crate::runs::children::Children;
use crate::runs::mail::Mail;
use crate::runs::recover::Recovery;
use crate::runs::schedules::Scheduler;
use crate::runs::sources::Watcher;
use crate::runs::submit::Submitter;
use crate::runs::suspects::Suspects;
use crate::runs::watch::Watch;
use crate::services::committer::CommitterService;
use crate::services::lease::LeaseService;
use crate::services::retention::{RETENTION, RetentionService};
use crate::services::schedules::SchedulesService;
use crate::services::timers::Timers;
use crate::services::{Service, Services};

/// The default number of slots: one for each processor and four more, at most 32.
#[must_use]
pub fn default_slots() -> u32 {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(cpus + 4).unwrap_or(32).min(32)
}

/// The default of how many bodies may be parked: 10,000, or less where the system allows fewer threads.
#[must_use]
pub fn default_max_parked() -> usize {
    let read = |path: &str| std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<usize>().ok());
    let maps = read("/proc/sys/vm/max_map_count").map_or(usize::MAX, |count| count / 6);
    let pids = read("/sys/fs/cgroup/pids.max").map_or(usize::MAX, |count| count * 3 / 4);
    10_000.min(maps).min(pids).max(1)
}

/// What all threads of a runner share.
pub struct Engine<H: Host> {
    /// Its store and lease, and whether it may act.
    control: Arc<Control<H>>,
    /// Where every event is committed.
    path: Arc<CommitPath<H>>,
    /// Rings when a time has come.
    timers: Arc<Timers>,
    /// The registered workflows, and their runs that no runner executes.
    recovery: Arc<Recovery<H>>,
    /// Runs as their callers see them.
    watch: Arc<Watch<H>>,
    /// Sends messages to runs.
    mail: Arc<Mail<H>>,
    /// Starts child runs, and finds their ends.
    children: Arc<Children<H>>,
    /// Takes runs in.
    submitter: Submitter<H>,
    /// Defines schedules, and starts their runs.
    scheduler: Arc<Scheduler<H>>,
    /// Defines watches, and starts their runs.
    watcher: Arc<Watcher<H>>,
    /// Makes ids, and random numbers.
    ids: Arc<IdMaker>,
    /// Renews the lease and looks at the store.
    lease_service: Arc<LeaseService<H>>,
    /// Deletes ended runs.
    retention_service: Arc<RetentionService<H>>,
    /// Starts the runs of schedules when they are due.
    schedules_service: Arc<SchedulesService<H>>,
    /// The service of limits is started.
    limits_started: AtomicBool,
    /// Those that were started and not stopped yet.
    services: Services,
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
        Self::start_as(Role::Runner, store, clock, dispatch, log, retention)
    }

    /// Starts an engine that submits, sends and looks, and executes nothing: it takes no lease, claims no runs and deletes
    /// none.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start_client(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        dispatch: H::Dispatch,
        log: Log,
    ) -> Result<Arc<Self>, StoreError> {
        Self::start_as(Role::Client, store, clock, dispatch, log, None)
    }

    fn start_as(
        role: Role,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        dispatch: H::Dispatch,
        log: Log,
        retention: Option<Duration>,
    ) -> Result<Arc<Self>, StoreError> {
        let control = Control::enroll(role, store, clock, dispatch, log, Suspects::of_process())?;
        let engine = Self::assemble(control, seed(), retention);
        // If this fails the lease is released and no thread remains.
        engine.start_services().inspect_err(|_| engine.finish_close())?;
        Ok(engine)
    }

    /// An engine without threads.
    fn assemble(control: Arc<Control<H>>, seed: u64, retention: Option<Duration>) -> Arc<Self> {
        let timers = Timers::new(Arc::clone(&control.clock));
        let ids = Arc::new(IdMaker::new(seed));
        let path = CommitPath::new(&control, &timers, &ids);
        let children = Children::new(&control, &path, &ids);
        let recovery = Recovery::new(&control, &path, &children);
        let watch = Watch::new(&control, &path, &recovery);
        let mail = Mail::new(&control, &path, &ids);
        let scheduler = Scheduler::new(&control, &recovery, &ids);
        let schedules_service = SchedulesService::new(&control, &recovery, &mail, &scheduler, &timers);
        Arc::new(Self {
            submitter: Submitter::new(&control, &path, &ids, &watch),
            lease_service: LeaseService::new(&control, &recovery, &watch, &mail, &children, &schedules_service),
            retention_service: RetentionService::new(&control, retention),
            watcher: Watcher::new(&control, &recovery, &ids),
            scheduler,
            schedules_service,
            limits_started: AtomicBool::new(false),
            services: Services::default(),
            control,
            path,
            timers,
            recovery,
            watch,
            mail,
            children,
            ids,
        })
    }

    fn start_services(&self) -> Result<(), StoreError> {
        while let Some(warning) = self.control.store().warning() {
            self.control.warn(&warning);
        }
        if self.control.is_client() {
            return self.start_service(Arc::clone(&self.lease_service) as Arc<dyn Service>);
        }
        self.start_service(Arc::clone(&self.timers) as Arc<dyn Service>)?;
        self.start_service(Arc::new(CommitterService(Arc::clone(&self.path))))?;
        self.start_service(Arc::clone(&self.schedules_service) as Arc<dyn Service>)?;
        self.start_service(Arc::clone(&self.lease_service) as Arc<dyn Service>)?;
        self.start_service(Arc::clone(&self.retention_service) as Arc<dyn Service>)
    }

    pub(crate) fn start_service(&self, service: Arc<dyn Service>) -> Result<(), StoreError> {
        let name = service.name();
        let control = Arc::downgrade(&self.control);
        let guard = move |body: &mut dyn FnMut()| {
            if let Err(why) = H::no_panic(body)
                && let Some(control) = control.upgrade()
            {
                control.panicked(&why);
            }
        };
        self.services.start(service, guard).map_err(|error| {
            StoreError::Unavailable(format!(
                "the runner on {} cannot start its thread {name}: {error}; the system or this process's limits give no \
                 more threads",
                self.control.store().name()
            ))
        })
    }

    /// First half of the end: no body starts or resumes any more, deferred ones are suspended.
    pub fn begin_close(&self) {
        self.control.begin_close();
    }

    /// Second half: commits what has gathered, ends the threads and gives the lease back. Blocks, but not on bodies:
    /// one that still executes finds the engine stopped and has changed nothing.
    pub fn finish_close(&self) {
        self.begin_close();
        // The threads first: what one of them has in its hands is committed before the engine counts as stopped.
        self.services.stop();
        self.path.ledger.flush(&self.path);
        self.suspend_entered();
        {
            // With the commit lock held, so that the lease is released after the last commit.
            let _lock = self.path.ledger.lock();
            self.control.stop_closed();
        }
        self.control.report_unobserved(None);
        self.control.release_store();
    }

    /// Ends as if the process died now: what is not committed is lost, and nobody is told.
    pub fn crash(&self) {
        self.control.crash.plan(u64::MAX / 4, false);
        {
            let _lock = self.path.ledger.lock();
            self.control.stop_closed();
        }
        self.finish_close();
    }

    /// Has it crash before or after a commit to come, counted from the first one that it makes.
    pub fn crash_at(&self, commit: u64, is_after: bool) {
        self.control.crash.plan(commit, is_after);
    }

    /// Whether it has.
    #[must_use]
    pub fn has_crashed(&self) -> bool {
        self.control.crash.is_planned() && self.control.stopped().is_some()
    }

    /// How many commits it has begun.
    #[must_use]
    pub fn begun_commits(&self) -> u64 {
        self.control.crash.begun()
    }

    /// How many events have moved its runs, with a clock that is moved by hand. What bodies show, and what conditions
    /// raise, does not.
    #[must_use]
    pub fn moves(&self) -> u64 {
        self.path.ledger.moves()
    }

    /// Fences the bodies that have not returned: what they do from here on changes nothing, and their runs are not
    /// taken for ones that kill their process.
    fn suspend_entered(&self) {
        let at = self.control.clock.now();
        let mut events = Vec::new();
        for run in self.control.runs.all() {
            let entered = run.state.lock().entered();
            events.extend(entered.into_iter().map(|(task, attempt)| {
                let event = Event::Ended { task, attempt, outcome: Outcome::Suspended };
                QueuedEvent::new(Arc::clone(&run), event, at)
            }));
        }
        self.path.commit(&mut events, &mut Vec::new());
    }
}
