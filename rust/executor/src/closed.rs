//! The store of an engine that was closed: it replaces the real one, so that a handle or result that outlives the
//! engine does not keep the file open.

use std::sync::Arc;
use std::time::Duration;

use bide_core::record::{NewRun, NewTask, RunRowId, StepRecord, StoredRun};
use bide_core::{Cancel, Failure, LimitSpec, Message, RunId, RunStatus, StoredEvents, StoredMessage, Time, Value};
use bide_store::{
    Changes, Commit, CommitId, Conversion, Converted, Creation, Database, EventRange, Lease, LeaseTime, LimitCall,
    LimitInfo, Limits, LineAnswers, Look, Maintenance, OpenWait, Purged, RunFilter, RunnerInfo, ScheduleChange,
    ScheduleChanged, Schedules, Seen, Sent, Standing, Store, StoreError, StoredSchedule, StoredVersion, StoredWatch,
    StoredWorkflow, UnownedRuns, WaitPosition, WatchChange, WatchChanged, Watches, Written,
};

/// A store that was released.
pub(crate) struct Closed {
    /// The name of the released store, for errors.
    pub(crate) name: String,
}

impl Closed {
    fn refuse<T>(&self) -> Result<T, StoreError> {
        Err(StoreError::Closed { store: self.name.clone() })
    }
}

impl Store for Closed {
    fn name(&self) -> &str {
        &self.name
    }

    fn blocks(&self) -> bool {
        false
    }

    fn enroll(&self, _now: LeaseTime) -> Result<Lease, StoreError> {
        self.refuse()
    }

    fn renew(&self, _lease: Lease, _now: LeaseTime) -> Result<(), StoreError> {
        self.refuse()
    }

    fn leave(&self, _lease: Lease) -> Result<(), StoreError> {
        self.refuse()
    }

    fn register(&self, _name: &str, _version: &str, _tasks: &[NewTask]) -> Result<StoredWorkflow, StoreError> {
        self.refuse()
    }

    fn write(&self, _lease: Lease, _commit: &mut Commit<'_>) -> Result<Written, StoreError> {
        self.refuse()
    }

    fn give_back(&self, _lease: Lease, _runs: &[RunRowId]) -> Result<(), StoreError> {
        self.refuse()
    }

    fn create_unowned(&self, _runs: &[NewRun]) -> Result<Vec<Creation>, StoreError> {
        self.refuse()
    }

    fn database(&self) -> Result<Option<Database>, StoreError> {
        self.refuse()
    }

    fn recorded_step(&self, _lease: Lease, _record: &StepRecord) -> Result<Option<Value>, StoreError> {
        self.refuse()
    }

    fn versions(&self, _workflow: i64) -> Result<Vec<StoredVersion>, StoreError> {
        self.refuse()
    }

    fn unowned(&self) -> Result<Vec<(i64, i64)>, StoreError> {
        self.refuse()
    }

    fn claim_once(
        &self,
        _id: CommitId,
        _lease: Lease,
        _versions: &[i64],
        _now: LeaseTime,
        _limit: usize,
    ) -> Result<Vec<RunId>, StoreError> {
        self.refuse()
    }

    fn is_alive(&self, _runner: i64, _now: LeaseTime) -> Result<bool, StoreError> {
        self.refuse()
    }

    fn load(&self, _run: RunId) -> Result<Option<StoredRun>, StoreError> {
        self.refuse()
    }

    fn standing(&self, _run: RunId) -> Result<Option<Standing>, StoreError> {
        self.refuse()
    }

    fn by_key(&self, _key: &str, _workflow: Option<&str>) -> Result<Vec<(RunId, Arc<str>)>, StoreError> {
        self.refuse()
    }

    fn list(&self, _filter: &RunFilter) -> Result<Vec<StoredRun>, StoreError> {
        self.refuse()
    }

    fn events(&self, _run: RunId, _channel: &str, _range: EventRange) -> Result<Option<Vec<StoredEvents>>, StoreError> {
        self.refuse()
    }

    fn children(&self, _run: RunId) -> Result<Vec<(RunId, RunStatus)>, StoreError> {
        self.refuse()
    }

    fn delete(&self, _run: RunId) -> Result<bool, StoreError> {
        self.refuse()
    }

    fn declare(&self, _version: i64, _signals: Option<&[String]>) -> Result<(), StoreError> {
        self.refuse()
    }

    fn send(&self, _run: RunId, _message: &Message) -> Result<Sent, StoreError> {
        self.refuse()
    }

    fn unowned_of(&self, _version: i64) -> Result<Vec<RunId>, StoreError> {
        self.refuse()
    }

    fn convert(&self, _run: RunId, _conversion: &Conversion) -> Result<Converted, StoreError> {
        self.refuse()
    }

    fn end_unowned(&self, _run: RunId, _cancel: &Cancel, _force: &Message) -> Result<bool, StoreError> {
        self.refuse()
    }

    fn messages(&self, _run: RunId, _after: i64) -> Result<Vec<StoredMessage>, StoreError> {
        self.refuse()
    }

    fn mail(&self, _after: i64) -> Result<Vec<(i64, RunRowId)>, StoreError> {
        self.refuse()
    }

    fn answer(&self, _run: RunId, _request: i64) -> Result<Option<Result<Value, Failure>>, StoreError> {
        self.refuse()
    }

    fn wait_for_changes(&self, _seen: Seen, _timeout: Duration) -> Result<Changes, StoreError> {
        self.refuse()
    }

    fn interrupt_waits(&self) {}
}

impl Look for Closed {
    fn open_waits(&self, _after: Option<WaitPosition>, _most: usize) -> Result<Vec<OpenWait>, StoreError> {
        self.refuse()
    }

    fn load_open(&self, _run: RunId) -> Result<Option<StoredRun>, StoreError> {
        self.refuse()
    }

    fn requests(&self, _run: RunId) -> Result<Vec<Message>, StoreError> {
        self.refuse()
    }

    fn channels(&self, _run: RunId) -> Result<Vec<Arc<str>>, StoreError> {
        self.refuse()
    }

    fn runner(&self, _runner: i64) -> Result<Option<RunnerInfo>, StoreError> {
        self.refuse()
    }

    fn unowned_runs(&self) -> Result<Vec<UnownedRuns>, StoreError> {
        self.refuse()
    }
}

impl Schedules for Closed {
    fn schedules(&self, _after: i64) -> Result<Vec<StoredSchedule>, StoreError> {
        self.refuse()
    }

    fn schedule(&self, _name: &str) -> Result<Option<StoredSchedule>, StoreError> {
        self.refuse()
    }

    fn change_schedules(&self, _changes: &[ScheduleChange]) -> Result<Vec<ScheduleChanged>, StoreError> {
        self.refuse()
    }
}

impl Watches for Closed {
    fn watches(&self) -> Result<Vec<StoredWatch>, StoreError> {
        self.refuse()
    }

    fn watch(&self, _name: &str) -> Result<Option<StoredWatch>, StoreError> {
        self.refuse()
    }

    fn change_watch(&self, _change: &WatchChange) -> Result<WatchChanged, StoreError> {
        self.refuse()
    }
}

impl Limits for Closed {
    fn define_limit(&self, _limit: &LimitSpec) -> Result<Option<LimitSpec>, StoreError> {
        self.refuse()
    }

    fn claim_limits(&self, _lease: Lease, _now: Time, _call: &LimitCall) -> Result<Vec<LineAnswers>, StoreError> {
        self.refuse()
    }

    fn purge_limits(&self, _now: Time) -> Result<(), StoreError> {
        self.refuse()
    }

    fn limits(&self, _now: Time) -> Result<Vec<LimitInfo>, StoreError> {
        self.refuse()
    }
}

impl Maintenance for Closed {
    fn purge(&self, _before: Time, _from: RunRowId, _limit: usize) -> Result<Purged, StoreError> {
        self.refuse()
    }

    fn shrink(&self) -> Result<bool, StoreError> {
        self.refuse()
    }
}
