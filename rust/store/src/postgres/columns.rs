//! The rows that a statement gets as arrays, a parameter for each column.

use std::borrow::Cow;

use postgres::types::private::BytesMut;
use postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::session::{Param, Text, Uuid};

/// What a column has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    Text,
    Blob,
    Float,
    Id,
}

impl Kind {
    /// The type of the array.
    const fn array(self) -> &'static str {
        match self {
            Self::Int => "int8[]",
            Self::Text => "text[]",
            Self::Blob => "bytea[]",
            Self::Float => "float8[]",
            Self::Id => "uuid[]",
        }
    }
}

/// A value of a row.
pub(super) enum Cell<'a> {
    Int(Option<i64>),
    Text(Option<Cow<'a, str>>),
    Blob(Option<Cow<'a, [u8]>>),
    Float(Option<f64>),
    Id(u128),
}

impl From<i64> for Cell<'_> {
    fn from(number: i64) -> Self {
        Self::Int(Some(number))
    }
}

impl From<Option<i64>> for Cell<'_> {
    fn from(number: Option<i64>) -> Self {
        Self::Int(number)
    }
}

impl<'a> From<&'a str> for Cell<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Some(text.into()))
    }
}

impl<'a> From<Option<&'a str>> for Cell<'a> {
    fn from(text: Option<&'a str>) -> Self {
        Self::Text(text.map(Into::into))
    }
}

impl From<Option<String>> for Cell<'_> {
    fn from(text: Option<String>) -> Self {
        Self::Text(text.map(Into::into))
    }
}

impl<'a> From<&'a [u8]> for Cell<'a> {
    fn from(blob: &'a [u8]) -> Self {
        Self::Blob(Some(blob.into()))
    }
}

impl<'a> From<Option<&'a [u8]>> for Cell<'a> {
    fn from(blob: Option<&'a [u8]>) -> Self {
        Self::Blob(blob.map(Into::into))
    }
}

impl From<Option<Vec<u8>>> for Cell<'_> {
    fn from(blob: Option<Vec<u8>>) -> Self {
        Self::Blob(blob.map(Into::into))
    }
}

/// A column.
pub(super) enum Column<'a> {
    Ints(Vec<Option<i64>>),
    Texts(Vec<Option<Text<'a>>>),
    Blobs(Vec<Option<Blob<'a>>>),
    Floats(Vec<Option<f64>>),
    Ids(Vec<Uuid>),
}

impl<'a> Column<'a> {
    const fn of(kind: Kind) -> Self {
        match kind {
            Kind::Int => Self::Ints(Vec::new()),
            Kind::Text => Self::Texts(Vec::new()),
            Kind::Blob => Self::Blobs(Vec::new()),
            Kind::Float => Self::Floats(Vec::new()),
            Kind::Id => Self::Ids(Vec::new()),
        }
    }

    /// A cell of another kind is none of the column's: the columns and the rows of a statement stand beside each other.
    fn push(&mut self, cell: Cell<'a>) {
        match (self, cell) {
            (Self::Ints(column), Cell::Int(cell)) => column.push(cell),
            (Self::Texts(column), Cell::Text(cell)) => column.push(cell.map(Text)),
            (Self::Blobs(column), Cell::Blob(cell)) => column.push(cell.map(Blob)),
            (Self::Floats(column), Cell::Float(cell)) => column.push(cell),
            (Self::Ids(column), Cell::Id(cell)) => column.push(Uuid(cell)),
            _ => debug_assert!(false, "a cell of another kind"),
        }
    }

    pub(super) fn as_param(&self) -> &dyn Param {
        match self {
            Self::Ints(column) => column,
            Self::Texts(column) => column,
            Self::Blobs(column) => column,
            Self::Floats(column) => column,
            Self::Ids(column) => column,
        }
    }
}

/// Some rows.
pub(super) struct Rows<'a> {
    /// Their columns.
    pub(super) columns: Vec<Column<'a>>,
    /// How many there are.
    pub(super) count: usize,
}

impl<'a> Rows<'a> {
    pub(super) fn of(columns: &[(&str, Kind)]) -> Self {
        Self { columns: columns.iter().map(|(_, kind)| Column::of(*kind)).collect(), count: 0 }
    }

    pub(super) fn push<const N: usize>(&mut self, row: [Cell<'a>; N]) {
        debug_assert_eq!(N, self.columns.len());
        for (column, cell) in self.columns.iter_mut().zip(row) {
            column.push(cell);
        }
        self.count += 1;
    }
}

/// The rows `u` as a statement selects them, if its parameters for them begin after this many.
pub(super) fn unnest(columns: &[(&str, Kind)], before: usize) -> String {
    let arrays: Vec<String> =
        columns.iter().enumerate().map(|(at, (_, kind))| format!("${}::{}", before + at + 1, kind.array())).collect();
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    format!("unnest({}) u({})", arrays.join(", "), names.join(", "))
}

/// Bytes in their column.
#[derive(Debug)]
pub(super) struct Blob<'a>(pub(super) Cow<'a, [u8]>);

impl ToSql for Blob<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        (&*self.0).to_sql(kind, out)
    }

    fn accepts(kind: &Type) -> bool {
        <&[u8] as ToSql>::accepts(kind)
    }

    to_sql_checked!();
}
