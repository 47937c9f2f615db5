//! The schema: one `.sql` per migration, a newer one refused, an older one migrated in one transaction.

use rusqlite::Connection;

use super::error::Identity;
use super::transaction::Transaction;
use crate::StoreError;

/// Every migration, oldest first; the schema's version is their number.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001.sql"),
    include_str!("migrations/0002.sql"),
    include_str!("migrations/0003.sql"),
    include_str!("migrations/0004.sql"),
];

/// "bide", in the header of every file that is ours.
pub(super) const APPLICATION_ID: i32 = 0x6269_6465;

/// What a file is, by its header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing in it yet.
    Empty,
    /// Ours, with a schema that can be used once migrated.
    Version(usize),
}

fn number(connection: &Connection, pragma: &str) -> rusqlite::Result<i64> {
    connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))
}

/// Reads the header; writes nothing.
pub(super) fn inspect(connection: &Connection, identity: &Identity, known: usize) -> Result<Found, StoreError> {
    let read = || -> rusqlite::Result<(i64, i64, bool)> {
        // One snapshot, since another process may be migrating: half of what it was and half of what it is would look
        // like the database of another program.
        let _snapshot = connection.is_autocommit().then(|| connection.unchecked_transaction()).transpose()?;
        let id = number(connection, "application_id")?;
        let tables = connection.query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))?;
        Ok((id, number(connection, "user_version")?, tables))
    };
    match read().map_err(|error| identity.error(&error))? {
        (0, 0, false) => Ok(Found::Empty),
        (id, version, _) if id == i64::from(APPLICATION_ID) => match usize::try_from(version) {
            Ok(version) if version <= known => Ok(Found::Version(version)),
            _ => Err(identity.unavailable(&format!(
                "its schema has version {version}, this bide knows versions up to {known}; \
                 upgrade bide, or name another path"
            ))),
        },
        _ => Err(identity.unavailable("it is the database of another program; name another path")),
    }
}

/// Brings the schema to the newest version, in one transaction.
pub(super) fn migrate(connection: &Connection, identity: &Identity, migrations: &[&str]) -> Result<(), StoreError> {
    if inspect(connection, identity, migrations.len())? == Found::Version(migrations.len()) {
        return Ok(());
    }
    let transaction = Transaction::begin(connection, identity)?;
    // Again, under the lock: another process may have migrated it just now.
    let done = match inspect(connection, identity, migrations.len())? {
        Found::Empty => 0,
        Found::Version(version) => version,
    };
    let mut script: String = migrations[done..].concat();
    script.push_str(&format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {};", migrations.len()));
    connection.execute_batch(&script).map_err(|error| identity.error(&error))?;
    transaction.commit()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use std::time::Duration;

    use super::*;

    fn identity() -> Identity {
        Identity { name: "test.db".into(), busy_timeout: Duration::from_secs(1) }
    }

    fn tables(connection: &Connection) -> Vec<String> {
        let mut statement = connection.prepare("SELECT name FROM sqlite_schema ORDER BY name").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn an_older_schema_is_migrated_as_a_whole_or_not_at_all() {
        let connection = Connection::open_in_memory().unwrap();
        let first = "CREATE TABLE a (x);";
        migrate(&connection, &identity(), &[first]).unwrap();
        assert_eq!(inspect(&connection, &identity(), 1).unwrap(), Found::Version(1));

        let broken = [first, "CREATE TABLE b (x);", "CREATE TABLE a (x);"];
        migrate(&connection, &identity(), &broken).unwrap_err();
        assert_eq!(inspect(&connection, &identity(), 3).unwrap(), Found::Version(1));
        assert_eq!(tables(&connection), ["a"]);

        migrate(&connection, &identity(), &[first, "CREATE TABLE b (x);", "CREATE TABLE c (x);"]).unwrap();
        assert_eq!(inspect(&connection, &identity(), 3).unwrap(), Found::Version(3));
        assert_eq!(tables(&connection), ["a", "b", "c"]);
    }

    #[test]
    fn a_newer_schema_is_refused_naming_both_versions() {
        let connection = Connection::open_in_memory().unwrap();
        migrate(&connection, &identity(), MIGRATIONS).unwrap();
        connection.execute_batch("PRAGMA user_version = 7").unwrap();
        let message = migrate(&connection, &identity(), MIGRATIONS).unwrap_err().to_string();
        assert!(message.contains("version 7") && message.contains("up to 4"), "{message}");
    }

    #[test]
    fn the_database_of_another_program_is_left_alone() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE theirs (x)").unwrap();
        let message = migrate(&connection, &identity(), MIGRATIONS).unwrap_err().to_string();
        assert!(message.contains("another program"), "{message}");
        assert_eq!(tables(&connection), ["theirs"]);
    }
}
