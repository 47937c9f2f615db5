//! Statements on one connection: prepared once, in the schema of the store.
//!
//! The statements in the sources say `bide.` for the schema, and every parameter says its type. Through a pooler that hands out
//! connections per transaction nothing can stay prepared.

use std::borrow::Cow;
use std::collections::HashMap;

use postgres::types::private::BytesMut;
use postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use postgres::{Client, Row, SimpleQueryMessage, Statement};

use super::columns::Blob;
use super::error::Failed;

/// A connection that is in use.
pub(super) struct Session<'c> {
    /// The connection.
    client: &'c mut Client,
    /// What is prepared on it, by its text.
    statements: &'c mut HashMap<String, Statement>,
    /// The schema of the store.
    schema: &'c str,
}

impl<'c> Session<'c> {
    pub(super) fn new(client: &'c mut Client, statements: &'c mut HashMap<String, Statement>, schema: &'c str) -> Self {
        Self { client, statements, schema }
    }

    /// Executes a statement and returns its rows.
    pub(super) fn query(&mut self, sql: &str, params: &[&dyn Param]) -> Result<Vec<Row>, Failed> {
        let statement = self.prepare(sql)?;
        let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|param| param.as_sql()).collect();
        Ok(self.client.query(&statement, &params)?)
    }

    /// As `query`, for a statement that has one row at most.
    pub(super) fn query_opt(&mut self, sql: &str, params: &[&dyn Param]) -> Result<Option<Row>, Failed> {
        Ok(self.query(sql, params)?.into_iter().next())
    }

    /// Executes a statement and returns how many rows it has changed.
    pub(super) fn execute(&mut self, sql: &str, params: &[&dyn Param]) -> Result<u64, Failed> {
        let statement = self.prepare(sql)?;
        let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|param| param.as_sql()).collect();
        Ok(self.client.execute(&statement, &params)?)
    }

    /// The texts of the first column of a statement that cannot be prepared.
    pub(super) fn texts(&mut self, sql: &str) -> Result<Vec<String>, Failed> {
        let messages = self.client.simple_query(sql)?;
        let text = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        };
        Ok(messages.iter().filter_map(text).collect())
    }

    /// Executes several statements without parameters.
    pub(super) fn script(&mut self, sql: &str) -> Result<(), Failed> {
        Ok(self.client.batch_execute(&in_schema(sql, self.schema))?)
    }

    /// Does something in one transaction: all of it, or nothing after an error.
    pub(super) fn transact<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T, Failed>) -> Result<T, Failed> {
        self.script("BEGIN")?;
        let done = act(self).and_then(|done| self.script("COMMIT").map(|()| done));
        if done.is_err() && !self.client.is_closed() {
            // What failed says more than that this fails too.
            let _ = self.script("ROLLBACK");
        }
        done
    }

    fn prepare(&mut self, sql: &str) -> Result<Statement, Failed> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(&in_schema(sql, self.schema))?;
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

/// A statement with the name of the store's schema.
pub(super) fn in_schema<'s>(sql: &'s str, schema: &str) -> Cow<'s, str> {
    if schema == "bide" { sql.into() } else { sql.replace("bide.", &format!("{schema}.")).into() }
}

/// A parameter of a statement.
pub(super) trait Param: ToSql + Sync {
    /// For the client.
    fn as_sql(&self) -> &(dyn ToSql + Sync);
}

macro_rules! params {
    ($($type:ty),+ $(,)?) => {
        $(impl Param for $type {
            fn as_sql(&self) -> &(dyn ToSql + Sync) {
                self
            }
        })+
    };
}

params!(String, i64, bool, Vec<bool>, Option<i64>, f64, Vec<i64>, Vec<Option<i64>>, Vec<Option<f64>>, &[i64]);
params!(Option<&[u8]>, &[u8], Vec<u8>, Vec<Option<Blob<'_>>>, Uuid, Vec<Uuid>);
params!(Text<'_>, Option<Text<'_>>, Vec<Option<Text<'_>>>, Vec<Text<'_>>);

/// A run's id in its column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Uuid(pub(super) u128);

impl ToSql for Uuid {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.0.to_be_bytes());
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::UUID
    }

    to_sql_checked!();
}

impl<'r> FromSql<'r> for Uuid {
    fn from_sql(_: &Type, raw: &'r [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(u128::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::UUID
    }
}

/// The character that begins a pair, because a text of PostgreSQL cannot have U+0000.
const ESCAPE: char = '\u{e000}';
/// The second of a pair that stands for U+0000, and of one that stands for the character itself.
const ZERO: char = '0';
const ITSELF: char = '1';

/// A text as it is in its column.
pub(super) fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', ESCAPE]) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\0' => escaped.extend([ESCAPE, ZERO]),
            ESCAPE => escaped.extend([ESCAPE, ITSELF]),
            c => escaped.push(c),
        }
    }
    escaped.into()
}

/// A text in its column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text<'t>(pub(super) Cow<'t, str>);

impl<'t> From<&'t str> for Text<'t> {
    fn from(text: &'t str) -> Self {
        Self(text.into())
    }
}

impl ToSql for Text<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        escaped(&self.0).to_sql(kind, out)
    }

    fn accepts(kind: &Type) -> bool {
        <&str as ToSql>::accepts(kind)
    }

    to_sql_checked!();
}

impl<'r> FromSql<'r> for Text<'r> {
    fn from_sql(kind: &Type, raw: &'r [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        let text = <&str as FromSql>::from_sql(kind, raw)?;
        if !text.contains(ESCAPE) {
            return Ok(Self(text.into()));
        }
        let mut plain = String::with_capacity(text.len());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match (c, c == ESCAPE) {
                (c, false) => plain.push(c),
                (_, true) => match chars.next() {
                    Some(ZERO) => plain.push('\0'),
                    Some(ITSELF) => plain.push(ESCAPE),
                    _ => return Err("a text has half of a pair that begins with U+E000".into()),
                },
            }
        }
        Ok(Self(plain.into()))
    }

    fn accepts(kind: &Type) -> bool {
        <&str as FromSql>::accepts(kind)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn every_text_comes_back_and_none_has_a_zero_in_its_column() {
        for text in ["", "plain", "a\0b", "\u{e000}", "\u{e000}0\0\u{e000}1", "späť \u{10ffff}"] {
            let mut stored = BytesMut::new();
            Text::from(text).to_sql(&Type::TEXT, &mut stored).unwrap();
            assert!(!stored.contains(&0), "{text:?}");
            assert_eq!(Text::from_sql(&Type::TEXT, &stored).unwrap().0, text);
        }
        assert!(Text::from_sql(&Type::TEXT, "\u{e000}".as_bytes()).is_err());
    }

    #[test]
    fn a_statement_names_the_schema_of_its_store() {
        assert_eq!(in_schema("SELECT 1 FROM bide.run", "bide"), "SELECT 1 FROM bide.run");
        assert_eq!(in_schema("SELECT 1 FROM bide.run", "other"), "SELECT 1 FROM other.run");
    }
}
