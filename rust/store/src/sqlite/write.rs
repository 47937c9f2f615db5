//! Writing runs: creation and batches. The statements here are the hot ones; none scans a table.

mod children;
mod entries;
mod gather;

use bide_core::record::{DoneRow, NewRun, RunRowId, RunUpdate, Write};
use bide_core::{BlockReason, Failure, MessageKind, RunOptions, RunStatus, TaskRow, Time, Value};
use rusqlite::{Connection, OptionalExtension, params};
use std::sync::atomic::Ordering;

use super::SqliteStore;
use super::error::is_conflict;
use super::events;
use super::lease::fence;
use super::limits;
use super::messages;
use super::transaction::Transaction;
use crate::{Commit, Creation, Lease, StoreError, Written};
use entries::{AT_ONCE, ENTRIES, ENTRY, entries, entry};
use gather::gather;

const CREATE: &str = "INSERT INTO run (id, uuid, workflow, version, status, runner, epoch, created_at, key, inputs) \
     VALUES (?1, ?2, ?3, ?4, iif(?5 IS NULL, 0, 1), ?5, ?6, ?7, ?8, ?9)";
const CREATE_KEYED: &str = "INSERT INTO run (id, uuid, workflow, version, status, runner, epoch, created_at, key, inputs) \
     VALUES (?1, ?2, ?3, ?4, iif(?5 IS NULL, 0, 1), ?5, ?6, ?7, ?8, ?9) ON CONFLICT (workflow, key) WHERE key IS NOT NULL DO NOTHING";
const KEYED: &str = "SELECT uuid FROM run WHERE workflow = ?1 AND key = ?2";
const UUID: &str = "SELECT uuid FROM run WHERE id = ?1";
/// Only within the transaction that has created the run.
const UNDO: &str = "DELETE FROM run WHERE id = ?1";
const UNDO_TAGS: &str = "DELETE FROM run_tag WHERE run = ?1";
const OPTIONS: &str = "UPDATE run SET tags = ?2, priority = ?3, start_at = ?4, deadline = ?5 WHERE id = ?1";
const TAG: &str = "INSERT INTO run_tag (run, name, value) VALUES (?1, ?2, ?3)";
const DONE: &str = "INSERT INTO task (run, task, map, status, output, started_at, ended_at) \
     VALUES (?1, ?2, ?3, 3, ?4, ?5, ?6)";
const TASK: &str = "INSERT OR REPLACE INTO task (run, task, map, status, output, started_at, ended_at, \
     first_started_at, attempts, entered, waited, sub_status, changes, failure, retry_at, blocked_by, length) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)";
const DROP_ENTRY: &str = "DELETE FROM journal WHERE run = ?1 AND task = ?2 AND map = ?3 AND name = ?4 AND n = ?5";
const DROP_ELEMENTS: &str = "DELETE FROM task WHERE run = ?1 AND task = ?2 AND map >= 0";
const DROP_ELEMENT_ENTRIES: &str = "DELETE FROM journal WHERE run = ?1 AND task = ?2 AND map >= 0";
const RUN: &str = "UPDATE run SET status = ?2, failure = ?3, ended_at = ?4, blocked_by = ?5, crashes = ?6, version = coalesce(?7, version), \
     cancel = ?8, held = ?9, \
     runner = CASE WHEN ?2 < 2 OR ?9 THEN runner END, epoch = CASE WHEN ?2 < 2 OR ?9 THEN epoch END WHERE id = ?1";

/// For the test that no hot statement scans a table.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[
    CREATE,
    CREATE_KEYED,
    children::CREATE_CHILD,
    children::CREATE_CHILDREN,
    KEYED,
    UUID,
    UNDO,
    UNDO_TAGS,
    OPTIONS,
    TAG,
    DONE,
    TASK,
    ENTRY,
    ENTRIES,
    DROP_ENTRY,
    DROP_ELEMENTS,
    DROP_ELEMENT_ENTRIES,
    RUN,
];

impl SqliteStore {
    pub(super) fn write_commit(&self, lease: Lease, commit: &mut Commit<'_>) -> Result<Written, StoreError> {
        let writer = self.writer()?;
        let explain = |error: rusqlite::Error| self.identity.error(&error);
        let mut creations = Vec::new();
        if commit.is_empty() {
            // What it belongs to, such as a run's creation, is committed already.
            creations.resize_with(commit.requests.len(), Vec::new);
            let lost = fence(writer.fresh(), lease).map_err(explain)?;
            return lost.map_or_else(|| Ok(Written::of(creations)), Err);
        }
        let transaction = writer.begin(&self.identity)?;
        let connection = transaction.connection();
        if let Some(lost) = fence(connection, lease).map_err(explain)? {
            return Err(lost);
        }
        // About three pages of the log for the commit, and the rows.
        let mut bytes = 3072;
        for runs in commit.requests {
            creations.push(self.insert_runs(connection, Some(lease), runs, &mut bytes)?);
        }
        let skipped = commit.not_created(&creations);
        gather(commit.batch);
        for alike in commit.batch.chunk_by(|one, other| std::mem::discriminant(one) == std::mem::discriminant(other)) {
            bytes += 128 * alike.len() as u64 + self.write_alike(connection, alike, &skipped)?;
        }
        if let Some((_, lines)) = commit.claims {
            limits::pass_on(connection, lease, lines).map_err(explain)?;
        }
        let mut freed = self.has_shares.load(Ordering::Relaxed)
            && limits::release(connection, commit.batch, &skipped).map_err(explain)?;
        let mut answers = None;
        if let Some((now, lines)) = commit.claims {
            let (answered, more) = self.answer(connection, lease, now, lines).map_err(explain)?;
            freed |= more;
            answers = Some(answered);
        }
        let others_wait = freed && limits::others_wait(connection, lease).map_err(explain)?;
        let is_skipped = |write: &Write| skipped.binary_search(&write.run()).is_ok();
        let refused = |made: &Vec<Creation>| made.iter().any(Creation::prevents_all);
        if creations.is_empty() || !creations.iter().all(refused) || !commit.batch.iter().all(is_skipped) {
            transaction.commit()?;
            drop(writer);
            self.debt.add(bytes);
            self.log_changed_runs(commit.batch);
            if others_wait {
                self.limits_released()?;
            }
        } else {
            answers = None;
        }
        Ok(Written { answers, ..Written::of(creations) })
    }

    /// Creates runs that belong to nobody, and has all runners of the file look for them.
    pub(super) fn create_free(&self, runs: &[NewRun]) -> Result<Vec<Creation>, StoreError> {
        let writer = self.writer()?;
        let connection = writer.fresh();
        let transaction = Transaction::begin(connection, &self.identity)?;
        let mut bytes = 3072;
        let creations = self.insert_runs(connection, None, runs, &mut bytes)?;
        if !creations.contains(&Creation::Created) || creations.iter().any(Creation::prevents_all) {
            return Ok(creations);
        }
        transaction.commit()?;
        drop(writer);
        self.debt.add(bytes);
        self.changes.unowned();
        self.live()?.wake.poll_others();
        Ok(creations)
    }

    fn log_changed_runs(&self, batch: &[Write]) {
        let wake = &self.live.wake;
        let mut changes = None;
        let mut to_tell = Vec::new();
        let (mut answered, mut posted) = (false, false);
        for write in batch {
            match write {
                Write::Run(update) => {
                    changes.get_or_insert_with(|| self.changes.lock()).run(update.run);
                    if !wake.is_alone() && (update.status.is_ended() || update.status == RunStatus::Paused) {
                        to_tell.push(update.run);
                    }
                }
                Write::Message { run, message, consumed: false } if message.address.kind == MessageKind::Control => {
                    // To another run, which anybody may execute, or nobody.
                    changes.get_or_insert_with(|| self.changes.lock()).run(*run);
                    posted = true;
                }
                Write::Answer { run, .. } => {
                    answered = true;
                    if !wake.is_alone() {
                        to_tell.push(*run);
                    }
                }
                _ => {}
            }
        }
        drop(changes);
        if posted {
            self.changes.unowned();
            wake.poll_others();
        }
        if answered {
            // Another runner of this process may wait for it.
            self.changes.mail();
        }
        if !to_tell.is_empty() {
            wake.tell_watchers(&to_tell);
        }
    }

    /// Writes of one kind share a prepared statement. Answers about how many bytes of values they had.
    fn write_alike(&self, writer: &Connection, alike: &[Write], skipped: &[RunRowId]) -> Result<u64, StoreError> {
        let Some(first) = alike.first() else { return Ok(0) };
        let explain = |error: rusqlite::Error| self.identity.error(&error);
        let mut bytes = 0;
        let mut alike = alike;
        if matches!(first, Write::Entry { .. }) && skipped.is_empty() && alike.len() >= AT_ONCE {
            let (many, rest) = alike.as_chunks::<AT_ONCE>();
            let mut statement = writer.prepare_cached(ENTRIES).map_err(explain)?;
            for rows in many {
                bytes += entries(&mut statement, rows).map_err(explain)?;
            }
            alike = rest;
        }
        let mut statement = writer.prepare_cached(statement_of(first)).map_err(explain)?;
        for write in alike.iter().filter(|write| skipped.binary_search(&write.run()).is_err()) {
            match write {
                Write::Done(row) => {
                    bytes += row.output.as_bytes().len();
                    done(&mut statement, row).map_err(|error| self.done_twice(row, &error))?;
                }
                Write::Task(row) => {
                    bytes += row.output.as_ref().map_or(0, |value| value.as_bytes().len());
                    task(&mut statement, row).map_err(explain)?;
                }
                Write::Entry { run, task, map, entry: row } => {
                    bytes += row.value.as_ref().map_or(0, |value| value.as_bytes().len());
                    entry(&mut statement, (*run, *task, *map), row).map_err(explain)?;
                }
                Write::DropEntries { run, task, map, keys } => {
                    for key in keys {
                        statement.execute(params![run, task, map, &*key.name, key.n]).map_err(explain)?;
                    }
                }
                Write::Message { run, message, consumed } => {
                    bytes += messages::insert(&mut statement, *run, message, *consumed).map_err(explain)?;
                    if !consumed && message.address.kind == MessageKind::Control {
                        messages::reopen_row(writer, *run, &message.address.name).map_err(explain)?;
                    }
                }
                Write::Applied { run, number, from, at } => {
                    statement.execute(params![run, from, number, at.0]).map_err(explain)?;
                }
                Write::Forked { from, message, .. } => {
                    if messages::is_there(writer, *from).map_err(explain)? {
                        bytes += messages::insert(&mut statement, *from, message, true).map_err(explain)?;
                    }
                }
                Write::DropElements { run, task } => {
                    statement.execute(params![run, task]).map_err(explain)?;
                    let entries = writer.prepare_cached(DROP_ELEMENT_ENTRIES);
                    entries.and_then(|mut entries| entries.execute(params![run, task])).map_err(explain)?;
                }
                Write::Consumed { run, number, id, from } => {
                    messages::consume(writer, *run, *number, id.as_deref(), *from).map_err(explain)?;
                }
                Write::Events(new) => {
                    bytes += new.packed.len();
                    events::append(writer, &mut statement, new).map_err(explain)?;
                }
                Write::Progress(row) => drop(events::progress(&mut statement, row).map_err(explain)?),
                Write::Answer { run, number, answer, answered_at } => {
                    bytes += messages::insert_answer(&mut statement, *run, *number, answer, *answered_at)
                        .map_err(explain)?;
                }
                Write::Run(update) => {
                    if run(&mut statement, update).map_err(explain)? == 0 {
                        let (name, id) = (&self.identity.name, update.run);
                        return Err(StoreError::Corrupt(format!("{name}: the run with row number {id} is gone")));
                    }
                }
            }
        }
        Ok(bytes as u64)
    }

    fn done_twice(&self, row: &DoneRow, error: &rusqlite::Error) -> StoreError {
        if !is_conflict(error) {
            return self.identity.error(error);
        }
        StoreError::Corrupt(format!(
            "{}: task {} (map index {}) of the run with row number {} has a row already but was written as if it had \
             none",
            self.identity.name, row.task, row.map, row.run
        ))
    }

    /// Creates the runs of one request, or none of them if it is refused. `bytes` gets about what they take in the log.
    pub(super) fn insert_runs(
        &self,
        writer: &Connection,
        lease: Option<Lease>,
        runs: &[NewRun],
        bytes: &mut u64,
    ) -> Result<Vec<Creation>, StoreError> {
        let explain = |error: rusqlite::Error| self.identity.error(&error);
        let mut made = Vec::with_capacity(runs.len());
        let mut inserted = Vec::with_capacity(runs.len());
        let mut rest = runs;
        while let Some((new, others)) = rest.split_first() {
            if let Some((all, others)) = rest.split_first_chunk()
                && children::children(writer, lease, all).map_err(explain)?
            {
                for new in all {
                    *bytes += 2048 + new.inputs.len() as u64;
                    inserted.push(new.id.row());
                    made.push(Creation::Created);
                }
                rest = others;
                continue;
            }
            *bytes += 2048 + new.inputs.len() as u64;
            let creation = match insert_run(writer, lease, new).map_err(explain)? {
                Inserted::New => {
                    inserted.push(new.id.row());
                    Creation::Created
                }
                Inserted::Not(Some(id)) => self.existing(writer, lease, new, id)?,
                Inserted::Not(None) => Creation::NumberTaken,
            };
            made.push(creation);
            rest = others;
        }
        if made.iter().any(Creation::prevents_all) {
            for row in inserted {
                for sql in [UNDO, UNDO_TAGS] {
                    let undone = writer.prepare_cached(sql).and_then(|mut undo| undo.execute([row]));
                    undone.map_err(explain)?;
                }
            }
        }
        Ok(made)
    }

    /// The run that has the key or the id already.
    fn existing(
        &self,
        writer: &Connection,
        lease: Option<Lease>,
        new: &NewRun,
        uuid: Vec<u8>,
    ) -> Result<Creation, StoreError> {
        let id = self.uuid(&uuid)?;
        let Some((row, _)) = self.run_row(writer, id)? else {
            // The write lock is held, so the row was not deleted: another try would find the same.
            let name = &self.identity.name;
            return Err(StoreError::Corrupt(format!(
                "{name}: the column run.id of run {id} is not the number of that run; the file was changed by other \
                 hands or is damaged"
            )));
        };
        if id == new.id && row.runner == lease.map(|lease| lease.runner) {
            return Ok(Creation::Created);
        }
        let row = Box::new(row);
        Ok(if row.inputs == new.inputs { Creation::Exists(row) } else { Creation::OtherInputs(row) })
    }
}

fn statement_of(write: &Write) -> &'static str {
    match write {
        Write::Done(_) => DONE,
        Write::Task(_) => TASK,
        Write::Entry { .. } => ENTRY,
        Write::DropEntries { .. } => DROP_ENTRY,
        Write::Message { .. } | Write::Forked { .. } => messages::MESSAGE,
        Write::Consumed { .. } => messages::CONSUMED,
        Write::Applied { .. } => messages::APPLIED,
        Write::DropElements { .. } => DROP_ELEMENTS,
        Write::Answer { .. } => messages::ANSWER,
        Write::Run(_) => RUN,
        Write::Events(_) => events::APPEND,
        Write::Progress(_) => events::PROGRESS,
    }
}

fn bytes(value: Option<&Value>) -> Option<&[u8]> {
    value.map(Value::as_bytes)
}

fn json(failure: Option<&Failure>) -> Option<&str> {
    failure.map(Failure::as_json)
}

fn micros(time: Option<Time>) -> Option<i64> {
    time.map(|time| time.0)
}

fn done(statement: &mut rusqlite::Statement<'_>, row: &DoneRow) -> rusqlite::Result<usize> {
    statement.execute(params![row.run, row.task, row.map, row.output.as_bytes(), row.started_at.0, row.ended_at.0])
}

fn task(statement: &mut rusqlite::Statement<'_>, row: &TaskRow) -> rusqlite::Result<usize> {
    let same = row.first_started_at == row.started_at && row.started_at.is_some();
    statement.execute(params![
        row.run,
        row.task,
        row.map,
        row.status.code(),
        bytes(row.output.as_ref()),
        micros(row.started_at),
        micros(row.ended_at),
        if same { Some(-1) } else { micros(row.first_started_at) },
        row.attempts,
        row.mark.code(),
        row.waited,
        row.sub_status.map(|status| status.code()),
        row.changes.as_deref(),
        json(row.failure.as_ref()),
        micros(row.retry_at),
        row.blocked_by.as_deref(),
        row.length,
    ])
}

fn run(statement: &mut rusqlite::Statement<'_>, row: &RunUpdate) -> rusqlite::Result<usize> {
    statement.execute(params![
        row.run,
        row.status.code(),
        json(row.failure.as_ref()),
        micros(row.ended_at),
        row.blocked_by.as_ref().map(BlockReason::to_string),
        row.crashes,
        row.version,
        row.cancel.as_ref().map(|cancel| cancel.to_blob()),
        row.is_held(),
    ])
}

enum Inserted {
    New,
    /// The uuid of the run that is there instead; `None`: only the row number is the same.
    Not(Option<Vec<u8>>),
}

fn insert_run(writer: &Connection, lease: Option<Lease>, new: &NewRun) -> rusqlite::Result<Inserted> {
    let uuid = new.id.0.to_be_bytes();
    let key = new.key.as_deref();
    let inserted = match &new.parent {
        Some(parent) => children::child(writer, lease, new, parent),
        None => {
            let mut insert = writer.prepare_cached(if key.is_some() { CREATE_KEYED } else { CREATE })?;
            insert.execute(params![
                new.id.row(),
                &uuid[..],
                new.workflow,
                new.version,
                lease.map(|lease| lease.runner),
                lease.map(|lease| lease.epoch),
                new.created_at.0,
                key,
                &*new.inputs,
            ])
        }
    };
    match inserted {
        Ok(0) => {
            let there = writer.prepare_cached(KEYED)?.query_row(params![new.workflow, key], |row| row.get(0));
            there.optional().map(Inserted::Not)
        }
        Ok(_) => {
            if let Some(options) = &new.options {
                insert_options(writer, new.id.row(), options)?;
            }
            Ok(Inserted::New)
        }
        Err(error) if is_conflict(&error) => {
            let there: Vec<u8> = writer.prepare_cached(UUID)?.query_row([new.id.row()], |row| row.get(0))?;
            Ok(Inserted::Not((there == uuid).then_some(there)))
        }
        Err(error) => Err(error),
    }
}

fn insert_options(writer: &Connection, run: RunRowId, options: &RunOptions) -> rusqlite::Result<()> {
    let (start_at, deadline) = (micros(options.start_at), micros(options.deadline));
    let mut update = writer.prepare_cached(OPTIONS)?;
    update.execute(params![run, options.tags_json(), options.priority, start_at, deadline])?;
    for (name, value) in &options.tags {
        writer.prepare_cached(TAG)?.execute(params![run, &**name, &**value])?;
    }
    Ok(())
}
