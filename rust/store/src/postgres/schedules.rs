//! Schedules, which all runners of a server have in common.

use std::collections::HashMap;
use std::sync::Arc;

use bide_core::Time;
use bide_core::record::NewRun;
use bide_core::schedules::{MomentInput, OnMiss, Overlap, Schedule, When};
use postgres::Row;

use super::PostgresStore;
use super::error::Failed;
use super::named::Named;
use super::notify::Hint;
use super::session::{Session, Text};
use crate::{Creation, ScheduleChange, ScheduleChanged, Schedules, StoreError, StoredSchedule};

/// The columns of a schedule `s`, with its workflow `w`.
macro_rules! columns {
    () => {
        "SELECT s.name, s.revision, s.removed, w.name, s.workflow, s.version, s.cron, s.zone, s.every, s.anchor, s.inputs, \
         s.moment::int8, s.on_miss::int8, s.overlap::int8, s.jitter, s.timeout, s.created_at, s.paused_at, s.decided, \
         s.last_tick, s.last_run, s.queue, s.open FROM bide.schedule s LEFT JOIN bide.workflow w ON w.id = s.workflow"
    };
}

const SINCE: &str = concat!(columns!(), " WHERE s.revision > $1::int8 ORDER BY s.revision");
const NAMED: &str = concat!(columns!(), " WHERE s.name = $1::text");
/// Changes are made one after the other, so that their revisions become visible in their order. Readers do not wait.
const LOCK: &str = "LOCK TABLE bide.schedule IN EXCLUSIVE MODE";
const CURRENT: &str = "SELECT name, revision FROM bide.schedule WHERE name = ANY ($1::text[]) AND NOT removed";
const LAST: &str = "SELECT coalesce(max(revision), 0) FROM bide.schedule";
const SET: &str = "INSERT INTO bide.schedule (name, revision, removed, workflow, version, cron, zone, every, anchor, inputs, \
     moment, on_miss, overlap, jitter, timeout, created_at, paused_at, decided, last_tick, last_run, queue, open) \
     VALUES ($1::text, $2::int8, false, $3::int8, $4::int8, $5::text, $6::text, $7::int8, $8::int8, $9::bytea, $10::int8, \
     $11::int8, $12::int8, $13::int8, $14::int8, $15::int8, $16::int8, $17::int8, $18::int8, $19::bytea, $20::bytea, \
     $21::bytea) ON CONFLICT (name) DO UPDATE SET revision = excluded.revision, removed = false, \
     workflow = excluded.workflow, version = excluded.version, cron = excluded.cron, zone = excluded.zone, \
     every = excluded.every, anchor = excluded.anchor, inputs = excluded.inputs, moment = excluded.moment, \
     on_miss = excluded.on_miss, overlap = excluded.overlap, jitter = excluded.jitter, timeout = excluded.timeout, \
     created_at = excluded.created_at, paused_at = excluded.paused_at, decided = excluded.decided, \
     last_tick = excluded.last_tick, last_run = excluded.last_run, queue = excluded.queue, open = excluded.open";
const REMOVE: &str = "UPDATE bide.schedule SET revision = $2::int8, removed = true, inputs = '', queue = '', open = '' WHERE name = $1::text";

impl Schedules for PostgresStore {
    fn schedules(&self, after: i64) -> Result<Vec<StoredSchedule>, StoreError> {
        self.connections.reader(|session| {
            let rows = session.query(SINCE, &[&after])?;
            let found = rows.iter().map(|row| self.stored_schedule(row));
            let is_listed = |found: &Result<StoredSchedule, Failed>| {
                after > 0 || !matches!(found, Ok(StoredSchedule { schedule: Ok(None), .. }))
            };
            found.filter(is_listed).collect()
        })
    }

    fn schedule(&self, name: &str) -> Result<Option<StoredSchedule>, StoreError> {
        self.connections.reader(|session| {
            session.query_opt(NAMED, &[&Text::from(name)])?.map(|row| self.stored_schedule(&row)).transpose()
        })
    }

    fn change_schedules(&self, changes: &[ScheduleChange]) -> Result<Vec<ScheduleChanged>, StoreError> {
        let outcomes = self.connections.writer(|session| {
            self.until_free(session, |session, looks_for_ids| self.change_all(session, changes, looks_for_ids))
        })?;
        if outcomes.iter().any(|outcome| matches!(outcome, ScheduleChanged::Done { .. })) {
            self.changes.unowned();
            self.notifier.send(Hint::Look);
        }
        Ok(outcomes)
    }
}

impl PostgresStore {
    /// Makes changes of schedules, within a transaction.
    fn change_all(
        &self,
        session: &mut Session<'_>,
        changes: &[ScheduleChange],
        looks_for_ids: bool,
    ) -> Result<Vec<ScheduleChanged>, Failed> {
        session.execute(LOCK, &[])?;
        let names: Vec<Text<'_>> = changes.iter().map(|change| Text::from(&*change.name)).collect();
        let mut current: HashMap<String, i64> = HashMap::new();
        for row in session.query(CURRENT, &[&names])? {
            current.insert(row.try_get::<_, Text<'_>>(0)?.0.into_owned(), row.try_get(1)?);
        }
        let mut revision: i64 = match session.query_opt(LAST, &[])? {
            Some(row) => row.try_get(0)?,
            None => 0,
        };
        // Of a name that is changed twice, the second change finds what the first has made of it.
        let mut is_made = Vec::with_capacity(changes.len());
        for change in changes {
            let made = current.get(&*change.name).copied() == change.expected;
            if made {
                revision += 1;
                match &change.schedule {
                    Some(_) => current.insert(change.name.to_string(), revision),
                    None => current.remove(&*change.name),
                };
            }
            is_made.push(made.then_some(revision));
        }
        let to_make = || changes.iter().zip(&is_made).filter(|(_, made)| made.is_some()).map(|(change, _)| change);
        let requests: Vec<&[NewRun]> =
            to_make().flat_map(|change| change.runs.iter().map(std::slice::from_ref)).collect();
        let creations = self.create_within(session, &requests, looks_for_ids)?;
        let Some(mut creations) = creations.map(Vec::into_iter) else {
            return Ok(changes.iter().map(|_| ScheduleChanged::NumberTaken).collect());
        };
        let mut outcomes = Vec::with_capacity(changes.len());
        for (change, made) in changes.iter().zip(&is_made) {
            let Some(revision) = *made else {
                outcomes.push(ScheduleChanged::Moved);
                continue;
            };
            let of_change: Vec<Creation> = creations.by_ref().take(change.runs.len()).collect();
            let schedule = change.settled(&of_change);
            set(session, &change.name, revision, schedule.as_ref())?;
            outcomes.push(ScheduleChanged::Done { revision, schedule: schedule.map(Box::new), creations: of_change });
        }
        if is_made.iter().any(Option::is_some) {
            self.announce_unowned(session)?;
        }
        Ok(outcomes)
    }

    fn stored_schedule(&self, row: &Row) -> Result<StoredSchedule, Failed> {
        let name: Text<'_> = row.try_get(0)?;
        let is_removed: bool = row.try_get(2)?;
        let schedule = if is_removed { Ok(None) } else { self.read_schedule(row, &name.0).map(Some) };
        Ok(StoredSchedule { name: Arc::from(&*name.0), revision: row.try_get(1)?, schedule })
    }

    fn read_schedule(&self, row: &Row, name: &str) -> Result<Schedule, StoreError> {
        let fields = Named { row, store: self.name_str(), table: "schedule", name };
        let (cron, zone) = (fields.some_text(6, "cron")?, fields.some_text(7, "zone")?);
        let when = match (cron, zone, fields.get(8, "every")?, fields.time(9, "anchor")?) {
            (Some(expression), Some(zone), None, None) => When::Cron { expression, zone },
            (None, None, Some(micros), Some(anchor)) => When::Every { micros, anchor },
            _ => return Err(fields.corrupt("cron", "it has no ticks, or those of two kinds")),
        };
        let queue: &[u8] = fields.get(21, "queue")?;
        let (queue, []) = queue.as_chunks::<8>() else { return Err(fields.corrupt("queue", "it is cut off")) };
        Ok(Schedule {
            name: Arc::from(name),
            workflow: fields.text(3, "workflow")?,
            version: (fields.get(4, "workflow")?, fields.get(5, "version")?),
            when,
            inputs: fields.get::<&[u8]>(10, "inputs")?.into(),
            moment: fields.code(11, "moment", MomentInput::from_code)?,
            on_miss: fields.code(12, "on_miss", OnMiss::from_code)?,
            overlap: fields.code(13, "overlap", Overlap::from_code)?,
            jitter: fields.get(14, "jitter")?,
            timeout: fields.get(15, "timeout")?,
            created_at: Time(fields.get(16, "created_at")?),
            paused_at: fields.time(17, "paused_at")?,
            decided: Time(fields.get(18, "decided")?),
            last: fields.time(19, "last_tick")?.zip(fields.runs(20, "last_run")?.first().copied()),
            queue: queue.iter().map(|bytes| Time(i64::from_be_bytes(*bytes))).collect(),
            open: fields.runs(22, "open")?,
        })
    }
}

/// Writes a schedule, or removes it.
fn set(session: &mut Session<'_>, name: &str, revision: i64, schedule: Option<&Schedule>) -> Result<(), Failed> {
    let name = Text::from(name);
    let Some(schedule) = schedule else {
        return session.execute(REMOVE, &[&name, &revision]).map(drop);
    };
    let (cron, zone, every, anchor) = match &schedule.when {
        When::Cron { expression, zone } => (Some(Text::from(&**expression)), Some(Text::from(&**zone)), None, None),
        When::Every { micros, anchor } => (None, None, Some(*micros), Some(anchor.0)),
    };
    let queue: Vec<u8> = schedule.queue.iter().flat_map(|tick| tick.0.to_be_bytes()).collect();
    let open: Vec<u8> = schedule.open.iter().flat_map(|run| run.0.to_be_bytes()).collect();
    let last_run = schedule.last.map(|(_, run)| run.0.to_be_bytes());
    session
        .execute(
            SET,
            &[
                &name,
                &revision,
                &schedule.version.0,
                &schedule.version.1,
                &cron,
                &zone,
                &every,
                &anchor,
                &&*schedule.inputs,
                &i64::from(schedule.moment.code()),
                &i64::from(schedule.on_miss.code()),
                &i64::from(schedule.overlap.code()),
                &schedule.jitter,
                &schedule.timeout,
                &schedule.created_at.0,
                &schedule.paused_at.map(|at| at.0),
                &schedule.decided.0,
                &schedule.last.map(|(tick, _)| tick.0),
                &last_run.as_ref().map(|run| &run[..]),
                &queue,
                &open,
            ],
        )
        .map(drop)
}
