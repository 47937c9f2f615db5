//! One try to make a session at a host: to connect, to look what the server is, and to set the session.

use std::fs::File;
use std::net::{SocketAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use postgres::{Client, Config};

use super::error::Identity;
use super::history::{INSPECT, Server, row};
use super::session::Statements;
use super::tls::{Tls, TlsMode};
use super::url::{Host, Options};

/// The oldest server that bide works with, as `server_version_num` tells it.
const OLDEST: u32 = 140_000;

/// When a peer that has vanished is noticed: after `IDLE + PROBES * INTERVAL` seconds, on both sides, also if something was
/// sent to it that it has not acknowledged: then the system sends no probes.
const IDLE: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_secs(1);
const PROBES: u32 = 3;

/// How each session is set. Time limits of the role are not for bide's statements, which are short by themselves; and
/// its sessions rest between two of them. Plans are those of the statements' indexes, whatever the statistics say.
const SETTINGS: &str = "SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = off; \
     SET statement_timeout = 0; SET lock_timeout = 0; SET idle_session_timeout = 0; \
     SET idle_in_transaction_session_timeout = 0; SET client_min_messages = warning; \
     SET plan_cache_mode = force_generic_plan; SET jit = off; SET enable_seqscan = off; \
     SET enable_hashjoin = off; SET enable_mergejoin = off; SET search_path = pg_catalog";

/// The settings of a session, with the server's side of how it notices that this process has vanished.
fn settings() -> String {
    let (idle, interval, limit) = (IDLE.as_secs(), INTERVAL.as_secs(), (IDLE + INTERVAL * PROBES).as_millis());
    format!(
        "{SETTINGS}; SET tcp_keepalives_idle = {idle}; SET tcp_keepalives_interval = {interval}; \
         SET tcp_keepalives_count = {PROBES}; SET tcp_user_timeout = {limit}"
    )
}

/// A connection, and what is known of it.
pub(super) struct Link {
    pub(super) client: Client,
    /// What is known of its statements.
    pub(super) statements: Statements,
    /// What the server is.
    pub(super) server: Server,
    /// How often it had lost commits by then.
    pub(super) breaks: u64,
    /// How many sessions of this process had been lost when that was looked at.
    pub(super) losses: u64,
}

/// Why no session could be made.
pub(super) struct Refusal {
    pub(super) why: String,
    /// The server is being started: it will be there soon.
    pub(super) is_starting: bool,
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self { why, is_starting: false }
    }
}

/// One try to make a session at a host.
pub(super) struct Attempt {
    pub(super) options: Options,
    pub(super) tls: Tls,
    pub(super) identity: Identity,
    pub(super) host: Host,
}

impl Attempt {
    /// Makes a session, and sets it unless others will get it from a pooler.
    pub(super) fn link(&self, is_synchronous: bool) -> Result<Link, Refusal> {
        let is_pooled = self.options.is_pooled();
        let mut client = self.client()?;
        let refused = |error: &postgres::Error| Refusal::from(self.identity.refusal(&self.host, error));
        let answer = client.simple_query(INSPECT).map_err(|error| refused(&error))?;
        let Some(server) = row(&answer).and_then(|row| Server::read(&row)) else {
            return Err(format!("{} does not answer as a PostgreSQL server does", self.host).into());
        };
        if server.version < OLDEST {
            let (major, oldest) = (server.version / 10_000, OLDEST / 10_000);
            return Err(format!(
                "{} is a PostgreSQL {major}, and bide needs {oldest} or later; upgrade the server",
                self.host
            )
            .into());
        }
        if server.is_standby {
            return Err(format!(
                "{} is a standby, which accepts no writes; name the primary server (or both, separated by a comma)",
                self.host
            )
            .into());
        }
        if !is_pooled {
            client.batch_execute(&settings()).map_err(|error| refused(&error))?;
            if !is_synchronous {
                client.batch_execute("SET synchronous_commit = off").map_err(|error| refused(&error))?;
            }
        }
        Ok(Link { client, server, statements: Statements::new(is_pooled), breaks: 0, losses: 0 })
    }

    /// Connects to the first address of the host that answers.
    fn client(&self) -> Result<Client, Refusal> {
        check_descriptors().map_err(|error| self.identity.unreachable(&self.host, &error))?;
        if self.host.is_directory() {
            return self.client_at(None);
        }
        let found = (self.host.name.as_str(), self.host.port).to_socket_addrs();
        let addresses: Vec<SocketAddr> =
            found.map_err(|error| self.identity.unknown_host(&self.host, &error))?.collect();
        let mut outcome = Err(format!("the host {} has no address; check its name", self.host.name).into());
        for address in addresses {
            outcome = self.client_at(Some(address));
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    fn client_at(&self, address: Option<SocketAddr>) -> Result<Client, Refusal> {
        let options = &self.options;
        let mut config = Config::new();
        config
            .port(self.host.port)
            .user(&options.user)
            // A server that asks for one refuses an empty password itself, in words.
            .password(options.password.as_ref().map_or(&[][..], |password| &password.0))
            .dbname(&options.database)
            .application_name(&options.application_name)
            .connect_timeout(options.connect_timeout)
            .keepalives_idle(IDLE)
            .keepalives_interval(INTERVAL)
            .keepalives_retries(PROBES)
            .tcp_user_timeout(IDLE + INTERVAL * PROBES)
            .notice_callback(|_| {});
        match address {
            Some(address) => config.host(&self.host.name).hostaddr(address.ip()).ssl_mode(options.tls.asked()),
            None => config.host_path(&self.host.name).ssl_mode(TlsMode::Disable.asked()),
        };
        // The library makes a runtime of its own and takes for granted that the system allows it.
        match catch_unwind(AssertUnwindSafe(|| config.connect(self.tls.clone()))) {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(error)) => {
                let is_starting = error.code() == Some(&postgres::error::SqlState::CANNOT_CONNECT_NOW);
                Err(Refusal { why: self.identity.refusal(&self.host, &error), is_starting })
            }
            Err(_) => {
                Err("this process cannot make a connection: it is short of memory or open files".to_owned().into())
            }
        }
    }
}

/// Fails if the process has no descriptors left for a connection.
fn check_descriptors() -> std::io::Result<()> {
    let spare: Result<Vec<File>, _> = (0..6).map(|_| File::open("/dev/null")).collect();
    spare.map(drop)
}
