//! A store behind a connection that may be lost: a call that failed because of that is made again, for a while.
//!
//! Only for stores that say that their calls may be repeated. Each try of a commit or claim has the same id, so that
//! one that had been made before the connection was lost is not made twice. To the engine a lost connection is a call
//! that takes longer; only one that stays lost is an error, over which the engine stops as over any other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bide_core::record::{NewRun, NewTask, RunRowId, StepRecord, StoredRun};
use bide_core::shown::shown;
use bide_core::{Cancel, Failure, LimitSpec, Message, RunId, RunStatus, StoredEvents, StoredMessage, Time, Value};
use bide_store::{
    Changes, Claimed, Clock, Commit, CommitId, Conversion, Converted, Creation, Database, EventRange, Lease, LeaseTime,
    LimitCall, LimitInfo, Limits, LineAnswers, Look, Maintenance, OpenWait, Purged, RunFilter, RunnerInfo,
    ScheduleChange, ScheduleChanged, Schedules, Seen, Sent, Standing, Store, StoreError, StoredSchedule, StoredVersion,
    StoredWatch, StoredWorkflow, UnownedRuns, WaitPosition, WatchChange, WatchChanged, Watches, Written,
};
use bide_sync::{Condvar, Mutex};

use crate::log::{Level, SharedLog};

/// How long a call is repeated: as long as a commit waits for a file that others keep locked.
const RETRY_FOR: Duration = Duration::from_secs(60);

/// The same once the runner is closing.
const CLOSING: Duration = Duration::from_secs(1);

/// A connection that stays lost is reported after this time.
const REPORTED_AFTER: Duration = Duration::from_secs(10);

/// The rest before the second try; it doubles up to [`LONGEST_REST`].
const FIRST_REST: Duration = Duration::from_millis(2);
const LONGEST_REST: Duration = Duration::from_secs(1);

/// A store whose calls are repeated.
pub(crate) struct Retrying {
    /// The store whose calls are retried.
    inner: Arc<dyn Store>,
    /// Measures how long a call has been retried.
    clock: Arc<dyn Clock>,
    /// For the warning that a call is retried.
    log: SharedLog,
    /// The runner is closing: only set, by the thread that closes it.
    closing: Mutex<bool>,
    /// `closing` was set: ends the rest between two tries.
    woken: Condvar,
    /// How many calls are being repeated.
    repeating: AtomicUsize,
}

/// A call that is being repeated, as long as this exists.
struct Repeating<'a>(&'a AtomicUsize);

impl<'a> Repeating<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Repeating<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Retrying {
    /// This store; if its calls may be repeated, one that repeats them.
    pub(crate) fn around(store: Arc<dyn Store>, clock: &Arc<dyn Clock>, log: &SharedLog) -> Arc<dyn Store> {
        if !store.may_repeat() {
            return store;
        }
        let (clock, log) = (Arc::clone(clock), Arc::clone(log));
        let (closing, woken, repeating) = (Mutex::new(false), Condvar::new(), AtomicUsize::new(0));
        Arc::new(Self { inner: store, clock, log, closing, woken, repeating })
    }

    /// Makes a call until its connection holds, or for as long as it may be repeated.
    fn call<T>(&self, mut act: impl FnMut(&dyn Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut outcome = act(&*self.inner);
        if !matches!(outcome, Err(StoreError::Disconnected { .. })) {
            return outcome;
        }
        let _repeating = Repeating::begin(&self.repeating);
        let (since, mut rest, mut is_reported) = (self.clock.machine(), FIRST_REST, false);
        while let Err(error @ StoreError::Disconnected { .. }) = &outcome {
            let passed = self.clock.machine().saturating_sub(since);
            if passed >= RETRY_FOR || (passed >= CLOSING && *self.closing.lock()) {
                break;
            }
            if passed >= REPORTED_AFTER && !is_reported {
                is_reported = true;
                let line = format!("{error}; the call is made again for up to {RETRY_FOR:?}, and bodies wait for it");
                (self.log)(Level::Warning, &shown(&line));
            }
            self.rest(rest);
            rest = (rest * 2).min(LONGEST_REST);
            outcome = act(&*self.inner);
        }
        outcome
    }

    fn rest(&self, span: Duration) {
        let mut closing = self.closing.lock();
        let span = if *closing { span.min(CLOSING / 10) } else { span };
        self.woken.wait_for(&mut closing, span);
    }
}

/// What a commit or claim has come to whose connection stays lost.
fn unknown(error: StoreError) -> StoreError {
    match error {
        StoreError::Disconnected { .. } => StoreError::Unknown(error.to_string()),
        error => error,
    }
}

impl Store for Retrying {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn blocks(&self) -> bool {
        self.inner.blocks()
    }

    fn is_away(&self) -> bool {
        self.repeating.load(Ordering::Relaxed) > 0 || self.inner.is_away()
    }

    fn has_others(&self) -> bool {
        self.inner.has_others()
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }

    fn longest_name(&self) -> Option<usize> {
        self.inner.longest_name()
    }

    /// Its calls have been repeated already.
    fn may_repeat(&self) -> bool {
        true
    }

    fn history(&self) -> u64 {
        self.inner.history()
    }

    fn enroll(&self, now: LeaseTime) -> Result<Lease, StoreError> {
        // One that was enrolled by a lost call has no runs, and its lease runs out.
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
        self.call(|store| store.write(lease, commit)).map_err(unknown)
    }

    fn give_back(&self, lease: Lease, runs: &[RunRowId]) -> Result<(), StoreError> {
        self.call(|store| store.give_back(lease, runs)).map_err(unknown)
    }

    fn create_unowned(&self, runs: &[NewRun]) -> Result<Vec<Creation>, StoreError> {
        self.call(|store| store.create_unowned(runs)).map_err(unknown)
    }

    fn database(&self) -> Result<Option<Database>, StoreError> {
        self.call(|store| store.database())
    }

    fn record_statement(&self, lease: Lease, record: &StepRecord, marker: &str) -> Option<String> {
        self.inner.record_statement(lease, record, marker)
    }

    fn recorded_step(&self, lease: Lease, record: &StepRecord) -> Result<Option<Value>, StoreError> {
        self.call(|store| store.recorded_step(lease, record))
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
        self.call(|store| store.claim_once(id, lease, versions, now, limit)).map_err(unknown)
    }

    fn claim_reading(
        &self,
        id: CommitId,
        lease: Lease,
        versions: &[i64],
        now: LeaseTime,
        limit: usize,
    ) -> Result<Claimed, StoreError> {
        self.call(|store| store.claim_reading(id, lease, versions, now, limit)).map_err(unknown)
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

    fn by_key(&self, key: &str, workflow: Option<&str>) -> Result<Vec<(RunId, Arc<str>)>, StoreError> {
        self.call(|store| store.by_key(key, workflow))
    }

    fn list(&self, filter: &RunFilter) -> Result<Vec<StoredRun>, StoreError> {
        self.call(|store| store.list(filter))
    }

    fn events(&self, run: RunId, channel: &str, range: EventRange) -> Result<Option<Vec<StoredEvents>>, StoreError> {
        self.call(|store| store.events(run, channel, range))
    }

    fn children(&self, run: RunId) -> Result<Vec<(RunId, RunStatus)>, StoreError> {
        self.call(|store| store.children(run))
    }

    fn delete(&self, run: RunId) -> Result<bool, StoreError> {
        // What a lost call has deleted is gone at the next one.
        let mut was_there = false;
        self.call(|store| {
            let is_there = store.standing(run)?.is_some();
            was_there |= is_there;
            Ok(store.delete(run)? || (was_there && !is_there))
        })
    }

    fn declare(&self, version: i64, signals: Option<&[String]>) -> Result<(), StoreError> {
        self.call(|store| store.declare(version, signals))
    }

    fn send(&self, run: RunId, message: &Message) -> Result<Sent, StoreError> {
        self.call(|store| store.send(run, message)).map_err(unknown)
    }

    fn unowned_of(&self, version: i64) -> Result<Vec<RunId>, StoreError> {
        self.call(|store| store.unowned_of(version))
    }

    fn convert(&self, run: RunId, conversion: &Conversion) -> Result<Converted, StoreError> {
        self.call(|store| store.convert(run, conversion)).map_err(unknown)
    }

    fn end_unowned(&self, run: RunId, cancel: &Cancel, force: &Message) -> Result<bool, StoreError> {
        self.call(|store| store.end_unowned(run, cancel, force)).map_err(unknown)
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
        self.call(|store| store.wait_for_changes(seen, timeout))
    }

    fn interrupt_waits(&self) {
        *self.closing.lock() = true;
        self.woken.notify_all();
        self.inner.interrupt_waits();
    }
}

impl Look for Retrying {
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

impl Schedules for Retrying {
    fn schedules(&self, after: i64) -> Result<Vec<StoredSchedule>, StoreError> {
        self.call(|store| store.schedules(after))
    }

    fn schedule(&self, name: &str) -> Result<Option<StoredSchedule>, StoreError> {
        self.call(|store| store.schedule(name))
    }

    fn change_schedules(&self, changes: &[ScheduleChange]) -> Result<Vec<ScheduleChanged>, StoreError> {
        self.call(|store| store.change_schedules(changes)).map_err(unknown)
    }
}

impl Watches for Retrying {
    fn watches(&self) -> Result<Vec<StoredWatch>, StoreError> {
        self.call(|store| store.watches())
    }

    fn watch(&self, name: &str) -> Result<Option<StoredWatch>, StoreError> {
        self.call(|store| store.watch(name))
    }

    fn change_watch(&self, change: &WatchChange) -> Result<WatchChanged, StoreError> {
        self.call(|store| store.change_watch(change)).map_err(unknown)
    }
}

impl Limits for Retrying {
    fn define_limit(&self, limit: &LimitSpec) -> Result<Option<LimitSpec>, StoreError> {
        self.call(|store| store.define_limit(limit))
    }

    fn claim_limits(&self, lease: Lease, now: Time, call: &LimitCall) -> Result<Vec<LineAnswers>, StoreError> {
        // What has become of starts is not told twice.
        let mut again = call.clone();
        again.lines.iter_mut().for_each(|line| line.moved.clear());
        let mut first = true;
        self.call(|store| store.claim_limits(lease, now, if std::mem::take(&mut first) { call } else { &again }))
            .map_err(unknown)
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

impl Maintenance for Retrying {
    fn purge(&self, before: Time, from: RunRowId, limit: usize) -> Result<Purged, StoreError> {
        self.call(|store| store.purge(before, from, limit))
    }

    fn shrink(&self) -> Result<bool, StoreError> {
        self.call(|store| store.shrink())
    }

    fn warning(&self) -> Option<String> {
        self.inner.warning()
    }
}
