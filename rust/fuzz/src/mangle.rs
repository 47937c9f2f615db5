//! A file whose rows were changed by another program. The schema's own guards (STRICT, NOT NULL) are taken away first,
//! since damage does not ask them.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bide_core::Graph;
use bide_store::{Durability, SqliteStore};
use rusqlite::Connection;
use rusqlite::types::Value;

use crate::{play, seed};

/// One column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The table.
    pub table: String,
    /// The column.
    pub name: String,
}

/// A store's file that can be mangled and restored.
pub struct Mangled {
    /// Where the file is; removed when this is dropped.
    directory: tempfile::TempDir,
    /// The graph of the runs in the file.
    graph: Arc<Graph>,
    /// The bytes of the file before any change.
    clean: Vec<u8>,
    /// Every column that can be changed.
    columns: Vec<Column>,
}

impl Mangled {
    /// A file with rows of every kind.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn new() -> Self {
        // In memory if possible: what is played is thrown away each time.
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let directory = directory.expect("a directory");
        let path = directory.path().join("bide.db");
        let graph = seed::graph();
        seed::write(&path, &graph).expect("the seed");
        let columns = unguard(&path).expect("the schema");
        let clean = std::fs::read(&path).expect("the file");
        Self { directory, graph, clean, columns }
    }

    /// Every column of every table.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Puts values into columns, of all rows or of one, and makes every call of the store. Returns the errors
    /// that report the damage.
    ///
    /// # Panics
    /// If bide does.
    pub fn play(&self, changes: &[(&Column, Option<usize>, Value)]) -> Vec<String> {
        let path = self.directory.path().join("bide.db");
        for stale in ["bide.db-wal", "bide.db-shm"] {
            let _ = std::fs::remove_file(self.directory.path().join(stale));
        }
        std::fs::write(&path, &self.clean).expect("the file");
        let connection = Connection::open(&path).expect("the file");
        // Without waiting for the disk: the file is for one case.
        connection.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY;").expect("the file");
        for (Column { table, name }, row, value) in changes {
            let rows = row.map_or(String::new(), |row| {
                format!("WHERE \"{name}\" IS (SELECT \"{name}\" FROM \"{table}\" LIMIT 1 OFFSET {row})")
            });
            // A number that is taken, say: then another change makes the case.
            let _ = connection.execute(&format!("UPDATE OR REPLACE \"{table}\" SET \"{name}\" = ?1 {rows}"), [value]);
        }
        drop(connection);
        let mut errors = play::StoreErrors::default();
        match SqliteStore::open(&path, Durability::Normal) {
            Ok(store) => play::everything(&*store, &self.graph, &mut errors),
            Err(error) => errors.0.push(error),
        }
        errors.0.iter().map(ToString::to_string).collect()
    }
}

impl Default for Mangled {
    fn default() -> Self {
        Self::new()
    }
}

/// Takes the guards away, and the log with them: the file is to be all there is.
fn unguard(path: &Path) -> rusqlite::Result<Vec<Column>> {
    let connection = Connection::open(path)?;
    connection.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()))?;
    connection.execute_batch(
        "PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET sql = replace(replace(sql, ' STRICT', ''), ') ,', ')');
         UPDATE sqlite_schema SET sql = replace(sql, '),', ')') WHERE sql LIKE '%), WITHOUT ROWID';
         UPDATE sqlite_schema SET sql = replace(sql, 'NOT NULL', '') WHERE type = 'table' AND name NOT LIKE 'sqlite_%';
         PRAGMA writable_schema = RESET;",
    )?;
    let mut statement = connection.prepare(
        "SELECT m.name, c.name FROM sqlite_schema m JOIN pragma_table_info(m.name) c \
         WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' ORDER BY m.name, c.cid",
    )?;
    statement.query_map([], |row| Ok(Column { table: row.get(0)?, name: row.get(1)? }))?.collect()
}

/// Takes a few changes from the input: which column, which row, what. One after the other, over one file.
pub fn rows(data: &[u8]) {
    static FILE: OnceLock<Mutex<Mangled>> = OnceLock::new();
    let file = FILE.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let mut rest = data;
    let mut changes = Vec::new();
    while let [column, row, kind, length, tail @ ..] = rest
        && changes.len() < 4
    {
        let (payload, tail) = tail.split_at(usize::from(*length).min(tail.len()));
        rest = tail;
        let column = &file.columns[usize::from(*column) % file.columns.len()];
        let row = (*row < 8).then_some(usize::from(*row));
        changes.push((column, row, value(*kind, payload)));
    }
    file.play(&changes);
}

/// Small numbers and the ends of each range come often, for they are what codes and counts are.
fn value(kind: u8, payload: &[u8]) -> Value {
    let mut eight = [0; 8];
    let length = payload.len().min(8);
    eight[..length].copy_from_slice(&payload[..length]);
    let number = i64::from_le_bytes(eight);
    match kind % 8 {
        0 => Value::Null,
        1 => Value::Integer(number),
        2 => Value::Integer(number & 0xf),
        3 => Value::Integer([i64::MIN, -1, i64::from(i32::MAX), i64::from(u32::MAX), i64::MAX][number as usize % 5]),
        4 => Value::Real(f64::from_le_bytes(eight)),
        5 => Value::Text(String::from_utf8_lossy(payload).into_owned()),
        6 => Value::Blob(payload.to_vec()),
        _ => Value::Integer(1_700_000_000_000_000 + number % 1_000_000),
    }
}
