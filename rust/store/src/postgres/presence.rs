//! Which processes are there: each holds an advisory lock for as long as its connection lives, and the server releases the
//! lock once the connection is closed, be it by the end of the process or by keepalives that nobody answers.
//!
//! A process whose connection was only lost takes the lock again. So one is gone once its lock was free at two looks a second
//! apart; and after an interruption of the own connection, when all may have lost theirs, not before some seconds.
//!
//! A look tries to share the lock, and gives it back at once: that costs the server less than a list of all locks.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use bide_sync::Mutex;

use super::error::Failed;
use super::process::Process;
use super::session::{Session, Text};

/// How long a lock must have been free.
const FREE_FOR: Duration = Duration::from_millis(950);

/// How long after an own interruption nobody is taken for gone.
const GRACE: Duration = Duration::from_secs(3);

const HOLD: &str = "SELECT pg_try_advisory_lock(($1::int8 % 2147483647)::int4, ($2::int8 % 2147483647)::int4)";
const OTHERS: &str = "SELECT r.*, NOT pg_try_advisory_xact_lock_shared(($1::int8 % 2147483647)::int4, \
     (r.process % 2147483647)::int4) FROM (SELECT DISTINCT process, machine, pid, started FROM bide.runner \
     WHERE expires IS NOT NULL AND process <> $2::int8 OFFSET 0) r";

/// Which processes are there.
#[derive(Default)]
pub(super) struct Presence(Mutex<State>);

#[derive(Default)]
struct State {
    /// The others that have runners, as of the last look.
    others: Vec<Process>,
    /// The runners of this process.
    own: HashSet<i64>,
    /// Since when a process's lock is free.
    free_since: HashMap<i64, Instant>,
    /// Processes that are gone.
    gone: HashSet<i64>,
    /// When the own connection was made.
    connected: Option<Instant>,
}

impl Presence {
    /// Whether a process is known to be gone.
    pub(super) fn is_gone(&self, process: i64) -> bool {
        self.0.lock().gone.contains(&process)
    }

    /// The own connection was made, perhaps again.
    pub(super) fn connected(&self, again: bool) {
        let mut state = self.0.lock();
        state.free_since.clear();
        state.connected = again.then(Instant::now);
    }

    /// Whether other processes have runners.
    pub(super) fn has_others(&self) -> bool {
        !self.0.lock().others.is_empty()
    }

    /// Whether there is more than one runner.
    pub(super) fn has_several(&self) -> bool {
        let state = self.0.lock();
        !state.others.is_empty() || state.own.len() > 1
    }

    /// This process has a runner more, or less.
    pub(super) fn set_own(&self, runner: i64, is_there: bool) {
        let own = &mut self.0.lock().own;
        let _ = if is_there { own.insert(runner) } else { own.remove(&runner) };
    }

    /// Which runners there are: those of this process that were fenced are not.
    pub(super) fn keep_own(&self, is_there: impl Fn(i64) -> bool) {
        self.0.lock().own.retain(|runner| is_there(*runner));
    }

    /// Looks who is there. True if a process has come or gone since the last look.
    pub(super) fn look(&self, session: &mut Session<'_>, schema: i64, own: i64) -> Result<bool, Failed> {
        let mut others = Vec::new();
        let mut free = Vec::new();
        for row in session.query(OTHERS, &[&schema, &own])? {
            let number: i64 = row.try_get(0)?;
            let machine = row.try_get::<_, Text<'_>>(1)?.0.into_owned();
            others.push(Process { number, machine, pid: row.try_get(2)?, started: row.try_get(3)? });
            if !row.try_get::<_, bool>(4)? {
                free.push(number);
            }
        }
        let now = Instant::now();
        let mut state = self.0.lock();
        let State { free_since, gone, connected, .. } = &mut *state;
        free_since.retain(|process, _| free.contains(process));
        gone.retain(|process| free.contains(process));
        let in_grace = connected.is_some_and(|connected| connected.elapsed() < GRACE);
        let mut any = false;
        for process in free {
            let since = *free_since.entry(process).or_insert(now);
            if !in_grace && now.duration_since(since) >= FREE_FOR {
                any |= gone.insert(process);
            }
        }
        any |= others.iter().any(Process::is_gone);
        any |= others.iter().any(|other| state.others.iter().all(|known| known.number != other.number));
        state.others = others;
        Ok(any)
    }

    /// Whether a process of this machine is gone that was there at the last look. Each is reported once.
    pub(super) fn look_at_machine(&self) -> bool {
        let mut state = self.0.lock();
        let before = state.others.len();
        state.others.retain(|other| !other.is_gone());
        state.others.len() < before
    }
}

/// Takes the lock that shows that this process is there. False: another connection still has it.
pub(super) fn hold(session: &mut Session<'_>, schema: i64, own: i64) -> Result<bool, Failed> {
    match session.query_opt(HOLD, &[&schema, &own])? {
        Some(row) => Ok(row.try_get(0)?),
        None => Ok(false),
    }
}
