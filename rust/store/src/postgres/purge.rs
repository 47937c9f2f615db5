//! Deletes ended runs.
//!
//! A purge goes through the runs in the order of their numbers, a step at a time. A step looks with the reader and deletes in
//! one short transaction: what it deletes is limited, except if one run alone exceeds the limit. The server itself makes the
//! space of deleted rows usable again.

use bide_core::record::RunRowId;
use bide_core::{RunId, Time};

use super::PostgresStore;
use super::error::Failed;
use super::session::{Session, Uuid};
use crate::ranges::SLACK_MS;
use crate::{Purged, StoreError};

/// The last millisecond that a row number can hold.
const LAST_MS: i64 = (1 << 42) - 1;

const LOOK: &str = "SELECT id, coalesce(parent IS NULL AND status >= 3 AND ended_at < $1::int8, false) FROM bide.run \
     WHERE id >= $2::int8 AND id < $3::int8 ORDER BY id LIMIT $4::int8";
const ENDED: &str = "SELECT 1 FROM bide.run WHERE id = $1::int8 AND uuid = $2::uuid AND status >= 3 AND parent IS NULL";
/// The runs below one: its children, theirs and so on, each after its parent.
const BELOW: &str = "WITH RECURSIVE below (id, ended) AS (SELECT id, status >= 3 FROM bide.run WHERE parent = $1::int8 \
     UNION ALL SELECT r.id, r.status >= 3 FROM below b JOIN bide.run r ON r.parent = b.id) SELECT id, ended FROM below";
/// Again "ended": what another process has done since is not known. The other rows only of runs that were there.
const DELETE: &str = "WITH gone AS (DELETE FROM bide.run WHERE id = ANY ($1::int8[]) AND status >= 3 RETURNING id), \
     task AS (DELETE FROM bide.task t USING gone WHERE t.run = gone.id RETURNING 1), \
     journal AS (DELETE FROM bide.journal t USING gone WHERE t.run = gone.id RETURNING 1), \
     message AS (DELETE FROM bide.message t USING gone WHERE t.run = gone.id RETURNING 1), \
     answer AS (DELETE FROM bide.answer t USING gone WHERE t.run = gone.id RETURNING 1), \
     event AS (DELETE FROM bide.event t USING gone WHERE t.run = gone.id RETURNING 1), \
     progress AS (DELETE FROM bide.progress t USING gone WHERE t.run = gone.id RETURNING 1), \
     tag AS (DELETE FROM bide.run_tag t USING gone WHERE t.run = gone.id RETURNING 1) \
     SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM task) + (SELECT count(*) FROM journal) \
     + (SELECT count(*) FROM message) + (SELECT count(*) FROM event)";

/// The most rows that a step deletes, about.
const ROWS: i64 = 1024;
/// And runs in one statement.
const RUNS: usize = 64;

impl PostgresStore {
    pub(super) fn delete_ended(&self, before: Time, from: RunRowId, limit: usize) -> Result<Purged, StoreError> {
        let newest = RunId::first_row_at((before.0 / 1000 + SLACK_MS).min(LAST_MS));
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let seen: Vec<(RunRowId, bool)> = self.connections.reader(|session| {
            let rows = session.query(LOOK, &[&before.0, &from, &newest, &most])?;
            rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
        })?;
        let more = seen.len() == limit;
        let whole = Purged { runs: 0, next: seen.last().filter(|_| more).map(|(last, _)| last + 1) };
        let old: Vec<RunRowId> = seen.iter().filter(|(_, old)| *old).map(|(run, _)| *run).collect();
        if old.is_empty() {
            return Ok(whole);
        }
        self.connections.writer(|session| {
            session.transact(|session| {
                let (mut purged, mut rows) = (whole, 0);
                for run in &old {
                    if rows >= ROWS || !delete_tree(session, *run, &mut rows, &mut purged.runs)? {
                        purged.next = Some(*run);
                        break;
                    }
                }
                Ok(purged)
            })
        })
    }

    pub(super) fn delete_one(&self, run: RunId) -> Result<bool, StoreError> {
        let mut deleted = 0;
        loop {
            let done = self.connections.writer(|session| {
                let mut of_step = 0;
                let done = session.transact(|session| {
                    let there = session.query_opt(ENDED, &[&run.row(), &Uuid(run.0)])?.is_some();
                    Ok(!there || delete_tree(session, run.row(), &mut 0, &mut of_step)?)
                })?;
                deleted += of_step;
                Ok(done)
            })?;
            if done {
                return Ok(deleted > 0);
            }
        }
    }
}

/// Deletes a run that has ended, after all runs below it; none of them if one of those has not ended. False: there are
/// more of them than a step deletes.
fn delete_tree(session: &mut Session<'_>, run: RunRowId, rows: &mut i64, deleted: &mut usize) -> Result<bool, Failed> {
    let found = session.query(BELOW, &[&run])?;
    let below: Vec<(RunRowId, bool)> =
        found.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, postgres::Error>>()?;
    if below.iter().any(|(_, ended)| !ended) {
        return Ok(true);
    }
    let all: Vec<RunRowId> = below.iter().rev().map(|(child, _)| *child).chain([run]).collect();
    for some in all.chunks(RUNS) {
        if *rows >= ROWS {
            return Ok(false);
        }
        if let Some(row) = session.query_opt(DELETE, &[&some])? {
            let (runs, others): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            *deleted += usize::try_from(runs).unwrap_or(0);
            *rows += runs + others;
        }
    }
    Ok(true)
}
