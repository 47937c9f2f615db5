//! One write transaction: `BEGIN IMMEDIATE` to `COMMIT`, and what is known when something fails in between.

use rusqlite::Connection;

use super::error::{Place, is_busy};
use super::writer::Snapshot;
use crate::StoreError;

/// An open write transaction; rolled back when dropped without [`Transaction::commit`].
pub(super) struct Transaction<'c> {
    connection: &'c Connection,
    snapshot: Option<&'c Snapshot>,
    place: &'c Place,
    open: bool,
}

impl<'c> Transaction<'c> {
    /// Takes the file's write lock (waiting for other processes as long as the busy handler allows).
    pub(super) fn begin(connection: &'c Connection, place: &'c Place) -> Result<Self, StoreError> {
        run(connection, "BEGIN IMMEDIATE").map_err(|error| place.error(&error))?;
        Ok(Self { connection, snapshot: None, place, open: true })
    }

    /// The same upon a kept snapshot, if there is one that is still what is committed; its commit keeps it.
    pub(super) fn begin_on(
        connection: &'c Connection,
        snapshot: &'c Snapshot,
        place: &'c Place,
    ) -> Result<Self, StoreError> {
        if let Err(error) = run(connection, "BEGIN IMMEDIATE") {
            // Upon a snapshot SQLite does not wait for others.
            if !snapshot.give_up() {
                return Err(place.error(&error));
            }
            snapshot.rest();
            run(connection, "BEGIN IMMEDIATE").map_err(|error| place.error(&error))?;
        }
        Ok(Self { connection, snapshot: Some(snapshot), place, open: true })
    }

    /// The connection, for what belongs to the transaction.
    pub(super) fn connection(&self) -> &'c Connection {
        self.connection
    }

    /// Makes it durable.
    ///
    /// SQLite may fail here in two ways: with the transaction still open, which is then rolled back, so that nothing
    /// was written; or with the transaction gone, when only reading the file again tells what was written.
    pub(super) fn commit(mut self) -> Result<(), StoreError> {
        if let Some(snapshot) = self.snapshot {
            snapshot.keep();
        }
        let Err(error) = run(self.connection, "COMMIT") else {
            self.open = false;
            return Ok(());
        };
        if self.connection.is_autocommit() {
            let told = self.place.error(&error);
            return Err(if is_busy(&error) { told } else { StoreError::Unknown(told.to_string()) });
        }
        Err(self.place.error(&error))
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        // An I/O error or a full disk may have rolled it back already.
        if !self.connection.is_autocommit() {
            let _ = run(self.connection, "ROLLBACK");
        }
        // Whatever made it fail, the next one begins from what is there.
        if let Some(snapshot) = self.snapshot {
            snapshot.give_up();
        }
    }
}

fn run(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.raw_execute().map(drop)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_commit_that_fails_with_the_transaction_open_is_rolled_back_and_known_to_be() {
        let place = Place { name: "test.db".into(), patience: Duration::ZERO };
        let connection = Connection::open_in_memory().unwrap();
        // A deferred constraint is the one that COMMIT itself refuses.
        let schema = "CREATE TABLE a (x PRIMARY KEY); CREATE TABLE b (x REFERENCES a DEFERRABLE INITIALLY DEFERRED)";
        connection.execute_batch(schema).unwrap();
        let transaction = Transaction::begin(&connection, &place).unwrap();
        connection.execute("INSERT INTO b VALUES (1)", []).unwrap();
        let error = transaction.commit().unwrap_err();
        assert!(matches!(&error, StoreError::Unavailable(message) if message.starts_with("test.db")), "{error:?}");
        assert!(connection.is_autocommit());
        let left: i64 = connection.query_row("SELECT count(*) FROM b", [], |row| row.get(0)).unwrap();
        assert_eq!(left, 0);
    }

    #[test]
    fn a_transaction_that_is_dropped_is_rolled_back() {
        let place = Place { name: "test.db".into(), patience: Duration::ZERO };
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE a (x)").unwrap();
        let transaction = Transaction::begin(&connection, &place).unwrap();
        connection.execute("INSERT INTO a VALUES (1)", []).unwrap();
        drop(transaction);
        let left: i64 = connection.query_row("SELECT count(*) FROM a", [], |row| row.get(0)).unwrap();
        assert_eq!(left, 0);
    }
}
