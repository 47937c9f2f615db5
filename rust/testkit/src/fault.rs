//! A store that fails on purpose: the n-th call, before or after it has done its work, or for good as if the process
//! had died.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bide_core::record::{Batch, Committed, NewRun, NewTask, RunRowId, StoredRun};
use bide_core::{Cancel, Failure, LimitSpec, Message, RunId, RunStatus, StoredEvents, StoredMessage, Time, Value};
use bide_store::{
    Changes, Clock, Commit, CommitId, Conversion, Converted, Creation, EventRange, Lease, LeaseTime, LimitCall,
    LimitInfo, Limits, LineAnswers, Look, Maintenance, OpenWait, Purged, RunFilter, RunnerInfo, ScheduleChange,
    ScheduleChanged, Schedules, Seen, Sent, Standing, Store, StoreError, StoredSchedule, StoredVersion, StoredWatch,
    StoredWorkflow, UnownedRuns, WaitPosition, WatchChange, WatchChanged, Watches, Written,
};
use bide_sync::Mutex;

use crate::server::SharedServer;

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails as unavailable; nothing was written.
    Unavailable,
    /// It fails as busy; nothing was written.
    Busy,
    /// Its outcome is unknown; nothing was written.
    UnknownBefore,
    /// Its outcome is unknown; it was written.
    UnknownAfter,
    /// It and every later call fail, as if the process had died before it.
    CrashBefore,
    /// It was written, but it and every later call fail, as if the process had died after it.
    CrashAfter,
    /// The connection is lost before it is carried out. Only of a store that is a server.
    LostBefore,
    /// The connection is lost after it was carried out. Only of a store that is a server.
    LostAfter,
}

/// Any store, with faults at chosen calls. Calls are counted from 1; what background services call
/// on their own (`wait_for_changes`, `purge`, `shrink`) is not counted, nor are `name` and `blocks`.
pub struct FaultyStore {
    /// The store that does the work.
    inner: Arc<dyn Store>,
    /// How many calls were made.
    calls: AtomicU64,
    /// The calls that fail, by number, and how.
    plan: Mutex<Vec<(u64, Fault)>>,
    /// Every later call fails.
    crashed: Mutex<bool>,
    /// Shown every committed batch.
    watcher: Mutex<Option<Watcher>>,
    /// Called once, when the next runs were created.
    after_create: Mutex<Option<Hook>>,
    /// Called once, when a watch was read next.
    after_watch_read: Mutex<Option<Hook>>,
    /// When a lease was last given or renewed.
    renewed: Mutex<Option<LeaseTime>>,
    /// It says that several hosts share it.
    shared: AtomicBool,
    /// It says that others have runners on it.
    others: AtomicBool,
    /// The server that it is.
    server: Option<Arc<SharedServer>>,
}

/// Is called between a call and its caller.
pub type Hook = Box<dyn FnOnce() + Send>;

/// Is shown every batch that was really committed, under which lease, and which runs were created with it, even if the
/// caller got an error.
pub type Watcher = Box<dyn Fn(Lease, &[&NewRun], &Batch) + Send>;

impl FaultyStore {
    /// Wraps a store; without a plan nothing fails.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self::around(inner, None))
    }

    /// The same, as a client of a server has it.
    #[must_use]
    pub fn of_server(inner: Arc<dyn Store>, server: &Arc<SharedServer>) -> Arc<Self> {
        Arc::new(Self::around(inner, Some(Arc::clone(server))))
    }

    fn around(inner: Arc<dyn Store>, server: Option<Arc<SharedServer>>) -> Self {
        Self {
            inner,
            calls: AtomicU64::new(0),
            plan: Mutex::default(),
            crashed: Mutex::new(false),
            watcher: Mutex::default(),
            after_create: Mutex::default(),
            after_watch_read: Mutex::default(),
            renewed: Mutex::default(),
            shared: AtomicBool::new(false),
            others: AtomicBool::new(true),
            server,
        }
    }

    /// Shows every batch that is really committed from now on.
    pub fn watch(&self, watcher: Watcher) {
        *self.watcher.lock() = Some(watcher);
    }

    /// Calls back once, when the next runs are created and before their creator hears of it.
    pub fn after_create(&self, hook: Hook) {
        *self.after_create.lock() = Some(hook);
    }

    /// Has it say that several hosts share it.
    pub fn share(&self) {
        self.shared.store(true, Ordering::SeqCst);
    }

    /// Whether others have runners on it, as it says from now on.
    pub fn set_others(&self, others: bool) {
        self.others.store(others, Ordering::SeqCst);
    }

    /// Calls back once, when the next watch was read and before its reader hears of it.
    pub fn after_watch_read(&self, hook: Hook) {
        *self.after_watch_read.lock() = Some(hook);
    }

    /// Lets the `call`-th call fail.
    pub fn fail(&self, call: u64, fault: Fault) {
        self.plan.lock().push((call, fault));
    }

    /// Lets the call after those made so far fail.
    pub fn fail_next(&self, fault: Fault) {
        self.fail(self.calls() + 1, fault);
    }

    /// How many calls were made.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// When a lease was really given or renewed last, even if the caller got an error.
    #[must_use]
    pub fn renewed(&self) -> Option<LeaseTime> {
        *self.renewed.lock()
    }

    /// Whether its process counts as dead.
    #[must_use]
    pub fn has_crashed(&self) -> bool {
        *self.crashed.lock()
    }

    /// The store without the faults.
    #[must_use]
    pub fn inner(&self) -> Arc<dyn Store> {
        self.inner.clone()
    }

    fn call<T>(&self, act: impl FnOnce(&dyn Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut crashed = self.crashed.lock();
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if *crashed {
            return Err(dead());
        }
        let fault = self.plan.lock().iter().find(|(call, _)| *call == number).map(|(_, fault)| *fault);
        *crashed = matches!(fault, Some(Fault::CrashBefore | Fault::CrashAfter));
        drop(crashed);
        let unknown = || StoreError::Unknown("on purpose".into());
        let lost = || StoreError::Disconnected { store: self.inner.name().into(), why: "on purpose".into() };
        match fault {
            None => act(&*self.inner),
            Some(Fault::Unavailable) => Err(StoreError::Unavailable("unavailable on purpose".into())),
            Some(Fault::Busy) => {
                Err(StoreError::Busy { store: self.inner.name().into(), waited: Duration::from_secs(10) })
            }
            Some(Fault::UnknownBefore) => Err(unknown()),
            Some(Fault::UnknownAfter) => act(&*self.inner).and(Err(unknown())),
            Some(Fault::CrashBefore) => Err(dead()),
            Some(Fault::CrashAfter) => act(&*self.inner).and(Err(dead())),
            Some(Fault::LostBefore) => Err(lost()),
            Some(Fault::LostAfter) => act(&*self.inner).and(Err(lost())),
        }
    }
}

fn dead() -> StoreError {
    StoreError::Unavailable("the process is dead, on purpose".into())
}

impl Store for FaultyStore {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn blocks(&self) -> bool {
        self.inner.blocks()
    }

    fn has_others(&self) -> bool {
        self.others.load(Ordering::SeqCst) || self.inner.has_others()
    }

    fn is_shared(&self) -> bool {
        self.shared.load(Ordering::SeqCst) || self.inner.is_shared()
    }

    fn clock(&self, here: Arc<dyn Clock>) -> Arc<dyn Clock> {
        match &self.server {
            Some(server) => server.clock_of(here),
            None => self.inner.clock(here),
        }
    }

    fn may_repeat(&self) -> bool {
        self.server.is_some() || self.inner.may_repeat()
    }

    fn history(&self) -> u64 {
        self.inner.history()
    }

    fn enroll(&self, now: LeaseTime) -> Result<Lease, StoreError> {
        self.call(|store| store.enroll(now).inspect(|_| *self.renewed.lock() = Some(now)))
    }

    fn renew(&self, lease: Lease, now: LeaseTime) -> Result<(), StoreError> {
        self.call(|store| store.renew(lease, now).inspect(|()| *self.renewed.lock() = Some(now)))
    }

    fn leave(&self, lease: Lease) -> Result<(), StoreError> {
        self.call(|store| store.leave(lease))
    }

    fn register(&self, name: &str, version: &str, tasks: &[NewTask]) -> Result<StoredWorkflow, StoreError> {
        self.call(|store| store.register(name, version, tasks))
    }

    fn write(&self, lease: Lease, commit: &mut Commit<'_>) -> Result<Written, StoreError> {
        let creates = !commit.requests.is_empty();
        // What goes to a server is a copy: the call may be made again.
        let mut copy = self.server.is_some().then(|| commit.batch.clone());
        let id = commit.id;
        let (requests, claims) = (commit.requests, commit.claims);
        let mut sent = Commit { id, requests, batch: copy.as_mut().unwrap_or(commit.batch), claims };
        let commit = &mut sent;
        let written = self.call(|store| {
            let known = |server: &Arc<SharedServer>| server.made.lock().written.get(&(lease, id)).cloned();
            if let Some((creations, answers)) = self.server.as_ref().and_then(known) {
                return Ok(Written { committed: Committed::by_store(), creations, answers });
            }
            let watcher = self.watcher.lock();
            let shown = watcher.as_ref().map(|_| commit.batch.clone());
            let written = store.write(lease, commit)?;
            if let (Some(watcher), Some(mut shown)) = (&*watcher, shown) {
                let skipped = commit.not_created(&written.creations);
                shown.retain(|write| skipped.binary_search(&write.run()).is_err());
                let created = commit.requests.iter().flat_map(|request| request.iter());
                let created: Vec<&NewRun> =
                    created.filter(|new| skipped.binary_search(&new.id.row()).is_err()).collect();
                watcher(lease, &created, &shown);
            }
            if let Some(server) = &self.server {
                let answered = (written.creations.clone(), written.answers.clone());
                server.made.lock().written.insert((lease, id), answered);
            }
            Ok(written)
        });
        let hook = if creates { self.after_create.lock().take() } else { None };
        if let Some(hook) = hook {
            hook();
        }
        written
    }

    fn give_back(&self, lease: Lease, runs: &[RunRowId]) -> Result<(), StoreError> {
        self.call(|store| store.give_back(lease, runs))
    }

    fn create_unowned(&self, runs: &[NewRun]) -> Result<Vec<Creation>, StoreError> {
        self.call(|store| {
            let watcher = self.watcher.lock();
            let creations = store.create_unowned(runs)?;
            if let Some(watcher) = &*watcher
                && !creations.iter().any(Creation::prevents_all)
            {
                let created = runs.iter().zip(&creations).filter(|(_, creation)| **creation == Creation::Created);
                watcher(Lease::NONE, &created.map(|(run, _)| run).collect::<Vec<_>>(), &Batch::new());
            }
            Ok(creations)
        })
    }

    fn versions(&self, workflow: i64) -> Result<Vec<StoredVersion>, StoreError> {
        self.call(|store| store.versions(workflow))
    }

    fn unowned(&self) -> Result<Vec<(i64, i64)>, StoreError> {
        self.call(|store| store.unowned())
    }

    fn claim_once(
        &self,
        id: CommitId,
        lease: Lease,
        versions: &[i64],
        now: LeaseTime,
        limit: usize,
    ) -> Result<Vec<RunId>, StoreError> {
        self.call(|store| {
            let Some(server) = &self.server else { return store.claim_once(id, lease, versions, now, limit) };
            if let Some(claimed) = server.made.lock().claimed.get(&(lease, id)) {
                return Ok(claimed.clone());
            }
            let claimed = store.claim_once(id, lease, versions, now, limit)?;
            server.made.lock().claimed.insert((lease, id), claimed.clone());
            Ok(claimed)
        })
    }

    fn is_alive(&self, runner: i64, now: LeaseTime) -> Result<bool, StoreError> {
        self.call(|store| store.is_alive(runner, now))
    }

    fn load(&self, run: RunId) -> Result<Option<StoredRun>, StoreError> {
        self.call(|store| store.load(run))
    }

    fn standing(&self, run: RunId) -> Result<Option<Standing>, StoreError> {
        self.call(|store| store.standing(run))
    }

    fn events(&self, run: RunId, channel: &str, range: EventRange) -> Result<Option<Vec<StoredEvents>>, StoreError> {
        self.call(|store| store.events(run, channel, range))
    }

    fn by_key(&self, key: &str, workflow: Option<&str>) -> Result<Vec<(RunId, Arc<str>)>, StoreError> {
        self.call(|store| store.by_key(key, workflow))
    }

    fn list(&self, filter: &RunFilter) -> Result<Vec<StoredRun>, StoreError> {
        self.call(|store| store.list(filter))
    }

    fn children(&self, run: RunId) -> Result<Vec<(RunId, RunStatus)>, StoreError> {
        self.call(|store| store.children(run))
    }

    fn delete(&self, run: RunId) -> Result<bool, StoreError> {
        self.call(|store| store.delete(run))
    }

    fn declare(&self, version: i64, signals: Option<&[String]>) -> Result<(), StoreError> {
        self.call(|store| store.declare(version, signals))
    }

    fn send(&self, run: RunId, message: &Message) -> Result<Sent, StoreError> {
        self.call(|store| {
            let Some(server) = &self.server else { return store.send(run, message) };
            if let Some(sent) = server.made.lock().sent.get(&message.number) {
                return Ok(sent.clone());
            }
            let sent = store.send(run, message)?;
            server.made.lock().sent.insert(message.number, sent.clone());
            Ok(sent)
        })
    }

    fn unowned_of(&self, version: i64) -> Result<Vec<RunId>, StoreError> {
        self.call(|store| store.unowned_of(version))
    }

    fn convert(&self, run: RunId, conversion: &Conversion) -> Result<Converted, StoreError> {
        self.call(|store| store.convert(run, conversion))
    }

    fn end_unowned(&self, run: RunId, cancel: &Cancel, force: &Message) -> Result<bool, StoreError> {
        self.call(|store| store.end_unowned(run, cancel, force))
    }

    fn messages(&self, run: RunId, after: i64) -> Result<Vec<StoredMessage>, StoreError> {
        self.call(|store| store.messages(run, after))
    }

    fn arrivals(&self) -> Option<u64> {
        self.server.is_none().then(|| self.inner.arrivals()).flatten()
    }

    fn mail(&self, after: i64) -> Result<Vec<(i64, RunRowId)>, StoreError> {
        if *self.crashed.lock() { Err(dead()) } else { self.inner.mail(after) }
    }

    fn answer(&self, run: RunId, request: i64) -> Result<Option<Result<Value, Failure>>, StoreError> {
        self.call(|store| store.answer(run, request))
    }

    fn wait_for_changes(&self, seen: Seen, timeout: Duration) -> Result<Changes, StoreError> {
        if *self.crashed.lock() { Err(dead()) } else { self.inner.wait_for_changes(seen, timeout) }
    }

    fn interrupt_waits(&self) {
        self.inner.interrupt_waits();
    }
}

impl Look for FaultyStore {
    fn open_waits(&self, after: Option<WaitPosition>, most: usize) -> Result<Vec<OpenWait>, StoreError> {
        self.call(|store| store.open_waits(after, most))
    }

    fn load_open(&self, run: RunId) -> Result<Option<StoredRun>, StoreError> {
        self.call(|store| store.load_open(run))
    }

    fn requests(&self, run: RunId) -> Result<Vec<Message>, StoreError> {
        self.call(|store| store.requests(run))
    }

    fn channels(&self, run: RunId) -> Result<Vec<Arc<str>>, StoreError> {
        self.call(|store| store.channels(run))
    }

    fn runner(&self, runner: i64) -> Result<Option<RunnerInfo>, StoreError> {
        self.call(|store| store.runner(runner))
    }

    fn unowned_runs(&self) -> Result<Vec<UnownedRuns>, StoreError> {
        self.call(|store| store.unowned_runs())
    }
}

impl Schedules for FaultyStore {
    fn schedules(&self, after: i64) -> Result<Vec<StoredSchedule>, StoreError> {
        if *self.crashed.lock() { Err(dead()) } else { self.inner.schedules(after) }
    }

    fn schedule(&self, name: &str) -> Result<Option<StoredSchedule>, StoreError> {
        if *self.crashed.lock() { Err(dead()) } else { self.inner.schedule(name) }
    }

    fn change_schedules(&self, changes: &[ScheduleChange]) -> Result<Vec<ScheduleChanged>, StoreError> {
        self.call(|store| store.change_schedules(changes))
    }
}

impl Watches for FaultyStore {
    fn watches(&self) -> Result<Vec<StoredWatch>, StoreError> {
        if *self.crashed.lock() { Err(dead()) } else { self.inner.watches() }
    }

    fn watch(&self, name: &str) -> Result<Option<StoredWatch>, StoreError> {
        let read = if *self.crashed.lock() { Err(dead()) } else { self.inner.watch(name) };
        let hook = self.after_watch_read.lock().take();
        if let Some(hook) = hook {
            hook();
        }
        read
    }

    fn change_watch(&self, change: &WatchChange) -> Result<WatchChanged, StoreError> {
        self.call(|store| {
            let watcher = self.watcher.lock();
            let changed = store.change_watch(change)?;
            if let (Some(watcher), WatchChanged::Done { .. }) = (&*watcher, &changed) {
                let is_there = |new: &&NewRun| matches!(store.standing(new.id), Ok(Some(_)));
                let created: Vec<&NewRun> = change.items.iter().map(|item| &item.run).filter(is_there).collect();
                watcher(Lease::NONE, &created, &Batch::new());
            }
            Ok(changed)
        })
    }
}

impl Limits for FaultyStore {
    fn define_limit(&self, limit: &LimitSpec) -> Result<Option<LimitSpec>, StoreError> {
        self.call(|store| store.define_limit(limit))
    }

    fn claim_limits(&self, lease: Lease, now: Time, call: &LimitCall) -> Result<Vec<LineAnswers>, StoreError> {
        self.call(|store| store.claim_limits(lease, now, call))
    }

    fn grants_in_commits(&self) -> bool {
        self.inner.grants_in_commits()
    }

    fn purge_limits(&self, now: Time) -> Result<(), StoreError> {
        self.call(|store| store.purge_limits(now))
    }

    fn limits(&self, now: Time) -> Result<Vec<LimitInfo>, StoreError> {
        self.call(|store| store.limits(now))
    }
}

impl Maintenance for FaultyStore {
    fn purge(&self, before: Time, from: RunRowId, limit: usize) -> Result<Purged, StoreError> {
        if *self.crashed.lock() { Err(dead()) } else { self.inner.purge(before, from, limit) }
    }

    fn shrink(&self) -> Result<bool, StoreError> {
        if *self.crashed.lock() { Err(dead()) } else { self.inner.shrink() }
    }
}
