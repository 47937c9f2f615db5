//! Limits: their definitions, and the shares and starts that count. See [`crate::Limits`].

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bide_core::Time;
use bide_core::limits::{LimitSpec, Rank, Rate, Room, Starts};
use bide_core::record::{RunRowId, Write};
use bide_core::time::micros;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::SqliteStore;
use crate::limits::{Shares, answer, stands};
use crate::{Answer, Lease, LimitCall, LimitInfo, LimitUse, Limits, LineClaims, ShareId, StoreError};

const SPEC: &str = "SELECT name, executing, in_flight, rate_count, rate_span, key FROM limit_spec WHERE name = ?1";
const SPECS: &str = "SELECT name, executing, in_flight, rate_count, rate_span, key FROM limit_spec ORDER BY name";
const DEFINE: &str = "INSERT OR REPLACE INTO limit_spec (name, executing, in_flight, rate_count, rate_span, key) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
const ANY_SHARE: &str = "SELECT 1 FROM limit_share LIMIT 1";
const RELEASE: &str = "DELETE FROM limit_share WHERE run = ?1 AND task = ?2 AND map = ?3";
const RELEASE_RUN: &str = "DELETE FROM limit_share WHERE run = ?1";
const IDLE: &str = "UPDATE limit_share SET executing = 0 WHERE run = ?1 AND task = ?2 AND map = ?3";
const IDLE_RUN: &str = "UPDATE limit_share SET executing = 0 WHERE run = ?1";
const OTHERS_WAIT: &str = "SELECT 1 FROM limit_line WHERE runner <> ?1 LIMIT 1";
const OTHERS: &str = "SELECT priority, age FROM limit_line WHERE name = ?1 AND key = ?2 AND runner <> ?3";
const IN_FLIGHT: &str = "SELECT count(*) FROM limit_share WHERE name = ?1 AND key = ?2";
const EXECUTING: &str = "SELECT count(*) FROM limit_share WHERE name = ?1 AND key = ?2 AND executing = 1";
const STARTS: &str = "SELECT latest, count FROM limit_start WHERE name = ?1 AND key = ?2";
const OLD_STARTS: &str = "DELETE FROM limit_start WHERE name = ?1 AND key = ?2 AND latest < ?3";
const UNSTARTED: &str =
    "UPDATE limit_start SET count = count - 1 WHERE name = ?1 AND key = ?2 AND latest = ?3 AND count > 0";
const START: &str = "INSERT INTO limit_start (name, key, latest, count) VALUES (?1, ?2, ?3, 1) \
     ON CONFLICT (name, key, latest) DO UPDATE SET count = count + 1";
const CURRENT: &str = "SELECT 1 FROM run WHERE id = ?1 AND status < 3 AND runner = ?4 \
     AND NOT EXISTS (SELECT 1 FROM task WHERE run = ?1 AND task = ?2 AND map = ?3 AND status >= 3)";
const HELD: &str = "SELECT name, key, executing FROM limit_share WHERE run = ?1 AND task = ?2 AND map = ?3";
const GIVE: &str = "INSERT OR REPLACE INTO limit_share (run, task, map, name, key, runner, executing) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1)";
const LINE: &str = "INSERT OR REPLACE INTO limit_line (name, key, runner, count, priority, age) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
const NO_LINE: &str = "DELETE FROM limit_line WHERE name = ?1 AND key = ?2 AND runner = ?3";
const NO_LINES: &str = "DELETE FROM limit_line WHERE runner = ?1";
/// A body that has not recorded anything is entered anew by the next runner, which asks for it anew.
const FORGET_BEGUN: &str = "DELETE FROM limit_share WHERE runner = ?1 AND NOT EXISTS (SELECT 1 FROM task t \
     WHERE t.run = limit_share.run AND t.task = limit_share.task AND t.map = limit_share.map AND t.status = 2)";
const IDLE_ALL: &str = "UPDATE limit_share SET executing = 0, runner = NULL WHERE runner = ?1";
const SHARES_BY_KEY: &str = "SELECT key, count(*), sum(executing) FROM limit_share WHERE name = ?1 GROUP BY key";
const STARTS_BY_KEY: &str = "SELECT key, sum(count) FROM limit_start WHERE name = ?1 AND latest >= ?2 GROUP BY key";
const LINES_BY_KEY: &str = "SELECT key, sum(count) FROM limit_line WHERE name = ?1 GROUP BY key";

fn execute(connection: &Connection, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<usize> {
    connection.prepare_cached(sql)?.execute(params)
}

/// Whether there are shares at all.
pub(super) fn any(connection: &Connection) -> rusqlite::Result<bool> {
    connection.prepare_cached(ANY_SHARE)?.exists([])
}

/// Releases the shares of the attempts that end with a batch. True if others wait for such.
pub(super) fn release(
    connection: &Connection,
    lease: Lease,
    batch: &[Write],
    skipped: &[RunRowId],
) -> rusqlite::Result<bool> {
    let mut releasing = batch.iter().filter(|write| match write {
        Write::Run(update) => update.status.is_ended() || stands(update),
        write => ShareId::released_by(write).is_some(),
    });
    let Some(first) = releasing.next() else { return Ok(false) };
    let mut released = 0;
    for write in std::iter::once(first).chain(releasing) {
        if skipped.binary_search(&write.run()).is_ok() {
            continue;
        }
        released += match (write, ShareId::released_by(write)) {
            (Write::Run(update), _) if update.status.is_ended() => release_run(connection, update.run)?,
            (Write::Run(update), _) => execute(connection, IDLE_RUN, [update.run])?,
            (_, Some(ShareId { run, task, map })) => execute(connection, RELEASE, params![run, task, map])?,
            (_, None) => 0,
        };
    }
    Ok(released > 0 && connection.prepare_cached(OTHERS_WAIT)?.exists([lease.runner])?)
}

/// Releases the shares of a run that has ended.
pub(super) fn release_run(connection: &Connection, run: RunRowId) -> rusqlite::Result<usize> {
    execute(connection, RELEASE_RUN, [run])
}

/// A runner is gone: its bodies do not execute any more. What waits keeps its share.
pub(super) fn abandon(connection: &Connection, runner: i64) -> rusqlite::Result<()> {
    for sql in [FORGET_BEGUN, IDLE_ALL, NO_LINES] {
        execute(connection, sql, [runner])?;
    }
    Ok(())
}

fn count(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(at)?.unsigned_abs())
}

fn spec(row: &Row<'_>) -> rusqlite::Result<LimitSpec> {
    let count: Option<u32> = row.get(3)?;
    let span: Option<i64> = row.get(4)?;
    let rate = count.zip(span).map(|(count, span)| Rate { count, span: Duration::from_micros(span.unsigned_abs()) });
    Ok(LimitSpec { name: row.get(0)?, executing: row.get(1)?, in_flight: row.get(2)?, rate, key: row.get(5)? })
}

/// The shares of one limit and one value of its key.
struct OfLine<'a> {
    /// In a write transaction.
    connection: &'a Connection,
    /// Whose claims are answered.
    runner: i64,
    /// Those claims.
    line: &'a LineClaims,
}

impl Shares for OfLine<'_> {
    type Error = rusqlite::Error;

    fn is_current(&mut self, ShareId { run, task, map }: ShareId) -> rusqlite::Result<bool> {
        self.connection.prepare_cached(CURRENT)?.exists(params![run, task, map, self.runner])
    }

    fn held(&mut self, ShareId { run, task, map }: ShareId) -> rusqlite::Result<Option<bool>> {
        let mut statement = self.connection.prepare_cached(HELD)?;
        let read = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get(2)?));
        let held = statement.query_row(params![run, task, map], read).optional()?;
        let is_here = |(name, key, _): &(String, String, bool)| *name == *self.line.limit && *key == *self.line.key;
        Ok(held.filter(is_here).map(|(_, _, executing)| executing))
    }

    fn give(&mut self, ShareId { run, task, map }: ShareId) -> rusqlite::Result<()> {
        let LineClaims { limit, key, .. } = self.line;
        execute(self.connection, GIVE, params![run, task, map, limit, key, self.runner]).map(drop)
    }

    fn start(&mut self, latest: Time) -> rusqlite::Result<()> {
        execute(self.connection, START, params![self.line.limit, self.line.key, latest.0]).map(drop)
    }
}

impl OfLine<'_> {
    fn answer(&mut self, now: Time) -> rusqlite::Result<Vec<Answer>> {
        let LineClaims { limit, key, claims, .. } = self.line;
        let Some(spec) = self.connection.prepare_cached(SPEC)?.query_row([limit], spec).optional()? else {
            return Ok(claims.iter().map(|_| Answer::Granted(None)).collect());
        };
        let used = |sql: &str, limited: Option<u32>| match limited {
            Some(_) => self.connection.prepare_cached(sql)?.query_row([limit, key], |row| count(row, 0)),
            None => Ok(0),
        };
        let used = (used(EXECUTING, spec.executing)?, used(IN_FLIGHT, spec.in_flight)?);
        let mut starts: Vec<Starts> = Vec::new();
        if spec.rate.is_some() {
            let since = Room::counts_since(&spec, now);
            execute(self.connection, OLD_STARTS, params![limit, key, since.0])?;
            let mut statement = self.connection.prepare_cached(STARTS)?;
            let rows = statement.query_map([limit, key], |row| Ok((Time(row.get(0)?), row.get(1)?)))?;
            starts = rows.collect::<Result<_, _>>()?;
        }
        let mut others = self.connection.prepare_cached(OTHERS)?;
        let others: Vec<Rank> = others
            .query_map(params![limit, key, self.runner], |row| {
                Ok(Rank { priority: row.get(0)?, age: Time(row.get(1)?) })
            })?
            .collect::<Result<_, _>>()?;
        let line = self.line;
        let answers = answer(self, &spec, line, used, (starts, &others), now)?;
        match line.waiting(&answers) {
            Some((count, Rank { priority, age })) => {
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                execute(self.connection, LINE, params![limit, key, self.runner, count, priority, age.0])?
            }
            None => execute(self.connection, NO_LINE, params![limit, key, self.runner])?,
        };
        Ok(answers)
    }
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

    fn claim_limits(&self, lease: Lease, now: Time, call: &LimitCall) -> Result<Vec<Vec<Answer>>, StoreError> {
        // Before there are any: no attempt that has one ends before this returns.
        self.has_shares.store(true, Ordering::Relaxed);
        let (answers, others_wait) = self.fenced(lease, |connection| {
            let mut released = 0;
            for ShareId { run, task, map } in &call.released {
                released += execute(connection, RELEASE, params![run, task, map])?;
            }
            for ShareId { run, task, map } in &call.idle {
                released += execute(connection, IDLE, params![run, task, map])?;
            }
            for one in &call.unstarted {
                released += execute(connection, UNSTARTED, params![one.limit, one.key, one.latest.0])?;
            }
            let answers = call.lines.iter().map(|line| OfLine { connection, runner: lease.runner, line }.answer(now));
            let answers = answers.collect::<rusqlite::Result<Vec<_>>>()?;
            let others_wait = released > 0 && connection.prepare_cached(OTHERS_WAIT)?.exists([lease.runner])?;
            Ok((answers, others_wait))
        })?;
        if others_wait {
            self.limits_released()?;
        }
        Ok(answers)
    }

    fn limits(&self, now: Time) -> Result<Vec<LimitInfo>, StoreError> {
        let reader = self.reader()?;
        let read = || -> rusqlite::Result<Vec<LimitInfo>> {
            // One moment for all tables.
            let _snapshot = reader.unchecked_transaction()?;
            let specs = reader.prepare_cached(SPECS)?.query_map([], spec)?.collect::<rusqlite::Result<Vec<_>>>()?;
            specs.into_iter().map(|spec| info(&reader, spec, now)).collect()
        };
        read().map_err(|error| self.identity.error(&error))
    }
}

/// What is used of a limit.
fn info(reader: &Connection, spec: LimitSpec, now: Time) -> rusqlite::Result<LimitInfo> {
    let mut uses = std::collections::BTreeMap::<Arc<str>, LimitUse>::new();
    let mut add = |key: Arc<str>, change: &dyn Fn(&mut LimitUse)| {
        let none = LimitUse { key: Arc::clone(&key), executing: 0, in_flight: 0, started: 0, waiting: 0 };
        change(uses.entry(key).or_insert(none));
    };
    let mut statement = reader.prepare_cached(SHARES_BY_KEY)?;
    let mut rows = statement.query([&spec.name])?;
    while let Some(row) = rows.next()? {
        let (in_flight, executing) = (count(row, 1)?, count(row, 2)?);
        add(row.get(0)?, &|one| (one.in_flight, one.executing) = (in_flight, executing));
    }
    let mut statement = reader.prepare_cached(STARTS_BY_KEY)?;
    let mut rows = statement.query(params![spec.name, Room::counts_since(&spec, now).0])?;
    while let Some(row) = rows.next()? {
        let started = count(row, 1)?;
        add(row.get(0)?, &|one| one.started = started);
    }
    let mut statement = reader.prepare_cached(LINES_BY_KEY)?;
    let mut rows = statement.query([&spec.name])?;
    while let Some(row) = rows.next()? {
        let waiting = count(row, 1)?;
        add(row.get(0)?, &|one| one.waiting = waiting);
    }
    let is_used = |one: &LimitUse| one.executing + one.in_flight + one.started + one.waiting > 0;
    Ok(LimitInfo { spec, uses: uses.into_values().filter(is_used).collect() })
}

impl SqliteStore {
    /// Shares were released for which other runners wait, of this process or another one.
    pub(super) fn limits_released(&self) -> Result<(), StoreError> {
        self.changes.limits();
        self.live()?.wake.poll_others();
        Ok(())
    }
}
