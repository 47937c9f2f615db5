//! Writing rows of the journal: one by one, or many by one statement.

use bide_core::Entry;
use bide_core::record::Write;
use rusqlite::params;

use super::{bytes, json, micros};

/// The parameters of four rows of the journal.
macro_rules! four_entries {
    () => {
        "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?), (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?), \
         (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?), (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    };
}

/// Writes a row, in place of one that is there.
pub(super) const ENTRY: &str = "INSERT OR REPLACE INTO journal (run, task, map, name, n, seq, kind, state, opened_at, closed_at, \
     due, deadline, proof, value, failure) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)";
/// [`ENTRY`] for [`AT_ONCE`] rows: what a statement costs by itself is paid once, and what follows each other is appended
/// without a search.
pub(super) const ENTRIES: &str = concat!(
    "INSERT OR REPLACE INTO journal (run, task, map, name, n, seq, kind, state, opened_at, closed_at, \
     due, deadline, proof, value, failure) VALUES ",
    four_entries!(),
    ", ",
    four_entries!(),
    ", ",
    four_entries!(),
    ", ",
    four_entries!()
);
/// So many rows of the journal are written by one statement, if there are as many.
pub(super) const AT_ONCE: usize = 16;

/// Writes as many rows as the statement has. Answers how many bytes of values they have.
pub(super) fn entries(statement: &mut rusqlite::Statement<'_>, rows: &[Write; AT_ONCE]) -> rusqlite::Result<usize> {
    let (mut size, mut bound) = (0, 0);
    for write in rows {
        let Write::Entry { run, task, map, entry } = write else { continue };
        size += entry.value.as_ref().map_or(0, |value| value.as_bytes().len());
        bound = bind_entry(statement, bound, (*run, *task, *map), entry)?;
    }
    statement.raw_execute()?;
    Ok(size)
}

pub(super) fn entry(
    statement: &mut rusqlite::Statement<'_>,
    place: (i64, i64, i32),
    row: &Entry,
) -> rusqlite::Result<usize> {
    bind_entry(statement, 0, place, row)?;
    statement.raw_execute()
}

/// Binds the values of a row behind those that are bound already. Answers how many there are then.
fn bind_entry(
    statement: &mut rusqlite::Statement<'_>,
    bound: usize,
    (run, task, map): (i64, i64, i32),
    row: &Entry,
) -> rusqlite::Result<usize> {
    let proof = row.operation.stored_proof();
    let values = params![
        run,
        task,
        map,
        &*row.key.name,
        row.key.n,
        row.seq,
        row.kind().code(),
        row.state.code(),
        row.opened_at.0,
        micros(row.closed_at),
        micros(row.due()),
        micros(row.deadline),
        proof,
        bytes(row.value.as_ref()),
        json(row.failure.as_deref()),
    ];
    for (at, value) in values.iter().enumerate() {
        statement.raw_bind_parameter(bound + at + 1, value)?;
    }
    Ok(bound + values.len())
}
