//! Waiting for changes of a file: this process logs its own, hears of those of others (`wake.rs`), and polls the file
//! for what it does not hear of.

use std::time::{Duration, Instant};

use super::SqliteStore;
use crate::{Changes, Seen, StoreError};

/// The longest time between two polls while a runner waits.
const POLL: Duration = Duration::from_millis(50);

/// The lock bytes of the other processes that have runners here.
const OTHERS: &str = "SELECT DISTINCT lock FROM runner WHERE expires IS NOT NULL AND lock <> ?1";

/// What the last poll of the file showed.
#[derive(Default)]
pub(super) struct LastPoll {
    /// SQLite's counter of other connections' commits. Own commits do not move it.
    data_version: Option<i64>,
    /// The lock bytes of the other processes that have runners here.
    others: Vec<i64>,
    /// When that was.
    at: Option<Instant>,
}

impl SqliteStore {
    pub(super) fn await_changes(&self, seen: Seen, timeout: Duration) -> Result<Changes, StoreError> {
        // Before any lock: in a forked child a thread that held it may be missing.
        self.live()?;
        let since = Instant::now();
        loop {
            let remaining = timeout.saturating_sub(since.elapsed());
            let changed = self.changes.wait(seen, remaining.min(POLL));
            // A hint names what it is about. However many come, the poll finds the rest in time.
            if self.changes.take_poll() || !changed || timeout.is_zero() || self.is_poll_due()? {
                self.poll()?;
            }
            if self.changes.wait(seen, Duration::ZERO) || since.elapsed() >= timeout {
                return Ok(self.changes.since(seen));
            }
        }
    }

    /// A runner of this process has a row from here on: this process and the others get to know each other.
    pub(super) fn meet_others(&self) -> Result<(), StoreError> {
        // What fails here fails again at the next poll, which reports it.
        let _ = self.poll();
        self.live()?.wake.poll_others();
        Ok(())
    }

    fn is_poll_due(&self) -> Result<bool, StoreError> {
        Ok(self.live()?.last_poll.lock().at.is_none_or(|at| at.elapsed() >= POLL))
    }

    /// Notices whether another process has written or has died.
    fn poll(&self) -> Result<(), StoreError> {
        let live = self.live()?;
        self.files.still_there(&self.identity)?;
        let mut last = live.last_poll.lock();
        last.at = Some(Instant::now());
        let mut others_changed = false;
        let writer = live.writer.lock();
        let mut read = || -> rusqlite::Result<()> {
            let writer = writer.fresh();
            let version = writer.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
            let moved = last.data_version != Some(version);
            if moved {
                let mut others = writer.prepare_cached(OTHERS)?;
                let others = others.query_map([live.lock.own()], |row| row.get(0))?.collect::<Result<_, _>>()?;
                others_changed = last.others != others;
                last.others = others;
                // Every runner of this process hears of it, whatever fails from here on.
                last.data_version = Some(version);
                self.changes.unowned();
            }
            Ok(())
        };
        read().map_err(|error| self.identity.error(&error))?;
        drop(writer);
        let mut died = false;
        let mut living = Vec::with_capacity(last.others.len());
        for byte in &last.others {
            if self.is_held(&live.lock, *byte)? {
                living.push(*byte);
            } else {
                died = true;
            }
        }
        last.others = living;
        if died || others_changed {
            live.wake.set_peers(&last.others, &live.lock);
        }
        if died {
            self.changes.unowned();
        }
        Ok(())
    }
}
