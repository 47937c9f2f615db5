//! Statements on one connection: prepared once, in the schema of the store.
//!
//! The statements in the sources say `bide.` for the schema, and every parameter says its type. Through a pooler that hands out
//! connections per transaction nothing can stay prepared: there each statement is sent with the types of its parameters.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use postgres::types::private::BytesMut;
use postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use postgres::{Client, Row, SimpleQueryMessage, Statement};

use super::columns::Blob;
use super::error::Failed;

/// What is known of the statements of a connection, by their text.
#[derive(Debug)]
pub(super) enum Statements {
    /// They stay prepared.
    Prepared(HashMap<String, Statement>),
    /// Nothing stays prepared. Each with the name of the store's schema, and the types of its parameters.
    Unnamed(HashMap<String, (Arc<str>, Arc<[Type]>)>),
}

impl Statements {
    /// Those of a new connection.
    pub(super) fn new(is_pooled: bool) -> Self {
        if is_pooled { Self::Unnamed(HashMap::new()) } else { Self::Prepared(HashMap::new()) }
    }
}

/// How one statement is sent.
enum Sent {
    Prepared(Statement),
    Unnamed(Arc<str>, Arc<[Type]>),
}

/// A connection that is in use.
pub(super) struct Session<'c> {
    /// The connection.
    client: &'c mut Client,
    /// What is known of its statements.
    statements: &'c mut Statements,
    /// The schema of the store.
    schema: &'c str,
}

impl<'c> Session<'c> {
    pub(super) fn new(client: &'c mut Client, statements: &'c mut Statements, schema: &'c str) -> Self {
        Self { client, statements, schema }
    }

    /// Executes a statement and returns its rows.
    pub(super) fn query(&mut self, sql: &str, params: &[&dyn Param]) -> Result<Vec<Row>, Failed> {
        match self.prepare(sql)? {
            Sent::Prepared(statement) => {
                let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|param| param.as_sql()).collect();
                Ok(self.client.query(&statement, &params)?)
            }
            Sent::Unnamed(sql, types) => Ok(self.client.query_typed(&sql, &typed(params, &types))?),
        }
    }

    /// As `query`, for a statement that has one row at most.
    pub(super) fn query_opt(&mut self, sql: &str, params: &[&dyn Param]) -> Result<Option<Row>, Failed> {
        Ok(self.query(sql, params)?.into_iter().next())
    }

    /// Executes a statement and returns how many rows it has changed.
    pub(super) fn execute(&mut self, sql: &str, params: &[&dyn Param]) -> Result<u64, Failed> {
        match self.prepare(sql)? {
            Sent::Prepared(statement) => {
                let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|param| param.as_sql()).collect();
                Ok(self.client.execute(&statement, &params)?)
            }
            Sent::Unnamed(sql, types) => Ok(self.client.execute_typed(&sql, &typed(params, &types))?),
        }
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

    fn prepare(&mut self, sql: &str) -> Result<Sent, Failed> {
        match self.statements {
            Statements::Prepared(known) => {
                if let Some(statement) = known.get(sql) {
                    return Ok(Sent::Prepared(statement.clone()));
                }
                let statement = self.client.prepare(&in_schema(sql, self.schema))?;
                known.insert(sql.to_owned(), statement.clone());
                Ok(Sent::Prepared(statement))
            }
            Statements::Unnamed(known) => {
                let (text, types) = known
                    .entry(sql.to_owned())
                    .or_insert_with(|| (in_schema(sql, self.schema).into(), types_of(sql).into()));
                Ok(Sent::Unnamed(Arc::clone(text), Arc::clone(types)))
            }
        }
    }
}

/// The parameters of a statement, each with its type.
fn typed<'p>(params: &[&'p dyn Param], types: &[Type]) -> Vec<(&'p (dyn ToSql + Sync), Type)> {
    let unknown = std::iter::repeat(&Type::UNKNOWN);
    params.iter().zip(types.iter().chain(unknown)).map(|(param, kind)| (param.as_sql(), kind.clone())).collect()
}

/// The types that a statement says of its parameters, such as `$1::int8[]`, in their order.
fn types_of(sql: &str) -> Vec<Type> {
    let mut types = Vec::new();
    for part in sql.split('$').skip(1) {
        let Some((number, rest)) = part.split_once("::") else { continue };
        let Some(at) = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1)) else { continue };
        let name: &str =
            rest.split(|c: char| !(c.is_ascii_alphanumeric() || c == '[' || c == ']')).next().unwrap_or("");
        if types.len() <= at {
            types.resize(at + 1, Type::UNKNOWN);
        }
        if let (Some(place), Some(kind)) = (types.get_mut(at), type_named(name)) {
            *place = kind;
        }
    }
    types
}

fn type_named(name: &str) -> Option<Type> {
    let known = [
        ("int8", Type::INT8, Type::INT8_ARRAY),
        ("int4", Type::INT4, Type::INT4_ARRAY),
        ("bool", Type::BOOL, Type::BOOL_ARRAY),
        ("float8", Type::FLOAT8, Type::FLOAT8_ARRAY),
        ("text", Type::TEXT, Type::TEXT_ARRAY),
        ("bytea", Type::BYTEA, Type::BYTEA_ARRAY),
        ("uuid", Type::UUID, Type::UUID_ARRAY),
    ];
    let (base, is_list) = name.strip_suffix("[]").map_or((name, false), |base| (base, true));
    let (_, one, list) = known.into_iter().find(|(name, ..)| *name == base)?;
    Some(if is_list { list } else { one })
}

/// A statement with the name of the store's schema.
pub(super) fn in_schema<'s>(sql: &'s str, schema: &str) -> Cow<'s, str> {
    // In quotes, because the name may be a word of SQL's own.
    if schema == "bide" { sql.into() } else { sql.replace("bide.", &format!("\"{schema}\".")).into() }
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
    fn the_types_of_parameters_are_those_that_the_statement_says() {
        let sql = "SELECT $2::text[], $1::int8 FROM bide.run WHERE id = ANY($3::uuid[]) OR id = $1::int8";
        assert_eq!(types_of(sql), [Type::INT8, Type::TEXT_ARRAY, Type::UUID_ARRAY]);
        assert_eq!(types_of("SELECT 1"), []);
    }

    #[test]
    fn a_statement_names_the_schema_of_its_store() {
        assert_eq!(in_schema("SELECT 1 FROM bide.run", "bide"), "SELECT 1 FROM bide.run");
        assert_eq!(in_schema("SELECT 1 FROM bide.run", "other"), "SELECT 1 FROM \"other\".run");
    }
}
