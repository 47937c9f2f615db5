//! The thread that hears of other processes. It has a connection of its own and always drains it: a listener that does not
//! read holds up the server's queue of notifications for everybody.
//!
//! A notification says that there is something to look at. Without one it looks each second, at the rows that others
//! have written since the last look, whichever order these were committed in: what counts is the snapshot, not a number.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;

use super::changes::{self, Kind};
use super::clock::ServerClock;
use super::connect::Connections;
use super::error::Failed;
use super::notify::{Note, Notifier};
use super::presence::{self, Presence};
use super::session::{Session, Statements};
use crate::StoreError;
use crate::changes::ChangeLog;

/// The time between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// The time between two looks at who is there, as long as there are others.
const LOOK_FOR_OTHERS: Duration = Duration::from_millis(200);

/// How often it looks for processes of this machine that have ended, and whether the store is closed.
const TICK: Duration = Duration::from_millis(100);

/// The rest before the connection is made again; it doubles up to `LOOK`.
const REST: Duration = Duration::from_millis(20);

/// How often old rows of changes are deleted.
const PRUNE: Duration = Duration::from_secs(60);

const SNAPSHOT: &str = "SELECT pg_current_snapshot()::text, (extract(epoch FROM clock_timestamp()) * 1000000)::int8";

/// What the thread needs.
pub(super) struct Listener {
    pub(super) connections: Arc<Connections>,
    pub(super) channel: String,
    /// The number of the schema in the database.
    pub(super) schema: i64,
    /// The number of this process.
    pub(super) process: i64,
    pub(super) clock: Arc<ServerClock>,
    /// Gone once the store is closed.
    pub(super) shared: Weak<Heard>,
}

/// What the store and the thread have in common.
pub(super) struct Heard {
    pub(super) changes: Arc<ChangeLog>,
    pub(super) presence: Arc<Presence>,
    pub(super) notifier: Arc<Notifier>,
}

/// A connection that listens.
struct Link {
    client: Client,
    statements: Statements,
    /// What was committed at the last look.
    snapshot: String,
    holds_lock: bool,
    /// How often the server had lost commits by then.
    breaks: u64,
}

impl Listener {
    /// Connects, and starts the thread.
    pub(super) fn start(self) -> Result<(), StoreError> {
        let link = self.connect()?;
        let identity = self.connections.identity().clone();
        std::thread::Builder::new()
            .name("bide-listen".into())
            .spawn(move || self.run(link))
            .map(drop)
            .map_err(|error| identity.unavailable(&format!("the thread that listens cannot start ({error})")))
    }

    fn schema_name(&self) -> &str {
        &self.connections.options().schema
    }

    fn connect(&self) -> Result<Link, StoreError> {
        let client = self.connections.listener()?;
        let breaks = self.connections.breaks();
        let mut link =
            Link { client, statements: Statements::new(false), snapshot: String::new(), holds_lock: false, breaks };
        let prepared = link.session(self.schema_name()).script(&format!("LISTEN {}", self.channel));
        let prepared = prepared.and_then(|()| self.look(&mut link, None));
        // A process that ends from here on is known.
        let met = prepared.and_then(|()| match self.shared.upgrade() {
            Some(heard) => self.look_for_others(&mut link.session(self.schema_name()), &heard),
            None => Ok(()),
        });
        met.map_err(|failed| self.connections.identity().failed(failed))?;
        self.connections.listens(true);
        Ok(link)
    }

    fn run(&self, link: Link) {
        let mut link = Some(link);
        let mut rest = REST;
        let mut pruned = Instant::now();
        loop {
            let Some(heard) = self.shared.upgrade() else { return };
            let Some(connected) = &mut link else {
                drop(heard);
                std::thread::sleep(rest);
                rest = (rest * 2).min(LOOK);
                if let Ok(connected) = self.connect()
                    && let Some(heard) = self.shared.upgrade()
                {
                    heard.presence.connected(true);
                    // What was notified meanwhile was not heard.
                    heard.changes.unowned();
                    heard.changes.limits();
                    heard.changes.any_run();
                    rest = REST;
                    link = Some(connected);
                }
                continue;
            };
            drop(heard);
            let turn = self.turn(connected, &mut pruned);
            // A server of before a break may still answer.
            if turn.is_err() || connected.breaks != self.connections.breaks() {
                self.connections.listens(false);
                link = None;
            }
        }
    }

    /// Waits for notifications and looks, until it is time for the next turn.
    fn turn(&self, link: &mut Link, pruned: &mut Instant) -> Result<(), Failed> {
        let looked = Instant::now();
        let mut looked_for_others = looked;
        let mut look = false;
        while !look && looked.elapsed() < LOOK {
            let notes = link.drain(TICK)?;
            if link.client.is_closed() {
                return Err(self.connections.identity().disconnected("the server has closed it").into());
            }
            let Some(heard) = self.shared.upgrade() else { return Ok(()) };
            for note in notes.iter().filter_map(|text| Note::read(text)).filter(|note| note.process != self.process) {
                look |= note.look;
                if note.watches {
                    heard.notifier.set_watched();
                }
                match note.ended {
                    None => heard.changes.any_run(),
                    Some(runs) if runs.is_empty() => {}
                    Some(runs) => heard.changes.hinted(runs),
                }
            }
            if heard.presence.look_at_machine() {
                heard.changes.unowned();
            }
            if !link.holds_lock {
                // Somebody was just looking whether it is free.
                let held = presence::hold(&mut link.session(self.schema_name()), self.schema, self.process)?;
                link.holds_lock = held;
            }
            if looked_for_others.elapsed() >= LOOK_FOR_OTHERS && heard.presence.has_others() {
                looked_for_others = Instant::now();
                self.look_for_others(&mut link.session(self.schema_name()), &heard)?;
            }
        }
        let Some(heard) = self.shared.upgrade() else { return Ok(()) };
        self.look(link, Some(&heard))?;
        if pruned.elapsed() >= PRUNE {
            *pruned = Instant::now();
            changes::prune(&mut link.session(self.schema_name()))?;
        }
        Ok(())
    }

    /// Looks at what others have written since the last look, at the server's clock and at who is there.
    fn look(&self, link: &mut Link, heard: Option<&Heard>) -> Result<(), Failed> {
        let mut session = Session::new(&mut link.client, &mut link.statements, self.schema_name());
        let asked = self.clock.begin();
        let Some(row) = session.query_opt(SNAPSHOT, &[])? else { return Ok(()) };
        let snapshot: String = row.try_get(0)?;
        self.clock.measured(asked, row.try_get(1)?);
        if !link.holds_lock {
            link.holds_lock = presence::hold(&mut session, self.schema, self.process)?;
        }
        if let Some(heard) = heard {
            if snapshot != link.snapshot && !link.snapshot.is_empty() {
                let mut mail = Vec::new();
                for (kind, run) in changes::since(&mut session, &link.snapshot, self.process)? {
                    match kind {
                        kind if kind == Kind::Mail as i64 => mail.extend(run),
                        kind if kind == Kind::Limits as i64 => heard.changes.limits(),
                        _ => heard.changes.unowned(),
                    }
                }
                if !mail.is_empty() {
                    heard.changes.mail();
                }
            }
            self.look_for_others(&mut session, heard)?;
        }
        link.snapshot = snapshot;
        Ok(())
    }

    fn look_for_others(&self, session: &mut Session<'_>, heard: &Heard) -> Result<(), Failed> {
        if heard.presence.look(session, self.schema, self.process)? {
            heard.changes.unowned();
        }
        Ok(())
    }
}

impl Link {
    fn session<'l>(&'l mut self, schema: &'l str) -> Session<'l> {
        Session::new(&mut self.client, &mut self.statements, schema)
    }

    /// The notifications that there are, after a wait for the first.
    fn drain(&mut self, timeout: Duration) -> Result<Vec<String>, Failed> {
        let mut notes = Vec::new();
        let mut notifications = self.client.notifications();
        if let Some(first) = notifications.timeout_iter(timeout).next()? {
            notes.push(first.payload().to_owned());
        }
        let mut rest = notifications.iter();
        while let Some(note) = rest.next()? {
            notes.push(note.payload().to_owned());
        }
        Ok(notes)
    }
}
