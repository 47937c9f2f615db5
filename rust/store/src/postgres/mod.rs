//! Runs in one PostgreSQL, which runners of several processes and hosts share.
//!
//! A process has at most four connections: one that writes, one that reads, one for leases, claims and hints, and one that
//! listens. All of them block: none may be used on a thread of an async runtime. Nothing here decides about runs: it reads and
//! writes rows. A commit is one statement and one round trip.

mod announce;
mod attempt;
mod cells;
mod changes;
mod claims;
mod clock;
mod columns;
mod connect;
mod convert;
mod create;
mod error;
mod events;
mod fields;
mod grants;
mod history;
mod lease;
mod limits;
mod listen;
mod listing;
mod look;
mod made;
mod messages;
mod named;
mod notify;
mod parts;
mod plans;
mod presence;
mod process;
mod purge;
mod read;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod refusals;
mod registry;
mod remembered;
mod schedules;
mod schema;
mod session;
mod stage;
mod statement;
mod tls;
mod transaction;
mod url;
mod watches;
mod workflow;
mod write;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bide_core::record::{NewRun, NewTask, RunRowId, StepRecord, StoredRun};
use bide_core::{Cancel, Failure, Message, RunId, RunStatus, StoredEvents, StoredMessage, Time, Value};
use bide_sync::Mutex;

use crate::changes::ChangeLog;
use crate::{
    Changes, Claimed, Clock, Commit, CommitId, Conversion, Converted, Creation, Database, EventRange, Lease, LeaseTime,
    Maintenance, Purged, RunFilter, Seen, Sent, Standing, Store, StoreError, StoredVersion, StoredWorkflow, Written,
};
use clock::{ServerClock, SharedClock};
use connect::Connections;
use listen::{Heard, Listener};
use notify::Notifier;
use presence::Presence;
use process::Process;
use remembered::{Late, Remembered};
use session::{Session, Text};
pub use url::Options;

/// A row of an index has room for about 2,700 bytes: a name, and the numbers beside it.
const LONGEST_NAME: usize = 2000;

const SCHEMA: &str = "SELECT to_regnamespace($1::text)::oid::int8, nextval('bide.process')";

/// Runs in one PostgreSQL. All runners of a process on one database and schema can share one of these.
pub struct PostgresStore {
    /// The store as it may be shown.
    name: String,
    connections: Arc<Connections>,
    /// The number of the schema in the database.
    schema: i64,
    /// This process, as its runners' rows name it.
    process: Process,
    /// What runners of this process poll for changes.
    changes: Arc<ChangeLog>,
    /// Which other processes are there.
    presence: Arc<Presence>,
    /// Sends hints to them.
    notifier: Arc<Notifier>,
    /// What the database is recognised by, and how often the server had lost commits when that was asked.
    database: Mutex<Option<(u64, String)>>,
    /// That a dead runner cannot be fenced, until it is reported.
    locked: Mutex<Option<String>>,
    /// Held for the thread that listens, which ends without it.
    _heard: Arc<Heard>,
    clock: Arc<ServerClock>,
    /// What is remembered of the rows.
    remembered: Arc<Remembered>,
    /// The statements of commits, by what they consist of.
    statements: Mutex<HashMap<statement::Shape, Arc<str>>>,
    /// When a lease of this process was last found to have run out.
    late: Late,
    /// Whether runs of this process may have shares of limits, which their ends release. Nobody else pays for limits.
    has_shares: AtomicBool,
}

impl PostgresStore {
    /// Connects, and makes or migrates the schema if need be.
    ///
    /// # Errors
    /// `Unavailable` with the reason and the remedy; `Disconnected` if the server is not there.
    pub fn open(options: &Options) -> Result<Arc<Self>, StoreError> {
        let name = options.name().to_owned();
        let remembered = Arc::new(Remembered::default());
        let connections = Arc::new(Connections::open(options, &remembered)?);
        let (schema, number) = connections.writer(|session| {
            schema::migrate(session, &name, options)?;
            let row = session.query_opt(SCHEMA, &[&Text::from(&*options.schema)])?;
            let Some(row) = row else { return Ok((0, 0)) };
            Ok((row.try_get(0)?, row.try_get(1)?))
        })?;
        let channel = format!("bide_{}", options.schema);
        let thread = |error: std::io::Error| {
            StoreError::Unavailable(format!("{name}: the thread that notifies cannot start ({error})"))
        };
        let notifier = Arc::new(Notifier::start(connections.clone(), channel.clone(), number).map_err(thread)?);
        let (changes, presence) = (Arc::new(ChangeLog::new(true)), Arc::new(Presence::default()));
        let heard =
            Arc::new(Heard { changes: changes.clone(), presence: presence.clone(), notifier: notifier.clone() });
        let clock = Arc::new(ServerClock::new());
        let listener = Listener {
            connections: connections.clone(),
            channel,
            schema,
            process: number,
            clock: clock.clone(),
            shared: Arc::downgrade(&heard),
        };
        listener.start()?;
        Ok(Arc::new(Self {
            name,
            connections,
            schema,
            process: Process::own(number),
            changes,
            presence,
            notifier,
            _heard: heard,
            clock,
            remembered,
            statements: Mutex::default(),
            late: Late::default(),
            database: Mutex::default(),
            locked: Mutex::default(),
            has_shares: AtomicBool::new(false),
        }))
    }

    fn name_str(&self) -> &str {
        &self.name
    }

    fn unavailable(&self, what: &str) -> StoreError {
        StoreError::Unavailable(format!("{}: {what}", self.name))
    }

    fn corrupt(&self, what: &str) -> StoreError {
        StoreError::Corrupt(format!("{}: {what}", self.name))
    }

    /// The names of a version, which never change.
    fn names_of(&self, session: &mut Session<'_>, version: i64) -> Result<(Arc<str>, Arc<str>), error::Failed> {
        if let Some(known) = self.remembered.names.lock().get(&version) {
            return Ok(known.clone());
        }
        let names = self.version_names(session, version)?;
        self.remembered.names.lock().insert(version, names.clone());
        Ok(names)
    }

    /// Fails if the server may have lost what this process has written under the lease: then what is in memory is ahead of
    /// the rows. Asked once there is a session, which may be a new one.
    fn check_history(&self, lease: Lease) -> Result<(), StoreError> {
        if self.connections.history().has_broken(lease) {
            return Err(StoreError::Fenced { runner: lease.runner });
        }
        Ok(())
    }
}

impl Store for PostgresStore {
    fn name(&self) -> &str {
        &self.name
    }

    fn blocks(&self) -> bool {
        true
    }

    fn clock(&self, here: Arc<dyn Clock>) -> Arc<dyn Clock> {
        Arc::new(SharedClock { here, server: self.clock.clone() })
    }

    fn may_repeat(&self) -> bool {
        true
    }

    fn history(&self) -> u64 {
        self.connections.breaks()
    }

    fn enroll(&self, now: LeaseTime) -> Result<Lease, StoreError> {
        self.insert_runner(now)
    }

    fn renew(&self, lease: Lease, now: LeaseTime) -> Result<(), StoreError> {
        self.prolong(lease, now)
    }

    fn leave(&self, lease: Lease) -> Result<(), StoreError> {
        self.delete_runner(lease)
    }

    fn register(&self, name: &str, version: &str, tasks: &[NewTask]) -> Result<StoredWorkflow, StoreError> {
        self.record_version(name, version, tasks)
    }

    fn declare(&self, version: i64, signals: Option<&[String]>) -> Result<(), StoreError> {
        self.record_signals(version, signals)
    }

    fn write(&self, lease: Lease, commit: &mut Commit<'_>) -> Result<Written, StoreError> {
        self.write_commit(lease, commit)
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn longest_name(&self) -> Option<usize> {
        Some(LONGEST_NAME)
    }

    fn has_others(&self) -> bool {
        self.presence.has_several()
    }

    fn give_back(&self, lease: Lease, runs: &[RunRowId]) -> Result<(), StoreError> {
        self.free_runs(lease, runs)
    }

    fn create_unowned(&self, runs: &[NewRun]) -> Result<Vec<Creation>, StoreError> {
        // The caller may wait for them: before they exist, so that no end is missed.
        self.notifier.watch();
        self.create_free(runs)
    }

    fn versions(&self, workflow: i64) -> Result<Vec<StoredVersion>, StoreError> {
        self.read_versions(workflow)
    }

    fn unowned(&self) -> Result<Vec<(i64, i64)>, StoreError> {
        self.unowned_versions()
    }

    fn claim_once(
        &self,
        id: CommitId,
        lease: Lease,
        versions: &[i64],
        now: LeaseTime,
        limit: usize,
    ) -> Result<Vec<RunId>, StoreError> {
        self.claim_runs(id, lease, versions, now, limit).map(|claimed| claimed.runs)
    }

    fn claim_reading(
        &self,
        id: CommitId,
        lease: Lease,
        versions: &[i64],
        now: LeaseTime,
        limit: usize,
    ) -> Result<Claimed, StoreError> {
        self.claim_runs(id, lease, versions, now, limit)
    }

    fn is_alive(&self, runner: i64, now: LeaseTime) -> Result<bool, StoreError> {
        self.runner_lives(runner, now)
    }

    fn load(&self, run: RunId) -> Result<Option<StoredRun>, StoreError> {
        self.read_run(run)
    }

    fn load_many(&self, runs: &[RunId]) -> Result<Vec<StoredRun>, StoreError> {
        self.read_runs(runs)
    }

    fn standing(&self, run: RunId) -> Result<Option<Standing>, StoreError> {
        // Before the look, so that no end in between is missed.
        self.notifier.watch();
        Ok(self.read_standings(&[run])?.pop().flatten())
    }

    fn standings(&self, runs: &[RunId]) -> Result<Vec<Option<Standing>>, StoreError> {
        self.notifier.watch();
        self.read_standings(runs)
    }

    fn by_key(&self, key: &str, workflow: Option<&str>) -> Result<Vec<(RunId, Arc<str>)>, StoreError> {
        self.read_key(key, workflow)
    }

    fn list(&self, filter: &RunFilter) -> Result<Vec<StoredRun>, StoreError> {
        self.read_list(filter)
    }

    fn events(&self, run: RunId, channel: &str, range: EventRange) -> Result<Option<Vec<StoredEvents>>, StoreError> {
        self.read_events(run, channel, range)
    }

    fn children(&self, run: RunId) -> Result<Vec<(RunId, RunStatus)>, StoreError> {
        self.read_children(run)
    }

    fn delete(&self, run: RunId) -> Result<bool, StoreError> {
        self.delete_one(run)
    }

    fn unowned_of(&self, version: i64) -> Result<Vec<RunId>, StoreError> {
        self.read_unowned_of(version)
    }

    fn convert(&self, run: RunId, conversion: &Conversion) -> Result<Converted, StoreError> {
        self.convert_run(run, conversion)
    }

    fn end_unowned(&self, run: RunId, cancel: &Cancel, force: &Message) -> Result<bool, StoreError> {
        self.end_cancelled(run, cancel, force)
    }

    fn send(&self, run: RunId, message: &Message) -> Result<Sent, StoreError> {
        self.store_message(run, message)
    }

    fn messages(&self, run: RunId, after: i64) -> Result<Vec<StoredMessage>, StoreError> {
        self.read_messages(run, after)
    }

    fn mail(&self, after: i64) -> Result<Vec<(i64, RunRowId)>, StoreError> {
        self.read_mail(after)
    }

    fn answer(&self, run: RunId, request: i64) -> Result<Option<Result<Value, Failure>>, StoreError> {
        self.read_answer(run, request)
    }

    fn wait_for_changes(&self, seen: Seen, timeout: Duration) -> Result<Changes, StoreError> {
        self.changes.wait_for(seen, timeout);
        Ok(self.changes.since(seen))
    }

    fn database(&self) -> Result<Option<Database>, StoreError> {
        self.read_database().map(Some)
    }

    fn record_statement(&self, lease: Lease, record: &StepRecord, marker: &str) -> Option<String> {
        Some(self.statement_of_record(lease, record, marker))
    }

    fn recorded_step(&self, lease: Lease, record: &StepRecord) -> Result<Option<Value>, StoreError> {
        self.read_recorded_step(lease, record)
    }

    fn interrupt_waits(&self) {
        self.changes.interrupt();
    }
}

impl Maintenance for PostgresStore {
    fn purge(&self, before: Time, from: RunRowId, limit: usize) -> Result<Purged, StoreError> {
        self.delete_ended(before, from, limit)
    }

    /// The server itself does that.
    fn shrink(&self) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn warning(&self) -> Option<String> {
        let history = || self.connections.history().warning(&self.name);
        self.locked.lock().take().or_else(history).or_else(|| self.clock.warning(&self.name))
    }
}
