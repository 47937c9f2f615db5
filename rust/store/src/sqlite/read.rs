//! Reading runs. A row that does not read back is `Corrupt`, naming run and column; nothing here panics on a file.

use std::collections::HashMap;
use std::sync::Arc;

use bide_core::record::{Mark, RecordedTask, RunRow, RunRowId, StoredRun};
use bide_core::{
    BlockReason, Cancel, Damage, Entry, EntryKey, EntryKind, EntryState, Operation, RunId, RunOptions, RunStatus,
    SubStatus, TaskId, TaskRow, TaskStatus, Time,
};
use bide_sync::Mutex;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::SqliteStore;
use super::events::{PROGRESS_OF, PROGRESS_OF_ALL, progress_row};
use super::fields::Fields;
use super::listing;
use super::messages::{self, ALL_MESSAGES};
use crate::recorded::parse_tasks;
use crate::{RunFilter, Standing, StoreError, StoredVersion};

/// The task lists of the versions read so far; they never change.
pub(super) type Versions = Mutex<HashMap<i64, Arc<[RecordedTask]>>>;

macro_rules! run_columns {
    () => {
        "SELECT r.uuid, w.name, v.hash, r.key, r.status, r.inputs, r.failure, r.created_at, r.ended_at, r.blocked_by, \
         r.crashes, r.runner, r.version, p.uuid, r.depth, r.tags, r.priority, r.start_at, r.deadline, r.cancel FROM "
    };
}

macro_rules! run_joins {
    () => {
        "LEFT JOIN workflow w ON w.id = r.workflow LEFT JOIN version v ON v.id = r.version \
         LEFT JOIN run p ON p.id = r.parent "
    };
}

/// The columns of a run, and what they need beside the run `r`: for listings.
pub(super) const COLUMNS: &str = run_columns!();
/// See [`COLUMNS`].
pub(super) const JOINS: &str = run_joins!();
const RUN: &str = concat!(run_columns!(), "run r ", run_joins!(), "WHERE r.id = ?1 AND r.uuid = ?2");
const STANDING: &str = "SELECT r.status, w.name, v.hash, r.runner, r.held FROM run r \
     LEFT JOIN workflow w ON w.id = r.workflow LEFT JOIN version v ON v.id = r.version WHERE r.id = ?1 AND r.uuid = ?2";
macro_rules! task_columns {
    () => {
        "SELECT task, map, status, output, started_at, ended_at, first_started_at, attempts, entered, waited, \
         sub_status, changes, failure, retry_at, blocked_by, length, run FROM task "
    };
}

macro_rules! journal_columns {
    () => {
        "SELECT task, map, name, n, seq, kind, state, opened_at, closed_at, due, deadline, proof, value, failure, run \
         FROM journal "
    };
}

const CHILDREN: &str = "SELECT uuid, status FROM run WHERE parent = ?1 ORDER BY id";
const TASKS: &str = concat!(task_columns!(), "WHERE run = ?1 ORDER BY task, map");
const JOURNAL: &str = concat!(journal_columns!(), "WHERE run = ?1 ORDER BY task, map, seq");
/// What a run has not ended, without what only ends show.
const OPEN_TASKS: &str = "SELECT task, map, status, NULL, started_at, ended_at, first_started_at, attempts, entered, \
     waited, sub_status, NULL, CASE WHEN status < 3 THEN failure END, retry_at, blocked_by, length, run FROM task \
     WHERE run = ?1 ORDER BY task, map";
const OPEN_ENTRIES: &str = concat!(journal_columns!(), "WHERE run = ?1 AND state = 0 ORDER BY task, map, seq");
/// Of all runs of a JSON array of row numbers.
const TASKS_OF_ALL: &str =
    concat!(task_columns!(), "WHERE run IN (SELECT value FROM json_each(?1)) ORDER BY run, task, map");
const JOURNAL_OF_ALL: &str =
    concat!(journal_columns!(), "WHERE run IN (SELECT value FROM json_each(?1)) ORDER BY run, task, map, seq");
// CROSS JOIN keeps the order: the few workflows first, then one look into the index of keys for each.
const KEY: &str = "SELECT r.uuid, w.name FROM workflow w CROSS JOIN run r \
     WHERE r.workflow = w.id AND r.key = ?1 ORDER BY w.id";
const KEY_OF: &str = "SELECT r.uuid, w.name FROM workflow w CROSS JOIN run r \
     WHERE w.name = ?2 AND r.workflow = w.id AND r.key = ?1";
const VERSION: &str = "SELECT tasks FROM version WHERE id = ?1";
const VERSIONS: &str = "SELECT id, hash FROM version WHERE workflow = ?1 ORDER BY id";

/// For the test that no hot statement scans a table (`KEY` walks the workflows, which are few).
#[cfg(test)]
pub(super) const HOT: &[&str] =
    &[RUN, STANDING, CHILDREN, TASKS, JOURNAL, OPEN_TASKS, OPEN_ENTRIES, KEY_OF, VERSION, VERSIONS];
/// The same for the look-up by key: it may walk `workflow` alone.
#[cfg(test)]
pub(super) const BY_KEY: &str = KEY;

/// And for what is read of all runs of a listing.
#[cfg(test)]
pub(super) const OF_ALL: &[&str] = &[TASKS_OF_ALL, JOURNAL_OF_ALL, PROGRESS_OF_ALL];

impl SqliteStore {
    fn explain(&self, error: rusqlite::Error) -> StoreError {
        self.identity.error(&error)
    }

    /// A run's id from its 16 bytes.
    pub(super) fn uuid(&self, bytes: &[u8]) -> Result<RunId, StoreError> {
        <[u8; 16]>::try_from(bytes).map(|bytes| RunId(u128::from_be_bytes(bytes))).map_err(|_| {
            let (name, length) = (&self.identity.name, bytes.len());
            StoreError::Corrupt(format!(
                "{name}: the column run.uuid of a run has {length} bytes instead of 16; the file was changed by other \
                 hands or is damaged"
            ))
        })
    }

    /// A run's row and the number of its version.
    pub(super) fn run_row(&self, connection: &Connection, id: RunId) -> Result<Option<(RunRow, i64)>, StoreError> {
        let mut statement = connection.prepare_cached(RUN).map_err(|error| self.explain(error))?;
        let mut rows =
            statement.query(params![id.row(), &id.0.to_be_bytes()[..]]).map_err(|error| self.explain(error))?;
        match rows.next().map_err(|error| self.explain(error))? {
            Some(row) => self.read_row(row).map(Some),
            None => Ok(None),
        }
    }

    fn read_row(&self, row: &Row<'_>) -> Result<(RunRow, i64), StoreError> {
        let uuid: Vec<u8> = row.get(0).map_err(|error| self.explain(error))?;
        let id = self.uuid(&uuid)?;
        let fields = Fields { row, identity: &self.identity.name, run: id, table: "run" };
        let run = RunRow {
            id,
            workflow: fields.get(1, "workflow")?,
            version: fields.get(2, "version")?,
            key: fields.text(3, "key")?,
            status: fields.code(4, "status", RunStatus::from_code)?,
            inputs: fields.get::<Vec<u8>>(5, "inputs")?.into(),
            failure: fields.failure(6, "failure")?,
            created_at: Time(fields.get(7, "created_at")?),
            ended_at: fields.time(8, "ended_at")?,
            blocked_by: fields.text(9, "blocked_by")?.map(BlockReason::from_stored),
            crashes: fields.get(10, "crashes")?,
            runner: fields.get(11, "runner")?,
            parent: fields.get::<Option<Vec<u8>>>(13, "parent")?.map(|uuid| self.uuid(&uuid)).transpose()?,
            depth: fields.get(14, "depth")?,
            options: options(&fields)?,
            cancel: cancel(&fields, 19)?,
        };
        Ok((run, fields.get(12, "version")?))
    }

    pub(super) fn recorded_tasks(
        &self,
        connection: &Connection,
        version: i64,
    ) -> Result<Arc<[RecordedTask]>, StoreError> {
        if let Some(known) = self.versions.lock().get(&version) {
            return Ok(known.clone());
        }
        let json: Option<String> = connection
            .prepare_cached(VERSION)
            .and_then(|mut statement| statement.query_row([version], |row| row.get(0)).optional())
            .map_err(|error| self.explain(error))?;
        let tasks = json.ok_or_else(|| "it is gone".to_owned()).and_then(|json| parse_tasks(&json));
        let tasks = tasks.map_err(|what| {
            let name = &self.identity.name;
            StoreError::Corrupt(format!("{name}: the column version.tasks of version {version}: {what}"))
        })?;
        self.versions.lock().insert(version, tasks.clone());
        Ok(tasks)
    }

    pub(super) fn read_run(&self, id: RunId) -> Result<Option<StoredRun>, StoreError> {
        let reader = self.reader()?;
        // One snapshot for all of the run.
        let _snapshot = reader.unchecked_transaction().map_err(|error| self.explain(error))?;
        let Some((run, version)) = self.run_row(&reader, id)? else { return Ok(None) };
        let tasks = self.recorded_tasks(&reader, version)?;
        let rows = self.read_all(&reader, TASKS, id, "task", task_row)?;
        let entries = self.read_all(&reader, JOURNAL, id, "journal", entry)?;
        let messages = self.read_all(&reader, ALL_MESSAGES, id, "message", messages::read)?;
        let progress = self.read_all(&reader, PROGRESS_OF, id, "progress", progress_row)?;
        let children = self.children_of(&reader, id)?;
        Ok(Some(StoredRun { run, tasks, rows, entries, messages, progress, children }))
    }

    /// As `read_run`, without what is not needed to say what holds the run.
    pub(super) fn read_open_run(&self, id: RunId) -> Result<Option<StoredRun>, StoreError> {
        let reader = self.reader()?;
        let _snapshot = reader.unchecked_transaction().map_err(|error| self.explain(error))?;
        let Some((run, version)) = self.run_row(&reader, id)? else { return Ok(None) };
        let tasks = self.recorded_tasks(&reader, version)?;
        let rows = self.read_all(&reader, OPEN_TASKS, id, "task", task_row)?;
        let entries = self.read_all(&reader, OPEN_ENTRIES, id, "journal", entry)?;
        let (messages, progress, children) = Default::default();
        Ok(Some(StoredRun { run, tasks, rows, entries, messages, progress, children }))
    }

    pub(super) fn read_requests(&self, id: RunId) -> Result<Vec<bide_core::Message>, StoreError> {
        let read = |fields: &Fields<'_>| messages::read(fields).map(|stored| stored.message);
        self.read_all(&*self.reader()?, messages::REQUESTS, id, "message", read)
    }

    pub(super) fn read_children(&self, id: RunId) -> Result<Vec<(RunId, RunStatus)>, StoreError> {
        let reader = self.reader()?;
        self.children_of(&reader, id)
    }

    fn children_of(&self, reader: &Connection, id: RunId) -> Result<Vec<(RunId, RunStatus)>, StoreError> {
        self.read_all(reader, CHILDREN, id, "run", |fields| {
            let uuid: Vec<u8> = fields.get(0, "uuid")?;
            Ok((self.uuid(&uuid)?, fields.code(1, "status", RunStatus::from_code)?))
        })
    }

    pub(super) fn read_standing(&self, id: RunId) -> Result<Option<Standing>, StoreError> {
        // Before the look, so that no end in between is missed.
        self.live()?.wake.watch();
        let reader = self.reader()?;
        let mut statement = reader.prepare_cached(STANDING).map_err(|error| self.explain(error))?;
        let mut rows =
            statement.query(params![id.row(), &id.0.to_be_bytes()[..]]).map_err(|error| self.explain(error))?;
        let Some(row) = rows.next().map_err(|error| self.explain(error))? else { return Ok(None) };
        let fields = Fields { row, identity: &self.identity.name, run: id, table: "run" };
        Ok(Some(Standing {
            status: fields.code(0, "status", RunStatus::from_code)?,
            workflow: fields.get(1, "workflow")?,
            version: fields.get(2, "version")?,
            runner: fields.get(3, "runner")?,
            held: fields.get(4, "held")?,
        }))
    }

    fn read_all<T>(
        &self,
        reader: &Connection,
        sql: &str,
        run: RunId,
        table: &'static str,
        read: impl Fn(&Fields<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut statement = reader.prepare_cached(sql).map_err(|error| self.explain(error))?;
        let mut rows = statement.query([run.row()]).map_err(|error| self.explain(error))?;
        let mut all = Vec::new();
        while let Some(row) = rows.next().map_err(|error| self.explain(error))? {
            all.push(read(&Fields { row, identity: &self.identity.name, run, table })?);
        }
        Ok(all)
    }

    pub(super) fn read_versions(&self, workflow: i64) -> Result<Vec<StoredVersion>, StoreError> {
        let reader = self.reader()?;
        let read = || -> rusqlite::Result<Vec<(i64, Arc<str>)>> {
            let mut statement = reader.prepare_cached(VERSIONS)?;
            statement.query_map([workflow], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        };
        let found = read().map_err(|error| self.explain(error))?;
        let tasks = |version| self.recorded_tasks(&reader, version);
        found.into_iter().map(|(version, hash)| Ok(StoredVersion { version, hash, tasks: tasks(version)? })).collect()
    }

    pub(super) fn read_key(&self, key: &str, workflow: Option<&str>) -> Result<Vec<(RunId, Arc<str>)>, StoreError> {
        let reader = self.reader()?;
        let read = || -> rusqlite::Result<Vec<(Vec<u8>, Arc<str>)>> {
            let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
            match workflow {
                None => reader.prepare_cached(KEY)?.query_map([key], read)?.collect(),
                Some(workflow) => reader.prepare_cached(KEY_OF)?.query_map([key, workflow], read)?.collect(),
            }
        };
        let found = read().map_err(|error| self.explain(error))?;
        found.into_iter().map(|(uuid, workflow)| Ok((self.uuid(&uuid)?, workflow))).collect()
    }

    /// Four statements, however many runs are listed.
    pub(super) fn read_list(&self, filter: &RunFilter) -> Result<Vec<StoredRun>, StoreError> {
        let reader = self.reader()?;
        // One snapshot for all of the runs.
        let _snapshot = reader.unchecked_transaction().map_err(|error| self.explain(error))?;
        let mut found = self.read_runs(&reader, filter)?;
        let numbers: HashMap<RunRowId, usize> =
            found.iter().enumerate().map(|(at, stored)| (stored.run.id.row(), at)).collect();
        let json = serde_json::Value::from_iter(numbers.keys().copied()).to_string();
        self.read_of_all(&reader, TASKS_OF_ALL, &json, 16, |run, row| {
            let Some(stored) = numbers.get(&run).and_then(|at| found.get_mut(*at)) else { return Ok(()) };
            let fields = Fields { row, identity: &self.identity.name, run: stored.run.id, table: "task" };
            stored.rows.push(task_row(&fields)?);
            Ok(())
        })?;
        self.read_of_all(&reader, JOURNAL_OF_ALL, &json, 14, |run, row| {
            let Some(stored) = numbers.get(&run).and_then(|at| found.get_mut(*at)) else { return Ok(()) };
            let fields = Fields { row, identity: &self.identity.name, run: stored.run.id, table: "journal" };
            stored.entries.push(entry(&fields)?);
            Ok(())
        })?;
        self.read_of_all(&reader, PROGRESS_OF_ALL, &json, 6, |run, row| {
            let Some(stored) = numbers.get(&run).and_then(|at| found.get_mut(*at)) else { return Ok(()) };
            let fields = Fields { row, identity: &self.identity.name, run: stored.run.id, table: "progress" };
            stored.progress.push(progress_row(&fields)?);
            Ok(())
        })?;
        Ok(found)
    }

    /// The rows of the runs alone.
    fn read_runs(&self, reader: &Connection, filter: &RunFilter) -> Result<Vec<StoredRun>, StoreError> {
        let few_open = listing::goes_along_open(reader, filter).map_err(|error| self.explain(error))?;
        let (sql, parameters) = listing::statement(filter, few_open);
        let mut statement = reader.prepare_cached(&sql).map_err(|error| self.explain(error))?;
        let mut rows = statement.query(rusqlite::params_from_iter(parameters)).map_err(|error| self.explain(error))?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(|error| self.explain(error))? {
            let (run, version) = self.read_row(row)?;
            let tasks = self.recorded_tasks(reader, version)?;
            let (rows, entries, messages, progress, children) = Default::default();
            found.push(StoredRun { run, tasks, rows, entries, messages, progress, children });
        }
        Ok(found)
    }

    /// Hands out rows that belong to several runs, each with the number of its run, which is the column `at`.
    fn read_of_all(
        &self,
        reader: &Connection,
        sql: &str,
        runs: &str,
        at: usize,
        mut read: impl FnMut(RunRowId, &Row<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut statement = reader.prepare_cached(sql).map_err(|error| self.explain(error))?;
        let mut rows = statement.query([runs]).map_err(|error| self.explain(error))?;
        while let Some(row) = rows.next().map_err(|error| self.explain(error))? {
            read(row.get(at).map_err(|error| self.explain(error))?, row)?;
        }
        Ok(())
    }
}

/// That a run was cancelled.
fn cancel(fields: &Fields<'_>, column: usize) -> Result<Option<Arc<Cancel>>, StoreError> {
    let Some(blob) = fields.blob(column, "cancel")? else { return Ok(None) };
    let cancel = Cancel::from_blob(&blob).map_err(|damage| fields.corrupt("cancel", &damage))?;
    Ok(Some(Arc::new(cancel)))
}

fn options(fields: &Fields<'_>) -> Result<RunOptions, StoreError> {
    let read = |json: String| {
        RunOptions::tags_from(&json).ok_or_else(|| fields.corrupt("tags", &"it is no JSON object of texts"))
    };
    Ok(RunOptions {
        tags: fields.get::<Option<String>>(15, "tags")?.map(read).transpose()?.unwrap_or_default(),
        priority: fields.get(16, "priority")?,
        start_at: fields.time(17, "start_at")?,
        deadline: fields.time(18, "deadline")?,
    })
}

fn task_row(fields: &Fields<'_>) -> Result<TaskRow, StoreError> {
    let started_at = fields.time(4, "started_at")?;
    let first_started_at = match fields.time(6, "first_started_at")? {
        Some(Time(-1)) => started_at,
        other => other,
    };
    let sub_status = fields.get::<Option<i64>>(10, "sub_status")?;
    Ok(TaskRow {
        run: fields.run.row(),
        task: fields.get(0, "task")?,
        map: fields.get(1, "map")?,
        length: fields.get(15, "length")?,
        status: fields.code(2, "status", TaskStatus::from_code)?,
        sub_status: sub_status.map(|_| fields.code(10, "sub_status", SubStatus::from_code)).transpose()?,
        attempts: fields.get(7, "attempts")?,
        mark: fields.code(8, "entered", Mark::from_code)?,
        output: fields.value(3, "output")?,
        changes: fields.blob(11, "changes")?,
        failure: fields.failure(12, "failure")?,
        first_started_at,
        started_at,
        ended_at: fields.time(5, "ended_at")?,
        waited: fields.get(9, "waited")?,
        retry_at: fields.time(13, "retry_at")?,
        blocked_by: fields.text(14, "blocked_by")?,
    })
}

pub(super) fn entry(fields: &Fields<'_>) -> Result<(TaskId, i32, Entry), StoreError> {
    let kind = fields.code(5, "kind", EntryKind::from_code)?;
    let operation = Operation::from_stored(kind, fields.blob(11, "proof")?, fields.time(9, "due")?);
    let entry = Entry {
        key: EntryKey { name: fields.get(2, "name")?, n: fields.get(3, "n")? },
        seq: fields.get(4, "seq")?,
        operation: operation.map_err(|damage| {
            let column = if damage == Damage::TimeWithoutDue { "due" } else { "proof" };
            fields.corrupt(column, &damage)
        })?,
        state: fields.code(6, "state", EntryState::from_code)?,
        deadline: fields.time(10, "deadline")?,
        value: fields.value(12, "value")?,
        failure: fields.failure(13, "failure")?.map(Box::new),
        opened_at: Time(fields.get(7, "opened_at")?),
        closed_at: fields.time(8, "closed_at")?,
    };
    Ok((fields.get(0, "task")?, fields.get(1, "map")?, entry))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::ffi::{c_int, c_uint, c_void};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bide_core::record::NewRun;
    use rusqlite::ffi;

    use super::*;
    use crate::{Durability, Store};

    static STATEMENTS: AtomicUsize = AtomicUsize::new(0);

    extern "C" fn count(_: c_uint, _: *mut c_void, _: *mut c_void, _: *mut c_void) -> c_int {
        STATEMENTS.fetch_add(1, Ordering::Relaxed);
        0
    }

    #[test]
    fn a_listing_takes_as_many_statements_for_a_thousand_runs_as_for_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("bide.db"), Durability::Normal).unwrap();
        let workflow = store.register("workflow", "v1", &[]).unwrap();
        let lease = store.enroll(Time(0).into()).unwrap();
        let new = |n| NewRun::new(RunId::new(n, 0, 0), workflow.number, workflow.version, Time(0));
        store.create(lease, &(0..1000).map(new).collect::<Vec<_>>()).unwrap();
        // SAFETY: the connection is alive; the function takes what SQLite hands it and keeps nothing.
        let traced = unsafe {
            let handle = store.reader().unwrap().handle();
            ffi::sqlite3_trace_v2(handle, ffi::SQLITE_TRACE_STMT as c_uint, Some(count), std::ptr::null_mut())
        };
        assert_eq!(traced, ffi::SQLITE_OK);
        let statements = |limit| {
            let before = STATEMENTS.load(Ordering::Relaxed);
            let filter = RunFilter { limit: Some(limit), ..RunFilter::default() };
            assert_eq!(store.list(&filter).unwrap().len(), limit);
            STATEMENTS.load(Ordering::Relaxed) - before
        };
        // The tasks of a version are read once.
        statements(1);
        assert_eq!((statements(1), statements(1000)), (6, 6), "BEGIN, four reads and ROLLBACK");
    }
}
