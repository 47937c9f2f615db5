//! Watches, which all runners of a server have in common, and the keys of their items.

use std::collections::HashSet;
use std::sync::Arc;

use bide_core::record::NewRun;
use bide_core::watches::Watch;
use bide_core::{Time, Value};
use postgres::Row;

use super::PostgresStore;
use super::error::Failed;
use super::named::Named;
use super::notify::Hint;
use super::session::{Session, Text};
use crate::{Creation, StoreError, StoredWatch, WatchChange, WatchChanged, WatchItem, Watches};

/// The columns of a watch `t`, with its workflow `w`.
macro_rules! columns {
    () => {
        "SELECT t.name, t.revision, t.removed, w.name, t.workflow, t.every, t.cursor, t.created_at, t.paused_at, t.runner, \
         t.started, t.last_at, t.last_run, t.failed_at, t.error FROM bide.watch t \
         LEFT JOIN bide.workflow w ON w.id = t.workflow"
    };
}

const ALL: &str = concat!(columns!(), " WHERE NOT t.removed ORDER BY t.name");
const NAMED: &str = concat!(columns!(), " WHERE t.name = $1::text");
/// Until the end of the transaction nobody else changes the watch, or takes keys of it.
const CURRENT: &str = "SELECT id, revision, removed FROM bide.watch WHERE name = $1::text FOR UPDATE";
const MAKE: &str = "INSERT INTO bide.watch (name, revision, removed, workflow, every, created_at, started) \
     VALUES ($1::text, 0, true, 0, 0, 0, 0) ON CONFLICT (name) DO NOTHING RETURNING id";
const UNMAKE: &str = "DELETE FROM bide.watch WHERE id = $1::int8";
const SET: &str = "UPDATE bide.watch SET revision = revision + 1, removed = false, workflow = $2::int8, every = $3::int8, \
     cursor = $4::bytea, created_at = $5::int8, paused_at = $6::int8, runner = $7::int8, started = $8::int8, \
     last_at = $9::int8, last_run = $10::bytea, failed_at = $11::int8, error = $12::text WHERE id = $1::int8";
const REMOVE: &str = "UPDATE bide.watch SET revision = revision + 1, removed = true, cursor = NULL, runner = NULL, \
     error = NULL WHERE id = $1::int8";
const KNOWN_KEYS: &str = "SELECT key FROM bide.watch_key WHERE watch = $1::int8 AND key = ANY ($2::text[])";
const TAKE_KEYS: &str = "INSERT INTO bide.watch_key (watch, key) SELECT $1::int8, u.key FROM unnest($2::text[]) u(key)";

impl Watches for PostgresStore {
    fn watches(&self) -> Result<Vec<StoredWatch>, StoreError> {
        self.connections.reader(|session| session.query(ALL, &[])?.iter().map(|row| self.stored_watch(row)).collect())
    }

    fn watch(&self, name: &str) -> Result<Option<StoredWatch>, StoreError> {
        self.connections.reader(|session| {
            session.query_opt(NAMED, &[&Text::from(name)])?.map(|row| self.stored_watch(&row)).transpose()
        })
    }

    fn change_watch(&self, change: &WatchChange) -> Result<WatchChanged, StoreError> {
        let outcome = self.connections.writer(|session| {
            self.until_free(session, |session, looks_for_ids| self.change_one(session, change, looks_for_ids))
        })?;
        if matches!(outcome, WatchChanged::Done { started: 1.., .. }) {
            self.changes.unowned();
            self.notifier.send(Hint::Look);
        }
        Ok(outcome)
    }
}

impl PostgresStore {
    /// Makes a change of a watch, within a transaction.
    fn change_one(
        &self,
        session: &mut Session<'_>,
        change: &WatchChange,
        looks_for_ids: bool,
    ) -> Result<WatchChanged, Failed> {
        let name = Text::from(&*change.name);
        let found = session.query_opt(CURRENT, &[&name])?;
        let found =
            found.map(|row| Ok::<_, Failed>((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).transpose()?;
        let found: Option<(i64, i64, bool)> = found;
        if found.filter(|(.., removed)| !removed).map(|(_, revision, _)| revision) != change.expected {
            return Ok(WatchChanged::Moved);
        }
        let (id, revision) = match found {
            Some((id, revision, _)) => (id, revision),
            // If others make it at this moment, there is nothing to return.
            None => match session.query_opt(MAKE, &[&name])? {
                Some(row) => (row.try_get(0)?, 0),
                None => return Ok(WatchChanged::Moved),
            },
        };
        let items = new_items(session, id, &change.items)?;
        let requests: Vec<&[NewRun]> = items.iter().map(|item| std::slice::from_ref(&item.run)).collect();
        let Some(creations) = self.create_within(session, &requests, looks_for_ids)? else {
            if found.is_none() {
                session.execute(UNMAKE, &[&id])?;
            }
            return Ok(WatchChanged::NumberTaken);
        };
        if !items.is_empty() {
            let keys: Vec<Text<'_>> = items.iter().map(|item| Text::from(&*item.key)).collect();
            session.execute(TAKE_KEYS, &[&id, &keys])?;
        }
        let created = items.iter().zip(&creations).filter(|(_, creation)| **creation == Creation::Created);
        let started: Vec<&NewRun> = created.map(|(item, _)| &item.run).collect();
        let watch = change.settled(&started);
        set(session, id, watch.as_ref())?;
        if !started.is_empty() {
            self.announce_unowned(session)?;
        }
        Ok(WatchChanged::Done { revision: revision + 1, watch: watch.map(Box::new), started: started.len() })
    }

    fn stored_watch(&self, row: &Row) -> Result<StoredWatch, Failed> {
        let name: Text<'_> = row.try_get(0)?;
        let is_removed: bool = row.try_get(2)?;
        let watch = if is_removed { Ok(None) } else { self.read_watch(row, &name.0).map(Some) };
        Ok(StoredWatch { name: Arc::from(&*name.0), revision: row.try_get(1)?, watch })
    }

    fn read_watch(&self, row: &Row, name: &str) -> Result<Watch, StoreError> {
        let fields = Named { row, store: self.name_str(), table: "watch", name };
        let cursor: Option<&[u8]> = fields.get(6, "cursor")?;
        Ok(Watch {
            name: Arc::from(name),
            workflow: fields.text(3, "workflow")?,
            number: fields.get(4, "workflow")?,
            every: fields.get(5, "every")?,
            cursor: cursor.map_or(Value::NONE, Value::new),
            created_at: Time(fields.get(7, "created_at")?),
            paused_at: fields.time(8, "paused_at")?,
            runner: fields.get(9, "runner")?,
            started: fields.get(10, "started")?,
            last: fields.time(11, "last_at")?.zip(fields.runs(12, "last_run")?.first().copied()),
            error: fields.time(13, "failed_at")?.zip(fields.some_text(14, "error")?),
        })
    }
}

/// The first item of each key.
fn distinct(items: &[WatchItem]) -> Vec<&WatchItem> {
    let mut seen = HashSet::new();
    items.iter().filter(|item| seen.insert(&*item.key)).collect()
}

/// The first item of each key that the watch has not had.
fn new_items<'i>(session: &mut Session<'_>, id: i64, items: &'i [WatchItem]) -> Result<Vec<&'i WatchItem>, Failed> {
    if items.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<Text<'_>> = items.iter().map(|item| Text::from(&*item.key)).collect();
    let mut known: HashSet<String> = HashSet::new();
    for row in session.query(KNOWN_KEYS, &[&id, &keys])? {
        known.insert(row.try_get::<_, Text<'_>>(0)?.0.into_owned());
    }
    Ok(distinct(items).into_iter().filter(|item| !known.contains(&*item.key)).collect())
}

/// Writes a watch, or removes it.
fn set(session: &mut Session<'_>, id: i64, watch: Option<&Watch>) -> Result<(), Failed> {
    let Some(watch) = watch else {
        return session.execute(REMOVE, &[&id]).map(drop);
    };
    let cursor = (watch.cursor != Value::NONE).then_some(watch.cursor.as_bytes());
    let last_run = watch.last.map(|(_, run)| run.0.to_be_bytes());
    session
        .execute(
            SET,
            &[
                &id,
                &watch.number,
                &watch.every,
                &cursor,
                &watch.created_at.0,
                &watch.paused_at.map(|at| at.0),
                &watch.runner,
                &watch.started,
                &watch.last.map(|(at, _)| at.0),
                &last_run.as_ref().map(|run| &run[..]),
                &watch.error.as_ref().map(|(at, _)| at.0),
                &watch.error.as_ref().map(|(_, error)| Text::from(&**error)),
            ],
        )
        .map(drop)
}
