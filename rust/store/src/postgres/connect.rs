//! The connections of a process to its server: at most four.

use std::collections::HashMap;

use bide_sync::Mutex;
use postgres::{Client, Config, NoTls, Statement};

use super::error::{self, Failed};
use super::session::Session;
use crate::StoreError;

/// How to reach and use a database.
#[derive(Clone, Debug)]
pub struct Options {
    config: Config,
    name: String,
    pub(super) schema: String,
    pub(super) synchronous: bool,
}

impl Options {
    /// Reads a URL.
    ///
    /// # Errors
    /// `Unavailable` with what is wrong.
    pub fn parse(url: &str) -> Result<Self, StoreError> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut schema = "bide".to_owned();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            if name == "schema" {
                schema = value.to_owned();
            }
        }
        let config: Config = base.parse().map_err(|error| StoreError::Unavailable(format!("{error}")))?;
        Ok(Self { config, name: base.to_owned(), schema, synchronous: true })
    }

    /// The URL as it may be shown.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn connect(&self) -> Result<Client, StoreError> {
        let mut config = self.config.clone();
        let options = format!(
            "-c synchronous_commit={} -c jit=off -c plan_cache_mode=force_generic_plan -c enable_seqscan=off \
             -c enable_hashjoin=off -c enable_mergejoin=off -c statement_timeout=0 -c idle_session_timeout=0 \
             -c idle_in_transaction_session_timeout=0 -c lock_timeout=0 -c client_min_messages=warning",
            if self.synchronous { "on" } else { "off" }
        );
        config.options(&options).application_name("bide");
        config.connect(NoTls).map_err(|error| error::explain(&self.name, &error))
    }
}

struct Link {
    client: Client,
    statements: HashMap<String, Statement>,
}

/// The connections of a process.
pub(super) struct Connections {
    options: Options,
    writer: Mutex<Option<Link>>,
    reader: Mutex<Option<Link>>,
    lease: Mutex<Option<Link>>,
}

impl Connections {
    pub(super) fn open(options: &Options) -> Result<Self, StoreError> {
        let connections = Self {
            options: options.clone(),
            writer: Mutex::new(None),
            reader: Mutex::new(None),
            lease: Mutex::new(None),
        };
        connections.writer(|session| session.query("SELECT 1", &[]).map(drop))?;
        Ok(connections)
    }

    pub(super) fn writer<T>(&self, act: impl FnMut(&mut Session<'_>) -> Result<T, Failed>) -> Result<T, StoreError> {
        self.with(&self.writer, act)
    }

    pub(super) fn reader<T>(&self, act: impl FnMut(&mut Session<'_>) -> Result<T, Failed>) -> Result<T, StoreError> {
        self.with(&self.reader, act)
    }

    pub(super) fn lease<T>(&self, act: impl FnMut(&mut Session<'_>) -> Result<T, Failed>) -> Result<T, StoreError> {
        self.with(&self.lease, act)
    }

    fn with<T>(
        &self,
        link: &Mutex<Option<Link>>,
        mut act: impl FnMut(&mut Session<'_>) -> Result<T, Failed>,
    ) -> Result<T, StoreError> {
        let mut link = link.lock();
        for _ in 0..20 {
            if link.as_ref().is_none_or(|link| link.client.is_closed()) {
                *link = Some(Link { client: self.options.connect()?, statements: HashMap::new() });
            }
            let Some(Link { client, statements }) = link.as_mut() else { continue };
            let mut session = Session::new(client, statements, &self.options.schema);
            match act(&mut session) {
                Ok(done) => return Ok(done),
                Err(Failed::Store(error)) => return Err(error),
                Err(Failed::Server(error)) => {
                    if error::is_repeatable(&error) {
                        continue;
                    }
                    let explained = error::explain(&self.options.name, &error);
                    if matches!(explained, StoreError::Disconnected { .. }) {
                        *link = None;
                    }
                    return Err(explained);
                }
            }
        }
        Err(StoreError::Unavailable(format!("{}: the server broke off the same statement 20 times", self.options.name)))
    }
}
