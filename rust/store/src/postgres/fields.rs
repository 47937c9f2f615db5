//! A row that is read, whatever table it is of: its numbers, texts and blobs. One that does not read back is `Corrupt`,
//! naming run and column.

use std::fmt;
use std::sync::Arc;

use bide_core::{Damage, Failure, RunId, Time, Value};
use postgres::Row;

use super::session::{Text, Uuid};
use crate::StoreError;

/// A row being read, with what an error names if it does not read back. Its columns, from one on: the numbers, the texts
/// and the blobs, each as an array.
pub(super) struct Fields<'r> {
    /// The store's name.
    identity: &'r str,
    /// The run that the row belongs to.
    pub(super) run: RunId,
    /// The table that the row is of.
    table: &'static str,
    numbers: Vec<Option<i64>>,
    texts: Vec<Option<Text<'r>>>,
    blobs: Vec<Option<&'r [u8]>>,
}

/// A number that fits its field.
pub(super) trait Number: Sized {
    fn from_number(number: i64) -> Option<Self>;
}

macro_rules! numbers {
    ($($type:ty),+) => {
        $(impl Number for $type {
            fn from_number(number: i64) -> Option<Self> {
                Self::try_from(number).ok()
            }
        })+
    };
}

numbers!(i64, u64, i32, u32);

impl<'r> Fields<'r> {
    /// Reads the three arrays of a row that begin at this column.
    pub(super) fn read(
        row: &'r Row,
        at: usize,
        identity: &'r str,
        run: RunId,
        table: &'static str,
    ) -> Result<Self, StoreError> {
        let empty = Self { identity, run, table, numbers: Vec::new(), texts: Vec::new(), blobs: Vec::new() };
        let damage = |error: postgres::Error| empty.corrupt("*", &error);
        let (numbers, texts, blobs) = (
            row.try_get(at).map_err(damage)?,
            row.try_get(at + 1).map_err(damage)?,
            row.try_get(at + 2).map_err(damage)?,
        );
        Ok(Self { numbers, texts, blobs, ..empty })
    }

    pub(super) fn corrupt(&self, column: &str, damage: &dyn fmt::Display) -> StoreError {
        StoreError::Corrupt(format!(
            "{}: run {}: the column {}.{column} does not read back ({damage}); the table was changed by another program \
             or is damaged",
            self.identity, self.run, self.table
        ))
    }

    fn missing<T>(&self, found: Option<T>, column: &str) -> Result<T, StoreError> {
        found.ok_or_else(|| self.corrupt(column, &"it is NULL"))
    }

    pub(super) fn number<T: Number>(&self, at: usize, column: &str) -> Result<T, StoreError> {
        let found = self.some_number(at, column)?;
        self.missing(found, column)
    }

    pub(super) fn some_number<T: Number>(&self, at: usize, column: &str) -> Result<Option<T>, StoreError> {
        let read = |number| T::from_number(number).ok_or_else(|| self.corrupt(column, &"the number is out of range"));
        self.numbers.get(at).copied().flatten().map(read).transpose()
    }

    pub(super) fn time(&self, at: usize, column: &str) -> Result<Option<Time>, StoreError> {
        Ok(self.some_number(at, column)?.map(Time))
    }

    pub(super) fn code<T>(&self, at: usize, column: &str, read: impl Fn(i64) -> Option<T>) -> Result<T, StoreError> {
        let code: i64 = self.number(at, column)?;
        read(code).ok_or_else(|| self.corrupt(column, &Damage::UnknownCode(code)))
    }

    fn str(&self, at: usize) -> Option<&str> {
        self.texts.get(at).and_then(Option::as_ref).map(|text| &*text.0)
    }

    pub(super) fn text(&self, at: usize, column: &str) -> Result<Arc<str>, StoreError> {
        self.missing(self.some_text(at), column)
    }

    pub(super) fn some_text(&self, at: usize) -> Option<Arc<str>> {
        self.str(at).map(Into::into)
    }

    pub(super) fn failure(&self, at: usize, column: &str) -> Result<Option<Failure>, StoreError> {
        let read = |text| Failure::from_json(text).map_err(|damage| self.corrupt(column, &damage));
        self.str(at).map(read).transpose()
    }

    pub(super) fn bytes(&self, at: usize) -> Option<&'r [u8]> {
        self.blobs.get(at).copied().flatten()
    }

    pub(super) fn blob(&self, at: usize) -> Option<Arc<[u8]>> {
        self.bytes(at).map(Into::into)
    }

    pub(super) fn value(&self, at: usize) -> Option<Value> {
        self.bytes(at).map(Value::new)
    }

    pub(super) fn uuid(&self, at: usize, column: &str) -> Result<Option<RunId>, StoreError> {
        let read = |bytes: &[u8]| {
            let bytes = <[u8; 16]>::try_from(bytes).map_err(|_| self.corrupt(column, &"it has not 16 bytes"))?;
            Ok(RunId(u128::from_be_bytes(bytes)))
        };
        self.bytes(at).map(read).transpose()
    }

    pub(super) fn float(&self, at: usize, column: &str) -> Result<Option<f64>, StoreError> {
        let read = |bytes: &[u8]| {
            let bytes = <[u8; 8]>::try_from(bytes).map_err(|_| self.corrupt(column, &"it has not 8 bytes"))?;
            Ok(f64::from_be_bytes(bytes))
        };
        self.bytes(at).map(read).transpose()
    }
}

/// The id of a run in this column.
pub(super) fn run_id(row: &Row, at: usize) -> Result<RunId, postgres::Error> {
    Ok(RunId(row.try_get::<_, Uuid>(at)?.0))
}
