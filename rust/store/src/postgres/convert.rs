//! Moving a run that nobody executes to another version of its workflow: see [`crate::Store::convert`].

use bide_core::record::RunRowId;
use bide_core::{RunId, TaskId};

use super::PostgresStore;
use super::changes::Kind;
use super::error::Failed;
use super::fields::run_id;
use super::limits;
use super::messages::insert;
use super::notify::Hint;
use super::session::{Session, Text, Uuid};
use crate::{Conversion, Converted, StoreError};

/// A run that has completed stays as it is. The row stays locked: nobody claims the run meanwhile.
const FREE: &str = "SELECT 1 FROM bide.run r JOIN bide.version v ON v.id = r.version \
     WHERE r.id = $1::int8 AND r.uuid = $2::uuid AND r.runner IS NULL AND r.status <> 3 AND v.hash = $3::text \
     AND v.id <> $4::int8 FOR NO KEY UPDATE OF r";
const KEY_TAKEN: &str = "SELECT 1 FROM bide.run r JOIN bide.run o ON o.workflow = $2::int8 AND o.key = r.key \
     WHERE r.id = $1::int8 AND o.id <> r.id";
const MOVE: &str = "UPDATE bide.run SET workflow = $2::int8, version = $3::int8 WHERE id = $1::int8";
const UNOWNED: &str = "SELECT uuid FROM bide.run WHERE version = $1::int8 AND status < 3 AND runner IS NULL \
     AND (status <> 2 OR held) ORDER BY version, id";

/// What is recorded of a task without a successor: its events stay.
const DROP: [&str; 3] = [
    "DELETE FROM bide.task WHERE run = $1::int8 AND task = $2::int8",
    "DELETE FROM bide.journal WHERE run = $1::int8 AND task = $2::int8",
    "DELETE FROM bide.progress WHERE run = $1::int8 AND task = $2::int8",
];

/// To a number below zero first, so that two tasks can change their numbers with each other.
const RENUMBER: [&str; 5] = [
    "UPDATE bide.task SET task = -1 - $3::int8 WHERE run = $1::int8 AND task = $2::int8",
    "UPDATE bide.journal SET task = -1 - $3::int8 WHERE run = $1::int8 AND task = $2::int8",
    "UPDATE bide.progress SET task = -1 - $3::int8 WHERE run = $1::int8 AND task = $2::int8",
    "UPDATE bide.event SET task = -1 - $3::int8 WHERE run = $1::int8 AND task = $2::int8",
    "UPDATE bide.run SET parent_task = -1 - $3::int8 WHERE parent = $1::int8 AND parent_task = $2::int8",
];
const SETTLE: [&str; 5] = [
    "UPDATE bide.task SET task = -1 - task WHERE run = $1::int8 AND task < 0",
    "UPDATE bide.journal SET task = -1 - task WHERE run = $1::int8 AND task < 0",
    "UPDATE bide.progress SET task = -1 - task WHERE run = $1::int8 AND task < 0",
    "UPDATE bide.event SET task = -1 - task WHERE run = $1::int8 AND task < 0",
    "UPDATE bide.run SET parent_task = -1 - parent_task WHERE parent = $1::int8 AND parent_task < 0",
];

fn renumber(session: &mut Session<'_>, run: RunRowId, tasks: &[(TaskId, Option<TaskId>)]) -> Result<(), Failed> {
    for (old, new) in tasks {
        match new {
            None => {
                for sql in DROP {
                    session.execute(sql, &[&run, old])?;
                }
                limits::release_task(session, run, *old)?;
            }
            Some(new) => {
                for sql in RENUMBER {
                    session.execute(sql, &[&run, old, new])?;
                }
                limits::renumber(session, run, *old, *new)?;
            }
        }
    }
    if tasks.iter().any(|(_, new)| new.is_some()) {
        for sql in SETTLE {
            session.execute(sql, &[&run])?;
        }
        limits::settle(session, run)?;
    }
    Ok(())
}

impl PostgresStore {
    pub(super) fn convert_run(&self, run: RunId, conversion: &Conversion) -> Result<Converted, StoreError> {
        let row = run.row();
        let Conversion { from, workflow, version, tasks, told } = conversion;
        let converted = self.connections.writer(|session| {
            session.transact(|session| {
                if session.query_opt(FREE, &[&row, &Uuid(run.0), &Text::from(&**from), version])?.is_none() {
                    return Ok(Converted::NotFree);
                }
                if session.query_opt(KEY_TAKEN, &[&row, workflow])?.is_some() {
                    return Ok(Converted::KeyTaken);
                }
                renumber(session, row, tasks)?;
                session.execute(MOVE, &[&row, workflow, version])?;
                if let Some(told) = told {
                    insert(session, row, told, true)?;
                }
                self.announce(session, Kind::Unowned, Some(row))?;
                Ok(Converted::Done)
            })
        })?;
        if converted == Converted::Done {
            self.changes.lock().run(row);
            self.changes.unowned();
            self.notifier.send(Hint::Look);
        }
        Ok(converted)
    }

    pub(super) fn read_unowned_of(&self, version: i64) -> Result<Vec<RunId>, StoreError> {
        self.connections.reader(|session| {
            let rows = session.query(UNOWNED, &[&version])?;
            rows.iter().map(|row| Ok(run_id(row, 0)?)).collect()
        })
    }
}
