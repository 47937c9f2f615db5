//! The schedules of a file.

use std::sync::Arc;

use bide_core::schedules::{MomentInput, OnMiss, Overlap, Schedule, When};
use bide_core::{RunId, Time};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::SqliteStore;
use super::transaction::Transaction;
use crate::{Creation, ScheduleChange, ScheduleChanged, Schedules, StoreError, StoredSchedule};

const SINCE: &str = "SELECT s.name, s.revision, s.removed, w.name, s.workflow, s.version, s.cron, s.zone, s.every, s.anchor, \
     s.inputs, s.moment, s.on_miss, s.overlap, s.jitter, s.timeout, s.created_at, s.paused_at, s.decided, s.last_tick, \
     s.last_run, s.queue, s.open FROM schedule s INDEXED BY schedule_revision LEFT JOIN workflow w ON w.id = s.workflow \
     WHERE s.revision > ?1 ORDER BY s.revision";
const NAMED: &str = "SELECT s.name, s.revision, s.removed, w.name, s.workflow, s.version, s.cron, s.zone, s.every, s.anchor, \
     s.inputs, s.moment, s.on_miss, s.overlap, s.jitter, s.timeout, s.created_at, s.paused_at, s.decided, s.last_tick, \
     s.last_run, s.queue, s.open FROM schedule s LEFT JOIN workflow w ON w.id = s.workflow WHERE s.name = ?1";
const CURRENT: &str = "SELECT revision FROM schedule WHERE name = ?1 AND NOT removed";
const NEXT: &str = "SELECT coalesce(max(revision), 0) + 1 FROM schedule";
const SET: &str = "INSERT OR REPLACE INTO schedule (name, revision, removed, workflow, version, cron, zone, every, anchor, \
     inputs, moment, on_miss, overlap, jitter, timeout, created_at, paused_at, decided, last_tick, last_run, queue, open) \
     VALUES (?1, ?2, 0, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)";
const REMOVE: &str =
    "UPDATE schedule SET revision = ?2, removed = 1, inputs = x'', queue = x'', open = x'' WHERE name = ?1";

/// For the test that no hot statement scans a table.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[SINCE, NAMED, CURRENT, SET, REMOVE];

impl Schedules for SqliteStore {
    fn schedules(&self, after: i64) -> Result<Vec<StoredSchedule>, StoreError> {
        let explain = |error: rusqlite::Error| self.identity.error(&error);
        let reader = self.reader()?;
        let mut statement = reader.prepare_cached(SINCE).map_err(explain)?;
        let mut rows = statement.query([after]).map_err(explain)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(explain)? {
            let stored = self.stored_schedule(row)?;
            if after > 0 || !matches!(stored.schedule, Ok(None)) {
                found.push(stored);
            }
        }
        Ok(found)
    }

    fn schedule(&self, name: &str) -> Result<Option<StoredSchedule>, StoreError> {
        let explain = |error: rusqlite::Error| self.identity.error(&error);
        let reader = self.reader()?;
        let mut statement = reader.prepare_cached(NAMED).map_err(explain)?;
        let mut rows = statement.query([name]).map_err(explain)?;
        rows.next().map_err(explain)?.map(|row| self.stored_schedule(row)).transpose()
    }

    fn change_schedules(&self, changes: &[ScheduleChange]) -> Result<Vec<ScheduleChanged>, StoreError> {
        let explain = |error: rusqlite::Error| self.identity.error(&error);
        let writer = self.writer()?;
        let connection = writer.fresh();
        let transaction = Transaction::begin(connection, &self.identity)?;
        let (mut outcomes, mut is_changed, mut bytes) = (Vec::with_capacity(changes.len()), false, 3072);
        for change in changes {
            let current: Option<i64> = connection
                .prepare_cached(CURRENT)
                .and_then(|mut read| read.query_row([&*change.name], |row| row.get(0)).optional())
                .map_err(explain)?;
            if current != change.expected {
                outcomes.push(ScheduleChanged::Moved);
                continue;
            }
            let mut creations = Vec::with_capacity(change.runs.len());
            for new in &change.runs {
                creations.extend(self.insert_runs(connection, None, std::slice::from_ref(new), &mut bytes)?);
            }
            if creations.contains(&Creation::NumberTaken) {
                return Ok(changes.iter().map(|_| ScheduleChanged::NumberTaken).collect());
            }
            let schedule = change.settled(&creations);
            let revision = set(connection, &change.name, schedule.as_ref()).map_err(explain)?;
            bytes += 2048 + schedule.as_ref().map_or(0, |set| set.inputs.len() + 8 * set.queue.len()) as u64;
            is_changed = true;
            outcomes.push(ScheduleChanged::Done { revision, schedule: schedule.map(Box::new), creations });
        }
        if is_changed {
            transaction.commit()?;
            drop(writer);
            self.debt.add(bytes);
            self.changes.unowned();
            self.live()?.wake.poll_others();
        }
        Ok(outcomes)
    }
}

/// Writes a schedule, or removes it. Returns the new revision.
fn set(connection: &Connection, name: &str, schedule: Option<&Schedule>) -> rusqlite::Result<i64> {
    let revision: i64 = connection.prepare_cached(NEXT)?.query_row([], |row| row.get(0))?;
    let Some(schedule) = schedule else {
        connection.prepare_cached(REMOVE)?.execute(params![name, revision])?;
        return Ok(revision);
    };
    let (cron, every) = match &schedule.when {
        When::Cron { expression, zone } => (Some((&**expression, &**zone)), None),
        When::Every { micros, anchor } => (None, Some((*micros, anchor.0))),
    };
    let queue: Vec<u8> = schedule.queue.iter().flat_map(|tick| tick.0.to_be_bytes()).collect();
    let open: Vec<u8> = schedule.open.iter().flat_map(|run| run.0.to_be_bytes()).collect();
    connection.prepare_cached(SET)?.execute(params![
        name,
        revision,
        schedule.version.0,
        schedule.version.1,
        cron.map(|(expression, _)| expression),
        cron.map(|(_, zone)| zone),
        every.map(|(micros, _)| micros),
        every.map(|(_, anchor)| anchor),
        &*schedule.inputs,
        schedule.moment.code(),
        schedule.on_miss.code(),
        schedule.overlap.code(),
        schedule.jitter,
        schedule.timeout,
        schedule.created_at.0,
        schedule.paused_at.map(|at| at.0),
        schedule.decided.0,
        schedule.last.map(|(tick, _)| tick.0),
        schedule.last.map(|(_, run)| run.0.to_be_bytes().to_vec()),
        queue,
        open,
    ])?;
    Ok(revision)
}

impl SqliteStore {
    fn stored_schedule(&self, row: &Row<'_>) -> Result<StoredSchedule, StoreError> {
        let explain = |error: rusqlite::Error| self.identity.error(&error);
        let name: Arc<str> = row.get(0).map_err(explain)?;
        let revision = row.get(1).map_err(explain)?;
        let removed: i64 = row.get(2).map_err(explain)?;
        let schedule = if removed == 0 { self.read_schedule(row, &name).map(Some) } else { Ok(None) };
        Ok(StoredSchedule { name, revision, schedule })
    }

    fn read_schedule(&self, row: &Row<'_>, name: &Arc<str>) -> Result<Schedule, StoreError> {
        let fields = ScheduleFields { row, identity: &self.identity.name, name };
        let when =
            match (fields.get(6, "cron")?, fields.get(7, "zone")?, fields.get(8, "every")?, fields.get(9, "anchor")?) {
                (Some(expression), Some(zone), None, None) => When::Cron { expression, zone },
                (None, None, Some(micros), Some(anchor)) => When::Every { micros, anchor: Time(anchor) },
                _ => return Err(fields.corrupt("cron", "it has no ticks, or those of two kinds")),
            };
        let inputs: Vec<u8> = fields.get(10, "inputs")?;
        let last_tick: Option<i64> = fields.get(19, "last_tick")?;
        let last_run: Option<Vec<u8>> = fields.get(20, "last_run")?;
        let last_run = last_run.map(|bytes| fields.runs(&bytes, "last_run")).transpose()?;
        let last_run = last_run.and_then(|runs| runs.first().copied());
        let queue: Vec<u8> = fields.get(21, "queue")?;
        let (queue, []) = queue.as_chunks::<8>() else { return Err(fields.corrupt("queue", "it is cut off")) };
        let open: Vec<u8> = fields.get(22, "open")?;
        Ok(Schedule {
            name: Arc::clone(name),
            workflow: fields.get(3, "workflow")?,
            version: (fields.get(4, "workflow")?, fields.get(5, "version")?),
            when,
            inputs: inputs.into(),
            moment: fields.code(11, "moment", MomentInput::from_code)?,
            on_miss: fields.code(12, "on_miss", OnMiss::from_code)?,
            overlap: fields.code(13, "overlap", Overlap::from_code)?,
            jitter: fields.get(14, "jitter")?,
            timeout: fields.get(15, "timeout")?,
            created_at: Time(fields.get(16, "created_at")?),
            paused_at: fields.get::<Option<i64>>(17, "paused_at")?.map(Time),
            decided: Time(fields.get(18, "decided")?),
            last: last_tick.map(Time).zip(last_run),
            queue: queue.iter().map(|bytes| Time(i64::from_be_bytes(*bytes))).collect(),
            open: fields.runs(&open, "open")?,
        })
    }
}

/// The columns of a schedule that is read.
struct ScheduleFields<'r> {
    /// The row.
    row: &'r Row<'r>,
    /// The store's name.
    identity: &'r str,
    /// The schedule's name.
    name: &'r str,
}

impl ScheduleFields<'_> {
    fn corrupt(&self, column: &str, why: &str) -> StoreError {
        let (identity, name) = (self.identity, self.name);
        StoreError::Corrupt(format!(
            "{identity}: schedule '{name}': the column schedule.{column} does not read back ({why}); the file was \
             changed by another program or is damaged"
        ))
    }

    fn get<T: rusqlite::types::FromSql>(&self, at: usize, column: &str) -> Result<T, StoreError> {
        self.row.get(at).map_err(|error| self.corrupt(column, &error.to_string()))
    }

    fn code<T>(&self, at: usize, column: &str, read: impl Fn(i64) -> Option<T>) -> Result<T, StoreError> {
        let code: i64 = self.get(at, column)?;
        read(code).ok_or_else(|| self.corrupt(column, &format!("no version of bide writes {code}")))
    }

    fn runs(&self, bytes: &[u8], column: &str) -> Result<Vec<RunId>, StoreError> {
        let (runs, []) = bytes.as_chunks::<16>() else { return Err(self.corrupt(column, "it is cut off")) };
        Ok(runs.iter().map(|bytes| RunId(u128::from_be_bytes(*bytes))).collect())
    }
}
