//! The storage of runs: the [`Store`] trait and its implementations.
//!
//! Synchronous on purpose: the executor's threads call it while they hold nothing. Every store passes the one
//! conformance suite in bide-testkit.

#![expect(clippy::disallowed_methods, reason = "busy timeouts are measured here; times that are stored are passed in")]

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bide_core::record::{Batch, Committed, NewRun, NewTask, RunRowId, StepRecord, StoredRun};
use bide_core::{Cancel, Failure, Message, RunId, RunStatus, StoredEvents, StoredMessage, Time, Value};

mod changes;
mod clock;
mod commit;
mod convert;
mod error;
mod lease_time;
mod limits;
mod look;
mod maintenance;
pub mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;
mod ranges;
mod recorded;
mod schedules;
pub mod sqlite;
mod stored;
mod transfer;
mod watches;

pub use changes::{ChangedRuns, Changes, Seen};
pub use clock::Clock;
pub use commit::{Commit, CommitId, Creation, Written};
pub use convert::{Conversion, Converted};
pub use error::StoreError;
pub use lease_time::{Boot, LeaseTime, Uptime};
pub use limits::{
    Answer, LimitCall, LimitClaim, LimitInfo, LimitUse, Limits, LineAnswers, LineClaims, Moved, Passed, ShareId,
};
pub use look::{Look, OpenWait, RunnerInfo, UnownedRuns, WaitPosition};
pub use maintenance::{Maintenance, Purged};
pub use memory::{MemorySnapshot, MemoryStore};
#[cfg(feature = "postgres")]
pub use postgres::PostgresStore;
pub use schedules::{ScheduleChange, ScheduleChanged, Schedules, StoredSchedule};
pub use sqlite::SqliteStore;
pub use stored::{Claimed, EventRange, Standing, StoredVersion, StoredWorkflow};
pub use transfer::{Refusal, Transfer, transfer};
pub use watches::{StoredWatch, WatchChange, WatchChanged, WatchItem, Watches};

/// How long a lease lasts without being renewed.
pub const LEASE: Duration = Duration::from_secs(15);

/// A runner's right to execute its runs: a row number and the epoch that fences it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The runner's row.
    pub runner: i64,
    /// Raised by the runner that fences this one.
    pub epoch: i64,
}

impl Lease {
    /// Of those who have none: they claim no runs, but may release those of runners whose process has ended.
    pub const NONE: Self = Self { runner: 0, epoch: 0 };
}

/// How safe "committed" is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Survives the death of the process.
    #[default]
    Normal,
    /// Survives power loss too.
    Full,
}

/// Which runs to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    /// Only runs of this status.
    pub status: Option<RunStatus>,
    /// Only runs of this workflow.
    pub workflow: Option<String>,
    /// Only runs created at or after this time.
    pub since: Option<Time>,
    /// Only runs with all of these tags.
    pub tags: BTreeMap<Arc<str>, Arc<str>>,
    /// Only runs whose key begins so.
    pub key_prefix: Option<String>,
    /// Only runs that bodies of this one have started.
    pub parent: Option<RunId>,
    /// Only runs with ids from the first to the last of these: those with a beginning of an id, or a page of a listing.
    pub ids: Option<RangeInclusive<RunId>>,
    /// At most this many.
    pub limit: Option<usize>,
}

/// What became of a message that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is stored.
    Stored,
    /// A message with its id was sent before; of the answer to a callback, the same answer.
    Duplicate,
    /// The callback has another answer already.
    Answered,
    /// It is the answer to a callback, and another message has its id.
    IdTaken,
    /// The run has ended.
    Ended(RunStatus),
    /// There is no such run.
    NoRun,
    /// The run has no such callback.
    NoCallback,
    /// The run's workflow declares these signals, and not this one.
    Undeclared(Vec<String>),
}

/// How the database that a store is in is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// An SQL expression for a text.
    pub question: String,
    /// What that is in the store's database, and in no other.
    pub answer: String,
}

/// Where runs live. All methods may block; none may be called with a lock held that a body could want.
pub trait Store: Maintenance + Look + Limits + Schedules + Watches + Send + Sync + 'static {
    /// The store as the user may see it: secrets redacted.
    fn name(&self) -> &str;

    /// Whether a commit can take long enough that an async runtime's thread should not make it.
    fn blocks(&self) -> bool;

    /// The clock by which leases and all times that are written here count, for a caller whose machine has this clock.
    /// A store on one machine takes that; one that several machines share has its server's time, without asking the
    /// server each time: then a clock that is wrong on one of them moves no deadline and ends no lease.
    fn clock(&self, here: Arc<dyn Clock>) -> Arc<dyn Clock> {
        here
    }

    /// Whether a call that failed as [`StoreError::Disconnected`] can be made again with the same arguments, a commit
    /// or claim with the same id: it is carried out once, and the answer is as if the connection had held. A file is
    /// never disconnected.
    fn may_repeat(&self) -> bool {
        false
    }

    /// Whether a call is being repeated because its connection was lost: others have to wait, too.
    fn is_away(&self) -> bool {
        false
    }

    /// Whether runners on several hosts share the work in it: then one takes only what its slots can soon execute.
    fn is_shared(&self) -> bool {
        false
    }

    /// Whether there are several runners now, as far as is known: that may be a second behind.
    fn has_others(&self) -> bool {
        false
    }

    /// How many bytes a name, key or id may have; `None`: any number. A longer one would fail the commit that has it.
    fn longest_name(&self) -> Option<usize> {
        None
    }

    /// How often it has lost commits that it had confirmed, or may have, as by a fail-over to a standby that lagged behind.
    /// Nothing that was read before counts then: every lease of this process is lost, and numbers of rows, messages and
    /// versions may come again. What can be lost with the process alone is never lost so.
    fn history(&self) -> u64 {
        0
    }

    /// Registers a runner and gives it a lease.
    ///
    /// # Errors
    /// Any [`StoreError`] but `Fenced`.
    fn enroll(&self, now: LeaseTime) -> Result<Lease, StoreError>;

    /// Prolongs a lease.
    ///
    /// # Errors
    /// `Fenced` if it was lost.
    fn renew(&self, lease: Lease, now: LeaseTime) -> Result<(), StoreError>;

    /// Releases a lease: its unfinished runs have no owner then and can be claimed at once.
    ///
    /// # Errors
    /// Any [`StoreError`]; a lost lease is not an error.
    fn leave(&self, lease: Lease) -> Result<(), StoreError>;

    /// Records a workflow version (name, hash of the graph, tasks in declaration order) if it is new, and returns the
    /// numbers of workflow, version and tasks. Task numbers are dense within the workflow, from 0, and the same for a
    /// name in every version.
    ///
    /// # Errors
    /// Any [`StoreError`] but `Fenced`.
    fn register(&self, name: &str, version: &str, tasks: &[NewTask]) -> Result<StoredWorkflow, StoreError>;

    /// Records the signals that a workflow version declares from now on; `None`: it understands any.
    ///
    /// # Errors
    /// Any [`StoreError`] but `Fenced`.
    fn declare(&self, version: i64, signals: Option<&[String]>) -> Result<(), StoreError>;

    /// Creates the runs of a commit's requests, each in status `Running` and belonging to the lease, and makes the
    /// commit's writes, all in one transaction, if the lease still holds. An empty commit only asks about the lease.
    ///
    /// A run whose key exists already (before or earlier in the same commit) is not created: the answer has the run
    /// that is there. If that has other inputs (their bytes are compared), none of its request is created; nor if a row
    /// number is taken. Writes to runs that are not created are skipped. The same id again is `Created` while the lease
    /// has that run, so that a creation of unknown outcome can be repeated.
    ///
    /// An id's milliseconds are those of `created_at`, give or take a minute: row numbers stand for time.
    ///
    /// # Errors
    /// Any [`StoreError`]; except for `Unknown` nothing was written.
    fn write(&self, lease: Lease, commit: &mut Commit<'_>) -> Result<Written, StoreError>;

    /// A commit of one request and nothing else: see [`Store::write`].
    ///
    /// # Errors
    /// Any [`StoreError`]; then none is created (`Unknown`: look again).
    fn create(&self, lease: Lease, runs: &[NewRun]) -> Result<Vec<Creation>, StoreError> {
        Ok(self
            .write(lease, &mut Commit::new(CommitId::unique(), &[runs], &mut Batch::new()))?
            .creations
            .pop()
            .unwrap_or_default())
    }

    /// A commit that creates nothing: see [`Store::write`].
    ///
    /// # Errors
    /// Any [`StoreError`]; except for `Unknown` nothing was written.
    fn commit(&self, lease: Lease, batch: &mut Batch) -> Result<Committed, StoreError> {
        Ok(self.write(lease, &mut Commit::of(batch))?.committed)
    }

    /// Creates runs that belong to nobody, all that do not exist or none: a runner that has their workflow claims them. By
    /// those who execute nothing. Otherwise as [`Store::create`].
    ///
    /// # Errors
    /// Any [`StoreError`] but `Fenced`; then none is created (`Unknown`: make the call again).
    fn create_unowned(&self, runs: &[NewRun]) -> Result<Vec<Creation>, StoreError>;

    /// The versions of a workflow that any run was ever created with.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn versions(&self, workflow: i64) -> Result<Vec<StoredVersion>, StoreError>;

    /// The workflow versions, each with its workflow, that have unfinished, not paused runs without an owner. Takes
    /// time for each of them, and none for workflows without such runs. A dead runner's runs have no owner after any
    /// claim, even one of no version.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn unowned(&self) -> Result<Vec<(i64, i64)>, StoreError>;

    /// Gives this lease unfinished, not paused runs of these workflow versions that have no owner or belong to a dead
    /// runner or to one whose lease has run out (such runners are fenced first), oldest first, at most `limit`. With
    /// [`Lease::NONE`], `limit` is 0, and only runners whose process has ended are fenced.
    ///
    /// # Errors
    /// Any [`StoreError`]; then none was claimed.
    fn claim(&self, lease: Lease, versions: &[i64], now: LeaseTime, limit: usize) -> Result<Vec<RunId>, StoreError> {
        self.claim_once(CommitId::unique(), lease, versions, now, limit)
    }

    /// As [`Store::claim`], with an id: the same for each try of the same claim.
    ///
    /// # Errors
    /// As [`Store::claim`].
    fn claim_once(
        &self,
        id: CommitId,
        lease: Lease,
        versions: &[i64],
        now: LeaseTime,
        limit: usize,
    ) -> Result<Vec<RunId>, StoreError>;

    /// As [`Store::claim_once`], by which a store may also read the claimed runs that are as they were created: they need
    /// no second look.
    ///
    /// # Errors
    /// As [`Store::claim`].
    fn claim_reading(
        &self,
        id: CommitId,
        lease: Lease,
        versions: &[i64],
        now: LeaseTime,
        limit: usize,
    ) -> Result<Claimed, StoreError> {
        Ok(Claimed { runs: self.claim_once(id, lease, versions, now, limit)?, new: Vec::new() })
    }

    /// These runs of the lease belong to nobody from now on, as if they had just been created: nothing is recorded of
    /// them. What belongs to others or has ended stays as it is.
    ///
    /// # Errors
    /// Any [`StoreError`]; except for `Unknown` nothing was written. The call can be made again.
    fn give_back(&self, lease: Lease, runs: &[RunRowId]) -> Result<(), StoreError>;

    /// Whether a runner is there to execute its runs: its process lives and its lease has not run out.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn is_alive(&self, runner: i64, now: LeaseTime) -> Result<bool, StoreError>;

    /// A run with all that was recorded of it.
    ///
    /// # Errors
    /// `Corrupt` if a row does not read back, else `Unavailable`.
    fn load(&self, run: RunId) -> Result<Option<StoredRun>, StoreError>;

    /// Several runs as [`Store::load`] reads them, in any order; those that are not there are left out. For those who have
    /// claimed them.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn load_many(&self, runs: &[RunId]) -> Result<Vec<StoredRun>, StoreError> {
        runs.iter().filter_map(|run| self.load(*run).transpose()).collect()
    }

    /// Where a run stands: for those who watch it, again and again.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn standing(&self, run: RunId) -> Result<Option<Standing>, StoreError>;

    /// Where several runs stand, in their order.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn standings(&self, runs: &[RunId]) -> Result<Vec<Option<Standing>>, StoreError> {
        runs.iter().map(|run| self.standing(*run)).collect()
    }

    /// The ids of the runs with this key: one per workflow, or of the one workflow named.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn by_key(&self, key: &str, workflow: Option<&str>) -> Result<Vec<(RunId, Arc<str>)>, StoreError>;

    /// Runs as [`Store::load`] reads them, but without messages and children, newest first: all of one moment, and in
    /// one round trip.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn list(&self, filter: &RunFilter) -> Result<Vec<StoredRun>, StoreError>;

    /// The events of a channel of a run, in the order of their offsets; an empty list for a channel that nothing was
    /// emitted to. `None` if there is no such run. The first row may begin before the range.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn events(&self, run: RunId, channel: &str, range: EventRange) -> Result<Option<Vec<StoredEvents>>, StoreError>;

    /// The runs that the bodies of a run have started, with their statuses, in order of creation.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn children(&self, run: RunId) -> Result<Vec<(RunId, RunStatus)>, StoreError>;

    /// Deletes one ended run, with all runs below it. False if there is none or it or one of those has not ended, and
    /// for a child: that is kept as long as its parent is.
    ///
    /// # Errors
    /// Any [`StoreError`] but `Fenced`.
    fn delete(&self, run: RunId) -> Result<bool, StoreError>;

    /// Stores a message to a run for its owner, now or later. The owner itself writes the messages that it sends with
    /// its commits. If calls may be repeated ([`Store::may_repeat`]), the same message again, known by its number, has
    /// the outcome of the first call, also once it was consumed. The first answer to a callback stands, also once its
    /// run has ended.
    ///
    /// A control request may reopen a run that has ended or stopped ([`bide_core::Ask::reopens`]): it is Running again,
    /// without an owner.
    ///
    /// # Errors
    /// Any [`StoreError`] but `Fenced`; except for `Unknown` nothing was written.
    fn send(&self, run: RunId, message: &Message) -> Result<Sent, StoreError>;

    /// Ends a run that nobody executes as cancelled, at once, with all of its tasks that have not ended. `force` is the
    /// request, which is kept as acted on. False if it has ended, or a runner has it: that is to do it.
    ///
    /// # Errors
    /// Any [`StoreError`] but `Fenced`; except for `Unknown` nothing was written.
    fn end_unowned(&self, run: RunId, cancel: &Cancel, force: &Message) -> Result<bool, StoreError>;

    /// The runs of a workflow version that have no owner and have neither ended nor stopped, oldest first.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn unowned_of(&self, version: i64) -> Result<Vec<RunId>, StoreError>;

    /// Has a run that nobody executes belong to another version from now on, in one commit.
    ///
    /// # Errors
    /// Any [`StoreError`] but `Fenced`; except for `Unknown` nothing was written.
    fn convert(&self, run: RunId, conversion: &Conversion) -> Result<Converted, StoreError>;

    /// The messages to a run that came after the one with this `seq`, in the order in which they came; consumed ones
    /// only as far as they are kept.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn messages(&self, run: RunId, after: i64) -> Result<Vec<StoredMessage>, StoreError>;

    /// A number that is another one after a message to any run may have come by other ways than [`Store::write`] of this
    /// store: a caller that has read a run's messages since it first saw this number need not read them again. `None`
    /// says nothing. It is cheaper than to read, and waits for nobody.
    fn arrivals(&self) -> Option<u64> {
        None
    }

    /// The messages to any run that came after the one with this `seq`, each as its `seq` and its run's row number.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn mail(&self, after: i64) -> Result<Vec<(i64, RunRowId)>, StoreError>;

    /// The answer to the request with this number, once it has one: also after its run has ended.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn answer(&self, run: RunId, request: i64) -> Result<Option<Result<Value, Failure>>, StoreError>;

    /// Waits for changes, at most for `timeout`, and returns what has changed since the position `seen`. Of commits of
    /// the own process it returns the runs whose status they changed, and these end no wait. A runner keeps the new
    /// position once it has dealt with the changes, so that it misses none. With a timeout of zero it looks once and
    /// does not wait. It blocks no other call.
    ///
    /// # Errors
    /// As [`Store::load`]; `Unavailable` if the file is gone.
    fn wait_for_changes(&self, seen: Seen, timeout: Duration) -> Result<Changes, StoreError>;

    /// How a transaction of the user's finds out whether it is one of the database that this store is in; `None` for a
    /// store in which nobody else writes. Then a step can be recorded by such a transaction: see
    /// [`Store::record_statement`].
    ///
    /// # Errors
    /// As [`Store::load`].
    fn database(&self) -> Result<Option<Database>, StoreError> {
        Ok(None)
    }

    /// The statement by which a transaction of the user's in the same database records a step, if the lease holds until
    /// it is committed and `marker` is set in it still. Its row has three numbers: whether the lease holds, whether the
    /// marker is set, and how many records were written (none if there is one). `None` if there is no such database.
    fn record_statement(&self, _lease: Lease, _record: &StepRecord, _marker: &str) -> Option<String> {
        None
    }

    /// What is recorded under the key of a step, once every transaction has ended that had begun to record a step under
    /// this lease: for a transaction of the user's whose outcome is not known.
    ///
    /// # Errors
    /// `Fenced` if the lease was lost; else as [`Store::load`].
    fn recorded_step(&self, _lease: Lease, _record: &StepRecord) -> Result<Option<Value>, StoreError> {
        Ok(None)
    }

    /// Ends all waits for changes that are under way, and the next one of each runner that did not wait: for a runner
    /// that stops.
    fn interrupt_waits(&self);
}
