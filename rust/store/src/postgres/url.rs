//! What a URL of a PostgreSQL store says, in the words of libpq; and what may be shown of it.
//!
//! `postgresql://user:password@host:port,host:port/database?option=value&…`. The password is in [`Secret`] from the
//! moment it is read, and no message repeats a part of the URL that could be one.

use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use super::tls::TlsMode;
use crate::StoreError;

/// The schema of a store whose URL names none.
const SCHEMA: &str = "bide";

/// Where a server listens if the URL does not say.
const PORT: u16 = 5432;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The options that a URL may have, for the message about one that it may not.
const KNOWN: &str = "host, port, user, password, dbname, sslmode, sslrootcert, sslcert, sslkey, connect_timeout, \
                     application_name, target_session_attrs, and bide's own schema, listen_url and synchronous_commit";

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(pub(super) Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

/// One server that a URL names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    /// A name, an address, or the directory of a Unix socket.
    pub(super) name: String,
    /// Its port.
    pub(super) port: u16,
}

impl Host {
    /// Whether it is the directory of a Unix socket.
    pub(super) fn is_directory(&self) -> bool {
        self.name.starts_with('/')
    }
}

impl fmt::Display for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(formatter, "[{}]:{}", self.name, self.port)
        } else {
            write!(formatter, "{}:{}", self.name, self.port)
        }
    }
}

/// How to reach and use a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The URL without its password and its options, for messages.
    name: String,
    /// The servers, in the order in which they are tried.
    pub(super) hosts: Vec<Host>,
    /// The role.
    pub(super) user: String,
    /// Its password, if it has one.
    pub(super) password: Option<Secret>,
    /// The database.
    pub(super) database: String,
    /// Whether and how the connection is encrypted.
    pub(super) tls: TlsMode,
    /// The certificates of those who vouch for the server; `None`: the system's.
    pub(super) root_certificates: Option<PathBuf>,
    /// The certificate and the key by which the server knows its client.
    pub(super) client_certificate: Option<(PathBuf, PathBuf)>,
    /// How long a connection may take to be made.
    pub(super) connect_timeout: Duration,
    /// As what `pg_stat_activity` shows the connections.
    pub(super) application_name: String,
    /// The schema that has bide's tables: a name that needs no quotes.
    pub(super) schema: String,
    /// How to reach the same database past a pooler that hands out connections per transaction; `None`: there is none.
    pub(super) listen: Option<Box<Options>>,
    /// Whether a commit waits until it survives the death of the server. Not: the last ones are lost with it.
    pub(super) synchronous: bool,
    /// Whether the schema is made if there is none.
    pub(super) creates: bool,
}

impl Options {
    /// Reads a URL. What is not in it comes from `PGUSER`, `PGPASSWORD` and libpq's defaults.
    ///
    /// # Errors
    /// `Unavailable` with what is wrong, without the URL's secrets.
    pub fn parse(url: &str) -> Result<Self, StoreError> {
        Parser { environment: |name| std::env::var(name).ok().filter(|value| !value.is_empty()) }.parse(url)
    }

    /// The same, of a store that is there already: none is made.
    #[must_use]
    pub fn of_existing(self) -> Self {
        Self { creates: false, ..self }
    }

    /// Whether a store that was opened with these options is what others ask for.
    pub(super) fn is_same_store(&self, other: &Self) -> bool {
        *self == Self { creates: self.creates, ..other.clone() }
    }

    /// The URL as it may be shown.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the database is reached through a pooler that hands out connections per transaction.
    pub(super) fn is_pooled(&self) -> bool {
        self.listen.is_some()
    }
}

/// Reads URLs.
struct Parser<F: Fn(&str) -> Option<String>> {
    /// The process's environment.
    environment: F,
}

impl<F: Fn(&str) -> Option<String>> Parser<F> {
    fn parse(&self, url: &str) -> Result<Options, StoreError> {
        let rest = ["postgresql://", "postgres://"].iter().find_map(|scheme| url.strip_prefix(scheme));
        let Some(rest) = rest else { return Err(refused("it does not begin with postgresql://")) };
        if rest.contains('#') {
            return Err(refused("it has a # that is not written as %23"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, addresses) = match authority.rsplit_once('@') {
            Some((credentials, addresses)) => (Some(credentials), addresses),
            None => (None, authority),
        };
        if database.contains(['@', '/']) {
            return Err(refused(
                "its database has an @ or a / in it (write an @, a : or a / within user or password as %40, %3A or %2F)",
            ));
        }
        let mut given = Given::default();
        if let Some(credentials) = credentials {
            let (user, password) = match credentials.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (credentials, None),
            };
            given.user = Some(decoded(user, "user")?).filter(|user| !user.is_empty());
            given.password =
                password.map(|password| decoded(password, "password")).transpose()?.filter(|it| !it.is_empty());
        }
        given.database = Some(decoded(database, "database")?).filter(|it| !it.is_empty());
        if !addresses.is_empty() {
            for address in addresses.split(',') {
                let (host, port) = split_address(address)?;
                given.hosts.push(decoded(host, "host")?);
                given.ports.push(port.to_owned());
            }
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let Some((option, value)) = pair.split_once('=') else {
                return Err(refused("an option after its question mark has no value: write option=value&option=value"));
            };
            let option = decoded(option, "option")?;
            let value = decoded(value, &option)?;
            if credentials.is_none() && query.contains('@') && option != "listen_url" {
                return Err(refused("it has an @ after its question mark: write a ? within user or password as %3F"));
            }
            given.set(&option, value)?;
        }
        self.complete(given)
    }

    /// Adds what the URL does not say.
    fn complete(&self, given: Given) -> Result<Options, StoreError> {
        let hosts = hosts(&given)?;
        let Some(user) = given.user.or_else(|| (self.environment)("PGUSER")).or_else(|| (self.environment)("USER"))
        else {
            return Err(refused("it names no user: write postgresql://user@host/database"));
        };
        let database = given.database.unwrap_or_else(|| user.clone());
        let password = given.password.or_else(|| (self.environment)("PGPASSWORD"));
        let tls = given.tls.unwrap_or_default();
        // As libpq does: a URL that names trusted certificates wants them checked.
        let tls = if tls == TlsMode::Require && given.root_certificates.is_some() { TlsMode::VerifyChain } else { tls };
        let client_certificate = match (given.certificate, given.key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(refused("of sslcert and sslkey it has only one")),
        };
        let schema = given.schema.unwrap_or_else(|| SCHEMA.to_owned());
        let listen = given.listen.map(|url| self.parse(&url).map_err(|error| of_listen_url(&error))).transpose()?;
        if let Some(listen) = &listen {
            if listen.database != database {
                return Err(refused("its listen_url is of another database"));
            }
            if listen.listen.is_some() {
                return Err(refused("its listen_url has a listen_url of its own"));
            }
        }
        let name = shown(&hosts, &user, &database, &schema);
        Ok(Options {
            name,
            hosts,
            user,
            password: password.map(|password| Secret(password.into_bytes())),
            database,
            tls,
            root_certificates: given.root_certificates,
            client_certificate,
            connect_timeout: given.connect_timeout.unwrap_or(CONNECT_TIMEOUT),
            application_name: given.application_name.unwrap_or_else(|| "bide".to_owned()),
            schema,
            listen: listen.map(Box::new),
            synchronous: given.synchronous.unwrap_or(true),
            creates: true,
        })
    }
}

/// What a URL says itself.
#[derive(Default)]
struct Given {
    hosts: Vec<String>,
    ports: Vec<String>,
    user: Option<String>,
    password: Option<String>,
    database: Option<String>,
    tls: Option<TlsMode>,
    root_certificates: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    connect_timeout: Option<Duration>,
    application_name: Option<String>,
    schema: Option<String>,
    listen: Option<String>,
    synchronous: Option<bool>,
}

impl Given {
    /// Takes an option after the question mark.
    fn set(&mut self, option: &str, value: String) -> Result<(), StoreError> {
        let listed = |value: &str| value.split(',').map(str::to_owned).collect();
        match option {
            "host" => self.hosts = listed(&value),
            "port" => self.ports = listed(&value),
            "user" => self.user = Some(value),
            "password" => self.password = Some(value),
            "dbname" => self.database = Some(value),
            "sslmode" => {
                let Some(mode) = TlsMode::named(&value) else {
                    return Err(one_of("sslmode", "disable, prefer, require, verify-ca and verify-full"));
                };
                self.tls = Some(mode);
            }
            // Those of the system are also what it means to name none.
            "sslrootcert" => self.root_certificates = Some(value).filter(|it| it != "system").map(PathBuf::from),
            "sslcert" => self.certificate = Some(value.into()),
            "sslkey" => self.key = Some(value.into()),
            "connect_timeout" => match value.parse::<u32>() {
                Ok(seconds @ 1..=3600) => self.connect_timeout = Some(Duration::from_secs(seconds.into())),
                _ => return Err(one_of("connect_timeout", "whole seconds from 1 to 3600")),
            },
            "application_name" => self.application_name = Some(value),
            // A runner writes, so that it wants the server that can: there is nothing to choose.
            "target_session_attrs" if ["any", "read-write", "primary"].contains(&value.as_str()) => {}
            "target_session_attrs" => return Err(one_of("target_session_attrs", "any, read-write and primary")),
            "schema" if is_plain_name(&value) => self.schema = Some(value),
            "schema" => {
                return Err(one_of(
                    "schema",
                    "names of lower-case letters, digits and underscores that begin with a letter, not with pg_, and \
                     have at most 40 of them",
                ));
            }
            "listen_url" => self.listen = Some(value),
            "synchronous_commit" => match value.as_str() {
                "on" => self.synchronous = Some(true),
                "off" => self.synchronous = Some(false),
                _ => return Err(one_of("synchronous_commit", "on and off")),
            },
            _ if option.len() <= 40 && option.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') => {
                return Err(refused(&format!("bide knows no option {option} of it; it knows {KNOWN}")));
            }
            _ => return Err(refused(&format!("bide does not know one of its options; it knows {KNOWN}"))),
        }
        Ok(())
    }
}

/// The servers that a URL names: each host with its port.
fn hosts(given: &Given) -> Result<Vec<Host>, StoreError> {
    let names = if given.hosts.is_empty() { vec!["localhost".to_owned()] } else { given.hosts.clone() };
    if given.ports.len() > 1 && given.ports.len() != names.len() {
        return Err(refused(&format!("it has {} hosts and {} ports", names.len(), given.ports.len())));
    }
    let port_of = |index: usize| given.ports.get(index).or(given.ports.first()).map_or("", String::as_str);
    names.into_iter().enumerate().map(|(index, name)| host(name, port_of(index))).collect()
}

fn host(name: String, port: &str) -> Result<Host, StoreError> {
    let port = match port {
        "" => PORT,
        text => match text.parse() {
            Ok(port) if port > 0 => port,
            // It may be the end of a password with an @ in it, which must not be shown.
            _ => {
                return Err(refused(
                    "a port is no number from 1 to 65535 (write an @, a : or a / within user or password as %40, %3A \
                     or %2F)",
                ));
            }
        },
    };
    if name.is_empty() {
        return Err(refused("a host is empty"));
    }
    Ok(Host { name, port })
}

/// A host and the text of its port, which may be empty.
fn split_address(address: &str) -> Result<(&str, &str), StoreError> {
    if let Some(rest) = address.strip_prefix('[') {
        let Some((host, port)) = rest.split_once(']') else {
            return Err(refused("an IPv6 address in it has no closing bracket"));
        };
        return match port.strip_prefix(':') {
            Some(port) => Ok((host, port)),
            None if port.is_empty() => Ok((host, "")),
            None => Err(refused("something follows the closing bracket of an IPv6 address")),
        };
    }
    Ok(address.split_once(':').unwrap_or((address, "")))
}

/// A part of a URL with its `%` sequences replaced.
fn decoded(text: &str, part: &str) -> Result<String, StoreError> {
    // The name of an option may be a piece of a password.
    let part = if part.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') { part } else { "option" };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let Some(code) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else {
            return Err(refused(&format!("its {part} has a % without two hexadecimal digits (write % itself as %25)")));
        };
        bytes.push(code);
        rest = &after[2..];
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        Ok(_) => Err(refused(&format!("its {part} has a NUL in it"))),
        Err(_) => Err(refused(&format!("its {part} is not UTF-8"))),
    }
}

/// Whether a name of a schema needs no quotes and leaves room for what is added to it.
fn is_plain_name(name: &str) -> bool {
    (1..=40).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        && !name.starts_with("pg_")
}

/// The URL without secrets.
fn shown(hosts: &[Host], user: &str, database: &str, schema: &str) -> String {
    let mut name = format!("postgresql://{user}@");
    for (index, host) in hosts.iter().enumerate() {
        let _ = write!(name, "{}{host}", if index == 0 { "" } else { "," });
    }
    let _ = write!(name, "/{database}");
    if schema != SCHEMA {
        let _ = write!(name, "?schema={schema}");
    }
    name
}

fn one_of(option: &str, values: &str) -> StoreError {
    refused(&format!("its option {option} has a value that bide does not know; it knows {values}"))
}

fn of_listen_url(error: &StoreError) -> StoreError {
    StoreError::Unavailable(format!("in listen_url: {error}"))
}

fn refused(why: &str) -> StoreError {
    StoreError::Unavailable(format!("the PostgreSQL URL cannot be used: {why}"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Options, StoreError> {
        let environment = |name: &str| match name {
            "USER" => Some("ada".to_owned()),
            _ => None,
        };
        Parser { environment }.parse(url)
    }

    #[test]
    fn urls_mean_what_they_mean_to_libpq() {
        for (url, name) in [
            ("postgresql://", "postgresql://ada@localhost:5432/ada"),
            ("postgres://bob@db", "postgresql://bob@db:5432/bob"),
            ("postgresql://bob:secret@db:6000/runs", "postgresql://bob@db:6000/runs"),
            ("postgresql://bob:se%40cret%3A@a:1,b:2,[::1]:3/runs", "postgresql://bob@a:1,b:2,[::1]:3/runs"),
            ("postgresql:///runs?host=/run/postgresql&port=5433", "postgresql://ada@/run/postgresql:5433/runs"),
            ("postgresql://%2Frun%2Fpostgresql/runs", "postgresql://ada@/run/postgresql:5432/runs"),
            ("postgresql:///?dbname=runs&user=bob&password=secret&host=a,b", "postgresql://bob@a:5432,b:5432/runs"),
            ("postgresql://bob@db/runs?schema=jobs&sslmode=require", "postgresql://bob@db:5432/runs?schema=jobs"),
        ] {
            assert_eq!(parse(url).unwrap().name(), name, "{url}");
        }
    }

    #[test]
    fn a_password_is_read_and_never_shown() {
        let options = parse("postgresql://bob:se%40cret@db/runs?listen_url=postgres%3A%2F%2Fx%3Asecret@direct%2Fruns");
        let options = options.unwrap();
        assert_eq!(options.password, Some(Secret(b"se@cret".to_vec())));
        assert_eq!(options.listen.as_ref().unwrap().password, Some(Secret(b"secret".to_vec())));
        assert!(!format!("{options:?} {}", options.name()).contains("cret"), "{options:?}");
    }

    #[test]
    fn a_url_that_cannot_be_used_is_refused_without_its_secrets() {
        for (url, why) in [
            ("mysql://bob:secret@db", "does not begin with postgresql://"),
            ("postgresql://bob:secret#1@db/runs", "%23"),
            ("postgresql://bob:secret@1@db:x/runs", "port is no number"),
            ("postgresql://bob:secret:2@db:70000/runs", "port is no number"),
            ("postgresql://bob:sec?ret=1@db/runs", "%3F"),
            ("postgresql://bob:a%secret@db/runs", "its password has a %"),
            ("postgresql://bob:a%00secret@db/runs", "its password has a NUL"),
            ("postgresql://bob:%ff@db/runs", "its password is not UTF-8"),
            ("postgresql://bob:1?secret=1@db/runs", "%3F"),
            ("postgresql://bob:1/secret@db/runs", "its database has an @"),
            ("postgresql://db/runs?secret", "has no value"),
            ("postgresql://db/runs?Secret=1", "does not know one of its options"),
            ("postgresql://db/runs?pool=1", "no option pool"),
            ("postgresql://db/runs?sslmode=secret", "sslmode"),
            ("postgresql://db/runs?connect_timeout=secret", "connect_timeout"),
            ("postgresql://db/runs?schema=pg_secret", "schema"),
            ("postgresql://db/runs?schema=Secret", "schema"),
            ("postgresql://db/runs?synchronous_commit=secret", "synchronous_commit"),
            ("postgresql://db/runs?target_session_attrs=standby", "target_session_attrs"),
            ("postgresql://db/runs?sslcert=x", "sslcert and sslkey"),
            ("postgresql://a,b:1:2/runs", "port is no number"),
            ("postgresql:///runs?host=a,b,c&port=1,2", "3 hosts and 2 ports"),
            ("postgresql://[::1/runs", "closing bracket"),
            ("postgresql://[::1]x/runs", "closing bracket"),
            ("postgresql://db/runs?listen_url=postgresql://db/secrets", "another database"),
            ("postgresql://db/runs?listen_url=http://secret", "in listen_url"),
        ] {
            let error = parse(url).unwrap_err().to_string();
            assert!(error.contains(why), "{url}: {error}");
            assert!(!error.contains("secret") && !error.contains("ret="), "{url}: {error}");
        }
    }

    #[test]
    fn whom_to_trust_is_checked_once_it_is_said() {
        for (query, mode) in [
            ("", TlsMode::Prefer),
            ("?sslmode=require", TlsMode::Require),
            ("?sslmode=require&sslrootcert=/ca.pem", TlsMode::VerifyChain),
            ("?sslmode=require&sslrootcert=system", TlsMode::Require),
            ("?sslmode=verify-full", TlsMode::VerifyName),
            ("?sslmode=verify-ca", TlsMode::VerifyChain),
            ("?sslmode=disable&sslrootcert=/ca.pem", TlsMode::Disable),
        ] {
            assert_eq!(parse(&format!("postgresql://db/runs{query}")).unwrap().tls, mode, "{query}");
        }
    }
}
