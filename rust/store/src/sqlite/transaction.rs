//! One write transaction: `BEGIN IMMEDIATE` to `COMMIT`, and what is known when something fails in between.

use rusqlite::Connection;

use super::error::{Identity, is_busy};
use super::writer::Snapshot;
use crate::StoreError;

/// An open write transaction; rolled back when dropped without [`Transaction::commit`].
pub(super) struct Transaction<'c> {
    /// The connection that writes.
    connection: &'c Connection,
    /// The kept snapshot that it began on, if any.
    snapshot: Option<&'c Snapshot>,
    /// The store's name, for errors.
    identity: &'c Identity,
    /// Whether it has yet to be committed or rolled back.
    open: bool,
}

impl<'c> Transaction<'c> {
    /// Takes the file's write lock (waiting for other processes as long as the busy handler allows).
    pub(super) fn begin(connection: &'c Connection, identity: &'c Identity) -> Result<Self, StoreError> {
        run(connection, "BEGIN IMMEDIATE").map_err(|error| identity.error(&error))?;
        Ok(Self { connection, snapshot: None, identity, open: true })
    }

    /// The same upon a kept snapshot, if there is one that is still what is committed; its commit keeps it.
    pub(super) fn begin_on(
        connection: &'c Connection,
        snapshot: &'c Snapshot,
        identity: &'c Identity,
    ) -> Result<Self, StoreError> {
        if let Err(error) = run(connection, "BEGIN IMMEDIATE") {
            // Upon a snapshot SQLite does not wait for others.
            if !snapshot.release() {
                return Err(identity.error(&error));
            }
            snapshot.rest();
            run(connection, "BEGIN IMMEDIATE").map_err(|error| identity.error(&error))?;
        }
        Ok(Self { connection, snapshot: Some(snapshot), identity, open: true })
    }

    /// The connection, for what belongs to the transaction.
    pub(super) fn connection(&self) -> &'c Connection {
        self.connection
    }

    /// Makes it durable.
    ///
    /// SQLite may fail here in two ways: with the transaction still open, which is then rolled back, so that nothing
    /// was written; or with the transaction gone, when only reading the file again shows what was written.
    pub(super) fn commit(mut self) -> Result<(), StoreError> {
        if let Some(snapshot) = self.snapshot {
            snapshot.keep();
        }
        let Err(error) = run(self.connection, "COMMIT") else {
            self.open = false;
            return Ok(());
        };
        if self.connection.is_autocommit() {
            let explained = self.identity.error(&error);
            return Err(if is_busy(&error) { explained } else { StoreError::Unknown(explained.to_string()) });
        }
        Err(self.identity.error(&error))
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
        // The next transaction begins from what is committed, not from the kept snapshot.
        if let Some(snapshot) = self.snapshot {
            snapshot.release();
        }
    }
}

pub(super) fn run(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.raw_execute().map(drop)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_commit_that_fails_with_the_transaction_open_is_rolled_back_and_known_to_be() {
        let identity = Identity { name: "test.db".into(), busy_timeout: Duration::ZERO };
        let connection = Connection::open_in_memory().unwrap();
        // A deferred constraint is the one that COMMIT itself refuses.
        let schema = "CREATE TABLE a (x PRIMARY KEY); CREATE TABLE b (x REFERENCES a DEFERRABLE INITIALLY DEFERRED)";
        connection.execute_batch(schema).unwrap();
        let transaction = Transaction::begin(&connection, &identity).unwrap();
        connection.execute("INSERT INTO b VALUES (1)", []).unwrap();
        let error = transaction.commit().unwrap_err();
        assert!(matches!(&error, StoreError::Unavailable(message) if message.starts_with("test.db")), "{error:?}");
        assert!(connection.is_autocommit());
        let left: i64 = connection.query_row("SELECT count(*) FROM b", [], |row| row.get(0)).unwrap();
        assert_eq!(left, 0);
    }

    #[test]
    fn a_transaction_that_is_dropped_is_rolled_back() {
        let identity = Identity { name: "test.db".into(), busy_timeout: Duration::ZERO };
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE a (x)").unwrap();
        let transaction = Transaction::begin(&connection, &identity).unwrap();
        connection.execute("INSERT INTO a VALUES (1)", []).unwrap();
        drop(transaction);
        let left: i64 = connection.query_row("SELECT count(*) FROM a", [], |row| row.get(0)).unwrap();
        assert_eq!(left, 0);
    }
}
