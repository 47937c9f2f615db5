//! The schema: one `.sql` per migration, made in one transaction under a lock, so that two processes that open a new store
//! do not get into each other's way.

use super::Options;
use super::error::Failed;
use super::session::{Session, Text, in_schema};
use crate::StoreError;

/// Every migration, oldest first; the schema's version is their number.
const MIGRATIONS: &[&str] = &[include_str!("migrations/0001.sql")];

/// A bide that knows fewer migrations than this must not write to a schema that has all of them.
const OLDEST_WRITER: i64 = 1;

/// Holds off others that migrate: of the database, since there may be no schema yet.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7017264519)";
/// From the tables, as they are in the statement's snapshot: functions such as `to_regclass` answer from a cache of the
/// session, which may not know yet what another one has made before it released the lock.
const EXISTS: &str = "SELECT n.oid::int8, c.oid::int8 FROM (SELECT 1) AS one \
     LEFT JOIN pg_namespace n ON n.nspname = $1::text \
     LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'meta'";
const FOREIGN: &str =
    "SELECT count(*) FROM pg_class WHERE relnamespace = $1::int8::oid AND relkind IN ('r', 'p', 'v', 'm')";
const VERSION: &str = "SELECT version::int8, oldest_writer::int8 FROM bide.meta";
const RECORD: &str =
    "UPDATE bide.meta SET version = $1::int8, oldest_writer = greatest(oldest_writer, $2::int8) WHERE true";

/// What there is.
enum Found {
    /// No table of ours. `is_there`: the schema itself is.
    Nothing { is_there: bool },
    /// A schema, with the number of migrations that were made.
    Version(usize),
}

fn inspect(session: &mut Session<'_>, store: &str, schema: &str) -> Result<Found, Failed> {
    let unavailable = |what: String| Failed::Store(StoreError::Unavailable(format!("{store}: {what}")));
    let found = session.query_opt(EXISTS, &[&Text::from(schema)])?;
    let Some(row) = found else { return Err(unavailable("it does not say what it has".into())) };
    let (namespace, meta): (Option<i64>, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
    let Some(namespace) = namespace else { return Ok(Found::Nothing { is_there: false }) };
    if meta.is_none() {
        let foreign: i64 = match session.query_opt(FOREIGN, &[&namespace])? {
            Some(row) => row.try_get(0)?,
            None => 0,
        };
        if foreign > 0 {
            return Err(unavailable(format!(
                "its schema {schema} has tables of another program; name another one with ?schema="
            )));
        }
        return Ok(Found::Nothing { is_there: true });
    }
    let (version, oldest_writer): (i64, i64) = match session.query_opt(VERSION, &[])? {
        Some(row) => (row.try_get(0)?, row.try_get(1)?),
        None => return Err(unavailable(format!("the table {schema}.meta is empty; restore it from a backup"))),
    };
    let known = MIGRATIONS.len();
    match usize::try_from(version) {
        Ok(version) if version <= known || oldest_writer <= known as i64 => Ok(Found::Version(version.min(known))),
        _ => Err(unavailable(format!(
            "its schema {schema} has version {version}, this bide knows versions up to {known}; upgrade bide, or name \
             another one with ?schema="
        ))),
    }
}

/// Brings the schema to the newest version, and makes it if need be.
pub(super) fn migrate(session: &mut Session<'_>, store: &str, options: &Options) -> Result<(), Failed> {
    let schema = &*options.schema;
    match inspect(session, store, schema)? {
        Found::Version(version) if version == MIGRATIONS.len() => return Ok(()),
        Found::Nothing { .. } if !options.creates => {
            return Err(Failed::Store(StoreError::Unavailable(format!(
                "{store}: the schema {schema} of the database has no tables of bide's, and a Client makes none: open a \
                 Runner on it first, or name another one with ?schema="
            ))));
        }
        _ => {}
    }
    let made = session.transact(|session| {
        session.query(LOCK, &[])?;
        // Again, under the lock: another process may have migrated it just now.
        let (done, create) = match inspect(session, store, schema)? {
            Found::Nothing { is_there } => (0, !is_there),
            Found::Version(version) => (version, false),
        };
        session.script(&script(schema, done, create))?;
        session.execute(RECORD, &[&(MIGRATIONS.len() as i64), &OLDEST_WRITER])
    });
    match made {
        Err(Failed::Server(error)) if is_forbidden(&error) => Err(Failed::Store(StoreError::Unavailable(format!(
            "{store}: its role may not create what bide needs; have one that may execute the following, with this role \
             as the owner, or grant it CREATE on the database\n\n{}",
            in_schema(&script(schema, 0, true), schema)
        )))),
        made => made.map(drop),
    }
}

fn is_forbidden(error: &postgres::Error) -> bool {
    error.code() == Some(&postgres::error::SqlState::INSUFFICIENT_PRIVILEGE)
}

/// The statements that make the migrations from one on.
fn script(schema: &str, done: usize, create: bool) -> String {
    let mut script = String::new();
    if create {
        script.push_str(&format!("CREATE SCHEMA \"{schema}\";\n"));
    }
    script.push_str(&MIGRATIONS.get(done..).unwrap_or_default().concat());
    if done == 0 {
        script.push_str(&format!("\nINSERT INTO bide.meta VALUES ({}, {OLDEST_WRITER});\n", MIGRATIONS.len()));
    }
    script
}
