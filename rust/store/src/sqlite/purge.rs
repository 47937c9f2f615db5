//! Deletes ended runs, and returns the freed pages to the file system.
//!
//! A purge goes through the runs in the order of their numbers, a step at a time. A step looks with the reader, which
//! blocks no writer, and deletes in one short transaction: what it frees is limited, except if one run
//! alone exceeds the limit.
//!
//! Freed pages are used again before the file grows. They are returned to the file system only while they are more
//! than a part of it: otherwise a file whose runs come and go would have its pages moved from its end to its beginning
//! again and again, to no use.

use bide_core::record::RunRowId;
use bide_core::{RunId, Time};
use rusqlite::{Connection, params};

use super::SqliteStore;
use crate::ranges::SLACK_MS;
use crate::{Purged, StoreError};

/// The last millisecond that a row number can hold.
const LAST_MS: i64 = (1 << 42) - 1;

pub(super) const LOOK: &str = "SELECT id, parent IS NULL AND status >= 3 AND ended_at < ?1 FROM run WHERE id >= ?2 AND id < ?3 ORDER BY id LIMIT ?4";
const ENDED: &str = "SELECT 1 FROM run WHERE id = ?1 AND uuid = ?2 AND status >= 3 AND parent IS NULL";
/// The runs below one: its children, theirs and so on, each after its parent.
const BELOW: &str = "WITH RECURSIVE below (id, ended) AS (SELECT id, status >= 3 FROM run WHERE parent = ?1 \
     UNION ALL SELECT r.id, r.status >= 3 FROM below b CROSS JOIN run r WHERE r.parent = b.id) SELECT id, ended FROM below";
/// Again "ended": what another process has done since is not known. The other rows only if this one was there.
const DELETE: &str = "DELETE FROM run WHERE id = ?1 AND status >= 3";
const DELETE_REST: &[&str] = &[
    "DELETE FROM task WHERE run = ?1",
    "DELETE FROM journal WHERE run = ?1",
    "DELETE FROM message WHERE run = ?1",
    "DELETE FROM answer WHERE run = ?1",
    "DELETE FROM event WHERE run = ?1",
    "DELETE FROM progress WHERE run = ?1",
    "DELETE FROM run_tag WHERE run = ?1",
];

/// For the test that no hot statement scans a table.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[LOOK, ENDED, DELETE];
/// Likewise.
#[cfg(test)]
pub(super) const HOT_REST: &[&str] = DELETE_REST;

/// The most rows that a step deletes, about: a millisecond of the writer's time.
const ROWS: usize = 128;
/// The most pages that it frees, about.
const PAGES: i64 = 256;

/// This many free pages are kept, however small the file is.
const SPARE_PAGES: i64 = 512;
/// And this share of it, in percent.
const SPARE_PERCENT: i64 = 25;
/// How many pages are returned in one step.
const PAGES_RETURNED: u32 = 64;

impl SqliteStore {
    pub(super) fn delete_ended(&self, before: Time, from: RunRowId, limit: usize) -> Result<Purged, StoreError> {
        let newest = RunId::first_row_at((before.0 / 1000 + SLACK_MS).min(LAST_MS));
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let seen: Vec<(RunRowId, Option<bool>)> = {
            let reader = self.reader()?;
            let look = || -> rusqlite::Result<_> {
                let mut statement = reader.prepare_cached(LOOK)?;
                statement.query_map([before.0, from, newest, most], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
            };
            look().map_err(|error| self.identity.error(&error))?
        };
        let more = seen.len() == limit;
        let mut purged = Purged { runs: 0, next: seen.last().filter(|_| more).map(|(last, _)| last + 1) };
        let old: Vec<RunRowId> = seen.iter().filter(|(_, old)| *old == Some(true)).map(|(run, _)| *run).collect();
        if old.is_empty() {
            return Ok(purged);
        }
        self.transact(|connection| {
            let (mut rows, free) = (0, free_pages(connection)?);
            for run in old {
                if is_full(connection, rows, free)? || !delete_tree(connection, run, free, &mut rows, &mut purged.runs)?
                {
                    purged.next = Some(run);
                    return Ok(());
                }
            }
            Ok(())
        })?;
        // A page of the index of keys for each.
        self.debt.add(2048 * purged.runs as u64);
        Ok(purged)
    }

    pub(super) fn delete_one(&self, run: RunId) -> Result<bool, StoreError> {
        let mut deleted = 0;
        loop {
            let done = self.transact(|connection| {
                let there = connection.prepare_cached(ENDED)?.exists(params![run.row(), &run.0.to_be_bytes()[..]])?;
                Ok(!there || delete_tree(connection, run.row(), free_pages(connection)?, &mut 0, &mut deleted)?)
            })?;
            if done {
                return Ok(deleted > 0);
            }
        }
    }

    /// Shrinks the file by some pages, if much of it is free. True if there are more.
    pub(super) fn return_pages(&self) -> Result<bool, StoreError> {
        let much = {
            let reader = self.reader()?;
            much_is_free(&reader).map_err(|error| self.identity.error(&error))?
        };
        if !much {
            return Ok(false);
        }
        let more = self.transact(|connection| {
            {
                let mut vacuum = connection.prepare_cached(&format!("PRAGMA incremental_vacuum({PAGES_RETURNED})"))?;
                // It frees one page a step.
                let mut steps = vacuum.raw_query();
                while steps.next()?.is_some() {}
            }
            much_is_free(connection)
        })?;
        self.debt.add(u64::from(PAGES_RETURNED) * 2048);
        Ok(more)
    }
}

/// Whether a step that has deleted these rows is to end, and another one to continue. `free`: the pages that were free
/// when it began.
fn is_full(connection: &Connection, rows: usize, free: i64) -> rusqlite::Result<bool> {
    Ok(rows > 0 && (rows >= ROWS || free_pages(connection)? - free >= PAGES))
}

/// Deletes a run that has ended, after all runs below it; none of them if one of those has not ended. False: there are
/// more of them than a step deletes, which began with this many free pages.
fn delete_tree(
    connection: &Connection,
    run: RunRowId,
    free: i64,
    rows: &mut usize,
    deleted: &mut usize,
) -> rusqlite::Result<bool> {
    let below: Vec<(RunRowId, bool)> = {
        let mut statement = connection.prepare_cached(BELOW)?;
        statement.query_map([run], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?
    };
    if below.iter().any(|(_, ended)| !ended) {
        return Ok(true);
    }
    for (child, _) in below.iter().rev() {
        if is_full(connection, *rows, free)? {
            return Ok(false);
        }
        *deleted += usize::from(delete(connection, *child, rows)?);
    }
    *deleted += usize::from(delete(connection, run, rows)?);
    Ok(true)
}

/// Deletes a run that has ended, and counts the rows.
fn delete(connection: &Connection, run: RunRowId, rows: &mut usize) -> rusqlite::Result<bool> {
    if connection.prepare_cached(DELETE)?.execute([run])? == 0 {
        return Ok(false);
    }
    *rows += 1;
    for sql in DELETE_REST {
        *rows += connection.prepare_cached(sql)?.execute([run])?;
    }
    Ok(true)
}

fn pragma(connection: &Connection, sql: &str) -> rusqlite::Result<i64> {
    connection.prepare_cached(sql)?.query_row([], |row| row.get(0))
}

fn free_pages(connection: &Connection) -> rusqlite::Result<i64> {
    pragma(connection, "PRAGMA freelist_count")
}

fn much_is_free(connection: &Connection) -> rusqlite::Result<bool> {
    let spare = pragma(connection, "PRAGMA page_count")? * SPARE_PERCENT / 100;
    Ok(free_pages(connection)? > spare.max(SPARE_PAGES))
}
