//! What live runs show: the events of their channels, and how far their tasks have come.

use std::sync::Arc;

use bide_core::{NewEvents, Progress, ProgressRow, RunId, StoredEvents, Time};
use rusqlite::{Connection, params};

use super::SqliteStore;
use super::fields::Fields;
use crate::{EventRange, StoreError};

/// The store assigns the offsets: they continue from the last committed one, also when another runner owns the run.
pub(super) const APPEND: &str = "INSERT INTO event (run, channel, first, count, task, map, attempt, entry, emitted_at, packed) \
     VALUES (?1, ?2, ?3 + coalesce((SELECT first + count FROM event WHERE run = ?1 AND channel = ?2 \
     ORDER BY first DESC LIMIT 1), 1), ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
/// What a channel no longer keeps.
const FORGET: &str = "DELETE FROM event WHERE run = ?1 AND channel = ?2 AND first + count <= \
     (SELECT first + count FROM event WHERE run = ?1 AND channel = ?2 ORDER BY first DESC LIMIT 1) - ?3";
pub(super) const PROGRESS: &str = "INSERT OR REPLACE INTO progress (run, task, map, done, total, message, said_at) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";

const EXISTS: &str = "SELECT 1 FROM run WHERE id = ?1 AND uuid = ?2";
macro_rules! event_columns {
    () => {
        "SELECT e.first, e.count, n.name, e.map, e.attempt, e.entry, e.emitted_at, e.packed FROM event e \
         LEFT JOIN run r ON r.id = e.run LEFT JOIN task_name n ON n.workflow = r.workflow AND n.task = e.task "
    };
}
/// From the row that has the next event.
const AFTER: &str = concat!(
    event_columns!(),
    "WHERE e.run = ?1 AND e.channel = ?2 AND e.first >= coalesce((SELECT max(first) FROM event WHERE run = ?1 AND channel = ?2 AND first <= ?3), 0) \
     ORDER BY e.first"
);
const LAST: &str = concat!(event_columns!(), "WHERE e.run = ?1 AND e.channel = ?2 ORDER BY e.first DESC LIMIT 1");

const CHANNELS: &str = "SELECT DISTINCT channel FROM event WHERE run = ?1 ORDER BY channel";

macro_rules! progress_columns {
    () => {
        "SELECT task, map, done, total, message, said_at, run FROM progress "
    };
}
pub(super) const PROGRESS_OF: &str = concat!(progress_columns!(), "WHERE run = ?1 ORDER BY task, map");
/// Of all runs of a JSON array of row numbers.
pub(super) const PROGRESS_OF_ALL: &str =
    concat!(progress_columns!(), "WHERE run IN (SELECT value FROM json_each(?1)) ORDER BY run, task, map");

/// For the test that no hot statement scans a table.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[APPEND, FORGET, PROGRESS, AFTER, LAST, CHANNELS, PROGRESS_OF];

/// Appends events to a channel.
pub(super) fn append(
    writer: &Connection,
    statement: &mut rusqlite::Statement<'_>,
    new: &NewEvents,
) -> rusqlite::Result<()> {
    statement.execute(params![
        new.run,
        &*new.channel,
        i64::try_from(new.skipped).unwrap_or(i64::MAX),
        new.count,
        new.task,
        new.map,
        new.attempt,
        new.entry.as_deref(),
        new.emitted_at.0,
        &*new.packed,
    ])?;
    if let Some(keep) = new.keep {
        writer.prepare_cached(FORGET)?.execute(params![new.run, &*new.channel, keep])?;
    }
    Ok(())
}

/// Writes how far a task has come.
pub(super) fn progress(statement: &mut rusqlite::Statement<'_>, row: &ProgressRow) -> rusqlite::Result<usize> {
    let Progress { done, total, message, said_at } = &row.progress;
    statement.execute(params![row.run, row.task, row.map, done, total, message.as_deref(), said_at.0])
}

/// Reads how far a task has come.
pub(super) fn progress_row(fields: &Fields<'_>) -> Result<ProgressRow, StoreError> {
    Ok(ProgressRow {
        run: fields.run.row(),
        task: fields.get(0, "task")?,
        map: fields.get(1, "map")?,
        progress: Progress {
            done: fields.get(2, "done")?,
            total: fields.get(3, "total")?,
            message: fields.text(4, "message")?,
            said_at: Time(fields.get(5, "said_at")?),
        },
    })
}

impl SqliteStore {
    pub(super) fn read_events(
        &self,
        run: RunId,
        channel: &str,
        range: EventRange,
    ) -> Result<Option<Vec<StoredEvents>>, StoreError> {
        let reader = self.reader()?;
        let explain = |error| self.identity.error(&error);
        let id = run.0.to_be_bytes();
        let exists = reader.prepare_cached(EXISTS).and_then(|mut exists| exists.exists(params![run.row(), &id[..]]));
        if !exists.map_err(explain)? {
            return Ok(None);
        }
        let (after, most) = match range {
            EventRange::Last => (None, 1),
            EventRange::After { offset, most } => (Some(i64::try_from(offset).unwrap_or(i64::MAX)), most),
        };
        let mut statement = reader.prepare_cached(if after.is_some() { AFTER } else { LAST }).map_err(explain)?;
        let rows = match after {
            Some(after) => statement.query(params![run.row(), channel, after.saturating_add(1)]),
            None => statement.query(params![run.row(), channel]),
        };
        let mut rows = rows.map_err(explain)?;
        let (mut found, mut count) = (Vec::new(), 0);
        while count < most
            && let Some(row) = rows.next().map_err(explain)?
        {
            let fields = Fields { row, identity: &self.identity.name, run, table: "event" };
            let events = stored(&fields)?;
            if after.is_none_or(|after| events.last() > after.unsigned_abs()) {
                count += events.count as usize;
                found.push(events);
            }
        }
        Ok(Some(found))
    }

    pub(super) fn read_channels(&self, run: RunId) -> Result<Vec<Arc<str>>, StoreError> {
        let reader = self.reader()?;
        let id = run.0.to_be_bytes();
        let read = || -> rusqlite::Result<Vec<Arc<str>>> {
            if !reader.prepare_cached(EXISTS)?.exists(params![run.row(), &id[..]])? {
                return Ok(Vec::new());
            }
            reader.prepare_cached(CHANNELS)?.query_map([run.row()], |row| row.get(0))?.collect()
        };
        read().map_err(|error| self.identity.error(&error))
    }
}

fn stored(fields: &Fields<'_>) -> Result<StoredEvents, StoreError> {
    Ok(StoredEvents {
        first: fields.code(0, "first", |first| u64::try_from(first).ok())?,
        count: fields.get(1, "count")?,
        task: fields.get(2, "task")?,
        map: fields.get(3, "map")?,
        attempt: fields.get(4, "attempt")?,
        entry: fields.text(5, "entry")?,
        emitted_at: Time(fields.get(6, "emitted_at")?),
        packed: fields.get(7, "packed")?,
    })
}
