//! What errors of PostgreSQL mean to a user: one place that names the store, the cause and the remedy.
//!
//! A refused connection is an error of the call that opens a store. Later on, the server has been there before: then it
//! is a lost connection like any other, which is tried again.

use std::error::Error as _;
use std::io::{self, ErrorKind};

use postgres::Error;
use postgres::error::{DbError, Severity, SqlState};
use tokio_rustls::rustls;

use super::tls::TlsMode;
use super::url::{Host, Options};
use crate::StoreError;
use crate::sqlite::error::used_up;

/// Why a call of a session's could not be carried out.
#[derive(Debug)]
pub(super) enum Failed {
    /// The server or the connection reports it.
    Server(Error),
    /// It is an answer of the store's.
    Store(StoreError),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Server(error)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A store's identity, for messages.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// The URL, without secrets.
    pub(super) name: String,
    user: String,
    database: String,
    schema: String,
    tls: TlsMode,
    is_pooled: bool,
}

impl Identity {
    pub(super) fn of(options: &Options) -> Self {
        Self {
            name: options.name().to_owned(),
            user: options.user.clone(),
            database: options.database.clone(),
            schema: options.schema.clone(),
            tls: options.tls,
            is_pooled: options.is_pooled(),
        }
    }

    pub(super) fn unavailable(&self, what: &str) -> StoreError {
        StoreError::Unavailable(format!("{}: {what}", self.name))
    }

    pub(super) fn disconnected(&self, why: impl Into<String>) -> StoreError {
        StoreError::Disconnected { store: self.name.clone(), why: why.into() }
    }

    /// What a call has come to, after which nothing was written unless the connection was lost.
    pub(super) fn failed(&self, failed: Failed) -> StoreError {
        match failed {
            Failed::Store(error) => error,
            Failed::Server(error) => self.error(&error),
        }
    }

    /// Translates the error of a call after which the connection is not there any more.
    pub(super) fn lost(&self, error: &Error) -> StoreError {
        self.disconnected(match error.as_db_error() {
            Some(reported) => reported.message().to_owned(),
            None => error.source().map_or_else(|| "the server has closed it".to_owned(), ToString::to_string),
        })
    }

    /// Translates an error of a call.
    pub(super) fn error(&self, error: &Error) -> StoreError {
        match error.as_db_error() {
            Some(reported) => self.reported(reported),
            None if error.is_closed() => self.disconnected("the server has closed it"),
            None => match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
                Some(cause) if !matches!(cause.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidData) => {
                    self.disconnected(cause.to_string())
                }
                _ => StoreError::Corrupt(format!(
                    "{}: {}; another program or another version of bide has changed its tables",
                    self.name,
                    whole(error)
                )),
            },
        }
    }

    /// Translates what the server says of a statement.
    fn reported(&self, error: &DbError) -> StoreError {
        let (code, message) = (error.code(), error.message());
        let schema = &self.schema;
        if is_end_of_session(error) {
            return self.disconnected(message);
        }
        let of_resource = |remedy: &str| self.unavailable(&format!("{message}; {remedy}"));
        match code {
            // Of these nothing is written, and the same call can succeed at once.
            &(SqlState::T_R_DEADLOCK_DETECTED | SqlState::T_R_SERIALIZATION_FAILURE) => self.disconnected(message),
            &SqlState::QUERY_CANCELED if self.is_pooled => self.unavailable(&format!(
                "{message}; bide's statements must not have a time limit, which it cannot lift behind a pooler: ALTER \
                 ROLE {} SET statement_timeout = 0",
                self.user
            )),
            // The session has no time limit, so somebody has cancelled it by hand.
            &SqlState::QUERY_CANCELED => self.disconnected(message),
            &SqlState::READ_ONLY_SQL_TRANSACTION => self.disconnected("the server accepts no writes any more"),
            &SqlState::DISK_FULL => self.unavailable("the server's disk is full; free space there and start again"),
            &SqlState::OUT_OF_MEMORY => of_resource("free memory on the server and start again"),
            &SqlState::IO_ERROR => of_resource("check the server's disk and its log"),
            &(SqlState::DATA_CORRUPTED | SqlState::INDEX_CORRUPTED) => {
                StoreError::Corrupt(format!("{} is damaged ({message}); restore it from a backup", self.name))
            }
            &SqlState::INSUFFICIENT_PRIVILEGE => self.unavailable(&format!(
                "user {user} may not do what bide needs ({message}); grant it: GRANT USAGE ON SCHEMA {schema} TO {user}; \
                 GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {user}",
                user = self.user
            )),
            &(SqlState::UNDEFINED_TABLE
            | SqlState::UNDEFINED_COLUMN
            | SqlState::UNDEFINED_FUNCTION
            | SqlState::INVALID_SCHEMA_NAME) => self.unavailable(&format!(
                "{message}: somebody has dropped or changed bide's tables in the schema {schema}; restore them from a \
                 backup, or drop the schema and start again"
            )),
            &(SqlState::CHARACTER_NOT_IN_REPERTOIRE | SqlState::UNTRANSLATABLE_CHARACTER) => self.unavailable(
                "a text has a NUL character, which PostgreSQL cannot store; leave it out of names, keys and tags",
            ),
            &SqlState::PROGRAM_LIMIT_EXCEEDED => {
                of_resource("a key, tag or name is longer than PostgreSQL can keep in an index; make it shorter")
            }
            // A pooler that has handed the statements of this session to another connection.
            &(SqlState::INVALID_SQL_STATEMENT_NAME | SqlState::DUPLICATE_PSTATEMENT) if !self.is_pooled => {
                self.pooler()
            }
            // Prepared statements of an earlier form of the tables: a new session has none.
            &SqlState::FEATURE_NOT_SUPPORTED if error.routine() == Some("RevalidateCachedQuery") => {
                self.disconnected(message)
            }
            &SqlState::LOCK_NOT_AVAILABLE => of_resource("another session keeps bide's rows locked; end it"),
            code => self.unavailable(&format!("PostgreSQL reports: {message} ({})", code.code())),
        }
    }

    /// The error of a server that is behind a pooler in transaction mode.
    pub(super) fn pooler(&self) -> StoreError {
        self.unavailable(
            "a pooler hands out the server's connections for each transaction anew (pool_mode = transaction), while bide \
             needs sessions for leases and notices: add listen_url= with a URL that leads past the pooler, or use that \
             URL alone",
        )
    }

    /// The reason for which no session could be opened at a host.
    pub(super) fn refusal(&self, host: &Host, error: &Error) -> String {
        let (user, database) = (&self.user, &self.database);
        if let Some(error) = error.as_db_error() {
            let message = error.message();
            return match error.code() {
                &SqlState::INVALID_PASSWORD => {
                    format!("the password of user {user} is wrong, or {host} has no such user")
                }
                &SqlState::INVALID_AUTHORIZATION_SPECIFICATION => format!(
                    "{host} does not let user {user} in ({message}); check the user's name, sslmode, and pg_hba.conf on \
                     the server"
                ),
                &SqlState::INVALID_CATALOG_NAME => {
                    format!("{host} has no database {database}; create it, or name another")
                }
                &SqlState::INSUFFICIENT_PRIVILEGE => format!(
                    "user {user} may not use the database ({message}); grant it: GRANT CONNECT ON DATABASE {database} \
                     TO {user}"
                ),
                &SqlState::TOO_MANY_CONNECTIONS => format!(
                    "{host} has no connection left ({message}); close some, raise max_connections or the limit of the \
                     role, or put a pooler before it: bide uses four for each process"
                ),
                &SqlState::CANNOT_CONNECT_NOW => format!("{host} is starting, stopping or being restored ({message})"),
                code => format!("{host} refuses connections ({message}, {})", code.code()),
            };
        }
        let Some(cause) = error.source().and_then(|source| source.downcast_ref::<io::Error>()) else {
            return match self.tls {
                // TLS is asked for before anything else.
                TlsMode::Require | TlsMode::VerifyChain | TlsMode::VerifyName if error.source().is_some() => format!(
                    "{host} does not offer TLS ({}); turn it on there (ssl = on), or use sslmode=prefer or disable",
                    whole(error)
                ),
                _ => format!("{host} does not answer as a PostgreSQL server does ({})", whole(error)),
            };
        };
        if let Some(error) = cause.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return of_tls(host, error);
        }
        self.unreachable(host, cause)
    }

    /// The reason for which no connection could be made.
    pub(super) fn unreachable(&self, host: &Host, cause: &io::Error) -> String {
        if let Some(resource) = used_up(cause) {
            return resource;
        }
        match cause.kind() {
            ErrorKind::ConnectionRefused => {
                format!("no server listens at {host}; start it, or check host and port")
            }
            ErrorKind::NotFound if host.is_directory() => {
                format!("no server has a socket in {host}; start it, or check directory and port")
            }
            ErrorKind::PermissionDenied if host.is_directory() => {
                format!("the socket in {host} is not for this user of the system ({cause})")
            }
            ErrorKind::TimedOut => format!("{host} does not answer ({cause}); check host, port and firewalls"),
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                format!("{host} has closed the connection at once ({cause}); see the server's log")
            }
            _ => format!("{host} cannot be reached ({cause})"),
        }
    }

    /// The reason for which a host has no address.
    pub(super) fn unknown_host(&self, host: &Host, cause: &io::Error) -> String {
        used_up(cause).unwrap_or_else(|| format!("the host {} is not known ({cause}); check its name", host.name))
    }
}

/// Whether the server has broken a statement off for the sake of others, so that it can be made again at once.
pub(super) fn is_repeatable(error: &Error) -> bool {
    matches!(error.code(), Some(&(SqlState::T_R_DEADLOCK_DETECTED | SqlState::T_R_SERIALIZATION_FAILURE)))
}

/// Whether the server ends the session with this error.
pub(super) fn is_end_of_session(error: &DbError) -> bool {
    matches!(error.parsed_severity(), Some(Severity::Fatal | Severity::Panic))
        || error.code().code().starts_with("08")
        || error.code().code().starts_with("57P")
}

/// What rustls says of a server.
fn of_tls(host: &Host, error: &rustls::Error) -> String {
    use rustls::CertificateError::{Expired, ExpiredContext, NotValidForName, NotValidForNameContext, UnknownIssuer};
    let remedy = match error {
        rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => {
            "connect by a name that is in its certificate, or use sslmode=verify-ca"
        }
        rustls::Error::InvalidCertificate(UnknownIssuer) => "name the certificate of its issuer with sslrootcert=",
        rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }) => "renew its certificate",
        rustls::Error::AlertReceived(_) => "it wants another certificate of its client: see sslcert and sslkey",
        _ => "check its certificate and its settings of TLS",
    };
    format!("no encrypted connection to {host} can be made ({error}); {remedy}")
}

/// An error with its causes.
fn whole(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
