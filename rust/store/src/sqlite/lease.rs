//! Leases, by which runs have an owner: the rows of runners, and claims of runs whose runner is dead.
//!
//! A runner is dead when no process holds its process's byte of the lock file (known at once), or when its lease has
//! run out, by a clock that cannot be set ([`LeaseTime`]). The lease of another boot says nothing: a reboot has freed
//! the byte, so a byte that is held belongs to a living process on another machine. A claim first raises
//! the epoch of dead runners, which fences them: their next commit compares the epoch and fails. Their unfinished runs
//! then have no owner, so that a run is always either a living runner's or free.
//!
//! While no runner can renew (another process keeps the file locked, the machine sleeps), all leases run out at once.
//! So a runner whose own lease has run out takes no other for dead because of its lease, until it has renewed and the
//! others have had the time to ([`GRACE`]). A dead process is still known by its byte.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bide_core::RunId;
use bide_core::record::RunRowId;
use bide_sync::Mutex;
use rusqlite::{Connection, OptionalExtension, params};

use super::SqliteStore;
use super::blame::{Loser, Marked};
use super::limits;
use super::transaction::Transaction;
use crate::{Boot, LEASE, Lease, LeaseTime, StoreError};

/// How long others have to renew, once a file can be written again.
const GRACE: Duration = Duration::from_secs(1);

/// When a runner of this process last found that its own lease had run out.
#[derive(Default)]
pub(super) struct Late(Mutex<Option<Instant>>);

impl Late {
    fn note(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    fn is_recent(&self) -> bool {
        self.0.lock().is_some_and(|when| when.elapsed() < GRACE)
    }
}

const FENCE: &str = "SELECT 1 FROM runner WHERE id = ?1 AND epoch = ?2";
const RUNNERS: &str = "SELECT id, lock, expires, boot FROM runner WHERE expires IS NOT NULL AND id <> ?1";
const RUNNER: &str = "SELECT id, lock, expires, boot FROM runner WHERE expires IS NOT NULL AND id = ?1";
const FENCE_OFF: &str = "UPDATE runner SET epoch = epoch + 1, expires = NULL WHERE id = ?1";
// The planner must not take the order of `id` for a reason to walk the whole table, hence INDEXED BY.
const ABANDON: &str = "UPDATE run INDEXED BY run_open SET runner = NULL, epoch = NULL WHERE status < 3 AND runner = ?1";
const GIVE_BACK: &str =
    "UPDATE run SET runner = NULL, epoch = NULL, status = 0 WHERE id = ?1 AND runner = ?2 AND status < 2";
const FREE: &str = "SELECT uuid FROM run INDEXED BY run_open \
     WHERE status < 3 AND runner IS NULL AND workflow = (SELECT workflow FROM version WHERE id = ?1) \
     AND version = ?1 AND (status <> 2 OR held) ORDER BY id LIMIT ?2";
// The pair that follows one: to go from pair to pair takes no time for the many runs of one of them.
pub(super) const UNOWNED: &str = "SELECT workflow, version FROM run INDEXED BY run_open \
     WHERE status < 3 AND runner IS NULL AND (workflow, version) > (?1, ?2) AND (status <> 2 OR held) \
     ORDER BY workflow, version LIMIT 1";
const TAKE: &str =
    "UPDATE run SET runner = ?2, epoch = ?3, status = CASE WHEN held THEN status ELSE 1 END WHERE id = ?1";

/// For the test that no hot statement scans a table.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[FENCE, RUNNER, FENCE_OFF, ABANDON, FREE, UNOWNED, TAKE];

/// Fails if the lease was lost. Within a write transaction: then it holds until the commit.
pub(super) fn fence(connection: &Connection, lease: Lease) -> rusqlite::Result<Option<StoreError>> {
    let holds = connection.prepare_cached(FENCE)?.exists([lease.runner, lease.epoch])?;
    Ok((!holds).then_some(StoreError::Fenced { runner: lease.runner }))
}

/// An uptime is stored as this much more: a bide that knows only the wall clock takes no such lease for run out.
const UPTIME: i64 = 1 << 61;

/// A runner that was not fenced.
struct Runner {
    id: i64,
    /// The byte of the lock file that its process holds.
    lock: i64,
    expires: i64,
    /// `None`: the lease counts by the wall.
    boot: Option<String>,
}

impl Runner {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { id: row.get(0)?, lock: row.get(1)?, expires: row.get(2)?, boot: row.get(3)? })
    }

    /// Whether its lease has run out.
    fn has_run_out(&self, now: LeaseTime) -> bool {
        match (&self.boot, now.uptime) {
            (None, _) => self.expires <= now.wall.0,
            (Some(boot), Some(up)) if *boot == name(up.boot) => self.expires <= UPTIME + up.micros,
            _ => false,
        }
    }
}

/// A boot in its column, as the system writes it.
fn name(boot: Boot) -> String {
    let hex = format!("{:032x}", boot.0);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// The columns `expires` and `boot` of a lease that is given now.
fn columns(now: LeaseTime) -> (i64, Option<String>) {
    let until = now.after(LEASE);
    match until.uptime {
        Some(up) => (UPTIME + up.micros, Some(name(up.boot))),
        None => (until.wall.0, None),
    }
}

/// Whether a lease has run out, though the runner is not fenced yet.
fn has_run_out(connection: &Connection, lease: Lease, now: LeaseTime) -> rusqlite::Result<bool> {
    let runner = connection.prepare_cached(RUNNER)?.query_row([lease.runner], Runner::read).optional()?;
    Ok(runner.is_some_and(|runner| runner.has_run_out(now)))
}

/// All runners that were not fenced, but this one.
fn others(connection: &Connection, lease: Lease) -> rusqlite::Result<Vec<Runner>> {
    connection.prepare_cached(RUNNERS)?.query_map([lease.runner], Runner::read)?.collect()
}

fn execute(connection: &Connection, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<usize> {
    connection.prepare_cached(sql)?.execute(params)
}

impl SqliteStore {
    /// Does something in one write transaction for the holder of a lease.
    pub(super) fn fenced<T>(
        &self,
        lease: Lease,
        act: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.transact(|connection| match fence(connection, lease)? {
            Some(lost) => Ok(Err(lost)),
            None => act(connection).map(Ok),
        })?
    }

    /// Runs that nobody has begun belong to nobody from now on.
    pub(super) fn free_runs(&self, lease: Lease, runs: &[RunRowId]) -> Result<(), StoreError> {
        self.fenced(lease, |connection| {
            let mut give_back = connection.prepare_cached(GIVE_BACK)?;
            runs.iter().try_for_each(|run| give_back.execute([run, &lease.runner]).map(drop))
        })?;
        self.changes.unowned();
        self.live()?.wake.poll_others();
        Ok(())
    }

    /// Does something in one write transaction.
    pub(super) fn transact<T>(&self, act: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let writer = self.writer()?;
        let connection = writer.fresh();
        let transaction = Transaction::begin(connection, &self.identity)?;
        let done = act(connection).map_err(|error| self.identity.error(&error))?;
        // Before: a commit of unknown outcome may be there.
        writer.count_arrival();
        transaction.commit()?;
        self.debt.add(4096);
        Ok(done)
    }

    pub(super) fn insert_runner(&self, now: LeaseTime) -> Result<Lease, StoreError> {
        let lock = self.live()?.lock.own();
        let (expires, boot) = columns(now);
        let runner = self.transact(|connection| {
            // A runner without a row is as fenced as one with a raised epoch.
            execute(connection, "DELETE FROM runner WHERE expires IS NULL", [])?;
            execute(
                connection,
                "INSERT INTO runner (epoch, expires, boot, lock, pid, host, started_at) \
                     VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6)",
                params![expires, boot, lock, self.pid, host(), now.wall.0],
            )?;
            Ok(connection.last_insert_rowid())
        })?;
        self.meet_others()?;
        Ok(Lease { runner, epoch: 1 })
    }

    pub(super) fn prolong(&self, lease: Lease, now: LeaseTime) -> Result<(), StoreError> {
        let lapsed = self.fenced(lease, |connection| {
            let late = has_run_out(connection, lease, now)?;
            if late {
                self.late.note();
            }
            let (expires, boot) = columns(now);
            let renew = "UPDATE runner SET expires = ?2, boot = ?3 WHERE id = ?1";
            execute(connection, renew, params![lease.runner, expires, boot])?;
            Ok(!late && others(connection, lease)?.iter().any(|runner| runner.has_run_out(now)))
        })?;
        if lapsed {
            self.changes.unowned();
        }
        Ok(())
    }

    pub(super) fn delete_runner(&self, lease: Lease) -> Result<(), StoreError> {
        // A runner that stops because the files are gone loses its lease when its process ends.
        let live = self.live()?;
        self.files.still_there(&self.identity)?;
        let deleted = self.fenced(lease, |connection| {
            execute(connection, ABANDON, [lease.runner])?;
            limits::abandon(connection, lease.runner)?;
            execute(connection, "DELETE FROM runner WHERE id = ?1", [lease.runner])
        });
        match deleted {
            Ok(_) => {
                self.changes.unowned();
                live.wake.poll_others();
                Ok(())
            }
            Err(StoreError::Fenced { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The pairs of workflow and version with runs that have no owner.
    pub(super) fn unowned_versions(&self) -> Result<Vec<(i64, i64)>, StoreError> {
        let reader = self.reader()?;
        let read = || -> rusqlite::Result<Vec<(i64, i64)>> {
            let mut next = reader.prepare_cached(UNOWNED)?;
            let mut found = Vec::new();
            let mut last = (i64::MIN, i64::MIN);
            while let Some(pair) = next.query_row([last.0, last.1], |row| Ok((row.get(0)?, row.get(1)?))).optional()? {
                found.push(pair);
                last = pair;
            }
            Ok(found)
        };
        read().map_err(|error| self.identity.error(&error))
    }

    /// Fences dead runners and claims runs: see [`crate::Store::claim`].
    pub(super) fn claim_runs(
        &self,
        lease: Lease,
        versions: &[i64],
        now: LeaseTime,
        limit: usize,
    ) -> Result<Vec<RunId>, StoreError> {
        // Nearly always there is nothing, which a reader finds without keeping any writer waiting.
        let explain = |error: rusqlite::Error| self.identity.error(&error);
        let reader = self.reader()?;
        let lost = |connection: &Connection| match lease {
            Lease::NONE => Ok(None),
            lease => fence(connection, lease).map_err(explain),
        };
        if let Some(lost) = lost(&reader)? {
            return Err(lost);
        }
        let nothing = self.dead(&reader, lease, now)?.is_empty() && self.free(&reader, versions, 1)?.is_empty();
        drop(reader);
        if nothing {
            return Ok(Vec::new());
        }

        let writer = self.writer()?;
        let writer = writer.fresh();
        let transaction = Transaction::begin(writer, &self.identity)?;
        if let Some(lost) = lost(writer)? {
            return Err(lost);
        }
        let dead = self.dead(writer, lease, now)?;
        let marked = Marked::read(writer).map_err(explain)?;
        marked.blame(writer, &dead).map_err(explain)?;
        for Loser { runner, .. } in &dead {
            execute(writer, FENCE_OFF, [runner]).map_err(explain)?;
            execute(writer, ABANDON, [runner]).map_err(explain)?;
            limits::abandon(writer, *runner).map_err(explain)?;
        }
        let claimed = self.free(writer, versions, limit)?;
        for run in &claimed {
            execute(writer, TAKE, [run.row(), lease.runner, lease.epoch]).map_err(explain)?;
            marked.set_aside(writer, run.row()).map_err(explain)?;
        }
        if !claimed.is_empty() && limits::any(writer).map_err(explain)? {
            self.has_shares.store(true, Ordering::Relaxed);
        }
        transaction.commit()?;
        self.debt.add(4096);
        if !dead.is_empty() {
            // What of theirs is not claimed here another runner may have the workflow for. And one that only hung
            // learns that it was fenced.
            self.changes.unowned();
            self.live()?.wake.poll_others();
        }
        Ok(claimed)
    }

    pub(super) fn runner_lives(&self, runner: i64, now: LeaseTime) -> Result<bool, StoreError> {
        let lock = &self.live()?.lock;
        let reader = self.reader()?;
        let read = || reader.prepare_cached(RUNNER)?.query_row([runner], Runner::read).optional();
        match read().map_err(|error| self.identity.error(&error))? {
            Some(runner) if !runner.has_run_out(now) => self.is_held(lock, runner.lock),
            _ => Ok(false),
        }
    }

    /// The other runners whose process is gone or whose lease has run out.
    fn dead(&self, connection: &Connection, lease: Lease, now: LeaseTime) -> Result<Vec<Loser>, StoreError> {
        let lock = &self.live()?.lock;
        let explain = |error: rusqlite::Error| self.identity.error(&error);
        // Without a lease nobody sees whether the machine has slept.
        let late =
            lease == Lease::NONE || has_run_out(connection, lease, now).map_err(explain)? || self.late.is_recent();
        let mut dead = Vec::new();
        for runner in others(connection, lease).map_err(explain)? {
            let died = (!self.is_held(lock, runner.lock)?).then_some(runner.lock);
            if died.is_some() || (!late && runner.has_run_out(now)) {
                dead.push(Loser { runner: runner.id, died });
            }
        }
        Ok(dead)
    }

    /// Runs of these versions that have no owner, oldest first.
    fn free(&self, connection: &Connection, versions: &[i64], limit: usize) -> Result<Vec<RunId>, StoreError> {
        let read = || -> rusqlite::Result<Vec<Vec<u8>>> {
            let mut statement = connection.prepare_cached(FREE)?;
            let most = i64::try_from(limit).unwrap_or(i64::MAX);
            let mut found = Vec::new();
            for version in versions {
                for uuid in statement.query_map([*version, most], |row| row.get(0))? {
                    found.push(uuid?);
                }
            }
            Ok(found)
        };
        let found = read().map_err(|error| self.identity.error(&error))?;
        let mut found: Vec<RunId> = found.iter().map(|uuid| self.uuid(uuid)).collect::<Result<_, _>>()?;
        found.sort_unstable_by_key(|run| run.row());
        found.truncate(limit);
        Ok(found)
    }

    pub(super) fn is_held(&self, lock: &super::LockFile, byte: i64) -> Result<bool, StoreError> {
        lock.is_held(byte)
            .map_err(|error| self.identity.unavailable(&format!("its lock file cannot be asked ({error})")))
    }
}

/// This machine's name, for people who look at the rows.
fn host() -> String {
    let mut name = [0_u8; 256];
    // SAFETY: the pointer and the length are those of a live local array; the last byte is kept as a terminator.
    let result = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len() - 1) };
    if result != 0 {
        return String::new();
    }
    String::from_utf8_lossy(name.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}
