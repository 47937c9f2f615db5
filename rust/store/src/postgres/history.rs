//! Whether the server still has what it has confirmed. After a fail-over to a standby that lagged behind, the restoration of
//! a backup, or a crash while commits did not wait for the disk, what a process knows of the rows is ahead of them.
//!
//! Each new session asks what the server is, and looks for rows that must be there: those of this process's runners, the
//! records of the last commits, and the versions of workflows that it knows. Another history, or one without such a row,
//! is a break: all that is remembered is forgotten, and the leases of before are lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bide_sync::Mutex;
use postgres::SimpleQueryMessage;
use postgres::error::SqlState;

use super::error::Failed;
use super::remembered::Remembered;
use super::session::{Param, Session, Text};
use crate::Lease;

/// What is asked of each new session, in one round trip.
pub(super) const INSPECT: &str = "SELECT current_setting('server_version_num'), pg_is_in_recovery(), pg_backend_pid(), \
     pg_postmaster_start_time(), (SELECT system_identifier FROM pg_control_system()), \
     CASE WHEN pg_is_in_recovery() THEN '' ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END";

/// Whether a row is missing. The record of a commit is deleted by the process that has made it, or with the lease when
/// somebody fences it; the row of a fenced runner stays as long as its process is there.
const IS_MISSING: &str = "SELECT EXISTS (SELECT 1 FROM unnest($1::int8[], $2::int8[], $3::int8[]) u(runner, epoch, id) \
     JOIN bide.runner r ON r.id = u.runner AND r.epoch = u.epoch \
     WHERE NOT EXISTS (SELECT 1 FROM bide.made m WHERE m.runner = u.runner AND m.id = u.id)) \
     OR EXISTS (SELECT 1 FROM unnest($4::int8[], $5::int8[]) u(runner, epoch) WHERE NOT EXISTS \
     (SELECT 1 FROM bide.runner r WHERE r.id = u.runner AND r.epoch IN (u.epoch, u.epoch + 1))) \
     OR EXISTS (SELECT 1 FROM unnest($6::int8[], $7::text[]) u(version, hash) WHERE NOT EXISTS \
     (SELECT 1 FROM bide.version v WHERE v.id = u.version AND v.hash = u.hash))";

/// What a server is, and whether it is still the one that it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    /// As `server_version_num` tells it.
    pub(super) version: u32,
    /// It replays what another one writes.
    pub(super) is_standby: bool,
    /// Which of its processes this session has.
    pub(super) process: i32,
    /// When it was started.
    started: String,
    /// The id of its data directory and its timeline: another pair is another history of the same rows.
    pub(super) history: (String, String),
}

impl Server {
    /// Reads the answer to [`INSPECT`].
    pub(super) fn read(row: &[String]) -> Option<Self> {
        let [version, is_standby, process, started, system, timeline] = row else { return None };
        Some(Self {
            version: version.parse().ok()?,
            is_standby: is_standby == "t",
            process: process.parse().ok()?,
            started: started.clone(),
            history: (system.clone(), timeline.clone()),
        })
    }
}

/// The first row of an answer, as texts.
pub(super) fn row(answer: &[SimpleQueryMessage]) -> Option<Vec<String>> {
    answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect())
        }
        _ => None,
    })
}

/// How a server has lost what it had confirmed, or may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    /// Another system or timeline.
    Other,
    /// It was restarted, and commits had not waited for its disk.
    Restarted,
    /// The last commits are not there.
    Missing,
}

/// What is known of the history of the rows.
pub(super) struct History {
    /// Commits wait until they are on the server's disk.
    is_synchronous: bool,
    /// What the server was at the last connection.
    last: Mutex<Option<Server>>,
    /// How often the server has lost commits that it had confirmed, or may have.
    breaks: AtomicU64,
    /// How often it had when each lease of this process was given.
    leases: Mutex<HashMap<Lease, u64>>,
    /// The last break, until it is reported.
    unreported: Mutex<Option<Break>>,
    /// What this process remembers of the rows.
    remembered: Arc<Remembered>,
}

impl History {
    pub(super) fn new(is_synchronous: bool, remembered: Arc<Remembered>) -> Self {
        Self {
            is_synchronous,
            last: Mutex::default(),
            breaks: AtomicU64::new(0),
            leases: Mutex::default(),
            unreported: Mutex::default(),
            remembered,
        }
    }

    /// How often the server has lost commits that it had confirmed, or may have. Counted when a lost session is made again.
    pub(super) fn breaks(&self) -> u64 {
        self.breaks.load(Ordering::SeqCst)
    }

    /// A lease was given to this process by a server that had lost commits so often.
    pub(super) fn begins(&self, lease: Lease, breaks: u64) {
        self.leases.lock().insert(lease, breaks);
    }

    /// A lease was given back.
    pub(super) fn ends(&self, lease: Lease) {
        self.leases.lock().remove(&lease);
    }

    /// Whether a lease of this process is from before a break: the rows may lack what was committed under it.
    pub(super) fn has_broken(&self, lease: Lease) -> bool {
        let breaks = self.breaks();
        breaks > 0 && self.leases.lock().get(&lease).is_some_and(|given| *given < breaks)
    }

    /// Compares the server of a new session with that of the last one, and looks for the last commits.
    pub(super) fn compare(&self, server: &Server, session: &mut Session<'_>) -> Result<(), Failed> {
        let before = self.breaks();
        let last = self.last.lock().replace(server.clone());
        let Some(last) = last else { return Ok(()) };
        let found = if last.history != server.history {
            Some(Break::Other)
        } else if last.started != server.started && !self.is_synchronous {
            Some(Break::Restarted)
        } else {
            self.is_missing(session)?.then_some(Break::Missing)
        };
        // Another session may have found the same.
        if let Some(found) = found {
            self.remembered.forget();
            if self.breaks.compare_exchange(before, before + 1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                *self.unreported.lock() = Some(found);
            }
        }
        Ok(())
    }

    fn is_missing(&self, session: &mut Session<'_>) -> Result<bool, Failed> {
        let (mut made_by, mut made_in, mut made) = (Vec::new(), Vec::new(), Vec::new());
        for (lease, id) in self.remembered.made.witnesses() {
            made_by.push(lease.runner);
            made_in.push(lease.epoch);
            made.push(id);
        }
        let breaks = self.breaks();
        let leases = self.leases.lock().clone();
        let leases = leases.into_iter().filter(|(_, given)| *given == breaks);
        let (runners, epochs): (Vec<i64>, Vec<i64>) = leases.map(|(lease, _)| (lease.runner, lease.epoch)).unzip();
        let known = self.remembered.names.lock().clone();
        let (versions, hashes): (Vec<i64>, Vec<Text<'_>>) =
            known.iter().map(|(version, (_, hash))| (*version, Text::from(&**hash))).unzip();
        if made.is_empty() && runners.is_empty() && versions.is_empty() {
            return Ok(false);
        }
        let params: [&dyn Param; 7] = [&made_by, &made_in, &made, &runners, &epochs, &versions, &hashes];
        match session.query_opt(IS_MISSING, &params) {
            Ok(Some(row)) => Ok(row.try_get(0)?),
            Ok(None) => Ok(false),
            // Not even the tables are there.
            Err(Failed::Server(error)) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(true),
            Err(failed) => Err(failed),
        }
    }

    /// That commits may be lost, once for each break.
    pub(super) fn warning(&self, store: &str) -> Option<String> {
        let why = match self.unreported.lock().take()? {
            Break::Other => "is another one now, or has other data, as after a fail-over",
            Break::Restarted => "was restarted while commits did not wait for its disk (synchronous_commit=off)",
            Break::Missing => "has lost rows, as if an older copy of its data had been restored",
        };
        Some(format!(
            "the server of {store} {why}: what was recorded last may be lost; this process reads all runs again and continues \
             from their rows"
        ))
    }
}
