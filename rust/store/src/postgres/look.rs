//! Reading what is under way in all runs: open waits, runners, runs that nobody has.

use std::sync::Arc;

use bide_core::record::StoredRun;
use bide_core::{Message, RunId, Time};
use postgres::Row;

use super::PostgresStore;
use super::error::Failed;
use super::fields::{Fields, run_id};
use super::parts::{entry, entry_columns};
use super::session::Text;
use crate::{Look, OpenWait, RunnerInfo, StoreError, UnownedRuns, WaitPosition};

/// Along the open entries, and a look into three tables for each. Entries of a task that has ended, or of a run that has, may
/// have been left open.
const OPEN_WAITS: &str = concat!(
    "SELECT ",
    entry_columns!(),
    ", r.uuid, r.key, w.name, n.name FROM bide.journal j JOIN bide.run r ON r.id = j.run \
     LEFT JOIN bide.task t ON t.run = j.run AND t.task = j.task AND t.map = j.map \
     LEFT JOIN bide.workflow w ON w.id = r.workflow \
     LEFT JOIN bide.task_name n ON n.workflow = r.workflow AND n.task = j.task \
     WHERE j.state = 0 AND (j.opened_at, j.run, j.task, j.map, j.seq) > ($1::int8, $2::int8, $3::int8, $4::int8, $5::int8) \
     AND r.status < 3 AND (t.status IS NULL OR t.status < 3) AND (j.kind <> 3 OR j.due IS NOT NULL) \
     ORDER BY j.opened_at, j.run, j.task, j.map, j.seq LIMIT $6::int8"
);
const RUNNER_INFO: &str = "SELECT pid, host, started_at FROM bide.runner WHERE id = $1::int8 AND expires IS NOT NULL";
const UNOWNED_RUNS: &str = "SELECT w.name, v.hash, u.count, r.uuid FROM (SELECT version, count(*) AS count, min(id) AS first \
     FROM bide.run WHERE status < 3 AND runner IS NULL AND (status <> 2 OR held) GROUP BY version) u \
     JOIN bide.run r ON r.id = u.first LEFT JOIN bide.workflow w ON w.id = r.workflow \
     LEFT JOIN bide.version v ON v.id = u.version ORDER BY r.workflow, u.version";
/// From one version to the next: takes no time for the many runs of one of them.
const UNOWNED: &str = "WITH RECURSIVE v (id) AS ( \
     (SELECT version FROM bide.run WHERE status < 3 AND runner IS NULL AND (status <> 2 OR held) ORDER BY version LIMIT 1) \
     UNION ALL SELECT (SELECT r.version FROM bide.run r WHERE r.status < 3 AND r.runner IS NULL \
     AND (r.status <> 2 OR r.held) AND r.version > v.id ORDER BY r.version LIMIT 1) FROM v WHERE v.id IS NOT NULL) \
     SELECT o.workflow, o.id FROM v JOIN bide.version o ON o.id = v.id ORDER BY o.workflow, o.id";

impl Look for PostgresStore {
    fn open_waits(&self, after: Option<WaitPosition>, most: usize) -> Result<Vec<OpenWait>, StoreError> {
        let first = WaitPosition { opened_at: Time(i64::MIN), run: i64::MIN, task: i64::MIN, map: i32::MIN, seq: 0 };
        let WaitPosition { opened_at, run, task, map, seq } = after.unwrap_or(first);
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        self.connections.reader(|session| {
            let rows =
                session.query(OPEN_WAITS, &[&opened_at.0, &run, &task, &i64::from(map), &i64::from(seq), &most])?;
            rows.iter().map(|row| self.open_wait(row)).collect()
        })
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
        self.connections.reader(|session| {
            let Some(row) = session.query_opt(RUNNER_INFO, &[&runner])? else { return Ok(None) };
            let pid = u32::try_from(row.try_get::<_, i64>(0)?).unwrap_or(0);
            let host = row.try_get::<_, Text<'_>>(1)?.0.into_owned();
            Ok(Some(RunnerInfo { pid, host, started_at: Time(row.try_get(2)?) }))
        })
    }

    fn unowned_runs(&self) -> Result<Vec<UnownedRuns>, StoreError> {
        self.connections.reader(|session| {
            let rows = session.query(UNOWNED_RUNS, &[])?;
            let read = |row: &Row| {
                let text = |at| row.try_get::<_, Text<'_>>(at).map(|text| text.0.as_ref().into());
                let count = row.try_get::<_, i64>(2)?.unsigned_abs();
                Ok(UnownedRuns { workflow: text(0)?, version: text(1)?, count, example: run_id(row, 3)? })
            };
            rows.iter().map(read).collect()
        })
    }
}

impl PostgresStore {
    fn open_wait(&self, row: &Row) -> Result<OpenWait, Failed> {
        let run = run_id(row, 3)?;
        let fields = Fields::read(row, 0, self.name_str(), run, "journal")?;
        let (task, map, entry) = entry(&fields)?;
        let text = |at| row.try_get::<_, Option<Text<'_>>>(at).map(|text| text.map(|text| text.0.as_ref().into()));
        let there = |text: Option<_>, column| text.ok_or_else(|| fields.corrupt(column, &"it is NULL"));
        Ok(OpenWait {
            run,
            key: text(4)?,
            workflow: there(text(5)?, "workflow")?,
            task,
            map,
            name: there(text(6)?, "task")?,
            entry,
        })
    }

    /// The pairs of workflow and version with runs that have no owner.
    pub(super) fn unowned_versions(&self) -> Result<Vec<(i64, i64)>, StoreError> {
        self.connections.reader(|session| {
            let rows = session.query(UNOWNED, &[])?;
            rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
        })
    }
}
