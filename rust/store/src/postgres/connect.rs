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

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use bide_sync::Mutex;
use postgres::Client;

use super::attempt::{Attempt, Link, Refusal};
use super::error::{Failed, Identity, is_repeatable};
use super::history::{History, INSPECT, Server, row};
use super::remembered::Remembered;
use super::session::Session;
use super::tls::Tls;
use super::url::{Host, Options};
use crate::StoreError;

/// How soon after a failure another try is made; doubles with each, up to the other.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// How often a call is made again that the server has broken off for the sake of others.
const MOST_REPEATS: u32 = 20;

/// How long a server may take to greet, beyond the time in which it must have taken the connection.
const BEYOND: Duration = Duration::from_secs(2);

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
    /// What the threads will report on which a server has kept a connection waiting for too long. The next try waits for
    /// one of these, so that there are never more than at once.
    late: Mutex<Vec<Late>>,
}

/// A try to connect that has not come to an end in its time.
struct Late {
    /// The host, and whether it is that of `listen_url`.
    of: (Host, bool),
    outcome: Receiver<Result<Link, Refusal>>,
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
            let of_listen_url = |refusal: Refusal| unavailable(format!("in listen_url: {}", refusal.why));
            let lease = connections.connect(true).map_err(of_listen_url)?;
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
        let mut refusals: Vec<Refusal> = Vec::new();
        for host in &options.hosts {
            let attempt = Attempt {
                options: options.clone(),
                tls: tls.clone(),
                identity: self.identity.clone(),
                host: host.clone(),
            };
            match self.within_its_time(attempt, is_direct) {
                Ok(session) => return Ok(session),
                Err(refusal) => refusals.push(refusal),
            }
        }
        let is_starting = refusals.iter().any(|refusal| refusal.is_starting);
        let why = refusals.into_iter().map(|refusal| refusal.why).collect::<Vec<_>>().join("; and ");
        Err(Refusal { why, is_starting })
    }

    /// Makes a try on a thread of its own: a server that takes a connection and then says nothing must not hold up its
    /// caller for longer than `connect_timeout`.
    fn within_its_time(&self, attempt: Attempt, is_direct: bool) -> Result<Link, Refusal> {
        let of = (attempt.host.clone(), is_direct);
        let most = attempt.options.connect_timeout.saturating_add(BEYOND);
        let late = {
            let mut late = self.slots.late.lock();
            late.iter().position(|late| late.of == of).map(|at| late.swap_remove(at).outcome)
        };
        let outcome = match late {
            Some(outcome) => outcome,
            None => {
                let is_synchronous = self.options.synchronous;
                let (report, outcome) = mpsc::channel();
                let act = move || drop(report.send(attempt.link(is_synchronous)));
                let started = std::thread::Builder::new().name("bide-connect".into()).spawn(act);
                started.map_err(|error| format!("no thread can be started to connect ({error})"))?;
                outcome
            }
        };
        match outcome.recv_timeout(most) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => {
                let why = format!(
                    "{} has taken the connection and says nothing for {most:?}; see whether the server, or a pooler \
                     before it, is stopped or overloaded",
                    of.0
                );
                self.slots.late.lock().push(Late { of, outcome });
                Err(why.into())
            }
            Err(RecvTimeoutError::Disconnected) => Err("the thread that connects has ended".to_owned().into()),
        }
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
