//! Transactions of the user's that write the record of a step themselves, on a connection of the user's.
//!
//! Their statements have literals: each driver has parameters of its own. No literal has a character that a driver or the
//! server's settings could read as something else: texts and bytes are hexadecimal.

use std::fmt::Write as _;

use bide_core::Value;
use bide_core::record::StepRecord;

use super::PostgresStore;
use super::cells;
use super::columns::Cell;
use super::session::{escaped, in_schema};
use crate::{Database, Lease, StoreError};

/// The database within its cluster, and the cluster: a copy of either is another one.
const DATABASE: &str = "(SELECT c.system_identifier FROM pg_catalog.pg_control_system() c)::text || '/' || \
     (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())::text";

const BEFORE: &str = "WITH f AS MATERIALIZED (SELECT 1 FROM bide.runner r WHERE ";
const INSERT: &str = " FOR KEY SHARE OF r), e AS (INSERT INTO bide.journal (run, task, map, name, n, seq, kind, state, opened_at, \
     closed_at, due, deadline, proof, value, failure) SELECT ";
const AFTER: &str = " ON CONFLICT (run, task, map, name, n) DO NOTHING RETURNING 1) \
     SELECT (SELECT pg_catalog.count(*) FROM f)::int4, ";

const OWN: &str = "SELECT 1 FROM bide.runner WHERE id = $1::int8 AND epoch = $2::int8";
const RECORDED: &str = "SELECT value FROM bide.journal WHERE run = $1::int8 AND task = $2::int8 AND map = $3::int8 \
     AND name = $4::text AND n = $5::int8 AND state = 1";

fn hexadecimal(bytes: &[u8], sql: &mut String) {
    sql.push_str("pg_catalog.decode('");
    for byte in bytes {
        // A text takes any number of characters.
        let _ = write!(sql, "{byte:02x}");
    }
    sql.push_str("', 'hex')");
}

fn literal(cell: &Cell<'_>, sql: &mut String) {
    match cell {
        Cell::Int(Some(number)) => {
            let _ = write!(sql, "({number})::int8");
        }
        Cell::Int(None) => sql.push_str("NULL::int8"),
        Cell::Text(Some(text)) => {
            sql.push_str("pg_catalog.convert_from(");
            hexadecimal(escaped(text).as_bytes(), sql);
            sql.push_str(", 'UTF8')");
        }
        Cell::Text(None) => sql.push_str("NULL::text"),
        Cell::Blob(Some(bytes)) => hexadecimal(bytes, sql),
        Cell::Blob(None) => sql.push_str("NULL::bytea"),
        // A journal has neither.
        Cell::Float(_) | Cell::Id(_) => sql.push_str("NULL"),
    }
}

impl PostgresStore {
    pub(super) fn read_database(&self) -> Result<Database, StoreError> {
        let database = |answer: &str| Database { question: DATABASE.to_owned(), answer: answer.to_owned() };
        let breaks = self.connections.breaks();
        if let Some((at, answer)) = &*self.database.lock()
            && *at == breaks
        {
            return Ok(database(answer));
        }
        let sql = format!("SELECT {DATABASE}");
        let answer = self.connections.reader(|session| {
            let row = session.query_opt(&sql, &[])?;
            Ok(row.map(|row| row.try_get::<_, String>(0)).transpose()?)
        })?;
        let answer = answer.unwrap_or_default();
        let found = database(&answer);
        *self.database.lock() = Some((breaks, answer));
        Ok(found)
    }

    pub(super) fn statement_of_record(&self, lease: Lease, record: &StepRecord, marker: &str) -> String {
        let schema = &self.connections.options().schema;
        let Lease { runner, epoch } = lease;
        let mut is_set =
            "coalesce(pg_catalog.current_setting('bide_step.marker', true), '') = pg_catalog.convert_from(".to_owned();
        hexadecimal(marker.as_bytes(), &mut is_set);
        is_set.push_str(", 'UTF8')");
        let mut sql = in_schema(BEFORE, schema).into_owned();
        let _ = write!(sql, "r.id = {runner}::int8 AND r.epoch = {epoch}::int8{}", in_schema(INSERT, schema));
        let place = [record.run.into(), record.task.into(), i64::from(record.map).into()];
        for (at, cell) in cells::entry(place, &record.entry).iter().enumerate() {
            sql.push_str(if at == 0 { "" } else { ", " });
            literal(cell, &mut sql);
        }
        let _ = write!(sql, " FROM f WHERE {is_set}{AFTER}({is_set})::int4, (SELECT pg_catalog.count(*) FROM e)::int4");
        sql
    }

    pub(super) fn read_recorded_step(&self, lease: Lease, record: &StepRecord) -> Result<Option<Value>, StoreError> {
        let key = &record.entry.key;
        let (map, n, name) = (i64::from(record.map), i64::from(key.n), super::Text::from(&*key.name));
        self.connections.lease(|session| {
            self.check_history(lease)?;
            session.transact(|session| {
                self.lock_runners(session, &[lease.runner])?;
                if session.query_opt(OWN, &[&lease.runner, &lease.epoch])?.is_none() {
                    return Err(StoreError::Fenced { runner: lease.runner }.into());
                }
                let row = session.query_opt(RECORDED, &[&record.run, &record.task, &map, &name, &n])?;
                let value: Option<Option<&[u8]>> = row.as_ref().map(|row| row.try_get(0)).transpose()?;
                Ok(value.map(|value| value.map_or(Value::NONE, Value::new)))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_has_no_character_that_a_driver_reads() {
        let cells: [Cell<'_>; 4] =
            [(-7).into(), "it's 100% \\ :a $1 ?\0".into(), Some(&b"'%\\"[..]).into(), Cell::Text(None)];
        for cell in &cells {
            let mut sql = String::new();
            literal(cell, &mut sql);
            assert!(!sql.contains(['%', '\\', '$', '?', '"']), "{sql}");
            assert_eq!(sql.replace("'hex'", "").replace("'UTF8'", "").matches('\'').count() % 2, 0, "{sql}");
        }
    }
}
