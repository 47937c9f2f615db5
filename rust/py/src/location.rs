//! Opens the store that a path or URL names.

use std::ffi::OsStr;
use std::sync::Arc;

use bide_store::{Durability, MemoryStore, PostgresStore, SqliteStore, Store, StoreError, postgres, sqlite};

/// Opens a store for a client: one that is there.
pub(crate) fn open_existing(name: &OsStr) -> Result<Arc<dyn Store>, StoreError> {
    let options = sqlite::Options { create: false, ..sqlite::Options::default() };
    let path = match name.to_str().map(place) {
        None => name,
        Some(place) => match place? {
            Where::Memory => {
                return Err(StoreError::Unavailable(
                    "a store in memory belongs to its Runner: pass that one, Client(runner), or use a path".to_owned(),
                ));
            }
            Where::Server(url) => return Ok(PostgresStore::shared(&postgres::Options::parse(url)?.of_existing())?),
            Where::File(path) => path.as_ref(),
        },
    };
    let store = SqliteStore::open_with(path.as_ref(), &options)?;
    Ok(store)
}

/// Opens a store.
pub(crate) fn open(name: &OsStr, durability: &str) -> Result<Arc<dyn Store>, StoreError> {
    let durability = match durability {
        "full" => Durability::Full,
        _ => Durability::Normal,
    };
    // A path need not be text; a URL is.
    let path = match name.to_str().map(place) {
        None => name,
        Some(place) => match place? {
            Where::Memory => return Ok(MemoryStore::new()),
            // Whether a commit survives a loss of power is the server's setting.
            Where::Server(url) => return Ok(PostgresStore::shared(&postgres::Options::parse(url)?)?),
            Where::File(path) => path.as_ref(),
        },
    };
    let store = SqliteStore::open(path.as_ref(), durability)?;
    Ok(store)
}

/// Where a store is.
enum Where<'a> {
    Memory,
    File(&'a str),
    /// A PostgreSQL.
    Server(&'a str),
}

/// What a path or URL means. Of a URL of another kind only the scheme is repeated: the rest may be secret.
fn place(text: &str) -> Result<Where<'_>, StoreError> {
    let refuse = |why: String| Err(StoreError::Unavailable(why));
    if let Some(path) = text.strip_prefix("sqlite:///") {
        return match path {
            "" => refuse("sqlite:/// names no file: use sqlite:///path, or \":memory:\" for no file at all".to_owned()),
            ":memory:" => Ok(Where::Memory),
            path if path.contains('?') => refuse(
                "a URL of bide has no options after a question mark: give the path alone (one with a question mark in \
                 it without sqlite:///)"
                    .to_owned(),
            ),
            path => Ok(Where::File(path)),
        };
    }
    match text.split_once("://") {
        _ if text == ":memory:" => Ok(Where::Memory),
        _ if text.starts_with("sqlite:") => refuse(
            "a URL of SQLite has three slashes: use sqlite:///path, or \":memory:\" for no file at all".to_owned(),
        ),
        Some(("postgresql" | "postgres", _)) => Ok(Where::Server(text)),
        Some((scheme, _)) if scheme.starts_with("postgresql+") => refuse(
            "a URL of PostgreSQL names no driver: write postgresql:// in place of what is before the //".to_owned(),
        ),
        Some((scheme, _)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) => {
            refuse(format!(
                "bide has no store for URLs of {scheme}://: use a path, sqlite:///path, postgresql://… or \":memory:\""
            ))
        }
        _ if is_connection_string(text) => refuse(
            "this is what other programs use to connect to a database, and bide would make a file of this name, which \
             may have a password: write postgresql://user:password@host/database, without spaces around it"
                .to_owned(),
        ),
        _ if text.starts_with("file:") => refuse(
            "bide takes no URIs of SQLite, and would make a file of this name: use a path without file:, or \
             \":memory:\" for no file at all"
                .to_owned(),
        ),
        _ => Ok(Where::File(text)),
    }
}

/// Whether it names a database in another way than by a URL: `postgresql:name`, `host=... password=...` as libpq takes it,
/// a URL of JDBC, or a URL with something before it.
fn is_connection_string(text: &str) -> bool {
    let lower = text.trim_start().to_ascii_lowercase();
    let is_pair = |word: &str| {
        ["host", "hostaddr", "port", "dbname", "user", "password", "service"]
            .iter()
            .any(|name| word.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')))
    };
    lower.starts_with("jdbc:")
        || ["postgresql:", "postgres:"].iter().any(|scheme| lower.starts_with(scheme))
        || (lower.split_whitespace().count() > 1 && lower.split_whitespace().all(is_pair))
        || lower.starts_with("password=")
}
