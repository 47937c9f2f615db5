//! Rows that have a name, those of schedules and watches, as they are read. One that does not read back is `Corrupt`, naming
//! row and column.

use std::sync::Arc;

use bide_core::{RunId, Time};
use postgres::Row;
use postgres::types::FromSql;

use super::session::Text;
use crate::StoreError;

/// The columns of a row that is read.
pub(super) struct Named<'r> {
    pub(super) row: &'r Row,
    /// The store's name.
    pub(super) store: &'r str,
    /// Which table it is of, which is also what it is called.
    pub(super) table: &'static str,
    /// Its name.
    pub(super) name: &'r str,
}

impl<'r> Named<'r> {
    pub(super) fn corrupt(&self, column: &str, why: &str) -> StoreError {
        let Self { store, table, name, .. } = self;
        StoreError::Corrupt(format!(
            "{store}: {table} '{name}': the column {table}.{column} does not read back ({why}); the table was changed by \
             another program or is damaged"
        ))
    }

    pub(super) fn get<T: FromSql<'r>>(&self, at: usize, column: &str) -> Result<T, StoreError> {
        self.row.try_get(at).map_err(|error| self.corrupt(column, &error.to_string()))
    }

    pub(super) fn text(&self, at: usize, column: &str) -> Result<Arc<str>, StoreError> {
        Ok(Arc::from(&*self.get::<Text<'_>>(at, column)?.0))
    }

    pub(super) fn some_text(&self, at: usize, column: &str) -> Result<Option<Arc<str>>, StoreError> {
        Ok(self.get::<Option<Text<'_>>>(at, column)?.map(|text| Arc::from(&*text.0)))
    }

    pub(super) fn time(&self, at: usize, column: &str) -> Result<Option<Time>, StoreError> {
        Ok(self.get::<Option<i64>>(at, column)?.map(Time))
    }

    pub(super) fn code<T>(&self, at: usize, column: &str, read: impl Fn(i64) -> Option<T>) -> Result<T, StoreError> {
        let code: i64 = self.get(at, column)?;
        read(code).ok_or_else(|| self.corrupt(column, &format!("no version of bide writes {code}")))
    }

    /// Ids of runs, 16 bytes each.
    pub(super) fn runs(&self, at: usize, column: &str) -> Result<Vec<RunId>, StoreError> {
        let bytes: Option<&[u8]> = self.get(at, column)?;
        let (runs, []) = bytes.unwrap_or_default().as_chunks::<16>() else {
            return Err(self.corrupt(column, "it is cut off"));
        };
        Ok(runs.iter().map(|bytes| RunId(u128::from_be_bytes(*bytes))).collect())
    }
}
