//! Limits across the runners of a server: their definitions, and the shares that are released. How shares are granted is
//! in `grants.rs`. See [`crate::Limits`].
//!
//! What is used of a limit is counted from its shares, so that a release changes no row that others change too. Who grants
//! shares of a limit and a value of its key locks their row `FOR UPDATE`; who releases some locks it `FOR SHARE`, then looks
//! who else waits. So one of the two finds what the other has done: a share, or who waits for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bide_core::limits::{LimitSpec, Rate, Room};
use bide_core::record::{RunRowId, Write};
use bide_core::time::micros;
use bide_core::{TaskId, Time};
use postgres::Row;

use super::PostgresStore;
use super::changes::Kind;
use super::error::Failed;
use super::notify::Hint;
use super::session::{Session, Text};
use crate::{Lease, LimitCall, LimitInfo, LimitUse, Limits, LineAnswers, ShareId, StoreError};

const ANY_SHARE: &str = "SELECT 1 FROM bide.limit_share LIMIT 1";
const SPEC: &str =
    "SELECT name, executing, in_flight, rate_count, rate_span, key FROM bide.limit_spec WHERE name = $1::text";
const SPECS: &str = "SELECT name, executing, in_flight, rate_count, rate_span, key FROM bide.limit_spec ORDER BY name";
const DEFINE: &str = "INSERT INTO bide.limit_spec (name, executing, in_flight, rate_count, rate_span, key) \
     VALUES ($1::text, $2::int8, $3::int8, $4::int8, $5::int8, $6::text) ON CONFLICT (name) DO UPDATE SET \
     executing = excluded.executing, in_flight = excluded.in_flight, rate_count = excluded.rate_count, \
     rate_span = excluded.rate_span, key = excluded.key";
/// Attempts that have ended, runs that have ended, and runs that stand: what waits in these keeps its share. A body that
/// has recorded nothing is entered anew, and asked about anew.
const RELEASE: &str = "WITH ended AS (DELETE FROM bide.limit_share s \
     USING unnest($1::int8[], $2::int8[], $3::int8[]) u(run, task, map) \
     WHERE s.run = u.run AND s.task = u.task AND s.map = u.map RETURNING s.line), \
     runs AS (DELETE FROM bide.limit_share WHERE run = ANY ($4::int8[]) RETURNING line), \
     stood AS MATERIALIZED (SELECT s.run, s.task, s.map, EXISTS (SELECT 1 FROM bide.task t \
     WHERE t.run = s.run AND t.task = s.task AND t.map = s.map AND t.status = 2) AS waits \
     FROM bide.limit_share s WHERE s.run = ANY ($5::int8[])), \
     anew AS (DELETE FROM bide.limit_share s USING stood t \
     WHERE s.run = t.run AND s.task = t.task AND s.map = t.map AND NOT t.waits RETURNING s.line), \
     idle AS (UPDATE bide.limit_share s SET executing = false FROM stood t \
     WHERE s.run = t.run AND s.task = t.task AND s.map = t.map AND t.waits AND s.executing RETURNING s.line) \
     SELECT line FROM ended UNION SELECT line FROM runs UNION SELECT line FROM anew UNION SELECT line FROM idle";
const IDLE: &str = "UPDATE bide.limit_share s SET executing = false \
     FROM unnest($1::int8[], $2::int8[], $3::int8[]) u(run, task, map) \
     WHERE s.run = u.run AND s.task = u.task AND s.map = u.map AND s.executing RETURNING s.line";
const LOCK: &str = "SELECT id FROM bide.limit_key WHERE id = ANY ($1::int8[]) ORDER BY id FOR SHARE";
const OTHERS_WAIT: &str =
    "SELECT EXISTS (SELECT 1 FROM bide.limit_line WHERE line = ANY ($1::int8[]) AND runner <> $2::int8)";
/// Runners are gone: as with runs that stand.
const ABANDON: &str = "WITH stood AS MATERIALIZED (SELECT s.run, s.task, s.map, EXISTS (SELECT 1 FROM bide.task t \
     WHERE t.run = s.run AND t.task = s.task AND t.map = s.map AND t.status = 2) AS waits \
     FROM bide.limit_share s WHERE s.runner = ANY ($1::int8[])), \
     anew AS (DELETE FROM bide.limit_share s USING stood t \
     WHERE s.run = t.run AND s.task = t.task AND s.map = t.map AND NOT t.waits), \
     idle AS (UPDATE bide.limit_share s SET executing = false, runner = NULL FROM stood t \
     WHERE s.run = t.run AND s.task = t.task AND s.map = t.map AND t.waits) \
     DELETE FROM bide.limit_line WHERE runner = ANY ($1::int8[])";
const RELEASE_RUN: &str = "DELETE FROM bide.limit_share WHERE run = $1::int8";
const RELEASE_TASK: &str = "DELETE FROM bide.limit_share WHERE run = $1::int8 AND task = $2::int8";
const RENUMBER: &str = "UPDATE bide.limit_share SET task = -1 - $3::int8 WHERE run = $1::int8 AND task = $2::int8";
const SETTLE: &str = "UPDATE bide.limit_share SET task = -1 - task WHERE run = $1::int8 AND task < 0";
const USES: &str = "SELECT k.key, \
     (SELECT count(*) FROM bide.limit_share s WHERE s.line = k.id AND s.executing), \
     (SELECT count(*) FROM bide.limit_share s WHERE s.line = k.id), \
     (SELECT coalesce(sum(t.count), 0)::int8 FROM bide.limit_start t WHERE t.line = k.id AND t.latest >= $2::int8), \
     (SELECT coalesce(sum(l.count), 0)::int8 FROM bide.limit_line l WHERE l.line = k.id) \
     FROM bide.limit_key k WHERE k.name = $1::text ORDER BY k.key";
const ANY_KEY: &str = "SELECT 1 FROM bide.limit_key LIMIT 1";
const OLD_STARTS: &str = "DELETE FROM bide.limit_start t USING bide.limit_key k \
     WHERE k.name = $1::text AND t.line = k.id AND (t.latest < $2::int8 OR t.count = 0)";
/// Those that nobody is about to use.
const UNUSED_KEYS: &str = "SELECT id FROM bide.limit_key k \
     WHERE NOT EXISTS (SELECT 1 FROM bide.limit_share s WHERE s.line = k.id) \
     AND NOT EXISTS (SELECT 1 FROM bide.limit_start t WHERE t.line = k.id) \
     AND NOT EXISTS (SELECT 1 FROM bide.limit_line l WHERE l.line = k.id) ORDER BY id FOR UPDATE SKIP LOCKED";
/// What was used while they were not locked yet stays.
const DELETE_KEYS: &str = "DELETE FROM bide.limit_key k WHERE k.id = ANY ($1::int8[]) \
     AND NOT EXISTS (SELECT 1 FROM bide.limit_share s WHERE s.line = k.id) \
     AND NOT EXISTS (SELECT 1 FROM bide.limit_start t WHERE t.line = k.id) \
     AND NOT EXISTS (SELECT 1 FROM bide.limit_line l WHERE l.line = k.id)";

/// Attempts, as the columns of a statement.
#[derive(Default)]
pub(super) struct ShareColumns {
    pub(super) runs: Vec<i64>,
    pub(super) tasks: Vec<i64>,
    pub(super) maps: Vec<i64>,
}

impl ShareColumns {
    pub(super) fn push(&mut self, ShareId { run, task, map }: ShareId) {
        self.runs.push(run);
        self.tasks.push(task);
        self.maps.push(map.into());
    }

    pub(super) fn of(shares: &[ShareId]) -> Self {
        let mut columns = Self::default();
        shares.iter().for_each(|share| columns.push(*share));
        columns
    }
}

/// The limits and values of keys in the answer of a statement.
fn lines(rows: &[Row]) -> Result<Vec<i64>, Failed> {
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

/// Attempts that are over: they, their runs, or the runs that stand. Returns of which limits shares are free.
pub(super) fn release_attempts(
    session: &mut Session<'_>,
    attempts: &ShareColumns,
    ended: &[i64],
    stood: &[i64],
) -> Result<Vec<i64>, Failed> {
    lines(&session.query(RELEASE, &[&attempts.runs, &attempts.tasks, &attempts.maps, &ended, &stood])?)
}

/// Attempts whose bodies do not execute any more. Returns of which limits they executed.
pub(super) fn idle(session: &mut Session<'_>, attempts: &ShareColumns) -> Result<Vec<i64>, Failed> {
    lines(&session.query(IDLE, &[&attempts.runs, &attempts.tasks, &attempts.maps])?)
}

/// Runners are gone: their bodies execute no more. Who waits is told with their runs.
pub(super) fn abandon(session: &mut Session<'_>, runners: &[i64]) -> Result<(), Failed> {
    session.execute(ABANDON, &[&runners]).map(drop)
}

/// A run has ended. Who waits is told of that.
pub(super) fn release_run(session: &mut Session<'_>, run: RunRowId) -> Result<(), Failed> {
    session.execute(RELEASE_RUN, &[&run]).map(drop)
}

/// A task of a run is gone, with its elements.
pub(super) fn release_task(session: &mut Session<'_>, run: RunRowId, task: TaskId) -> Result<(), Failed> {
    session.execute(RELEASE_TASK, &[&run, &task]).map(drop)
}

/// A task gets another number: one below zero first.
pub(super) fn renumber(session: &mut Session<'_>, run: RunRowId, old: TaskId, new: TaskId) -> Result<(), Failed> {
    session.execute(RENUMBER, &[&run, &old, &new]).map(drop)
}

/// And then that number.
pub(super) fn settle(session: &mut Session<'_>, run: RunRowId) -> Result<(), Failed> {
    session.execute(SETTLE, &[&run]).map(drop)
}

pub(super) fn spec(row: &Row, at: usize) -> Result<LimitSpec, Failed> {
    let count = |at| Ok::<_, Failed>(row.try_get::<_, Option<i64>>(at)?.and_then(|count| u32::try_from(count).ok()));
    let span: Option<i64> = row.try_get(at + 4)?;
    let rate = count(at + 3)?.zip(span);
    let rate = rate.map(|(count, span)| Rate { count, span: Duration::from_micros(span.unsigned_abs()) });
    let name: Text<'_> = row.try_get(at)?;
    let key: Option<Text<'_>> = row.try_get(at + 5)?;
    Ok(LimitSpec {
        name: Arc::from(&*name.0),
        executing: count(at + 1)?,
        in_flight: count(at + 2)?,
        rate,
        key: key.map(|key| Arc::from(&*key.0)),
    })
}

fn specs(session: &mut Session<'_>) -> Result<Vec<LimitSpec>, Failed> {
    session.query(SPECS, &[])?.iter().map(|row| spec(row, 0)).collect()
}

fn find(session: &mut Session<'_>, name: &str) -> Result<Option<LimitSpec>, Failed> {
    session.query_opt(SPEC, &[&Text::from(name)])?.map(|row| spec(&row, 0)).transpose()
}

pub(super) fn count(row: &Row, at: usize) -> Result<u64, Failed> {
    Ok(u64::try_from(row.try_get::<_, i64>(at)?).unwrap_or_default())
}

impl PostgresStore {
    /// Releases the shares of the attempts that end with a batch, within its transaction. True if others wait for them.
    pub(super) fn release_shares(
        &self,
        session: &mut Session<'_>,
        lease: Lease,
        batch: &[Write],
        skipped: &[RunRowId],
    ) -> Result<bool, Failed> {
        let ends = |write: &Write| matches!(write, Write::Run(update) if update.status.is_ended());
        let writes = || batch.iter().filter(|write| skipped.binary_search(&write.run()).is_err());
        let mut ended: Vec<i64> = writes().filter(|write| ends(write)).map(Write::run).collect();
        ended.sort_unstable();
        let (mut attempts, mut stood) = (ShareColumns::default(), Vec::new());
        for write in writes() {
            match (write, ShareId::released_by(write)) {
                (Write::Run(update), _) if update.stands() => stood.push(update.run),
                (_, Some(share)) if ended.binary_search(&share.run).is_err() => attempts.push(share),
                _ => {}
            }
        }
        if attempts.runs.is_empty() && ended.is_empty() && stood.is_empty() {
            return Ok(false);
        }
        let released = release_attempts(session, &attempts, &ended, &stood)?;
        self.announce_released(session, lease, &released)
    }

    /// Has those learn of free shares who wait for them, if any do: true then.
    pub(super) fn announce_released(
        &self,
        session: &mut Session<'_>,
        lease: Lease,
        lines: &[i64],
    ) -> Result<bool, Failed> {
        if lines.is_empty() {
            return Ok(false);
        }
        session.query(LOCK, &[&lines])?;
        let others_wait = match session.query_opt(OTHERS_WAIT, &[&lines, &lease.runner])? {
            Some(row) => row.try_get(0)?,
            None => false,
        };
        if others_wait {
            self.announce(session, Kind::Limits, None)?;
        }
        Ok(others_wait)
    }

    /// Tells runners that wait for shares that there are some: of this process or another one.
    pub(super) fn limits_released(&self) -> Result<(), StoreError> {
        self.changes.limits();
        self.notifier.send(Hint::Look);
        Ok(())
    }

    /// Runs were claimed: if there are limits, they may have shares.
    pub(super) fn find_shares(&self) -> Result<(), StoreError> {
        if !self.has_shares.load(Ordering::Relaxed)
            && self.connections.reader(|session| Ok(session.query_opt(ANY_SHARE, &[])?.is_some()))?
        {
            self.has_shares.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Limits for PostgresStore {
    fn define_limit(&self, limit: &LimitSpec) -> Result<Option<LimitSpec>, StoreError> {
        let known = self.connections.reader(|session| find(session, &limit.name))?;
        if known.as_ref() == Some(limit) {
            return Ok(None);
        }
        let LimitSpec { name, executing, in_flight, rate, key } = limit;
        let (executing, in_flight) = (executing.map(i64::from), in_flight.map(i64::from));
        let (count, span) = (rate.map(|rate| i64::from(rate.count)), rate.map(|rate| micros(rate.span)));
        let (name, key) = (Text::from(&**name), key.as_deref().map(Text::from));
        let before = self.connections.writer(|session| {
            session.transact(|session| {
                let before = find(session, &limit.name)?;
                session.execute(DEFINE, &[&name, &executing, &in_flight, &count, &span, &key])?;
                self.announce(session, Kind::Limits, None)?;
                Ok(before)
            })
        })?;
        // Who waits may have room now.
        self.limits_released()?;
        Ok(before.filter(|before| before != limit))
    }

    fn claim_limits(&self, lease: Lease, now: Time, call: &LimitCall) -> Result<Vec<LineAnswers>, StoreError> {
        self.grant_limits(lease, now, call)
    }

    fn purge_limits(&self, now: Time) -> Result<(), StoreError> {
        if !self.connections.reader(|session| Ok(session.query_opt(ANY_KEY, &[])?.is_some()))? {
            return Ok(());
        }
        self.connections.lease(|session| {
            for spec in specs(session)? {
                session.execute(OLD_STARTS, &[&Text::from(&*spec.name), &Room::counts_since(&spec, now).0])?;
            }
            session.transact(|session| {
                let unused = lines(&session.query(UNUSED_KEYS, &[])?)?;
                if !unused.is_empty() {
                    session.execute(DELETE_KEYS, &[&unused])?;
                }
                Ok(())
            })
        })
    }

    fn limits(&self, now: Time) -> Result<Vec<LimitInfo>, StoreError> {
        self.connections.reader(|session| specs(session)?.into_iter().map(|spec| info(session, spec, now)).collect())
    }
}

/// What is used of a limit.
fn info(session: &mut Session<'_>, spec: LimitSpec, now: Time) -> Result<LimitInfo, Failed> {
    let since = Room::counts_since(&spec, now);
    let mut uses = Vec::new();
    for row in session.query(USES, &[&Text::from(&*spec.name), &since.0])? {
        let key: Text<'_> = row.try_get(0)?;
        let (executing, in_flight) = (count(&row, 1)?, count(&row, 2)?);
        let (started, waiting) = (count(&row, 3)?, count(&row, 4)?);
        if executing + in_flight + started + waiting > 0 {
            uses.push(LimitUse { key: Arc::from(&*key.0), executing, in_flight, started, waiting });
        }
    }
    Ok(LimitInfo { spec, uses })
}
