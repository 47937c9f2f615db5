//! Claims of the shares of limits: what a runner tells and asks, in one transaction. See [`crate::Limits`].

use std::sync::atomic::Ordering;

use bide_core::Time;
use bide_core::limits::{LimitSpec, Rank, Room, Used};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::SqliteStore;
use super::{Changed, SPEC, count, execute, others_wait, spec};
use crate::limits::{Given, Shares, answer};
use crate::{Lease, LimitCall, LineAnswers, LineClaims, Moved, Passed, ShareId, StoreError};

const KEY: &str = "SELECT id FROM limit_key WHERE name = ?1 AND key = ?2";
const NEW_KEY: &str = "INSERT INTO limit_key (name, key) VALUES (?1, ?2)";
const USED: &str = "SELECT executing, in_flight, started FROM limit_key WHERE id = ?1";
const OLDEST: &str = "SELECT min(latest) FROM limit_start WHERE line = ?1";
const OTHERS: &str = "SELECT priority, age FROM limit_line WHERE line = ?1 AND runner <> ?2";
const OLD_STARTS: &str = "DELETE FROM limit_start WHERE line = ?1 AND latest < ?2";
const TAKE_STARTS: &str = "UPDATE limit_start SET count = count - ?3 WHERE line = ?1 AND latest = ?2 AND count >= ?3";
const NO_START: &str = "DELETE FROM limit_start WHERE line = ?1 AND latest = ?2 AND count = 0";
const START: &str = "INSERT INTO limit_start (line, latest, count) VALUES (?1, ?2, ?3) \
     ON CONFLICT (line, latest) DO UPDATE SET count = count + excluded.count";
const GIVE: &str = "INSERT INTO limit_share (run, task, map, line, runner, executing) VALUES (?1, ?2, ?3, ?4, ?5, 1) \
     ON CONFLICT (run, task, map) DO NOTHING";
/// The same of an attempt whose run belongs to the runner and whose task has not ended.
const GIVE_CURRENT: &str = "INSERT INTO limit_share (run, task, map, line, runner, executing) \
     SELECT ?1, ?2, ?3, ?4, ?5, 1 FROM run WHERE id = ?1 AND status < 3 AND runner = ?5 \
     AND NOT EXISTS (SELECT 1 FROM task WHERE run = ?1 AND task = ?2 AND map = ?3 AND status >= 3) \
     ON CONFLICT (run, task, map) DO NOTHING";
/// What an attempt of the runner has.
const LEAVE: &str = "DELETE FROM limit_share \
     WHERE run = ?1 AND task = ?2 AND map = ?3 AND line = ?4 AND runner = ?5 RETURNING executing";
/// What an attempt leaves to another one that has none.
const PASS_ON: &str = "UPDATE OR IGNORE limit_share SET run = ?1, task = ?2, map = ?3 \
     WHERE run = ?4 AND task = ?5 AND map = ?6 AND line = ?7 AND runner = ?8 AND executing = 1";
const EXECUTES: &str = "UPDATE limit_share SET executing = 1, runner = ?4 WHERE run = ?1 AND task = ?2 AND map = ?3";
const LINE: &str = "INSERT INTO limit_line (line, runner, count, priority, age) VALUES (?1, ?2, ?3, ?4, ?5) \
     ON CONFLICT (line, runner) DO UPDATE SET count = excluded.count, priority = excluded.priority, age = excluded.age";
const NO_LINE: &str = "DELETE FROM limit_line WHERE line = ?1 AND runner = ?2";

/// The shares of one limit and one value of its key.
struct OfLine<'a, 'c> {
    /// In a write transaction.
    connection: &'c Connection,
    /// What changes with the call.
    changed: &'a mut Changed<'c>,
    /// Whose claims are answered.
    runner: i64,
    /// The row of the limit and the value of its key.
    line: i64,
}

impl Shares for OfLine<'_, '_> {
    type Error = rusqlite::Error;

    fn held(&mut self, share: ShareId) -> rusqlite::Result<Option<bool>> {
        let held = self.changed.share(share)?.filter(|(line, _)| *line == self.line);
        Ok(held.map(|(_, executing)| executing))
    }

    fn give(&mut self, share: ShareId, any: bool) -> rusqlite::Result<Given> {
        let (ShareId { run, task, map }, Self { connection, runner, line, .. }) = (share, &*self);
        let give = if any { GIVE } else { GIVE_CURRENT };
        if execute(connection, give, params![run, task, map, line, runner])? > 0 {
            self.changed.count(*line, 1, 1);
            return Ok(Given::New);
        }
        let Some((line, executing)) = self.changed.share(share)? else { return Ok(Given::Gone) };
        if line != self.line {
            // It has one of another limit, which its task had before.
            self.changed.release(share)?;
            return self.give(share, any);
        }
        if !executing {
            execute(self.connection, EXECUTES, params![run, task, map, self.runner])?;
            self.changed.count(self.line, 1, 0);
        }
        Ok(Given::Had(executing))
    }

    fn start(&mut self, latest: Time, count: u32) -> rusqlite::Result<()> {
        execute(self.connection, START, params![self.line, latest.0, count]).map(drop)
    }
}

impl OfLine<'_, '_> {
    /// Counts starts as they have happened. True if there is more room.
    fn moves(&mut self, moved: &[Moved]) -> rusqlite::Result<bool> {
        let mut any = false;
        for Moved { latest, count, to } in moved {
            if execute(self.connection, TAKE_STARTS, params![self.line, latest.0, count])? > 0 {
                any = true;
                execute(self.connection, NO_START, params![self.line, latest.0])?;
                if let Some(to) = to {
                    self.start(*to, *count)?;
                }
            }
        }
        Ok(any)
    }

    fn used(&self, spec: &LimitSpec, now: Time) -> rusqlite::Result<Used> {
        if spec.rate.is_some() {
            let since = Room::counts_since(spec, now);
            execute(self.connection, OLD_STARTS, params![self.line, since.0])?;
        }
        let read = |row: &Row<'_>| {
            let (executing, in_flight, started) = (count(row, 0)?, count(row, 1)?, count(row, 2)?);
            Ok(Used { executing, in_flight, started, oldest: None })
        };
        let used = self.connection.prepare_cached(USED)?.query_row([self.line], read)?;
        if spec.rate.is_none() || used.started == 0 {
            return Ok(used);
        }
        let oldest: Option<i64> = self.connection.prepare_cached(OLDEST)?.query_row([self.line], |row| row.get(0))?;
        Ok(Used { oldest: oldest.map(Time), ..used })
    }

    fn answer(&mut self, spec: &LimitSpec, line: &LineClaims, now: Time) -> rusqlite::Result<LineAnswers> {
        let used = self.used(spec, now)?;
        let mut others = self.connection.prepare_cached(OTHERS)?;
        let rank = |row: &Row<'_>| Ok(Rank { priority: row.get(0)?, age: Time(row.get(1)?) });
        let others: Vec<Rank> = others.query_map([self.line, self.runner], rank)?.collect::<Result<_, _>>()?;
        let answers = answer(self, spec, line, (used, &others), now)?;
        match line.waiting(&answers.claims) {
            Some((count, Rank { priority, age })) => {
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                execute(self.connection, LINE, params![self.line, self.runner, count, priority, age.0])?
            }
            None => execute(self.connection, NO_LINE, params![self.line, self.runner])?,
        };
        Ok(answers)
    }
}

/// The row of a limit and a value of its key, which may be made.
fn line_id(connection: &Connection, line: &LineClaims, makes: bool) -> rusqlite::Result<Option<i64>> {
    let LineClaims { limit, key, .. } = line;
    let known = connection.prepare_cached(KEY)?.query_row([limit, key], |row| row.get(0)).optional()?;
    if known.is_some() || !makes {
        return Ok(known);
    }
    execute(connection, NEW_KEY, [limit, key])?;
    Ok(Some(connection.last_insert_rowid()))
}

/// Records which attempts have left their shares to others: before anything is released.
pub(in super::super) fn pass_on(connection: &Connection, lease: Lease, lines: &[LineClaims]) -> rusqlite::Result<()> {
    for line in lines.iter().filter(|line| !line.passed.is_empty()) {
        let Some(id) = line_id(connection, line, true)? else { continue };
        let mut changed = Changed::new(connection);
        let mut pass_on = connection.prepare_cached(PASS_ON)?;
        for Passed { from, to } in &line.passed {
            let passed = params![to.run, to.task, to.map, from.run, from.task, from.map, id, lease.runner];
            if pass_on.execute(passed)? == 0 {
                // What it left was released meanwhile, with its run. The other one executes all the same.
                let left = params![from.run, from.task, from.map, id, lease.runner];
                let left = connection.prepare_cached(LEAVE)?.query_row(left, |row| row.get(0)).optional()?;
                left.inspect(|executing: &i64| changed.count(id, -executing, -1));
                OfLine { connection, changed: &mut changed, runner: lease.runner, line: id }.give(*to, false)?;
            }
        }
        changed.written()?;
    }
    Ok(())
}

/// Answers the claims of a line. True if it has more room than before, apart from what they take.
fn claim<'c>(
    connection: &'c Connection,
    changed: &mut Changed<'c>,
    runner: i64,
    line: &LineClaims,
    now: Time,
) -> rusqlite::Result<(LineAnswers, bool)> {
    let LineClaims { limit, claims, moved, .. } = line;
    let Some(spec) = connection.prepare_cached(SPEC)?.query_row([limit], spec).optional()? else {
        return Ok((LineAnswers::unlimited(line), false));
    };
    let Some(id) = line_id(connection, line, !claims.is_empty())? else { return Ok((LineAnswers::default(), false)) };
    let mut shares = OfLine { connection, changed, runner, line: id };
    let more = shares.moves(moved)?;
    Ok((shares.answer(&spec, line, now)?, more))
}

impl SqliteStore {
    /// Answers the claims of lines within a write transaction. True if something was freed beside.
    pub(in super::super) fn answer(
        &self,
        connection: &Connection,
        lease: Lease,
        now: Time,
        lines: &[LineClaims],
    ) -> rusqlite::Result<(Vec<LineAnswers>, bool)> {
        // Before there are any: no attempt that has one ends before this is committed.
        self.has_shares.store(true, Ordering::Relaxed);
        let (mut answers, mut freed) = (Vec::with_capacity(lines.len()), false);
        for line in lines {
            let mut changed = Changed::new(connection);
            let (answered, more) = claim(connection, &mut changed, lease.runner, line, now)?;
            freed |= changed.written()? | more;
            answers.push(answered);
        }
        Ok((answers, freed))
    }

    pub(super) fn claim(&self, lease: Lease, now: Time, call: &LimitCall) -> Result<Vec<LineAnswers>, StoreError> {
        let (answers, others_wait) = self.fenced(lease, |connection| {
            pass_on(connection, lease, &call.lines)?;
            let mut changed = Changed::new(connection);
            call.released.iter().try_for_each(|share| changed.release(*share))?;
            call.idle.iter().try_for_each(|share| changed.idle(*share))?;
            // Before it is asked what is used.
            let freed = changed.written()?;
            let (answers, more) = self.answer(connection, lease, now, &call.lines)?;
            Ok((answers, (freed || more) && others_wait(connection, lease)?))
        })?;
        if others_wait {
            self.limits_released()?;
        }
        Ok(answers)
    }
}
