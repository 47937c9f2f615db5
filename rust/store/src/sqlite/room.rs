//! Room in the write-ahead log, made before it is needed, where each commit waits for the disk.
//!
//! A commit that makes the log longer has its file system write two things before it may continue: the pages, and the
//! new length of the file. That takes half as long again, and the log is short of its usual length only at the
//! beginning: later it is started from its beginning, over pages that exist.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use rusqlite::Connection;

use super::checkpoint::LIMIT;
use super::error::Identity;
use super::transaction::Transaction;
use crate::StoreError;

/// Makes the log as long as it becomes before it is copied. A failure, such as a full disk, is reported by the
/// commit that needs the room.
pub(super) fn make(writer: &Connection, log: &Path, identity: &Identity) -> Result<(), StoreError> {
    // Locked, so that nothing is appended meanwhile: the end of the file is the end of the log.
    let transaction = Transaction::begin(writer, identity)?;
    let _ = lengthen(log);
    drop(transaction);
    Ok(())
}

fn lengthen(log: &Path) -> io::Result<()> {
    // To SQLite, zeros are no header and no frames.
    let mut file: File = OpenOptions::new().write(true).open(log)?;
    let mut at = file.seek(SeekFrom::End(0))?;
    let zeros = vec![0; 64 << 10];
    while at < LIMIT {
        file.write_all(&zeros)?;
        at += zeros.len() as u64;
    }
    file.sync_all()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rows(connection: &Connection) -> i64 {
        connection.query_row("SELECT count(*) FROM a", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_log_with_room_keeps_what_is_committed_before_and_after_and_reads_back_after_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let (path, log) = (folder.path().join("a.db"), folder.path().join("a.db-wal"));
        let crashed = folder.path().join("crashed.db");
        let identity = Identity { name: "a.db".into(), busy_timeout: Duration::ZERO };
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())).unwrap();
        make(&connection, &log, &identity).unwrap();
        connection.execute_batch("CREATE TABLE a (x); INSERT INTO a VALUES (1)").unwrap();
        make(&connection, &log, &identity).unwrap();
        connection.execute("INSERT INTO a VALUES (2)", []).unwrap();

        assert!(std::fs::metadata(&log).unwrap().len() >= LIMIT);
        // What a process that is killed now leaves.
        std::fs::copy(&path, &crashed).unwrap();
        std::fs::copy(&log, folder.path().join("crashed.db-wal")).unwrap();
        assert_eq!(rows(&Connection::open(&crashed).unwrap()), 2);
        assert_eq!(rows(&connection), 2);
    }
}
