//! Leases, by which runs have an owner: the rows of runners, and how dead ones are told from living ones.
//!
//! A runner is dead when its process is: one of this machine, if the system says so; any, if its connection is closed
//! ([`super::presence`]); or when its lease has run out, by the server's clock. Who finds a dead runner fences it: it locks
//! the row, which waits for the commit that is under way, raises the epoch, and only then takes the runs.
//!
//! While no runner can renew (the server is away), all leases run out at once. So a runner whose own lease has run out
//! takes no other for dead because of its lease, until it has renewed and the others have had the time to ([`GRACE`]).

use std::collections::HashMap;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use postgres::Row;
use postgres::error::SqlState;

use super::PostgresStore;
use super::error::Failed;
use super::limits;
use super::notify::Hint;
use super::process::{Process, host};
use super::session::{Session, Text};
use crate::{Boot, LEASE, Lease, LeaseTime, StoreError};

/// A process that is there still finds its rows: without them, the server has lost some.
const FORGOTTEN: &str = "DELETE FROM bide.runner WHERE expires IS NULL AND process <> $2::int8 \
     AND pg_try_advisory_xact_lock_shared(($1::int8 % 2147483647)::int4, (process % 2147483647)::int4)";
/// An older copy of the data gives the same numbers once more: the epoch is one that no other runner has had.
const ENROLL: &str = "INSERT INTO bide.runner (epoch, expires, boot, process, machine, pid, started, host, started_at) \
     VALUES ((extract(epoch FROM clock_timestamp()) * 1000000)::int8, $1::int8, $2::text, $3::int8, $4::text, $5::int8, $6::int8, $7::text, $8::int8) RETURNING id, epoch";
const RENEW: &str = "UPDATE bide.runner r SET expires = $3::int8, boot = $4::text \
     FROM (SELECT id, expires, boot FROM bide.runner WHERE id = $1::int8 AND epoch = $2::int8 FOR NO KEY UPDATE) o \
     WHERE r.id = o.id RETURNING o.expires, o.boot";
const RUNNERS: &str =
    "SELECT id, expires, boot, process, machine, pid, started, epoch FROM bide.runner WHERE expires IS NOT NULL";
const RUNNER: &str = "SELECT id, expires, boot, process, machine, pid, started, epoch FROM bide.runner \
     WHERE id = $1::int8 AND expires IS NOT NULL";
/// Waits for the commit that is under way.
const LOCK: &str = "SELECT id, expires, boot, process, machine, pid, started, epoch FROM bide.runner \
     WHERE id = ANY ($1::int8[]) AND expires IS NOT NULL ORDER BY id FOR UPDATE";
/// A transaction of the user's that records a step may hold the lock while its client does nothing: it is ended after
/// this time. One that cannot be ended is waited for as long as `LIMIT_WAIT` says.
const PATIENCE: Duration = Duration::from_secs(1);
const LIMIT_WAIT: &str = "SET LOCAL lock_timeout = '4s'";
const WHO_AM_I: &str = "SELECT pg_backend_pid()::int8";
/// The state of a session of another role may be hidden.
const END_IDLE: &str = "SELECT count(pg_terminate_backend(a.pid)) FROM unnest(pg_blocking_pids($1::int8::int4)) b \
     JOIN pg_stat_activity a ON a.pid = b WHERE a.state IS NULL \
     OR (a.state LIKE 'idle in transaction%' AND a.state_change < clock_timestamp() - interval '900 ms')";
const FENCE_OFF: &str = "UPDATE bide.runner SET epoch = epoch + 1, expires = NULL WHERE id = ANY ($1::int8[])";
const ABANDON: &str = "UPDATE bide.run SET runner = NULL, epoch = NULL \
     WHERE status < 3 AND runner IS NOT NULL AND runner = ANY ($1::int8[])";
const FORGET_MADE: &str = "DELETE FROM bide.made WHERE runner = ANY ($1::int8[])";
const LOCK_OWN: &str = "SELECT 1 FROM bide.runner WHERE id = $1::int8 AND epoch = $2::int8 FOR UPDATE";
const LEAVE: &str = "DELETE FROM bide.runner WHERE id = $1::int8";
/// All marked bodies that a runner executes or executed last: their runs, and who has those. Few, found by their index.
const MARKED: &str = "SELECT r.runner, r.id FROM bide.task t JOIN bide.run r ON r.id = t.run \
     WHERE t.entered > 0 AND r.runner = ANY ($1::int8[])";
/// A count that is out of range is not changed: reading the row reports it.
const BLAME: &str = "UPDATE bide.run SET crashes = crashes + 1 WHERE id = ANY ($1::int8[]) AND crashes < 2147483647";

/// A runner that was not fenced.
struct Runner {
    id: i64,
    epoch: i64,
    expires: i64,
    /// `None`: the lease counts by the server's wall clock.
    boot: Option<String>,
    process: Process,
}

impl Runner {
    fn read(row: &Row) -> Result<Self, postgres::Error> {
        let text = |at| row.try_get::<_, Option<Text<'_>>>(at).map(|text| text.map(|text| text.0.into_owned()));
        let process = Process {
            number: row.try_get(3)?,
            machine: text(4)?.unwrap_or_default(),
            pid: row.try_get(5)?,
            started: row.try_get(6)?,
        };
        let (id, epoch, expires) = (row.try_get(0)?, row.try_get(7)?, row.try_get(1)?);
        Ok(Self { id, epoch, expires, boot: text(2)?, process })
    }

    fn has_run_out(&self, now: LeaseTime) -> bool {
        has_run_out(self.expires, self.boot.as_deref(), now)
    }
}

/// Whether a lease has run out.
fn has_run_out(expires: i64, boot: Option<&str>, now: LeaseTime) -> bool {
    match (boot, now.uptime) {
        (None, _) => expires <= now.wall.0,
        (Some(boot), Some(up)) if boot == name(up.boot) => expires <= up.micros,
        _ => false,
    }
}

fn name(boot: Boot) -> String {
    format!("{:032x}", boot.0)
}

/// The columns `expires` and `boot` of a lease that is given now.
fn columns(now: LeaseTime) -> (i64, Option<String>) {
    let until = now.after(LEASE);
    match until.uptime {
        Some(up) => (up.micros, Some(name(up.boot))),
        None => (until.wall.0, None),
    }
}

fn read(rows: &[Row]) -> Result<Vec<Runner>, Failed> {
    Ok(rows.iter().map(Runner::read).collect::<Result<_, _>>()?)
}

impl PostgresStore {
    pub(super) fn insert_runner(&self, now: LeaseTime) -> Result<Lease, StoreError> {
        let (expires, boot) = columns(now);
        let boot = boot.as_deref().map(Text::from);
        let Process { number, machine, pid, started } = &self.process;
        let mut breaks = 0;
        let lease = self.connections.lease(|session| {
            breaks = self.connections.breaks();
            // A runner without a row is as fenced as one with a raised epoch.
            session.execute(FORGOTTEN, &[&self.schema, number])?;
            let (machine, host) = (Text::from(&**machine), host());
            let host = Text::from(&*host);
            let rows = session.query(ENROLL, &[&expires, &boot, number, &machine, pid, started, &host, &now.wall.0])?;
            let Some(row) = rows.first() else { return Err(self.corrupt("a runner was not recorded").into()) };
            Ok(Lease { runner: row.try_get(0)?, epoch: row.try_get(1)? })
        })?;
        self.notifier.send(Hint::Look);
        self.connections.history().begins(lease, breaks);
        self.presence.set_own(lease.runner, true);
        Ok(lease)
    }

    pub(super) fn prolong(&self, lease: Lease, now: LeaseTime) -> Result<(), StoreError> {
        let (expires, boot) = columns(now);
        let boot = boot.as_deref().map(Text::from);
        let lapsed = self.connections.lease(|session| {
            self.check_history(lease)?;
            let Some(row) = session.query_opt(RENEW, &[&lease.runner, &lease.epoch, &expires, &boot])? else {
                return Err(StoreError::Fenced { runner: lease.runner }.into());
            };
            let (before, boot): (i64, Option<Text<'_>>) = (row.try_get(0)?, row.try_get(1)?);
            let late = has_run_out(before, boot.as_ref().map(|boot| &*boot.0), now);
            if late {
                self.late.note();
            }
            let others = read(&session.query(RUNNERS, &[])?)?;
            self.presence.keep_own(|own| others.iter().any(|runner| runner.id == own));
            Ok(!late && others.iter().any(|runner| runner.id != lease.runner && runner.has_run_out(now)))
        })?;
        if lapsed {
            self.changes.unowned();
        }
        Ok(())
    }

    pub(super) fn delete_runner(&self, lease: Lease) -> Result<(), StoreError> {
        self.connections.history().ends(lease);
        self.presence.set_own(lease.runner, false);
        let left = self.connections.lease(|session| {
            session.transact(|session| {
                if session.query_opt(LOCK_OWN, &[&lease.runner, &lease.epoch])?.is_none() {
                    return Ok(false);
                }
                let this = vec![lease.runner];
                session.execute(ABANDON, &[&this])?;
                limits::abandon(session, &this)?;
                session.execute(FORGET_MADE, &[&this])?;
                session.execute(LEAVE, &[&lease.runner])?;
                self.announce_unowned(session)?;
                Ok(true)
            })
        })?;
        self.remembered.made.forget(lease);
        if left {
            self.changes.unowned();
            self.notifier.send(Hint::Look);
        }
        Ok(())
    }

    pub(super) fn runner_lives(&self, runner: i64, now: LeaseTime) -> Result<bool, StoreError> {
        self.connections.reader(|session| {
            let found = session.query_opt(RUNNER, &[&runner])?;
            let found = found.map(|row| Runner::read(&row)).transpose()?;
            Ok(found.is_some_and(|runner| !runner.has_run_out(now) && !self.is_over(&runner)))
        })
    }

    fn has_died(&self, runner: &Runner) -> bool {
        runner.process.number != self.process.number
            && (runner.process.is_gone() || self.presence.is_gone(runner.process.number))
    }

    /// Whether nothing will be written under a runner's lease any more: its process is gone, or it is this one, and has given
    /// the lease up because the server has lost rows.
    fn is_over(&self, runner: &Runner) -> bool {
        self.has_died(runner) || self.connections.history().has_broken(Lease { runner: runner.id, epoch: runner.epoch })
    }

    /// The other runners whose process is gone or whose lease has run out. Fails if the lease was lost.
    pub(super) fn dead(&self, session: &mut Session<'_>, lease: Lease, now: LeaseTime) -> Result<Vec<i64>, Failed> {
        let runners = read(&session.query(RUNNERS, &[])?)?;
        let is_own = |runner: &Runner| runner.id == lease.runner && runner.epoch == lease.epoch;
        if lease != Lease::NONE && !runners.iter().any(is_own) {
            return Err(StoreError::Fenced { runner: lease.runner }.into());
        }
        Ok(self.dead_of(&runners, lease, now).into_iter().map(|runner| runner.id).collect())
    }

    fn dead_of<'r>(&self, runners: &'r [Runner], lease: Lease, now: LeaseTime) -> Vec<&'r Runner> {
        let own = runners.iter().find(|runner| runner.id == lease.runner);
        // Without a lease nobody sees whether the machine has slept.
        let late = lease == Lease::NONE || own.is_some_and(|own| own.has_run_out(now)) || self.late.is_recent();
        let is_dead = |runner: &&Runner| self.is_over(runner) || (!late && runner.has_run_out(now));
        runners.iter().filter(|runner| runner.id != lease.runner).filter(is_dead).collect()
    }

    /// Fences dead runners, in one transaction: their unfinished runs have no owner then.
    pub(super) fn fence_off(
        &self,
        session: &mut Session<'_>,
        dead: &[i64],
        lease: Lease,
        now: LeaseTime,
    ) -> Result<(), Failed> {
        let fenced = session.transact(|session| {
            let locked = read(&self.lock_runners(session, dead)?)?;
            // One that has renewed meanwhile stays.
            let still: Vec<&Runner> = match lease {
                Lease::NONE => locked.iter().filter(|runner| self.is_over(runner)).collect(),
                lease => {
                    let late = self.late.is_recent();
                    let is_dead = |runner: &&Runner| self.is_over(runner) || (!late && runner.has_run_out(now));
                    locked.iter().filter(|runner| runner.id != lease.runner).filter(is_dead).collect()
                }
            };
            if still.is_empty() {
                return Ok(());
            }
            self.blame(session, &still)?;
            let still: Vec<i64> = still.iter().map(|runner| runner.id).collect();
            session.execute(FENCE_OFF, &[&still])?;
            session.execute(ABANDON, &[&still])?;
            limits::abandon(session, &still)?;
            session.execute(FORGET_MADE, &[&still])?;
            self.announce_unowned(session)
        });
        match fenced {
            Err(Failed::Server(error)) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                // They are found dead again.
                *self.locked.lock() = Some(format!(
                    "{}: the runs of a dead runner cannot be claimed, because a transaction that was to record a step of \
                     one of them is still open, and user {} may not end it: end it by pg_terminate_backend, or GRANT \
                     pg_signal_backend",
                    self.name,
                    self.connections.options().user
                ));
                return Ok(());
            }
            fenced => fenced?,
        }
        // What of theirs is not claimed here another runner may have the workflow for. And one that only hung learns that
        // it was fenced.
        self.changes.unowned();
        self.notifier.send(Hint::Look);
        Ok(())
    }

    /// Locks the rows of these runners, in a transaction: those of them that are there. Waits for what is being
    /// committed under their leases.
    pub(super) fn lock_runners(&self, session: &mut Session<'_>, runners: &[i64]) -> Result<Vec<Row>, Failed> {
        session.script(LIMIT_WAIT)?;
        let own = session.query_opt(WHO_AM_I, &[])?.map(|row| row.try_get::<_, i64>(0)).transpose()?;
        let (locked, waits) = channel::<()>();
        let ends_idle = move || {
            while waits.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                // If that fails the lock is not given, which is reported.
                let _ = self.connections.reader(|session| session.query_opt(END_IDLE, &[&own]));
            }
        };
        std::thread::scope(|scope| {
            // Without the thread nothing is ended.
            let _ = std::thread::Builder::new().name("bide-lock".to_owned()).spawn_scoped(scope, ends_idle);
            let rows = session.query(LOCK, &[&runners]);
            drop(locked);
            rows
        })
    }

    /// Blames the one marked body of each process that died, if it has exactly one. A runner whose lease ran out while its
    /// process lives has not died.
    fn blame(&self, session: &mut Session<'_>, losers: &[&Runner]) -> Result<(), Failed> {
        let died: HashMap<i64, i64> =
            losers.iter().filter(|loser| self.has_died(loser)).map(|loser| (loser.id, loser.process.number)).collect();
        if died.is_empty() {
            return Ok(());
        }
        let mut executed: HashMap<i64, Vec<i64>> = HashMap::new();
        let runners: Vec<i64> = died.keys().copied().collect();
        for row in session.query(MARKED, &[&runners])? {
            let (runner, run): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            if let Some(process) = died.get(&runner) {
                executed.entry(*process).or_default().push(run);
            }
        }
        let blamed: Vec<i64> = executed
            .into_values()
            .filter_map(|runs| (runs.len() == 1).then(|| runs.first().copied()).flatten())
            .collect();
        if !blamed.is_empty() {
            session.execute(BLAME, &[&blamed])?;
        }
        Ok(())
    }
}
