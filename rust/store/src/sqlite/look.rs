//! Reading what is under way in all runs: open waits, runners, runs that nobody has.

use std::sync::Arc;

use bide_core::record::StoredRun;
use bide_core::{Message, RunId, Time};
use rusqlite::{OptionalExtension, Row, params};

use super::SqliteStore;
use super::fields::Fields;
use super::read::entry;
use crate::{Look, OpenWait, RunnerInfo, StoreError, UnownedRuns, WaitPosition};

// CROSS JOIN keeps the order: along the open entries, and a look into three tables for each. Entries of a task that has
// ended, or of a run that has, may have been left open.
const OPEN_WAITS: &str = "SELECT j.task, j.map, j.name, j.n, j.seq, j.kind, j.state, j.opened_at, j.closed_at, j.due, \
     j.deadline, j.proof, j.value, j.failure, r.uuid, r.key, w.name, n.name \
     FROM journal j INDEXED BY journal_open CROSS JOIN run r ON r.id = j.run \
     LEFT JOIN task t ON t.run = j.run AND t.task = j.task AND t.map = j.map \
     LEFT JOIN workflow w ON w.id = r.workflow \
     LEFT JOIN task_name n ON n.workflow = r.workflow AND n.task = j.task \
     WHERE j.state = 0 AND (j.opened_at, j.run, j.task, j.map, j.seq) > (?1, ?2, ?3, ?4, ?5) \
     AND r.status < 3 AND (t.status IS NULL OR t.status < 3) AND (j.kind <> 3 OR j.due IS NOT NULL) \
     ORDER BY j.opened_at, j.run, j.task, j.map, j.seq LIMIT ?6";
const RUNNER_INFO: &str = "SELECT pid, host, started_at FROM runner WHERE id = ?1 AND expires IS NOT NULL";
// With min(), the other columns are those of the row that has it.
const UNOWNED_RUNS: &str = "SELECT w.name, v.hash, count(*), min(r.id), r.uuid FROM run r INDEXED BY run_open \
     LEFT JOIN workflow w ON w.id = r.workflow LEFT JOIN version v ON v.id = r.version \
     WHERE r.status < 3 AND r.runner IS NULL AND (r.status <> 2 OR r.held) GROUP BY r.workflow, r.version";

/// For the test that no hot statement scans a table.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[OPEN_WAITS, RUNNER_INFO, UNOWNED_RUNS];
/// For the test that a page of open waits takes as long as any other.
#[cfg(test)]
pub(super) const PAGE: &str = OPEN_WAITS;

impl Look for SqliteStore {
    fn open_waits(&self, after: Option<WaitPosition>, most: usize) -> Result<Vec<OpenWait>, StoreError> {
        let explain = |error: rusqlite::Error| self.identity.error(&error);
        let reader = self.reader()?;
        let mut statement = reader.prepare_cached(OPEN_WAITS).map_err(explain)?;
        let first = WaitPosition { opened_at: Time(i64::MIN), run: i64::MIN, task: i64::MIN, map: i32::MIN, seq: 0 };
        let WaitPosition { opened_at, run, task, map, seq } = after.unwrap_or(first);
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let mut rows = statement.query(params![opened_at.0, run, task, map, seq, most]).map_err(explain)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(explain)? {
            found.push(self.open_wait(row)?);
        }
        Ok(found)
    }

    fn load_open(&self, run: RunId) -> Result<Option<StoredRun>, StoreError> {
        self.read_open_run(run)
    }

    fn requests(&self, run: RunId) -> Result<Vec<Message>, StoreError> {
        self.read_requests(run)
    }

    fn channels(&self, run: RunId) -> Result<Vec<Arc<str>>, StoreError> {
        self.read_channels(run)
    }

    fn runner(&self, runner: i64) -> Result<Option<RunnerInfo>, StoreError> {
        let reader = self.reader()?;
        let read = || -> rusqlite::Result<Option<RunnerInfo>> {
            let mut statement = reader.prepare_cached(RUNNER_INFO)?;
            let info =
                |row: &Row<'_>| Ok(RunnerInfo { pid: row.get(0)?, host: row.get(1)?, started_at: Time(row.get(2)?) });
            statement.query_row([runner], info).optional()
        };
        read().map_err(|error| self.identity.error(&error))
    }

    fn unowned_runs(&self) -> Result<Vec<UnownedRuns>, StoreError> {
        let explain = |error: rusqlite::Error| self.identity.error(&error);
        let reader = self.reader()?;
        let mut statement = reader.prepare_cached(UNOWNED_RUNS).map_err(explain)?;
        let mut rows = statement.query([]).map_err(explain)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(explain)? {
            let uuid: Vec<u8> = row.get(4).map_err(explain)?;
            let example: RunId = self.uuid(&uuid)?;
            let fields = Fields { row, identity: &self.identity.name, run: example, table: "run" };
            let count = fields.get::<i64>(2, "id")?.unsigned_abs();
            let (workflow, version) = (fields.get(0, "workflow")?, fields.get(1, "version")?);
            found.push(UnownedRuns { workflow, version, count, example });
        }
        Ok(found)
    }
}

impl SqliteStore {
    fn open_wait(&self, row: &Row<'_>) -> Result<OpenWait, StoreError> {
        let uuid: Vec<u8> = row.get(14).map_err(|error| self.identity.error(&error))?;
        let run = self.uuid(&uuid)?;
        let fields = Fields { row, identity: &self.identity.name, run, table: "journal" };
        let (task, map, entry) = entry(&fields)?;
        let key = fields.text(15, "key")?;
        Ok(OpenWait {
            run,
            key,
            workflow: fields.get(16, "workflow")?,
            task,
            map,
            name: fields.get(17, "task")?,
            entry,
        })
    }
}
