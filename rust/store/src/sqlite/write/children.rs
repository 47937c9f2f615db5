//! Creating child runs: one by one, or many by one statement.

use bide_core::record::{NewRun, Parent};
use rusqlite::{Connection, Statement, params};

use super::super::error::is_conflict;
use crate::Lease;

/// The columns of a child.
macro_rules! insert {
    () => {
        "INSERT INTO run (id, uuid, workflow, version, runner, epoch, created_at, key, inputs, parent, parent_task, \
         parent_map, parent_name, parent_n, depth, status) VALUES "
    };
}

/// The parameters of one.
macro_rules! one {
    () => {
        "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)"
    };
}

/// The parameters of four of them.
macro_rules! four {
    () => {
        concat!(one!(), ", ", one!(), ", ", one!(), ", ", one!())
    };
}

pub(super) const CREATE_CHILD: &str = concat!(insert!(), one!());
pub(super) const CREATE_CHILDREN: &str = concat!(insert!(), four!(), ", ", four!(), ", ", four!(), ", ", four!());

/// As many children are created by one statement.
pub(super) const AT_ONCE: usize = 16;

/// Creates a child. Answers how many rows there are more.
pub(super) fn child(
    writer: &Connection,
    lease: Option<Lease>,
    new: &NewRun,
    parent: &Parent,
) -> rusqlite::Result<usize> {
    let mut statement = writer.prepare_cached(CREATE_CHILD)?;
    bind(&mut statement, 0, lease, new, parent)?;
    statement.raw_execute()
}

/// Creates children that have nothing but their inputs. False: nothing is created, because one of them is something
/// else or its number is taken.
pub(super) fn children(writer: &Connection, lease: Option<Lease>, all: &[NewRun; AT_ONCE]) -> rusqlite::Result<bool> {
    if all.iter().any(|new| new.parent.is_none() || new.options.is_some()) {
        return Ok(false);
    }
    let mut statement = writer.prepare_cached(CREATE_CHILDREN)?;
    let mut bound = 0;
    for (new, parent) in all.iter().filter_map(|new| Some((new, new.parent.as_deref()?))) {
        bound = bind(&mut statement, bound, lease, new, parent)?;
    }
    match statement.raw_execute() {
        Ok(_) => Ok(true),
        Err(error) if is_conflict(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Binds the values of a child behind those that are bound already. Answers how many there are then.
fn bind(
    statement: &mut Statement<'_>,
    bound: usize,
    lease: Option<Lease>,
    new: &NewRun,
    parent: &Parent,
) -> rusqlite::Result<usize> {
    let uuid = new.id.0.to_be_bytes();
    let values = params![
        new.id.row(),
        &uuid[..],
        new.workflow,
        new.version,
        lease.map(|lease| lease.runner),
        lease.map(|lease| lease.epoch),
        new.created_at.0,
        new.key.as_deref(),
        &*new.inputs,
        parent.run.row(),
        parent.task,
        parent.map,
        &*parent.key.name,
        parent.key.n,
        parent.depth,
    ];
    for (at, value) in values.iter().enumerate() {
        statement.raw_bind_parameter(bound + at + 1, value)?;
    }
    Ok(bound + values.len())
}
