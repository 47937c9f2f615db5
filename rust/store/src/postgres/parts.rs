//! What is recorded of runs, as one statement reads it: all from one snapshot, in one round trip.
//!
//! The rows of all tables have the same columns: of which table they are, the number of the run, and arrays of their
//! numbers, texts and blobs.

use std::collections::HashMap;
use std::sync::Arc;

use bide_core::record::{Mark, RunRow, RunRowId, StoredRun};
use bide_core::{
    Address, BlockReason, Cancel, Damage, Entry, EntryKey, EntryKind, EntryState, Message, MessageKind, Operation,
    Progress, ProgressRow, RunId, RunOptions, RunStatus, StoredMessage, SubStatus, TaskId, TaskRow, TaskStatus, Time,
    Value,
};
use postgres::Row;

use super::fields::Fields;
use crate::StoreError;

/// The columns of a run `r`, with its workflow `w`, version `v` and parent `p`.
macro_rules! run_columns {
    () => {
        "ARRAY[r.status, r.crashes, r.runner, r.version, r.depth, r.priority, r.start_at, r.deadline, r.created_at, \
         r.ended_at]::int8[], ARRAY[w.name, v.hash, r.key, r.failure, r.blocked_by, r.tags]::text[], \
         ARRAY[uuid_send(r.uuid), r.inputs, uuid_send(p.uuid), r.cancel]::bytea[]"
    };
}

/// Beside a run `r`.
macro_rules! run_joins {
    () => {
        "LEFT JOIN bide.workflow w ON w.id = r.workflow LEFT JOIN bide.version v ON v.id = r.version \
         LEFT JOIN bide.run p ON p.id = r.parent"
    };
}

macro_rules! entry_columns {
    () => {
        "ARRAY[j.task, j.map, j.n, j.seq, j.kind, j.state, j.opened_at, j.closed_at, j.due, j.deadline]::int8[], \
         ARRAY[j.name, j.failure]::text[], ARRAY[j.proof, j.value]::bytea[]"
    };
}

macro_rules! message_columns {
    () => {
        "ARRAY[m.seq, m.number, m.kind, m.sent_at, m.applied_at]::int8[], ARRAY[m.name, m.id, m.failure]::text[], \
         ARRAY[m.value]::bytea[]"
    };
}

pub(super) use {entry_columns, message_columns, run_columns, run_joins};

const NUMBERS: &str = "t.task, t.map, t.status, t.started_at, t.ended_at, t.first_started_at, t.attempts, t.entered, t.waited, \
     t.sub_status, t.retry_at, t.length";

/// What to read of the runs of a list `l`, which has their numbers and ids.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Parts {
    /// Everything.
    All,
    /// Everything but messages and children.
    Listed,
    /// What has not ended.
    Open,
}

/// The statement that reads runs: `list` selects the columns of the table of runs.
pub(super) fn statement(list: &str, parts: Parts) -> String {
    let (run_columns, run_joins) = (run_columns!(), run_joins!());
    let (entries, messages) = (entry_columns!(), message_columns!());
    let open = parts == Parts::Open;
    let (output, changes, failure) = if open {
        ("NULL", "NULL", "CASE WHEN t.status < 3 THEN t.failure END")
    } else {
        ("t.output", "t.changes", "t.failure")
    };
    let state = if open { "WHERE j.state = 0" } else { "" };
    let mut sql = format!(
        "WITH l AS MATERIALIZED ({list}) \
         SELECT 0, r.id, {run_columns} FROM l r {run_joins} \
         UNION ALL SELECT 1, t.run, ARRAY[{NUMBERS}]::int8[], ARRAY[{failure}, t.blocked_by]::text[], \
         ARRAY[{output}, {changes}]::bytea[] FROM l JOIN bide.task t ON t.run = l.id \
         UNION ALL SELECT 2, j.run, {entries} FROM l JOIN bide.journal j ON j.run = l.id {state}"
    );
    if !open {
        sql.push_str(
            " UNION ALL SELECT 3, g.run, ARRAY[g.task, g.map, g.said_at]::int8[], ARRAY[g.message]::text[], \
             ARRAY[float8send(g.done), float8send(g.total)]::bytea[] FROM l JOIN bide.progress g ON g.run = l.id",
        );
    }
    if parts == Parts::All {
        sql.push_str(&format!(
            " UNION ALL SELECT 4, m.run, {messages} FROM l JOIN bide.message m ON m.run = l.id \
             UNION ALL SELECT 5, c.parent, ARRAY[c.status]::int8[], ARRAY[]::text[], ARRAY[uuid_send(c.uuid)]::bytea[] \
             FROM l JOIN bide.run c ON c.parent = l.id"
        ));
    }
    sql
}

/// A run as it was read, and the number of its version, whose tasks are to be added.
pub(super) type Read = (StoredRun, i64);

/// Puts runs together from the rows of such a statement, newest first.
pub(super) fn assemble(rows: &[Row], identity: &str) -> Result<Vec<Read>, StoreError> {
    let broken =
        |error: postgres::Error| StoreError::Corrupt(format!("{identity}: a row does not read back ({error})"));
    let mut runs: Vec<Read> = Vec::new();
    let mut numbers: HashMap<RunRowId, usize> = HashMap::new();
    for row in rows {
        let (part, run): (i32, i64) = (row.try_get(0).map_err(broken)?, row.try_get(1).map_err(broken)?);
        if part == 0 {
            let (run_row, version) = run_row(row, 2, identity)?;
            numbers.insert(run, runs.len());
            let (tasks, rows, entries, messages, progress, children) = Default::default();
            let _: &Arc<[_]> = &tasks;
            runs.push((StoredRun { run: run_row, tasks, rows, entries, messages, progress, children }, version));
            continue;
        }
        let Some((stored, _)) = numbers.get(&run).and_then(|at| runs.get_mut(*at)) else { continue };
        let id = stored.run.id;
        let fields = |table| Fields::read(row, 2, identity, id, table);
        match part {
            1 => stored.rows.push(task_row(&fields("task")?)?),
            2 => stored.entries.push(entry(&fields("journal")?)?),
            3 => stored.progress.push(progress(&fields("progress")?)?),
            4 => stored.messages.push(message(&fields("message")?)?),
            _ => stored.children.push(child(&fields("run")?)?),
        }
    }
    for (stored, _) in &mut runs {
        stored.rows.sort_by_key(|row| (row.task, row.map));
        stored.entries.sort_by_key(|(task, map, entry)| (*task, *map, entry.seq));
        stored.progress.sort_by_key(|row| (row.task, row.map));
        stored.messages.sort_by_key(|message| message.seq);
        stored.children.sort_by_key(|(id, _)| id.row());
    }
    runs.sort_by_key(|(stored, _)| std::cmp::Reverse(stored.run.id.row()));
    Ok(runs)
}

/// A run's row and the number of its version, from the arrays that begin at this column.
pub(super) fn run_row(row: &Row, at: usize, identity: &str) -> Result<(RunRow, i64), StoreError> {
    let mut fields = Fields::read(row, at, identity, RunId(0), "run")?;
    let id = fields.uuid(0, "uuid")?.ok_or_else(|| fields.corrupt("uuid", &"it is NULL"))?;
    fields.run = id;
    let tags = |json: Arc<str>| {
        RunOptions::tags_from(&json).ok_or_else(|| fields.corrupt("tags", &"it is no JSON object of texts"))
    };
    let cancel =
        |blob: &[u8]| Cancel::from_blob(blob).map(Arc::new).map_err(|damage| fields.corrupt("cancel", &damage));
    let run = RunRow {
        id,
        workflow: fields.text(0, "workflow")?,
        version: fields.text(1, "version")?,
        key: fields.some_text(2),
        status: fields.code(0, "status", RunStatus::from_code)?,
        inputs: fields.blob(1).ok_or_else(|| fields.corrupt("inputs", &"it is NULL"))?,
        failure: fields.failure(3, "failure")?,
        created_at: Time(fields.number(8, "created_at")?),
        ended_at: fields.time(9, "ended_at")?,
        blocked_by: fields.some_text(4).map(BlockReason::from_stored),
        crashes: fields.number(1, "crashes")?,
        runner: fields.some_number(2, "runner")?,
        parent: fields.uuid(2, "parent")?,
        depth: fields.number(4, "depth")?,
        options: RunOptions {
            tags: fields.some_text(5).map(tags).transpose()?.unwrap_or_default(),
            priority: fields.number(5, "priority")?,
            start_at: fields.time(6, "start_at")?,
            deadline: fields.time(7, "deadline")?,
        },
        cancel: fields.bytes(3).map(cancel).transpose()?,
    };
    Ok((run, fields.number(3, "version")?))
}

fn task_row(fields: &Fields<'_>) -> Result<TaskRow, StoreError> {
    let started_at = fields.time(3, "started_at")?;
    let first_started_at = match fields.time(5, "first_started_at")? {
        Some(Time(-1)) => started_at,
        other => other,
    };
    let sub_status = fields.some_number::<i64>(9, "sub_status")?;
    Ok(TaskRow {
        run: fields.run.row(),
        task: fields.number(0, "task")?,
        map: fields.number(1, "map")?,
        length: fields.some_number(11, "length")?,
        status: fields.code(2, "status", TaskStatus::from_code)?,
        sub_status: sub_status.map(|_| fields.code(9, "sub_status", SubStatus::from_code)).transpose()?,
        attempts: fields.number(6, "attempts")?,
        mark: fields.code(7, "entered", Mark::from_code)?,
        output: fields.value(0),
        changes: fields.blob(1),
        failure: fields.failure(0, "failure")?,
        first_started_at,
        started_at,
        ended_at: fields.time(4, "ended_at")?,
        waited: fields.number(8, "waited")?,
        retry_at: fields.time(10, "retry_at")?,
        blocked_by: fields.some_text(1),
    })
}

pub(super) fn entry(fields: &Fields<'_>) -> Result<(TaskId, i32, Entry), StoreError> {
    let kind = fields.code(4, "kind", EntryKind::from_code)?;
    let operation = Operation::from_stored(kind, fields.blob(0), fields.time(8, "due")?);
    let entry = Entry {
        key: EntryKey { name: fields.text(0, "name")?, n: fields.number(2, "n")? },
        seq: fields.number(3, "seq")?,
        operation: operation.map_err(|damage| {
            let column = if damage == Damage::TimeWithoutDue { "due" } else { "proof" };
            fields.corrupt(column, &damage)
        })?,
        state: fields.code(5, "state", EntryState::from_code)?,
        deadline: fields.time(9, "deadline")?,
        value: fields.value(1),
        failure: fields.failure(1, "failure")?.map(Box::new),
        opened_at: Time(fields.number(6, "opened_at")?),
        closed_at: fields.time(7, "closed_at")?,
    };
    Ok((fields.number(0, "task")?, fields.number(1, "map")?, entry))
}

fn progress(fields: &Fields<'_>) -> Result<ProgressRow, StoreError> {
    Ok(ProgressRow {
        run: fields.run.row(),
        task: fields.number(0, "task")?,
        map: fields.number(1, "map")?,
        progress: Progress {
            done: fields.float(0, "done")?.ok_or_else(|| fields.corrupt("done", &"it is NULL"))?,
            total: fields.float(1, "total")?,
            message: fields.some_text(0),
            said_at: Time(fields.number(2, "said_at")?),
        },
    })
}

pub(super) fn message(fields: &Fields<'_>) -> Result<StoredMessage, StoreError> {
    let (value, failure) = (fields.value(0), fields.failure(2, "failure")?);
    let applied = fields.time(4, "applied_at")?.is_some();
    let consumed = applied || (value.is_none() && failure.is_none());
    let content = match failure {
        Some(failure) => Err(failure),
        None => Ok(value.unwrap_or(Value::NONE)),
    };
    let address = Address { kind: fields.code(2, "kind", MessageKind::from_code)?, name: fields.text(0, "name")? };
    let message = Message {
        number: fields.number(1, "number")?,
        address,
        id: fields.some_text(1),
        content,
        sent_at: Time(fields.number(3, "sent_at")?),
    };
    Ok(StoredMessage { seq: fields.number(0, "seq")?, message, consumed })
}

fn child(fields: &Fields<'_>) -> Result<(RunId, RunStatus), StoreError> {
    let id = fields.uuid(0, "uuid")?.ok_or_else(|| fields.corrupt("uuid", &"it is NULL"))?;
    Ok((id, fields.code(0, "status", RunStatus::from_code)?))
}
