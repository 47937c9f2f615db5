//! Moving a run that nobody executes to another version of its workflow: see [`crate::Store::convert`].

use bide_core::record::RunRowId;
use bide_core::{RunId, TaskId};
use rusqlite::{Connection, params};

use super::SqliteStore;
use super::limits;
use super::messages::{self, MESSAGE};
use crate::{Conversion, Converted, StoreError};

/// A run that has completed stays as it is.
const FREE: &str = "SELECT 1 FROM run r JOIN version v ON v.id = r.version WHERE r.id = ?1 AND r.uuid = ?2 \
     AND r.runner IS NULL AND r.status <> 3 AND v.hash = ?3 AND v.id <> ?4";
const KEY_TAKEN: &str = "SELECT 1 FROM run r JOIN run o ON o.workflow = ?2 AND o.key = r.key \
     WHERE r.id = ?1 AND o.id <> r.id";
const MOVE: &str = "UPDATE run SET workflow = ?2, version = ?3 WHERE id = ?1";
const UNOWNED: &str = "SELECT uuid FROM run INDEXED BY run_open WHERE status < 3 AND runner IS NULL \
     AND workflow = (SELECT workflow FROM version WHERE id = ?1) AND version = ?1 AND (status <> 2 OR held) ORDER BY id";

/// What is recorded of a task without a successor: its events stay.
const DROP: [&str; 3] = [
    "DELETE FROM task WHERE run = ?1 AND task = ?2",
    "DELETE FROM journal WHERE run = ?1 AND task = ?2",
    "DELETE FROM progress WHERE run = ?1 AND task = ?2",
];

/// To a number below zero first, so that two tasks can change their numbers with each other.
const RENUMBER: [&str; 6] = [
    "UPDATE task SET task = -1 - ?3 WHERE run = ?1 AND task = ?2",
    "UPDATE journal SET task = -1 - ?3 WHERE run = ?1 AND task = ?2",
    "UPDATE progress SET task = -1 - ?3 WHERE run = ?1 AND task = ?2",
    "UPDATE limit_share SET task = -1 - ?3 WHERE run = ?1 AND task = ?2",
    "UPDATE event SET task = -1 - ?3 WHERE run = ?1 AND task = ?2",
    "UPDATE run SET parent_task = -1 - ?3 WHERE parent = ?1 AND parent_task = ?2",
];
const SETTLE: [&str; 6] = [
    "UPDATE task SET task = -1 - task WHERE run = ?1 AND task < 0",
    "UPDATE journal SET task = -1 - task WHERE run = ?1 AND task < 0",
    "UPDATE progress SET task = -1 - task WHERE run = ?1 AND task < 0",
    "UPDATE limit_share SET task = -1 - task WHERE run = ?1 AND task < 0",
    "UPDATE event SET task = -1 - task WHERE run = ?1 AND task < 0",
    "UPDATE run SET parent_task = -1 - parent_task WHERE parent = ?1 AND parent_task < 0",
];

/// For the test that no hot statement scans a table.
#[cfg(test)]
pub(super) fn hot() -> Vec<&'static str> {
    let one = [FREE, KEY_TAKEN, MOVE, UNOWNED];
    one.into_iter().chain(DROP).chain(RENUMBER).chain(SETTLE).collect()
}

fn renumber(connection: &Connection, run: RunRowId, tasks: &[(TaskId, Option<TaskId>)]) -> rusqlite::Result<()> {
    for (old, new) in tasks {
        match new {
            None => {
                for sql in DROP {
                    connection.prepare_cached(sql)?.execute(params![run, old])?;
                }
                limits::release_task(connection, run, *old)?;
            }
            Some(new) => {
                for sql in RENUMBER {
                    connection.prepare_cached(sql)?.execute(params![run, old, new])?;
                }
            }
        }
    }
    if tasks.iter().any(|(_, new)| new.is_some()) {
        for sql in SETTLE {
            connection.prepare_cached(sql)?.execute([run])?;
        }
    }
    Ok(())
}

impl SqliteStore {
    pub(super) fn convert_run(&self, run: RunId, conversion: &Conversion) -> Result<Converted, StoreError> {
        let (row, uuid) = (run.row(), run.0.to_be_bytes());
        let Conversion { from, workflow, version, tasks, told } = conversion;
        let converted = self.transact(|connection| {
            if !connection.prepare_cached(FREE)?.exists(params![row, &uuid[..], &**from, version])? {
                return Ok(Converted::NotFree);
            }
            if connection.prepare_cached(KEY_TAKEN)?.exists(params![row, workflow])? {
                return Ok(Converted::KeyTaken);
            }
            renumber(connection, row, tasks)?;
            connection.prepare_cached(MOVE)?.execute(params![row, workflow, version])?;
            if let Some(told) = told {
                messages::insert(&mut *connection.prepare_cached(MESSAGE)?, row, told, true)?;
            }
            Ok(Converted::Done)
        })?;
        if converted == Converted::Done {
            self.changes.lock().run(row);
            self.changes.unowned();
            self.live()?.wake.poll_others();
        }
        Ok(converted)
    }

    pub(super) fn read_unowned_of(&self, version: i64) -> Result<Vec<RunId>, StoreError> {
        let reader = self.reader()?;
        let read = || -> rusqlite::Result<Vec<Vec<u8>>> {
            reader.prepare_cached(UNOWNED)?.query_map([version], |row| row.get(0))?.collect()
        };
        let found = read().map_err(|error| self.identity.error(&error))?;
        found.iter().map(|uuid| self.uuid(uuid)).collect()
    }
}
