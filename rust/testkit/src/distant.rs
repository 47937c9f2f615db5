//! A store as it is over a network: each call takes a round trip, and now and then the connection is lost, before or
//! after the call was carried out. It has its server's time, and a call can be made again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bide_core::record::{NewRun, NewTask, RunRowId, StoredRun};
use bide_core::{Cancel, Failure, LimitSpec, Message, RunId, RunStatus, StoredEvents, StoredMessage, Time, Value};
use bide_store::{
    Changes, Clock, Commit, CommitId, Conversion, Converted, Creation, EventRange, Lease, LeaseTime, LimitCall,
    LimitInfo, Limits, LineAnswers, Look, Maintenance, OpenWait, Purged, RunFilter, RunnerInfo, ScheduleChange,
    ScheduleChanged, Schedules, Seen, Sent, Standing, Store, StoreError, StoredSchedule, StoredVersion, StoredWatch,
    StoredWorkflow, UnownedRuns, WaitPosition, WatchChange, WatchChanged, Watches, Written,
};
use bide_sync::Mutex;

/// How long a call and its answer are on their way.
pub const ROUND_TRIP: Duration = Duration::from_millis(2);

/// When connections are lost, by the number of the call, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Losses {
    /// Never.
    None,
    /// Each time after this many calls: in turns before the call was carried out and after it.
    Every(u64),
}

/// The outcomes of calls, by the number of their runner and their id.
type Outcomes<T> = Mutex<HashMap<(i64, CommitId), T>>;

/// What a commit is answered with: what was created, and what was granted.
pub(crate) type Answered = (Vec<Vec<Creation>>, Option<Vec<LineAnswers>>);

/// Any store, over a network.
pub struct DistantStore {
    /// The store behind the network.
    inner: Arc<dyn Store>,
    /// When connections are lost.
    losses: Losses,
    /// The server's clock; `None`: it shows what the callers' clocks show.
    clock: Option<Arc<dyn Clock>>,
    /// How many calls were made.
    calls: AtomicU64,
    /// No connection can be made.
    is_cut: AtomicBool,
    /// How many connections were lost.
    lost: AtomicU64,
    /// The outcomes of commits, for callers that lost the answer.
    written: Outcomes<Answered>,
    /// The outcomes of claims, likewise.
    claimed: Outcomes<Vec<RunId>>,
    /// The outcomes of messages that were sent, by their numbers.
    sent: Mutex<HashMap<i64, Sent>>,
}

impl DistantStore {
    /// Puts a store behind a network.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, losses: Losses) -> Arc<Self> {
        Arc::new(Self::on_server(inner, losses, None))
    }

    /// The same, on a server with a clock of its own.
    #[must_use]
    pub fn with_clock(inner: Arc<dyn Store>, losses: Losses, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self::on_server(inner, losses, Some(clock)))
    }

    fn on_server(inner: Arc<dyn Store>, losses: Losses, clock: Option<Arc<dyn Clock>>) -> Self {
        Self {
            inner,
            losses,
            clock,
            calls: AtomicU64::new(0),
            is_cut: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            written: Mutex::default(),
            claimed: Mutex::default(),
            sent: Mutex::default(),
        }
    }

    /// From here on every call loses its connection; or none does but those that are to.
    pub fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::SeqCst);
    }

    /// How many calls have lost their connection.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::SeqCst)
    }

    /// How many calls were made.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    fn call<T>(&self, act: impl FnOnce(&dyn Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        // It is the time that a call takes, not a wait for something.
        std::thread::sleep(ROUND_TRIP);
        let (before, after) = match self.losses {
            Losses::None => (false, false),
            Losses::Every(n) => (number % (2 * n) == n, number.is_multiple_of(2 * n)),
        };
        let before = before || self.is_cut.load(Ordering::SeqCst);
        let outcome = if before { None } else { Some(act(&*self.inner)) };
        match outcome {
            Some(outcome) if !after => outcome,
            _ => {
                self.lost.fetch_add(1, Ordering::SeqCst);
                Err(StoreError::Disconnected { store: self.inner.name().into(), why: "on purpose".into() })
            }
        }
    }
}

impl Store for DistantStore {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn blocks(&self) -> bool {
        true
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }

    fn clock(&self, here: Arc<dyn Clock>) -> Arc<dyn Clock> {
        self.clock.clone().unwrap_or(here)
    }

    fn may_repeat(&self) -> bool {
        true
    }

    fn history(&self) -> u64 {
        self.inner.history()
    }

    fn enroll(&self, now: LeaseTime) -> Result<Lease, StoreError> {
        self.call(|store| store.enroll(now))
    }

    fn renew(&self, lease: Lease, now: LeaseTime) -> Result<(), StoreError> {
        self.call(|store| store.renew(lease, now))
    }

    fn leave(&self, lease: Lease) -> Result<(), StoreError> {
        self.call(|store| store.leave(lease))
    }

    fn register(&self, name: &str, version: &str, tasks: &[NewTask]) -> Result<StoredWorkflow, StoreError> {
        self.call(|store| store.register(name, version, tasks))
    }

    fn write(&self, lease: Lease, commit: &mut Commit<'_>) -> Result<Written, StoreError> {
        let this = (lease.runner, commit.id);
        // What is sent to the server is a copy.
        let mut sent = commit.batch.clone();
        self.call(|store| {
            if let Some((creations, answers)) = self.written.lock().get(&this).cloned() {
                return Ok(Written { answers, ..Written::of(creations) });
            }
            let written = store.write(lease, &mut Commit { batch: &mut sent, ..*commit })?;
            self.written.lock().insert(this, (written.creations.clone(), written.answers.clone()));
            Ok(written)
        })
    }

    fn give_back(&self, lease: Lease, runs: &[RunRowId]) -> Result<(), StoreError> {
        self.call(|store| store.give_back(lease, runs))
    }

    fn create_unowned(&self, runs: &[NewRun]) -> Result<Vec<Creation>, StoreError> {
        self.call(|store| store.create_unowned(runs))
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
            if let Some(claimed) = self.claimed.lock().get(&(lease.runner, id)) {
                return Ok(claimed.clone());
            }
            let claimed = store.claim_once(id, lease, versions, now, limit)?;
            self.claimed.lock().insert((lease.runner, id), claimed.clone());
            Ok(claimed)
        })
    }

    fn is_alive(&self, runner: i64, now: LeaseTime) -> Result<bool, StoreError> {
        self.call(|store| store.is_alive(runner, now))
    }

    fn load(&self, run: RunId) -> Result<Option<StoredRun>, StoreError> {
        self.call(|store| store.load(run))
    }

    fn load_many(&self, runs: &[RunId]) -> Result<Vec<StoredRun>, StoreError> {
        self.call(|store| store.load_many(runs))
    }

    fn standing(&self, run: RunId) -> Result<Option<Standing>, StoreError> {
        self.call(|store| store.standing(run))
    }

    fn standings(&self, runs: &[RunId]) -> Result<Vec<Option<Standing>>, StoreError> {
        self.call(|store| store.standings(runs))
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
            if let Some(sent) = self.sent.lock().get(&message.number) {
                return Ok(sent.clone());
            }
            let sent = store.send(run, message)?;
            self.sent.lock().insert(message.number, sent.clone());
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
        self.inner.arrivals()
    }

    fn mail(&self, after: i64) -> Result<Vec<(i64, RunRowId)>, StoreError> {
        self.call(|store| store.mail(after))
    }

    fn answer(&self, run: RunId, request: i64) -> Result<Option<Result<Value, Failure>>, StoreError> {
        self.call(|store| store.answer(run, request))
    }

    fn wait_for_changes(&self, seen: Seen, timeout: Duration) -> Result<Changes, StoreError> {
        // The server sends what has changed: there is no round trip, and no loss that would not be one of the next
        // call.
        self.inner.wait_for_changes(seen, timeout)
    }

    fn interrupt_waits(&self) {
        self.inner.interrupt_waits();
    }
}

impl Look for DistantStore {
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

impl Schedules for DistantStore {
    fn schedules(&self, after: i64) -> Result<Vec<StoredSchedule>, StoreError> {
        self.call(|store| store.schedules(after))
    }

    fn schedule(&self, name: &str) -> Result<Option<StoredSchedule>, StoreError> {
        self.call(|store| store.schedule(name))
    }

    fn change_schedules(&self, changes: &[ScheduleChange]) -> Result<Vec<ScheduleChanged>, StoreError> {
        self.call(|store| store.change_schedules(changes))
    }
}

impl Watches for DistantStore {
    fn watches(&self) -> Result<Vec<StoredWatch>, StoreError> {
        self.call(|store| store.watches())
    }

    fn watch(&self, name: &str) -> Result<Option<StoredWatch>, StoreError> {
        self.call(|store| store.watch(name))
    }

    fn change_watch(&self, change: &WatchChange) -> Result<WatchChanged, StoreError> {
        self.call(|store| store.change_watch(change))
    }
}

impl Limits for DistantStore {
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

impl Maintenance for DistantStore {
    fn purge(&self, before: Time, from: RunRowId, limit: usize) -> Result<Purged, StoreError> {
        self.call(|store| store.purge(before, from, limit))
    }

    fn shrink(&self) -> Result<bool, StoreError> {
        self.call(|store| store.shrink())
    }
}
