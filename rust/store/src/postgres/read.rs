//! Reading runs.

use std::collections::HashMap;
use std::sync::Arc;

use bide_core::record::{RecordedTask, StoredRun};
use bide_core::{RunId, RunStatus};

use super::PostgresStore;
use super::error::Failed;
use super::fields::run_id;
use super::listing;
use super::parts::{self, Parts, Read};
use super::session::{Session, Text, Uuid};
use crate::recorded::parse_tasks;
use crate::{RunFilter, Standing, StoreError, StoredVersion};

const ONE: &str = "SELECT * FROM bide.run WHERE id = $1::int8 AND uuid = $2::uuid";
const MANY: &str =
    "SELECT r.* FROM unnest($1::int8[], $2::uuid[]) u(id, uuid) JOIN bide.run r ON r.id = u.id AND r.uuid = u.uuid";
const STANDINGS: &str = "SELECT r.uuid, r.status::int8, w.name, v.hash, r.runner, r.held \
     FROM unnest($1::int8[], $2::uuid[]) u(id, uuid) JOIN bide.run r ON r.id = u.id AND r.uuid = u.uuid \
     LEFT JOIN bide.workflow w ON w.id = r.workflow LEFT JOIN bide.version v ON v.id = r.version";
const CHILDREN: &str = "SELECT uuid, status::int8 FROM bide.run WHERE parent = $1::int8 ORDER BY parent, id";
const KEY: &str = "SELECT r.uuid, w.name FROM bide.workflow w JOIN bide.run r ON r.workflow = w.id \
     WHERE r.key = $1::text AND ($2::text IS NULL OR w.name = $2::text) ORDER BY w.id";
const VERSION: &str = "SELECT tasks FROM bide.version WHERE id = $1::int8";
const VERSIONS: &str = "SELECT id, hash FROM bide.version WHERE workflow = $1::int8 ORDER BY id";

impl PostgresStore {
    pub(super) fn recorded_tasks(
        &self,
        session: &mut Session<'_>,
        version: i64,
    ) -> Result<Arc<[RecordedTask]>, Failed> {
        if let Some(known) = self.remembered.versions.lock().get(&version) {
            return Ok(known.clone());
        }
        let row = session.query_opt(VERSION, &[&version])?;
        let json = row.map(|row| row.try_get::<_, Text<'_>>(0).map(|text| text.0.into_owned())).transpose()?;
        let tasks = json.ok_or_else(|| "it is gone".to_owned()).and_then(|json| parse_tasks(&json));
        let tasks =
            tasks.map_err(|what| self.corrupt(&format!("the column version.tasks of version {version}: {what}")))?;
        self.remembered.versions.lock().insert(version, tasks.clone());
        Ok(tasks)
    }

    /// Adds the tasks of their versions to runs.
    fn complete(&self, session: &mut Session<'_>, runs: Vec<Read>) -> Result<Vec<StoredRun>, Failed> {
        let complete =
            |(stored, version): Read| Ok(StoredRun { tasks: self.recorded_tasks(session, version)?, ..stored });
        runs.into_iter().map(complete).collect()
    }

    fn read_one(&self, run: RunId, parts: Parts) -> Result<Option<StoredRun>, StoreError> {
        let sql = parts::statement(ONE, parts);
        self.connections.reader(|session| {
            let rows = session.query(&sql, &[&run.row(), &Uuid(run.0)])?;
            let runs = parts::assemble(&rows, self.name_str())?;
            Ok(self.complete(session, runs)?.pop())
        })
    }

    pub(super) fn read_run(&self, run: RunId) -> Result<Option<StoredRun>, StoreError> {
        self.read_one(run, Parts::All)
    }

    /// Several runs at once; those that are not there are left out.
    pub(super) fn read_runs(&self, runs: &[RunId]) -> Result<Vec<StoredRun>, StoreError> {
        let sql = parts::statement(MANY, Parts::All);
        let numbers: Vec<i64> = runs.iter().map(|run| run.row()).collect();
        let ids: Vec<Uuid> = runs.iter().map(|run| Uuid(run.0)).collect();
        self.connections.reader(|session| {
            let rows = session.query(&sql, &[&numbers, &ids])?;
            let mut runs = parts::assemble(&rows, self.name_str())?;
            runs.reverse();
            self.complete(session, runs)
        })
    }

    /// As `read_run`, without what is not needed to say what holds the run.
    pub(super) fn read_open_run(&self, run: RunId) -> Result<Option<StoredRun>, StoreError> {
        self.read_one(run, Parts::Open)
    }

    pub(super) fn read_list(&self, filter: &RunFilter) -> Result<Vec<StoredRun>, StoreError> {
        let (list, parameters) = listing::statement(filter);
        let sql = parts::statement(&list, Parts::Listed);
        self.connections.reader(|session| {
            let parameters: Vec<_> = parameters.iter().map(|parameter| &**parameter).collect();
            let rows = session.query(&sql, &parameters)?;
            let runs = parts::assemble(&rows, self.name_str())?;
            self.complete(session, runs)
        })
    }

    pub(super) fn read_children(&self, run: RunId) -> Result<Vec<(RunId, RunStatus)>, StoreError> {
        self.connections.reader(|session| {
            let rows = session.query(CHILDREN, &[&run.row()])?;
            rows.iter().map(|row| Ok((run_id(row, 0)?, self.status(row.try_get(1)?, run)?))).collect()
        })
    }

    fn status(&self, code: i64, run: RunId) -> Result<RunStatus, StoreError> {
        RunStatus::from_code(code)
            .ok_or_else(|| self.corrupt(&format!("run {run}: the column run.status has {code}, which is no status")))
    }

    /// Where runs stand, in their order.
    pub(super) fn read_standings(&self, runs: &[RunId]) -> Result<Vec<Option<Standing>>, StoreError> {
        let numbers: Vec<i64> = runs.iter().map(|run| run.row()).collect();
        let ids: Vec<Uuid> = runs.iter().map(|run| Uuid(run.0)).collect();
        self.connections.reader(|session| {
            let mut found = HashMap::with_capacity(runs.len());
            for row in session.query(STANDINGS, &[&numbers, &ids])? {
                let run = run_id(&row, 0)?;
                let text = |at| row.try_get::<_, Text<'_>>(at).map(|text| text.0.as_ref().into());
                let standing = Standing {
                    status: self.status(row.try_get(1)?, run)?,
                    workflow: text(2)?,
                    version: text(3)?,
                    runner: row.try_get(4)?,
                    held: row.try_get(5)?,
                };
                found.insert(run, standing);
            }
            Ok(runs.iter().map(|run| found.get(run).cloned()).collect())
        })
    }

    pub(super) fn read_versions(&self, workflow: i64) -> Result<Vec<StoredVersion>, StoreError> {
        self.connections.reader(|session| {
            let rows = session.query(VERSIONS, &[&workflow])?;
            let read = |row: &postgres::Row| {
                let (version, hash) = (row.try_get(0)?, row.try_get::<_, Text<'_>>(1)?.0.as_ref().into());
                Ok(StoredVersion { version, hash, tasks: self.recorded_tasks(session, version)? })
            };
            rows.iter().map(read).collect()
        })
    }

    pub(super) fn read_key(&self, key: &str, workflow: Option<&str>) -> Result<Vec<(RunId, Arc<str>)>, StoreError> {
        self.connections.reader(|session| {
            let rows = session.query(KEY, &[&Text::from(key), &workflow.map(Text::from)])?;
            let read = |row: &postgres::Row| Ok((run_id(row, 0)?, row.try_get::<_, Text<'_>>(1)?.0.as_ref().into()));
            rows.iter().map(read).collect()
        })
    }
}
