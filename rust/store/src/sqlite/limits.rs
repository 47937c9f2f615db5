//! Limits: their definitions, what is used of them, and the shares that are released. Claims are in `claims.rs`. See
//! [`crate::Limits`].

#[path = "claims.rs"]
mod claims;

use std::sync::Arc;
use std::time::Duration;

use bide_core::limits::{LimitSpec, Rate, Room};
use bide_core::record::{RunRowId, Write};
use bide_core::time::micros;
use bide_core::{TaskId, Time};
pub(super) use claims::pass_on;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::SqliteStore;
use crate::{Lease, LimitCall, LimitInfo, LimitUse, Limits, LineAnswers, ShareId, StoreError};

pub(super) const SPEC: &str =
    "SELECT name, executing, in_flight, rate_count, rate_span, key FROM limit_spec WHERE name = ?1";
const SPECS: &str = "SELECT name, executing, in_flight, rate_count, rate_span, key FROM limit_spec ORDER BY name";
const DEFINE: &str = "INSERT OR REPLACE INTO limit_spec (name, executing, in_flight, rate_count, rate_span, key) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
const ANY_SHARE: &str = "SELECT 1 FROM limit_share LIMIT 1";
const SHARE: &str = "SELECT line, executing FROM limit_share WHERE run = ?1 AND task = ?2 AND map = ?3";
const RELEASE: &str = "DELETE FROM limit_share WHERE run = ?1 AND task = ?2 AND map = ?3";
const IDLE: &str = "UPDATE limit_share SET executing = 0 WHERE run = ?1 AND task = ?2 AND map = ?3";
const SHARES_OF_RUN: &str = "SELECT run, line, executing FROM limit_share WHERE run = ?1";
const SHARES_OF_RUNS: &str = "SELECT run, line, executing FROM limit_share WHERE run BETWEEN ?1 AND ?2";
const RELEASE_RUN: &str = "DELETE FROM limit_share WHERE run = ?1";
const RELEASE_RUNS: &str = "DELETE FROM limit_share WHERE run BETWEEN ?1 AND ?2";
const COUNT: &str = "UPDATE limit_key SET executing = executing + ?2, in_flight = in_flight + ?3 WHERE id = ?1";
const OTHERS_WAIT: &str = "SELECT EXISTS (SELECT 1 FROM limit_line WHERE runner < ?1) \
     OR EXISTS (SELECT 1 FROM limit_line WHERE runner > ?1)";
const OF_TASK: &str = "SELECT run, task, map FROM limit_share WHERE run = ?1 AND task = ?2";
/// The last: whether it has recorded something.
const OF_RUN: &str = "SELECT run, task, map, EXISTS (SELECT 1 FROM task t WHERE t.run = s.run AND t.task = s.task \
     AND t.map = s.map AND t.status = 2) FROM limit_share s WHERE run = ?1";
const OF_RUNNER: &str = "SELECT run, task, map, EXISTS (SELECT 1 FROM task t WHERE t.run = s.run AND t.task = s.task \
     AND t.map = s.map AND t.status = 2) FROM limit_share s WHERE runner = ?1";
const NO_RUNNER: &str = "UPDATE limit_share SET runner = NULL WHERE runner = ?1";
const NO_LINES: &str = "DELETE FROM limit_line WHERE runner = ?1";
const USES: &str = "SELECT key, executing, in_flight, started - (SELECT ifnull(sum(count), 0) FROM limit_start \
     WHERE line = k.id AND latest < ?2), (SELECT ifnull(sum(count), 0) FROM limit_line WHERE line = k.id) \
     FROM limit_key k WHERE name = ?1 ORDER BY key";
const ANY_KEY: &str = "SELECT 1 FROM limit_key LIMIT 1";
const OLD_STARTS: &str =
    "DELETE FROM limit_start WHERE line IN (SELECT id FROM limit_key WHERE name = ?1) AND latest < ?2";
const UNUSED_KEYS: &str = "DELETE FROM limit_key WHERE executing = 0 AND in_flight = 0 AND started = 0 \
     AND NOT EXISTS (SELECT 1 FROM limit_line l WHERE l.line = limit_key.id)";

/// The shares of fewer runs than these are searched one by one.
const FEW: usize = 8;

pub(super) fn execute(connection: &Connection, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<usize> {
    connection.prepare_cached(sql)?.execute(params)
}

/// Whether there are shares at all.
pub(super) fn any(connection: &Connection) -> rusqlite::Result<bool> {
    connection.prepare_cached(ANY_SHARE)?.exists([])
}

/// Whether attempts are held back at other runners.
pub(super) fn others_wait(connection: &Connection, lease: Lease) -> rusqlite::Result<bool> {
    connection.prepare_cached(OTHERS_WAIT)?.query_row([lease.runner], |row| row.get(0))
}

/// Changes shares within a write transaction, and counts what is used.
pub(super) struct Changed<'c> {
    connection: &'c Connection,
    /// By the row of the limit and the value of its key: how many more execute, and are in flight.
    by_line: Vec<(i64, i64, i64)>,
    /// Something was released.
    pub(super) released: bool,
}

impl<'c> Changed<'c> {
    pub(super) const fn new(connection: &'c Connection) -> Self {
        Self { connection, by_line: Vec::new(), released: false }
    }

    /// More is used of a limit, or less.
    pub(super) fn count(&mut self, line: i64, executing: i64, in_flight: i64) {
        self.released |= executing < 0 || in_flight < 0;
        match self.by_line.iter_mut().find(|(known, ..)| *known == line) {
            Some((_, all, flying)) => (*all, *flying) = (*all + executing, *flying + in_flight),
            None => self.by_line.push((line, executing, in_flight)),
        }
    }

    /// Of which limit and value of its key an attempt has a share, and whether that counts as executing.
    pub(super) fn share(&self, ShareId { run, task, map }: ShareId) -> rusqlite::Result<Option<(i64, bool)>> {
        let mut statement = self.connection.prepare_cached(SHARE)?;
        statement.query_row(params![run, task, map], |row| Ok((row.get(0)?, row.get(1)?))).optional()
    }

    /// The attempt has ended, or gives its share back.
    pub(super) fn release(&mut self, share: ShareId) -> rusqlite::Result<()> {
        if let Some((line, executing)) = self.share(share)? {
            execute(self.connection, RELEASE, params![share.run, share.task, share.map])?;
            self.count(line, -i64::from(executing), -1);
        }
        Ok(())
    }

    /// Its body does not execute any more.
    pub(super) fn idle(&mut self, share: ShareId) -> rusqlite::Result<()> {
        if let Some((line, true)) = self.share(share)? {
            execute(self.connection, IDLE, params![share.run, share.task, share.map])?;
            self.count(line, -1, 0);
        }
        Ok(())
    }

    /// Runs have ended, in the order of their numbers.
    fn release_runs(&mut self, ended: &[RunRowId]) -> rusqlite::Result<()> {
        let (Some(first), Some(last)) = (ended.first(), ended.last()) else { return Ok(()) };
        if ended.len() < FEW {
            return ended.iter().try_for_each(|run| self.release_run(*run));
        }
        // Those that end together have begun together, mostly. If there are many others between them, each is searched.
        let (mut found, mut seen) = (Vec::with_capacity(ended.len()), 0);
        let mut statement = self.connection.prepare_cached(SHARES_OF_RUNS)?;
        let mut rows = statement.query([first, last])?;
        while let Some(row) = rows.next()? {
            let run: RunRowId = row.get(0)?;
            seen += 1;
            if seen > 4 * ended.len() {
                drop(rows);
                return ended.iter().try_for_each(|run| self.release_run(*run));
            }
            if ended.binary_search(&run).is_ok() {
                found.push((run, row.get(1)?, row.get(2)?));
            }
        }
        drop(rows);
        found.iter().for_each(|(_, line, executing): &(_, i64, i64)| self.count(*line, -executing, -1));
        if found.len() == seen {
            return execute(self.connection, RELEASE_RUNS, [first, last]).map(drop);
        }
        let mut release = self.connection.prepare_cached(RELEASE_RUN)?;
        found.dedup_by_key(|(run, ..)| *run);
        found.iter().try_for_each(|(run, ..)| release.execute([run]).map(drop))
    }

    fn release_run(&mut self, run: RunRowId) -> rusqlite::Result<()> {
        let mut any = false;
        let mut statement = self.connection.prepare_cached(SHARES_OF_RUN)?;
        let mut rows = statement.query([run])?;
        while let Some(row) = rows.next()? {
            any = true;
            self.count(row.get(1)?, -row.get::<_, i64>(2)?, -1);
        }
        drop(rows);
        if any {
            execute(self.connection, RELEASE_RUN, [run])?;
        }
        Ok(())
    }

    /// Bodies do not execute any more, though their attempts have not ended. What waits keeps its share. A body that
    /// has recorded nothing is entered anew, and asked about anew.
    fn stand(&mut self, sql: &str, of: i64) -> rusqlite::Result<()> {
        let read = |row: &Row<'_>| {
            Ok((ShareId { run: row.get(0)?, task: row.get(1)?, map: row.get(2)? }, row.get::<_, bool>(3)?))
        };
        let shares: Vec<_> = self.connection.prepare_cached(sql)?.query_map([of], read)?.collect::<Result<_, _>>()?;
        shares.into_iter().try_for_each(|(share, waits)| if waits { self.idle(share) } else { self.release(share) })
    }

    /// Writes what is used now.
    pub(super) fn written(self) -> rusqlite::Result<bool> {
        for (line, executing, in_flight) in self.by_line {
            if (executing, in_flight) != (0, 0) {
                execute(self.connection, COUNT, [line, executing, in_flight])?;
            }
        }
        Ok(self.released)
    }
}

/// Releases the shares of the attempts that end with a batch. True if there were any.
pub(super) fn release(connection: &Connection, batch: &[Write], skipped: &[RunRowId]) -> rusqlite::Result<bool> {
    let ends = |write: &Write| matches!(write, Write::Run(update) if update.status.is_ended());
    let writes = || batch.iter().filter(|write| skipped.binary_search(&write.run()).is_err());
    let mut ended: Vec<RunRowId> = writes().filter(|write| ends(write)).map(Write::run).collect();
    ended.sort_unstable();
    let mut changed = Changed::new(connection);
    changed.release_runs(&ended)?;
    for write in writes() {
        match (write, ShareId::released_by(write)) {
            (Write::Run(update), _) if update.stands() => changed.stand(OF_RUN, update.run)?,
            (_, Some(share)) if ended.binary_search(&share.run).is_err() => changed.release(share)?,
            _ => {}
        }
    }
    changed.written()
}

/// Releases the shares of a run that has ended.
pub(super) fn release_run(connection: &Connection, run: RunRowId) -> rusqlite::Result<()> {
    let mut changed = Changed::new(connection);
    changed.release_run(run)?;
    changed.written().map(drop)
}

/// Releases the shares of a task, and of its elements.
pub(super) fn release_task(connection: &Connection, run: RunRowId, task: TaskId) -> rusqlite::Result<()> {
    let mut changed = Changed::new(connection);
    let read = |row: &Row<'_>| Ok(ShareId { run: row.get(0)?, task: row.get(1)?, map: row.get(2)? });
    let shares: Vec<_> = connection.prepare_cached(OF_TASK)?.query_map([run, task], read)?.collect::<Result<_, _>>()?;
    shares.into_iter().try_for_each(|share| changed.release(share))?;
    changed.written().map(drop)
}

/// A runner is gone: its bodies do not execute any more.
pub(super) fn abandon(connection: &Connection, runner: i64) -> rusqlite::Result<()> {
    let mut changed = Changed::new(connection);
    changed.stand(OF_RUNNER, runner)?;
    changed.written()?;
    execute(connection, NO_RUNNER, [runner])?;
    execute(connection, NO_LINES, [runner]).map(drop)
}

pub(super) fn count(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(at)?).unwrap_or_default())
}

pub(super) fn spec(row: &Row<'_>) -> rusqlite::Result<LimitSpec> {
    let count: Option<u32> = row.get(3)?;
    let span: Option<i64> = row.get(4)?;
    let rate = count.zip(span).map(|(count, span)| Rate { count, span: Duration::from_micros(span.unsigned_abs()) });
    Ok(LimitSpec { name: row.get(0)?, executing: row.get(1)?, in_flight: row.get(2)?, rate, key: row.get(5)? })
}

impl Limits for SqliteStore {
    fn define_limit(&self, limit: &LimitSpec) -> Result<Option<LimitSpec>, StoreError> {
        let explain = |error: rusqlite::Error| self.identity.error(&error);
        let before = |connection: &Connection| -> rusqlite::Result<Option<LimitSpec>> {
            connection.prepare_cached(SPEC)?.query_row([&limit.name], spec).optional()
        };
        let known = before(&*self.reader()?).map_err(explain)?;
        if known.as_ref() == Some(limit) {
            return Ok(None);
        }
        let before = self.transact(|connection| {
            let before = before(connection)?;
            let LimitSpec { name, executing, in_flight, rate, key } = limit;
            let (count, span) = (rate.map(|rate| rate.count), rate.map(|rate| micros(rate.span)));
            execute(connection, DEFINE, params![name, executing, in_flight, count, span, key])?;
            Ok(before)
        })?;
        // Who waits may have room now.
        self.changes.limits();
        self.live()?.wake.poll_others();
        Ok(before.filter(|before| before != limit))
    }

    fn claim_limits(&self, lease: Lease, now: Time, call: &LimitCall) -> Result<Vec<LineAnswers>, StoreError> {
        self.claim(lease, now, call)
    }

    fn grants_in_commits(&self) -> bool {
        true
    }

    fn purge_limits(&self, now: Time) -> Result<(), StoreError> {
        let explain = |error: rusqlite::Error| self.identity.error(&error);
        let any = |connection: &Connection| connection.prepare_cached(ANY_KEY)?.exists([]);
        if !any(&*self.reader()?).map_err(explain)? {
            return Ok(());
        }
        self.transact(|connection| {
            for spec in specs(connection)? {
                execute(connection, OLD_STARTS, params![spec.name, Room::counts_since(&spec, now).0])?;
            }
            execute(connection, UNUSED_KEYS, []).map(drop)
        })
    }

    fn limits(&self, now: Time) -> Result<Vec<LimitInfo>, StoreError> {
        let reader = self.reader()?;
        let read = || -> rusqlite::Result<Vec<LimitInfo>> {
            // One moment for all tables.
            let _snapshot = reader.unchecked_transaction()?;
            specs(&reader)?.into_iter().map(|spec| info(&reader, spec, now)).collect()
        };
        read().map_err(|error| self.identity.error(&error))
    }
}

fn specs(connection: &Connection) -> rusqlite::Result<Vec<LimitSpec>> {
    connection.prepare_cached(SPECS)?.query_map([], spec)?.collect()
}

/// What is used of a limit.
fn info(reader: &Connection, spec: LimitSpec, now: Time) -> rusqlite::Result<LimitInfo> {
    let since = Room::counts_since(&spec, now);
    let mut uses = Vec::new();
    let mut statement = reader.prepare_cached(USES)?;
    let mut rows = statement.query(params![spec.name, since.0])?;
    while let Some(row) = rows.next()? {
        let key: Arc<str> = row.get(0)?;
        let [executing, in_flight, started, waiting] = [count(row, 1)?, count(row, 2)?, count(row, 3)?, count(row, 4)?];
        if executing + in_flight + started + waiting > 0 {
            uses.push(LimitUse { key, executing, in_flight, started, waiting });
        }
    }
    Ok(LimitInfo { spec, uses })
}

impl SqliteStore {
    /// Shares were released for which other runners wait, of this process or another one.
    pub(super) fn limits_released(&self) -> Result<(), StoreError> {
        self.changes.limits();
        self.live()?.wake.poll_others();
        Ok(())
    }
}
