//! The sessions of a store: made when they are needed, made again when they are lost, and never used after a fork.
//!
//! | session | what for | reached by |
//! |---|---|---|
//! | writer | commits, one at a time | the URL |
//! | reader | everything that is only read | the URL |
//! | lease | holds the lock that shows that this process lives | `listen_url`, else the URL |
//! | listener | hears of other processes; belongs to a thread of its own | `listen_url`, else the URL |
//!
//! A call whose session is lost fails as [`StoreError::Disconnected`], and the next call makes a new one. What is tried
//! too soon after a failure fails like that without a try.

use std::fs::File;
use std::net::{SocketAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bide_sync::Mutex;
use postgres::{Client, Config, SimpleQueryMessage};

use super::error::{Failed, Identity, is_repeatable};
use super::history::{History, INSPECT, Server};
use super::remembered::Remembered;
use super::session::{Session, Statements};
use super::tls::{Tls, TlsMode};
use super::url::{Host, Options};
use crate::StoreError;

/// The oldest server that bide works with, as `server_version_num` tells it.
const OLDEST: u32 = 140_000;

/// How soon after a failure another try is made; doubles with each, up to the other.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// How often a call is made again that the server has broken off for the sake of others.
const MOST_REPEATS: u32 = 20;

/// When a peer that has vanished is noticed: after `IDLE + PROBES * INTERVAL` seconds, on both sides.
const IDLE: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_secs(1);
const PROBES: u32 = 3;

/// How each session is set. Time limits of the role are not for bide's statements, which are short by themselves; and
/// its sessions rest between two of them. Plans are those of the statements' indexes, whatever the statistics say.
const SETTINGS: &str = "SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = off; \
     SET statement_timeout = 0; SET lock_timeout = 0; SET idle_session_timeout = 0; \
     SET idle_in_transaction_session_timeout = 0; SET client_min_messages = warning; \
     SET tcp_keepalives_idle = 1; SET tcp_keepalives_interval = 1; SET tcp_keepalives_count = 3; \
     SET plan_cache_mode = force_generic_plan; SET jit = off; SET enable_seqscan = off; \
     SET enable_hashjoin = off; SET enable_mergejoin = off; SET search_path = pg_catalog";

/// A connection, and what is known of it.
struct Link {
    client: Client,
    /// What is known of its statements.
    statements: Statements,
    /// What the server is.
    server: Server,
    /// How often it had lost commits by then.
    breaks: u64,
    /// How many sessions of this process had been lost when that was looked at.
    losses: u64,
}

/// A place for one session.
#[derive(Default)]
struct Slot(Mutex<Option<Link>>);

/// When the next try to connect may be made.
#[derive(Default)]
struct Pause {
    /// Until then what has failed is not tried again.
    until: Option<Instant>,
    /// How long the last pause was.
    length: Duration,
    /// Why the last try failed.
    why: String,
}

/// What must not be touched after a fork, not even to drop it: it would end the parent's sessions.
#[derive(Default)]
struct Slots {
    writer: Slot,
    reader: Slot,
    lease: Slot,
}

/// The sessions of a store.
pub(super) struct Connections {
    options: Options,
    identity: Identity,
    tls: Tls,
    /// Of `listen_url`.
    listen_tls: Option<Tls>,
    /// The process that opened them.
    pid: u32,
    slots: Slots,
    /// Whether the server still has what it has confirmed.
    history: History,
    /// How many sessions were lost.
    losses: AtomicU64,
    /// There is a session that listens, which is lost with its server.
    listens: AtomicBool,
    pause: Mutex<Pause>,
}

impl Connections {
    /// Connects to the server and looks whether it can be used.
    ///
    /// # Errors
    /// `Unavailable` with the reason and the remedy.
    pub(super) fn open(options: &Options, remembered: &Arc<Remembered>) -> Result<Self, StoreError> {
        let identity = Identity::of(options);
        let unavailable = |why: String| identity.unavailable(&why);
        let connections = Self {
            tls: Tls::new(options).map_err(unavailable)?,
            listen_tls: options.listen.as_deref().map(Tls::new).transpose().map_err(unavailable)?,
            options: options.clone(),
            identity: identity.clone(),
            pid: std::process::id(),
            slots: Slots::default(),
            history: History::new(options.synchronous, remembered.clone()),
            losses: AtomicU64::new(0),
            listens: AtomicBool::new(false),
            pause: Mutex::default(),
        };
        let begun = Instant::now();
        let mut writer = loop {
            match connections.connect(false) {
                Ok(session) => break session,
                // Services start in any order.
                Err(refusal) if refusal.is_starting && begun.elapsed() < options.connect_timeout => {
                    std::thread::sleep(LONGEST_PAUSE);
                }
                Err(refusal) => return Err(unavailable(refusal.why)),
            }
        };
        let mut reader = connections.connect(false).map_err(|refusal| unavailable(refusal.why))?;
        if !options.is_pooled() && connections.is_shared(&mut writer, &mut reader)? {
            return Err(identity.pooler());
        }
        if options.is_pooled() {
            let lease = connections.connect(true).map_err(|refusal| unavailable(refusal.why))?;
            if lease.server.history != writer.server.history {
                return Err(identity.unavailable("its listen_url leads to another server than the URL itself"));
            }
            *connections.slots.lease.0.lock() = Some(lease);
        }
        connections.keep(&mut writer).map_err(|failed| identity.failed(failed))?;
        *connections.slots.writer.0.lock() = Some(writer);
        *connections.slots.reader.0.lock() = Some(reader);
        Ok(connections)
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    /// A session was lost, perhaps with its server.
    fn lost(&self) {
        self.losses.fetch_add(1, Ordering::SeqCst);
    }

    /// The session that listens is there, or was lost.
    pub(super) fn listens(&self, is_there: bool) {
        self.listens.store(is_there, Ordering::SeqCst);
        // What has happened while there was none is not known.
        self.lost();
    }

    pub(super) fn history(&self) -> &History {
        &self.history
    }

    /// How often the server has lost commits that it had confirmed, or may have.
    pub(super) fn breaks(&self) -> u64 {
        self.history.breaks()
    }

    /// Makes a call in the session that writes.
    ///
    /// # Errors
    /// Those of the call; `Disconnected` if the session was lost or cannot be made.
    pub(super) fn writer<T>(&self, act: impl FnMut(&mut Session<'_>) -> Result<T, Failed>) -> Result<T, StoreError> {
        self.call(|slots| &slots.writer, false, act)
    }

    /// Makes a call in the session that reads.
    ///
    /// # Errors
    /// As [`Connections::writer`].
    pub(super) fn reader<T>(&self, act: impl FnMut(&mut Session<'_>) -> Result<T, Failed>) -> Result<T, StoreError> {
        self.call(|slots| &slots.reader, false, act)
    }

    /// Makes a call in the session that is one session from its begin to its end, also behind a pooler.
    ///
    /// # Errors
    /// As [`Connections::writer`].
    pub(super) fn lease<T>(&self, act: impl FnMut(&mut Session<'_>) -> Result<T, Failed>) -> Result<T, StoreError> {
        self.call(|slots| &slots.lease, true, act)
    }

    /// A new connection for a thread of its own, which is one session from its begin to its end.
    ///
    /// # Errors
    /// `Disconnected` if it cannot be made.
    pub(super) fn listener(&self) -> Result<Client, StoreError> {
        self.check_process()?;
        Ok(self.connect_again(true)?.client)
    }

    fn call<T>(
        &self,
        slot: impl FnOnce(&Slots) -> &Slot,
        is_direct: bool,
        mut act: impl FnMut(&mut Session<'_>) -> Result<T, Failed>,
    ) -> Result<T, StoreError> {
        self.check_process()?;
        let mut slot = slot(&self.slots).0.lock();
        let mut repeats = 0;
        loop {
            // What was connected before a break may lead to the server of before, which still answers.
            if slot.as_ref().is_none_or(|link| link.client.is_closed() || link.breaks != self.breaks()) {
                *slot = None;
                *slot = Some(self.connect_again(is_direct)?);
            }
            let Some(link) = slot.as_mut() else { return Err(self.identity.disconnected("there is no session")) };
            if let Err(error) = self.look_behind_pooler(link, is_direct) {
                *slot = None;
                return Err(error);
            }
            let mut session = Session::new(&mut link.client, &mut link.statements, &self.options.schema);
            let failed = match act(&mut session) {
                Ok(done) => return Ok(done),
                Err(Failed::Server(error)) if is_repeatable(&error) && repeats < MOST_REPEATS => {
                    repeats += 1;
                    continue;
                }
                Err(failed) => failed,
            };
            let is_lost = link.client.is_closed();
            let error = match (failed, is_lost) {
                // What was reported before it was lost says why.
                (Failed::Server(error), true) => self.identity.lost(&error),
                (failed, _) => self.identity.failed(failed),
            };
            if is_lost || matches!(error, StoreError::Disconnected { .. }) {
                self.lost();
                *slot = None;
            }
            return Err(error);
        }
    }

    /// A pooler keeps a session while the server behind it is replaced. What this is then is looked at once another session was
    /// lost, as all that lead to the server itself are, and before each call while none listens.
    fn look_behind_pooler(&self, link: &mut Link, is_direct: bool) -> Result<(), StoreError> {
        let losses = self.losses.load(Ordering::SeqCst);
        let is_known = link.losses == losses && self.listens.load(Ordering::SeqCst);
        if is_direct || !self.options.is_pooled() || is_known {
            return Ok(());
        }
        let answer = link.client.simple_query(INSPECT).map_err(|error| self.identity.lost(&error))?;
        let Some(server) = row(&answer).and_then(|row| Server::read(&row)).filter(|server| !server.is_standby) else {
            return Err(self.identity.disconnected("the pooler leads to no server that accepts writes"));
        };
        link.server = server;
        link.losses = losses;
        self.keep(link).map_err(|failed| match failed {
            Failed::Server(error) => self.identity.lost(&error),
            Failed::Store(error) => error,
        })
    }

    fn check_process(&self) -> Result<(), StoreError> {
        if self.pid == std::process::id() {
            return Ok(());
        }
        Err(self.identity.unavailable(
            "this store was opened before a fork and cannot be used in the child; start processes by spawn, or open \
             the store only after the fork",
        ))
    }

    /// Makes a session in place of a lost one, unless that has failed just now.
    fn connect_again(&self, is_direct: bool) -> Result<Link, StoreError> {
        {
            let pause = self.pause.lock();
            if pause.until.is_some_and(|until| Instant::now() < until) {
                return Err(self.identity.disconnected(pause.why.clone()));
            }
        }
        match self.connect(is_direct) {
            Ok(mut session) => {
                session.losses = self.losses.load(Ordering::SeqCst);
                self.keep(&mut session).map_err(|failed| match failed {
                    Failed::Server(error) => self.identity.lost(&error),
                    Failed::Store(error) => error,
                })?;
                *self.pause.lock() = Pause::default();
                Ok(session)
            }
            Err(refusal) => {
                let mut pause = self.pause.lock();
                pause.length = (pause.length * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                pause.until = Some(Instant::now() + pause.length);
                pause.why.clone_from(&refusal.why);
                Err(self.identity.disconnected(refusal.why))
            }
        }
    }

    /// Remembers what the server is, and whether it has lost commits since the last time.
    fn keep(&self, link: &mut Link) -> Result<(), Failed> {
        let mut session = Session::new(&mut link.client, &mut link.statements, &self.options.schema);
        self.history.compare(&link.server, &mut session)?;
        link.breaks = self.breaks();
        Ok(())
    }

    /// Makes a session at the first of the hosts that has one to give.
    fn connect(&self, is_direct: bool) -> Result<Link, Refusal> {
        let (options, tls) = match (&self.options.listen, &self.listen_tls) {
            (Some(options), Some(tls)) if is_direct => (&**options, tls),
            _ => (&self.options, &self.tls),
        };
        let is_pooled = options.is_pooled();
        let mut refusals: Vec<Refusal> = Vec::new();
        for host in &options.hosts {
            let attempt = Attempt { options, tls, identity: &self.identity, host };
            match attempt.link(is_pooled, self.options.synchronous) {
                Ok(session) => return Ok(session),
                Err(refusal) => refusals.push(refusal),
            }
        }
        let is_starting = refusals.iter().any(|refusal| refusal.is_starting);
        let why = refusals.into_iter().map(|refusal| refusal.why).collect::<Vec<_>>().join("; and ");
        Err(Refusal { why, is_starting })
    }

    /// Whether two sessions get the same process of the server one after the other, or one gets two: a pooler gives a
    /// process to whom has a transaction to make.
    fn is_shared(&self, one: &mut Link, other: &mut Link) -> Result<bool, StoreError> {
        let mut seen = (one.server.process, other.server.process);
        for _ in 0..2 {
            let now = (self.process_of(one)?, self.process_of(other)?);
            if seen.0 == seen.1 || now.0 == now.1 || now != seen {
                return Ok(true);
            }
            seen = now;
        }
        Ok(false)
    }

    fn process_of(&self, link: &mut Link) -> Result<i32, StoreError> {
        let answer =
            link.client.simple_query("SELECT pg_backend_pid()").map_err(|error| self.identity.error(&error))?;
        Ok(row(&answer).and_then(|row| row.first()?.parse().ok()).unwrap_or_default())
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        let slots = std::mem::take(&mut self.slots);
        if self.pid != std::process::id() {
            std::mem::forget(slots);
            return;
        }
        // A session says goodbye, for which it blocks: a thread of an async runtime must not.
        if tokio::runtime::Handle::try_current().is_err() {
            drop(slots);
        } else if let Ok(thread) = std::thread::Builder::new().spawn(move || drop(slots)) {
            let _ = thread.join();
        }
    }
}

/// Why no session could be made.
struct Refusal {
    why: String,
    /// The server is being started: it will be there soon.
    is_starting: bool,
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self { why, is_starting: false }
    }
}

/// One try to make a session at a host.
struct Attempt<'a> {
    options: &'a Options,
    tls: &'a Tls,
    identity: &'a Identity,
    host: &'a Host,
}

impl Attempt<'_> {
    /// Makes a session, and sets it unless others will get it from a pooler.
    fn link(&self, is_pooled: bool, is_synchronous: bool) -> Result<Link, Refusal> {
        let mut client = self.client()?;
        let refused = |error: &postgres::Error| Refusal::from(self.identity.refusal(self.host, error));
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
            client.batch_execute(SETTINGS).map_err(|error| refused(&error))?;
            if !is_synchronous {
                client.batch_execute("SET synchronous_commit = off").map_err(|error| refused(&error))?;
            }
        }
        Ok(Link { client, server, statements: Statements::new(is_pooled), breaks: 0, losses: 0 })
    }

    /// Connects to the first address of the host that answers.
    fn client(&self) -> Result<Client, Refusal> {
        check_descriptors().map_err(|error| self.identity.unreachable(self.host, &error))?;
        if self.host.is_directory() {
            return self.client_at(None);
        }
        let found = (self.host.name.as_str(), self.host.port).to_socket_addrs();
        let addresses: Vec<SocketAddr> =
            found.map_err(|error| self.identity.unknown_host(self.host, &error))?.collect();
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
        let options = self.options;
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
                Err(Refusal { why: self.identity.refusal(self.host, &error), is_starting })
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

/// The first row of an answer, as texts.
fn row(answer: &[SimpleQueryMessage]) -> Option<Vec<String>> {
    answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect())
        }
        _ => None,
    })
}
