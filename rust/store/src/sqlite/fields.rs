//! The columns of a row that is read. One that does not read back is `Corrupt`, naming run and column.

use std::fmt;
use std::sync::Arc;

use bide_core::{Damage, Failure, RunId, Time, Value};
use rusqlite::Row;
use rusqlite::types::FromSql;

use crate::StoreError;

/// A row being read, with what an error names if it does not read back.
pub(super) struct Fields<'r> {
    /// The row.
    pub(super) row: &'r Row<'r>,
    /// The store's name.
    pub(super) identity: &'r str,
    /// The run that the row belongs to.
    pub(super) run: RunId,
    /// The table that the row is of.
    pub(super) table: &'static str,
}

impl Fields<'_> {
    pub(super) fn corrupt(&self, column: &str, damage: &dyn fmt::Display) -> StoreError {
        StoreError::Corrupt(format!(
            "{}: run {}: the column {}.{column} does not read back ({damage}); the file was changed by another program or \
             is damaged",
            self.identity, self.run, self.table
        ))
    }

    pub(super) fn get<T: FromSql>(&self, at: usize, column: &str) -> Result<T, StoreError> {
        self.row.get(at).map_err(|error| self.corrupt(column, &error))
    }

    pub(super) fn text(&self, at: usize, column: &str) -> Result<Option<Arc<str>>, StoreError> {
        self.get(at, column)
    }

    pub(super) fn value(&self, at: usize, column: &str) -> Result<Option<Value>, StoreError> {
        let bytes: Option<Vec<u8>> = self.get(at, column)?;
        Ok(bytes.map(|bytes| Value::new(&bytes)))
    }

    pub(super) fn blob(&self, at: usize, column: &str) -> Result<Option<Arc<[u8]>>, StoreError> {
        let bytes: Option<Vec<u8>> = self.get(at, column)?;
        Ok(bytes.map(Into::into))
    }

    pub(super) fn time(&self, at: usize, column: &str) -> Result<Option<Time>, StoreError> {
        Ok(self.get::<Option<i64>>(at, column)?.map(Time))
    }

    pub(super) fn failure(&self, at: usize, column: &str) -> Result<Option<Failure>, StoreError> {
        let text: Option<String> = self.get(at, column)?;
        text.map(|text| Failure::from_json(&text).map_err(|damage| self.corrupt(column, &damage))).transpose()
    }

    pub(super) fn code<T>(&self, at: usize, column: &str, read: impl Fn(i64) -> Option<T>) -> Result<T, StoreError> {
        let code: i64 = self.get(at, column)?;
        read(code).ok_or_else(|| self.corrupt(column, &Damage::UnknownCode(code)))
    }
}
